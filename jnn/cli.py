"""The command line: `jnn train` and `jnn check`."""

import argparse
import difflib
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import jax

from jnn import data, optimizers, plots
from jnn.compose import Serial
from jnn.diagnostics import table
from jnn.evaluation import evaluate
from jnn.gradcheck import check_network
from jnn.gradcheck.command import add_command, check
from jnn.initializers import he_normal, lecun_normal
from jnn.layer import Layer, Train
from jnn.layers import (
    ELU,
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
)
from jnn.losses import Loss, SoftmaxCrossEntropy
from jnn.optimizers import Optimizer
from jnn.penalties import L2
from jnn.report import follow, show
from jnn.schedules import cosine
from jnn.summaries import summary
from jnn.training import GRADIENTS, run, start

ACTIVATIONS = {
    "relu": ReLU(),
    "leaky-relu": LeakyReLU(),
    "elu": ELU(),
    "gelu": GELU(),
    "silu": SiLU(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
OPTIMIZERS = {  # and the learning rates that they start from
    "sgd": 0.1,
    "momentum": 0.1,
    "nesterov": 0.1,
    "adagrad": 0.02,
    "rmsprop": 0.001,
    "adam": 0.001,
    "adamw": 0.001,
    "lion": 0.0003,
    "muon": 0.01,
}
DEFAULTS = {
    "digits": {"hidden": (128, 128, 128), "epochs": 40, "batch_size": 32},
    "spiral": {"hidden": (100,), "epochs": 200, "batch_size": 50},
    "mnist": {"hidden": (512, 512), "epochs": 10, "batch_size": 128},
}
CHECKED = 8  # examples for the gradient check: enough to meet every term, few enough to be quick


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM, brought into Python; `status` is what shells expect of such a process."""

    def __init__(self, signum: int):
        self.status = 128 + signum


class _Signals:
    """Turns both signals into `Stopped`, and remembers them: raised in the midst of a garbage
    collection, an exception is only printed, and the run would go on.
    """

    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.handle)

    def handle(self, signum: int, frame: object) -> NoReturn:
        self.stopped = Stopped(signum)
        raise self.stopped

    def check(self) -> None:
        """Raises what may have been lost."""
        if self.stopped is not None:
            raise self.stopped


def command() -> NoReturn:
    """The command as a process."""
    status = main()
    if status < 128:
        sys.exit(status)
    # Stopped by a signal: XLA may be compiling still, and would crash as Python takes leave of it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status; every failure is one sentence on stderr."""
    signals = _Signals()
    try:
        options = _parser().parse_args(sys.argv[1:] or ["--help"] if argv is None else argv)
        return check(options) if options.command == "check" else train(options, signals)
    except (ValueError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        print(f"jnn: {error}", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        print(f"jnn: JAX gave up: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print("\njnn: stopped", file=sys.stderr)
        return stopped.status


def train(options: argparse.Namespace, signals: _Signals) -> int:
    """Shows the network, checks its gradients on the data, trains it and tests it."""
    if options.picture is not None:
        plots.check_new(options.picture)
    dataset = _load(options)
    for name, value in DEFAULTS[options.dataset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.lr is None:
        options.lr = OPTIMIZERS[options.optimizer]
    net, loss, optimizer = _ingredients(options, dataset)
    start_key, mode_key, check_key = jax.random.split(jax.random.key(options.seed), 3)
    state = start(net, optimizer, dataset.train.x, start_key)
    records = run(
        net,
        loss,
        optimizer,
        dataset.train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        gradient=options.gradient,
        penalty=L2(options.l2) if options.l2 else None,
        watch=options.watch,
        resume=state,
    )

    shape = "x".join(str(size) for size in dataset.train.x.shape[1:])
    print(
        f"{dataset.name}: {len(dataset.train.x)} training and {len(dataset.test.x)} test examples "
        f"of {shape}, {dataset.classes} classes"
    )
    print(summary(net, dataset.train.x))
    x, y = (v[:CHECKED] for v in dataset.train)
    with show("checking the gradients"):
        mode = Train(mode_key, state.state)
        check = check_network(net, loss, state.params, x, y, mode, key=check_key)
    print(check)
    if not check:
        return 1

    signals.check()
    history, status, began = [], 0, time.perf_counter()
    try:
        for record in follow(records):
            state = record.state or state
            history.append(record._replace(state=None))
            signals.check()
    except Stopped as stopped:
        status, signals.stopped = stopped.status, None
        done = f"{history[-1].epoch:.1f}" if history else "0"
        print(f"\njnn: stopped after {done} of {options.epochs} epochs", file=sys.stderr)
    seconds = time.perf_counter() - began
    result = evaluate(net, loss, state.params, state.state, dataset.test)
    print(
        f"test accuracy {result.accuracy:.2%} of {result.examples} examples, "
        f"loss {result.loss:.4f}, after {seconds:.1f} s of training"
    )
    if options.watch and history:
        # Half-way: at the end the learning rate, and so every update, is next to nothing.
        middle = history[len(history) // 2]
        print(f"the layers after {middle.epoch:.1f} epochs:\n{table(middle.layers or [])}")
    if options.picture is not None and history:
        epochs = [record for record in history if record.epoch.is_integer()] or history
        title = f"{dataset.name}: test accuracy {result.accuracy:.2%}"
        plots.save(plots.learning_curves(epochs, title), options.picture)
        print(f"learning curves in {options.picture}")
    return status


def _load(options: argparse.Namespace) -> data.Dataset:
    if options.dataset == "mnist":
        if options.data_dir is None:
            raise ValueError("mnist needs --data-dir DIR, the folder that holds its four files")
        return data.mnist(options.data_dir)
    if options.data_dir is not None:
        raise ValueError(f"--data-dir is for mnist; {options.dataset} is built in: leave it out")
    return {"digits": data.digits, "spiral": data.spiral}[options.dataset]()


def _ingredients(
    options: argparse.Namespace, dataset: data.Dataset
) -> tuple[Layer, Loss, Optimizer]:
    activation = ACTIVATIONS[options.activation]
    weight = he_normal if isinstance(activation, ReLU | LeakyReLU) else lecun_normal
    layers = [Flatten()] if dataset.train.x.ndim > 2 else []
    layers += [Dropout(options.input_dropout)] if options.input_dropout else []
    for width in options.hidden:
        # The shift of a batch normalisation is bias enough.
        layers += [Dense(width, weight=weight, bias=not options.batch_norm)]
        layers += [BatchNorm()] if options.batch_norm else []
        layers += [activation]
        layers += [Dropout(options.dropout)] if options.dropout else []
    net = Serial(*layers, Dense(dataset.classes, weight=weight))
    lr = options.lr
    if options.schedule == "cosine":
        steps = options.epochs * (len(dataset.train.x) // options.batch_size)
        lr = cosine(lr, min(max(1, steps), 2**31 - 1))  # `run` refuses what is more or less
    return net, SoftmaxCrossEntropy(), getattr(optimizers, options.optimizer)(lr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jnn",
        description="Neural networks whose hand-written gradients are checked before they train.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jnn {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    defaults = "\n".join(
        f"  {name:<8}--hidden {','.join(map(str, d['hidden'])):<13}"
        f"--epochs {d['epochs']:<5}--batch-size {d['batch_size']}"
        for name, d in DEFAULTS.items()
    )
    sub = commands.add_parser(
        "train",
        help="train a classifier on real images from one command",
        description="Prints the network as a table, checks its hand-written gradients against "
        "jax.grad and finite differences on the data, trains it, and tests it.",
        epilog=f"defaults by data set:\n{defaults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = sub.add_argument
    add("dataset", nargs="?", choices=DEFAULTS, default="digits", help="default: digits, built in")
    add("--data-dir", type=Path, metavar="DIR", help="folder of the MNIST files, plain or .gz")
    add(
        "--hidden",
        type=_widths,
        metavar="N,N",
        help="widths of the hidden layers, or the word none",
    )
    add("--activation", choices=ACTIVATIONS, default="relu", help="default: relu")
    add("--optimizer", choices=OPTIMIZERS, default="momentum", help="default: momentum")
    rates = ", ".join(f"{name} {lr}" for name, lr in OPTIMIZERS.items())
    add("--lr", type=_rate, metavar="X", help=f"learning rate at the first step (default: {rates})")
    add(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="what becomes of it: falls to 0 at the end (default), or stays",
    )
    add("--batch-norm", action="store_true", help="normalise before every activation")
    add("--dropout", type=_fraction, metavar="P", help="drop so much after every activation")
    add("--input-dropout", type=_fraction, metavar="P", help="drop so much of the inputs")
    add("--l2", type=_rate, metavar="X", help="penalise the squares of the weights by X / 2")
    add("--epochs", type=_whole, metavar="N", help="passes over the training examples")
    add("--batch-size", type=_whole, metavar="N", help="examples for each step")
    add("--seed", type=_seed, metavar="N", default=0, help="all that is random follows; default: 0")
    add(
        "--gradient",
        choices=GRADIENTS,
        default="backprop",
        help="hand-written (default), or jax.grad of the same network",
    )
    add(
        "--watch",
        type=_whole,
        metavar="N",
        help="measure every layer once in N steps, and say at the end what was amiss",
    )
    add(
        "--picture",
        type=Path,
        metavar="FILE",
        help="draw the learning curves in a new .png, .svg or .pdf",
    )
    add_command(commands, _seed)
    return parser


def _version() -> str:
    try:
        return version("jnn")
    except PackageNotFoundError:
        return "of a checkout that is not installed"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and what was probably meant."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        # Before argparse takes the value of a misspelt option for an argument of its own.
        options = self._option_string_actions
        for name in (argument.split("=")[0] for argument in args or ()):
            if self._subparsers is None and name.startswith("--") and name not in options:
                close = difflib.get_close_matches(name, options, n=1)
                mend = f"did you mean {close[0]}?" if close else f"it has {', '.join(options)}"
                self.error(f"there is no option {name}; {mend}")
        found, left = super().parse_known_args(args, namespace)
        if left and "arguments" in found:  # of `check`, where options stand among them
            found.arguments, left = [*found.arguments, *left], []
        return found, left

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _whole(text: str) -> int:
    return _within(text, 1)


def _seed(text: str) -> int:
    return _within(text, 0)


def _within(text: str, least: int) -> int:
    # By its length first: Python refuses to read thousands of digits.
    if not (text.isdecimal() and len(text) <= 10 and least <= int(text) < 2**31):
        raise argparse.ArgumentTypeError(
            f"{text[:20]!r} is not a whole number from {least} to 2147483647"
        )
    return int(text)


def _widths(text: str) -> tuple[int, ...]:
    try:
        return () if text == "none" else tuple(_whole(width) for width in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of widths such as 512,512, or none"
        ) from None


def _fraction(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return rate


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 1e-30 < rate < 1e30:  # float32 cannot hold much more or less
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return rate
