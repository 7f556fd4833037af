"""The command `jnn check`: a function's hand-written gradient, checked from a terminal."""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jnn.gradcheck.arguments import SYNTAX, arguments, described
from jnn.gradcheck.functions import check_gradients, regimes_named
from jnn.gradcheck.importing import function, told

EPILOG = f"""\
each ARG describes one argument; quote those that a shell would read for itself:
{SYNTAX}

examples:
  jnn check norm.py:rms_norm 'f32[11,7]' 'f32[7]'
  jnn check mypackage.losses:cross_entropy 'f32[11,7]' 'i32[11]<7' --known smoothing=0.1
  jnn check kernels.py:attention --args-from kernels.py:example --reference kernels.py:plain

exit status: 0 the gradient is right, 1 it is wrong, 2 it could not be checked
"""


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Held:
    """An argument that is no array; without leaves, so that it stays what it is when traced."""

    value: Any


def add_command(commands: Any, seed: Callable[[str], int]) -> None:
    """Adds `check` to the subcommands of a parser; `seed` reads one."""
    sub = commands.add_parser(
        "check",
        help="check a function's hand-written gradient",
        description="Checks a function's hand-written gradient, that of its custom_vjp, against\n"
        "its own primal in float64, and says what is wrong in words: jnn.check_gradients.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # -1e-3 and -inf are numbers too, and no options.
    sub._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)")
    add = sub.add_argument
    add("function", metavar="FUNCTION", help="package.module:function, or path/to/file.py:function")
    add("arguments", nargs="*", default=[], metavar="ARG", help="its arguments in turn; see below")
    add("--args-from", metavar="FUNCTION", help="a function that returns the tuple of arguments")
    add(
        "--reference",
        metavar="FUNCTION",
        help="a plain function of the same value, where the primal cannot be differentiated",
    )
    add(
        "--regimes",
        type=_regimes,
        default="default",
        metavar="NAME,NAME",
        help=f"kinds of values to look at (default: {','.join(regimes_named('default'))})",
    )
    add(
        "--known",
        type=_known,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="a constant to recognise a wrong factor by; may be given again",
    )
    add("--seed", type=seed, metavar="N", default=0, help="all that is random follows; default: 0")


def check(options: argparse.Namespace) -> int:
    """Checks what the options name, prints the report, and returns the exit status."""
    try:
        return _checked(options)
    except ValueError as error:
        print(f"jnn check: {error}", file=sys.stderr)
        return 2


def _checked(options: argparse.Namespace) -> int:
    f = function(options.function)
    reference = function(options.reference) if options.reference else None
    args = _arguments(options)
    names = _names(f, args, options.function)
    if not any(map(_floating, jax.tree.leaves([a for a in args if not _fixed(a)]))):
        raise ValueError(
            f"none of the arguments of {options.function} holds floats, so it has no gradient; "
            "'f32[]' is a scalar, where 0.1 is a constant"
        )
    held = [_Held(a) if _fixed(a) else a for a in args]
    shown = [
        f"{name} = {a} (fixed)" if _fixed(a) else f"{name}: {described(a)}"
        for name, a in zip(names, args, strict=True)
    ]
    print(f"{options.function}({', '.join(shown)})", flush=True)
    try:
        report = check_gradients(
            _unheld(f),
            *held,
            reference=None if reference is None else _unheld(reference),
            known=dict(options.known),
            regimes=options.regimes,
            key=options.seed,
        )
    except Exception as error:
        raise ValueError(told(error, options.function)) from error
    text = re.sub(r"\bargs\[(\d+)\]", lambda found: names[int(found[1])], str(report))
    print(text.replace(f"({Path.cwd()}{os.sep}", "("))
    return 0 if report else 1


def _arguments(options: argparse.Namespace) -> Sequence[Any]:
    if options.args_from is None:
        return arguments(options.arguments, options.seed)
    if options.arguments:
        given = " ".join(options.arguments)
        raise ValueError(f"--args-from gives all arguments: leave out {given}, or that option")
    make = function(options.args_from)
    try:
        args = make()
    except Exception as error:
        raise ValueError(told(error, options.args_from)) from error
    if not isinstance(args, tuple | list):
        raise ValueError(f"{options.args_from} returned {args!r:.60}, not a tuple of arguments")
    return args


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating)


def _fixed(argument: Any) -> bool:
    if callable(argument):  # a model that is a tree may be called, and has parameters
        return jax.tree_util.all_leaves([argument])
    return isinstance(argument, bool | int | float | complex | str)


def _unheld(f: Callable[..., Any]) -> Callable[..., Any]:
    def unheld(*args: Any) -> Any:
        return f(*(a.value if isinstance(a, _Held) else a for a in args))

    unheld.__name__ = getattr(f, "__name__", type(f).__name__)  # which is shown
    return unheld


def _names(f: Callable[..., Any], args: Sequence[Any], called: str) -> list[str]:
    """What the function calls its arguments."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # some that are written in C have none
        return [f"args[{i}]" for i in range(len(args))]
    try:
        bound = signature.bind(*args).arguments
    except TypeError as error:
        wanted = [p.name for p in signature.parameters.values() if p.kind != p.KEYWORD_ONLY]
        each = " ".join(name.upper() for name in wanted)
        raise ValueError(
            f"{called}{signature}, given {len(args)} arguments: {error}; describe them in turn,\n"
            f"  jnn check {called} {each}\neach of them by one of\n{SYNTAX}\n"
            "or all by a function that returns them (trees too): --args-from FUNCTION"
        ) from None
    names = []
    for name in bound:
        several = signature.parameters[name].kind == inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}[{i}]" for i in range(len(bound[name]))] if several else [name]
    return names


def _regimes(text: str) -> list[str]:
    try:
        return regimes_named([name.strip() for name in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _known(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like rate=0.1") from None
