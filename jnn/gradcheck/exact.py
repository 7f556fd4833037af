"""The gradient that is right: of a primal, by autodiff, or where JAX has none by differences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jnn.gradcheck.finite_differences import slope
from jnn.gradcheck.flat import Flat, pulled
from jnn.gradcheck.primal import stripped

MOST = 2000  # numbers of which slopes are measured one by one


@dataclass(frozen=True)
class _Stripped:
    """`stripped(f)`, equal for equal f."""

    f: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return stripped(self.f)(*args)


@dataclass(frozen=True)
class Measured(Flat):
    """A function that JAX cannot differentiate."""

    eps: float = 0.0  # of the dtype in which it computes


def bare(f: Flat) -> Flat:
    """Its primal."""
    return replace(f, f=_Stripped(f.f))


def exact_gradient(
    reference: Flat, leaves: tuple[Any, ...], others: tuple[Any, ...], v: tuple[Any, ...]
) -> Any:
    """(y, pull(v), error bars) of the primal: by autodiff, backwards or where a loop forbids that
    forwards, and then without any error; or by finite differences."""

    def primal(*leaves: Any) -> tuple[Any, ...]:
        return reference(leaves, others)

    if isinstance(reference, Measured):
        parts = [_along_each(primal, leaves, v, i, reference.eps) for i in range(len(leaves))]
        values, bars = zip(*parts, strict=True)
        return primal(*leaves), values, bars
    try:
        y, found = pulled(primal, leaves, v)
    except ValueError as error:
        if "everse-mode" not in str(error):
            raise
        y, found = primal(*leaves), _forwards(primal, leaves, v)
    return y, found, jax.tree.map(jnp.zeros_like, found)


def _forwards(primal: Callable[..., Any], leaves: Any, v: Any) -> tuple[Any, ...]:
    def along(i: Any, leaf: int) -> jax.Array:
        shape, size = leaves[leaf].shape, leaves[leaf].size
        tangents = [jnp.zeros_like(v) for v in leaves]
        tangents[leaf] = jnp.zeros(size, leaves[leaf].dtype).at[i].set(1).reshape(shape)
        _, dy = jax.jvp(primal, leaves, tuple(tangents))
        return sum((jnp.vdot(a, b) for a, b in zip(v, dy, strict=True)), jnp.zeros(()))

    return tuple(
        jax.lax.map(partial(along, leaf=i), jnp.arange(leaf.size)).reshape(leaf.shape)
        for i, leaf in enumerate(leaves)
    )


def _along_each(
    primal: Callable[..., Any], leaves: Any, v: Any, leaf: int, eps: float
) -> tuple[jax.Array, jax.Array]:
    """The slope along each element of a leaf, and its error bar."""
    at = leaves[leaf]
    square = jnp.square(at).mean() if at.size else jnp.ones(())
    size = jnp.where(jnp.isfinite(square) & (square > 0), jnp.sqrt(square), 1)

    def along(i: jax.Array) -> Any:
        def value(t: jax.Array) -> jax.Array:
            moved = at.ravel().at[i].add(t * size).reshape(at.shape)
            y = primal(*leaves[:leaf], moved, *leaves[leaf + 1 :])
            return jnp.stack([jnp.vdot(a, b) for a, b in zip(v, y, strict=True)]).sum()

        return slope(value, eps)

    measured = jax.lax.map(along, jnp.arange(at.size))
    return tuple((a / size).reshape(at.shape) for a in measured)
