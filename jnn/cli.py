"""The command line: `jnn train`."""

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from jnn import data, optimizers, plots, schedules
from jnn.compose import Serial
from jnn.gradcheck import check_network
from jnn.initializers import he_normal, lecun_normal
from jnn.layer import Layer, Train
from jnn.layers import Dense, Flatten, LeakyReLU, ReLU, Sigmoid, Tanh
from jnn.losses import SoftmaxCrossEntropy
from jnn.report import follow, show_summary
from jnn.training import GRADIENTS, Diverged, evaluate, run

DATASETS = ("digits", "spiral", "mnist")
ACTIVATIONS = {"relu": ReLU(), "leaky-relu": LeakyReLU(), "tanh": Tanh(), "sigmoid": Sigmoid()}
OPTIMIZERS = {"sgd": optimizers.sgd, "momentum": optimizers.momentum}
DEFAULTS = {
    "digits": {"hidden": (256, 256, 256), "lr": 0.1, "epochs": 30, "batch_size": 32},
    "spiral": {"hidden": (100,), "lr": 0.1, "epochs": 200, "batch_size": 50},
    "mnist": {"hidden": (512, 512), "lr": 0.1, "epochs": 10, "batch_size": 128},
}
CHECKED = 8  # examples for the gradient check: enough for every term, few enough to be quick


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status. Every failure is one sentence on stderr."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return train(options)
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        print(f"jnn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jnn: stopped before training began", file=sys.stderr)
        return 130


def train(options: argparse.Namespace) -> int:
    """Loads the data, shows the network, checks its gradients, trains it and tests it."""
    if options.picture and options.picture.exists():
        raise FileExistsError(f"{options.picture} exists; name a file that does not")
    dataset = _load(options)
    for name, value in DEFAULTS[options.dataset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    shape = "x".join(str(size) for size in dataset.train.x.shape[1:])
    print(
        f"{dataset.name}: {len(dataset.train.x)} training and {len(dataset.test.x)} test examples "
        f"of {shape}, {dataset.classes} classes"
    )
    net = _network(options, dataset.classes)
    loss = SoftmaxCrossEntropy()
    show_summary(net, dataset.train.x)

    init_key, run_key, check_key = jax.random.split(jax.random.key(options.seed), 3)
