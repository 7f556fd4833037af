"""Networks of more than dense layers: steps of a small CNN, and how long a deep one compiles.

A CNN's step within a compiled loop is timed against the same step called from a loop in Python, and
both against jax.grad of XLA's own convolutions, which only outside of such a loop is fast on a CPU.
Before anything is timed, the gradients are compared in float64.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Result, Row, Work, compare

import jnn

BATCH, BATCHES = 64, 8
OPTIMIZER = jnn.optimizers.momentum(0.01)
loss = jnn.SoftmaxCrossEntropy()


def networks() -> dict[str, Callable[[], Any]]:
    """The benchmarks of this file by name."""
    shapes = (28, 28, 1), (32, 32, 3)
    return {
        f"CNN, {' x '.join(map(str, shape))}, batch {BATCH}": partial(bench, shape)
        for shape in shapes
    } | {"compiling Repeat": depths}


def cnn(form: str | None = None) -> jnn.Layer:
    """Two convolutions with pooling, then two dense layers."""
    conv = partial(jnn.Conv, form=form)
    return jnn.Serial(
        conv(32),
        jnn.ReLU(),
        jnn.MaxPool(),
        conv(64),
        jnn.ReLU(),
        jnn.MaxPool(),
        jnn.Flatten(),
        jnn.Dense(128),
        jnn.ReLU(),
        jnn.Dense(10),
    )


def bench(shape: tuple[int, ...]) -> list[Result]:
    """Asserts equal gradients, then times the steps."""
    rng = np.random.default_rng(0)
    x = rng.random((BATCHES, BATCH, *shape), np.float32)
    y = rng.integers(0, 10, (BATCHES, BATCH)).astype(np.int32)
    by_hand, by_xla = jnn.backprop(cnn(), loss), jnn.autodiff(cnn("lax"), loss)
    params, _ = cnn().init(jax.random.key(0), x[0])
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, (params, x[0]))
        (_, want), (_, got) = (jax.jit(f)(*wide, y[0], jnn.Eval()) for f in (by_xla, by_hand))
        for path, g in jax.tree.leaves_with_path(want):
            other = dict(jax.tree.leaves_with_path(got))[path]
            np.testing.assert_allclose(other, g, rtol=0, atol=1e-10, err_msg=str(path))
    begin = params, OPTIMIZER.init(params)
    data = jax.device_put((x, y))
    return compare(
        [
            Row("the step, called from a loop", partial(called, by_hand, begin, data)),
            Row("the step, within a compiled loop", partial(looped, by_hand, begin, data)),
            Row("jax.grad of lax.conv, called from a loop", partial(called, by_xla, begin, data)),
        ]
    )


def step(gradient: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
    """One step of descent."""
    params, kept = state
    _, grads = gradient(params, x, y, jnn.Eval())
    updates, kept = OPTIMIZER.update(grads, kept, params)
    return jnn.optimizers.apply_updates(params, updates), kept


def called(gradient: Any, state: Any, data: Any, steps: int) -> Work:
    """One call of a jitted step after the other, over batches that lie ready."""
    one = jax.jit(partial(step, gradient))
    batches = [jax.tree.map(lambda v, i=i: v[i], data) for i in range(BATCHES)]
    state = one(state, *batches[0])

    def work() -> None:
        nonlocal state
        for i in range(steps):
            state = one(state, *batches[i % BATCHES])
        jax.block_until_ready(state)

    return work


def looped(gradient: Any, state: Any, data: Any, steps: int) -> Work:
    """All steps in one program."""

    @jax.jit
    def all_of(state: Any, data: Any, steps: int) -> Any:
        def body(i: jax.Array, state: Any) -> Any:
            return step(gradient, state, *jax.tree.map(lambda v: v[i % BATCHES], data))

        return jax.lax.fori_loop(0, steps, body, state)

    state = jax.block_until_ready(all_of(state, data, 1))

    def work() -> None:
        nonlocal state
        state = jax.block_until_ready(all_of(state, data, steps))

    return work


def depths(rounds: int = 7) -> str:
    """How long a training step of 4 and of 48 blocks takes to compile, in interleaved rounds."""
    x, y = jnp.ones((8, 16, 64)), jnp.zeros((8, 16), jnp.int32)
    block = jnn.Serial(
        jnn.Residual(jnn.LayerNorm(), jnn.Attention(4, causal=True)),
        jnn.Residual(jnn.LayerNorm(), jnn.Dense(256), jnn.GELU(), jnn.Dense(64)),
    )
    lowered = {}
    for n in (4, 48):
        net = jnn.Serial(jnn.Repeat(block, n), jnn.Dense(10))
        params, _ = net.init(jax.random.key(0), x)
        gradient = partial(step, jnn.backprop(net, loss))
        state = params, OPTIMIZER.init(params)
        lowered[n] = lambda f=gradient, state=state: jax.jit(f).lower(state, x, y)
    seconds: dict[int, list[float]] = {n: [] for n in lowered}
    for _ in range(rounds):
        for n, lower in lowered.items():
            jax.clear_caches()
            began = time.perf_counter()
            lower().compile()
            seconds[n].append(time.perf_counter() - began)
    ratios = [deep / flat for flat, deep in zip(seconds[4], seconds[48], strict=True)]
    middle = {n: statistics.median(times) for n, times in seconds.items()}
    return "\n".join(
        [
            "| tracing and compiling a step | seconds | against 4 (median, least to greatest) |",
            "|---|---:|---:|",
            f"| Repeat of 4 blocks | {middle[4]:.2f} | 1.00 |",
            f"| Repeat of 48 blocks | {middle[48]:.2f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) |",
        ]
    )
