"""Single layers: a hand-written forward and backward pass against the plain form by autodiff.

A step is both passes within a compiled loop, each feeding the next. Before anything is timed, the
gradients are compared in float64; those of dropout are, mask for mask.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Result, Row, Work, compare

import jnn

# (params, x, dy, key) -> (grads, y, dx)
Passes = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[Any, jax.Array, jax.Array]]


def leaves() -> dict[str, Callable[[], list[Result]]]:
    """The benchmarks of this file by name."""
    shapes = ((128, 512), (64, 14, 14, 64))
    return {
        f"layers: {name}, {' x '.join(map(str, shape))}": partial(bench, shape)
        for name, bench in (("batch norm", batch_norm), ("dropout", dropout))
        for shape in shapes
    }


def batch_norm(shape: tuple[int, ...]) -> list[Result]:
    """The closed form against autodiff of the same forward pass and of the textbook's."""
    random = np.random.default_rng(0)
    params = {name: random.standard_normal(shape[-1]) for name in ("scale", "shift")}
    x, dy = random.standard_normal((2, *shape))
    contestants = {
        "jax.vjp of the textbook's": partial(by_autodiff, textbook),
        "jax.vjp of BatchNorm": partial(by_autodiff, forward_of(jnn.BatchNorm())),
        "BatchNorm": partial(by_hand, jnn.BatchNorm()),
    }
    check(contestants, params, x, dy)
    return timed(contestants, params, x, dy)


def dropout(shape: tuple[int, ...]) -> list[Result]:
    """The sliced masks against one random word for every number."""
    x, dy = np.random.default_rng(0).standard_normal((2, *shape))
    contestants = {
        "jax.random.bernoulli, rate 0.3": partial(by_autodiff, partial(bernoulli, 0.3)),
        "Dropout(0.3)": partial(by_hand, jnn.Dropout(0.3)),
        "Dropout(0.5)": partial(by_hand, jnn.Dropout(0.5)),
    }
    for layer in (jnn.Dropout(0.3), jnn.Dropout(0.5)):
        both = {"auto": partial(by_autodiff, forward_of(layer)), "hand": partial(by_hand, layer)}
        check(both, {}, x, dy)
    return timed(contestants, {}, x, dy)


def textbook(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    """Batch normalisation as it is written down."""
    del key
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    xhat = (x - mean) / jnp.sqrt(jnp.square(x - mean).mean(axes) + 1e-5)
    return params["scale"] * xhat + params["shift"]


def bernoulli(rate: float, params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
    """Inverted dropout as it is usually written."""
    del params
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def forward_of(layer: jnn.Layer) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    return lambda params, x, key: layer.forward(params, x, jnn.Train(key))[0]


def by_hand(layer: jnn.Layer, params: Any, x: jax.Array, dy: jax.Array, key: jax.Array) -> Any:
    y, cache = layer.forward(params, x, jnn.Train(key))
    grads, dx = layer.backward(params, cache, dy)
    return grads, y, dx


def by_autodiff(forward: Any, params: Any, x: jax.Array, dy: jax.Array, key: jax.Array) -> Any:
    y, vjp = jax.vjp(lambda params, x: forward(params, x, key), params, x)
    grads, dx = vjp(dy)
    return grads, y, dx


def check(contestants: dict[str, Passes], params: Any, x: np.ndarray, dy: np.ndarray) -> None:
    """All give the same results in float64."""
    with jax.enable_x64(True):
        want, *others = (jax.jit(f)(params, x, dy, jax.random.key(0)) for f in contestants.values())
        for got in others:
            jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-10), got, want)


def timed(contestants: dict[str, Passes], params: Any, x: Any, dy: Any) -> list[Result]:
    given = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (params, x, dy))
    rows = [Row(name, partial(prepare, f, *given)) for name, f in contestants.items()]
    return compare(rows, rounds=7, seconds=0.2)


def prepare(f: Passes, params: Any, x: jax.Array, dy: jax.Array, steps: int) -> Work:
    compiled = _loop(f)

    def work() -> None:
        jax.block_until_ready(compiled(params, x, dy, jax.random.key(0), steps))

    work()
    return work


@cache
def _loop(f: Passes) -> Any:
    def step(i: jax.Array, carry: Any) -> Any:
        params, x, dy, key = carry
        grads, y, dx = f(params, x, dy, jax.random.fold_in(key, i))
        # A hair of everything goes into the next step, so that nothing can be left out.
        params, x, dy = jax.tree.map(lambda v, g: v + 1e-6 * g, (params, x, dy), (grads, y, dx))
        return params, x, dy, key

    return jax.jit(
        lambda params, x, dy, key, steps: jax.lax.fori_loop(0, steps, step, (params, x, dy, key))
    )
