"""A sweep of 32 small networks as one program, against 32 runs one after another.

The runs share one compiled program, their best case: with learning rates of their own each would
compile anew. A step is all 32 trainings, 10 epochs of the digits each, and their evaluation.
"""

from collections.abc import Callable

import jax
import numpy as np
from harness import Result, Row, Work, compare

import jnn

TRIALS, EPOCHS = 32, 10
TRAIN, TEST = jnn.data.digits()[1:3]
NET = jnn.Serial(jnn.Flatten(), jnn.Dense(32), jnn.ReLU(), jnn.Dense(10))
LOSS = jnn.SoftmaxCrossEntropy()
OPTIONS = {"epochs": EPOCHS, "batch_size": 32, "validation": TEST, "progress": False}


def sweeps() -> dict[str, Callable[[], list[Result]]]:
    """The benchmark of this file by name."""
    return {"sweep of 32 networks 64-32-10, 10 epochs of the digits": bench}


def bench() -> list[Result]:
    """Asserts that a trial of the sweep is the run of its learning rate, then times both."""
    result = sweep()
    key = jax.random.split(jax.random.split(jax.random.key(0))[1], TRIALS)
    best = jnn.optimizers.momentum(result.best["lr"])
    fitted = [jnn.fit(NET, LOSS, best, TRAIN, key=k, **OPTIONS) for k in key]
    distance = min(
        np.abs(f.params["dense1"]["w"] - result.params["dense1"]["w"][0]).max() for f in fitted
    )
    assert distance < 1e-3, distance
    return compare([Row("32 runs", many(one)), Row("a sweep of 32", many(sweep))])


def sweep() -> jnn.search.Sweep:
    """32 learning rates at once."""
    space = {"lr": jnn.search.log_uniform(1e-3, 1)}
    return jnn.sweep(
        NET,
        LOSS,
        jnn.optimizers.momentum,
        TRAIN,
        space=space,
        trials=TRIALS,
        key=jax.random.key(0),
        **OPTIONS,
    )


def one() -> None:
    """32 trainings in turn."""
    for trial in range(TRIALS):
        optimizer = jnn.optimizers.momentum(0.05)
        jnn.fit(NET, LOSS, optimizer, TRAIN, key=jax.random.key(trial), **OPTIONS)


def many(work: Callable[[], object]) -> Callable[[int], Work]:
    """`work` so many times, warm."""

    def prepare(steps: int) -> Work:
        work()
        return lambda: [work() for _ in range(steps)] and None

    return prepare
