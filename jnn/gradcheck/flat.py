"""A function as the checker calls it: floats in, floats out, as tuples; and its own gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jnn.gradcheck.primal import Walk, evaluated

Shapes = tuple[jax.ShapeDtypeStruct, ...]


@dataclass(frozen=True)
class Flat:
    """A function of the floating leaves of its arguments, as tuples in and out; hashable.

    `typed`, of a function that computes in narrower floats than float64 or takes no others, are
    the leaves and the arguments' other leaves that it was made for: all of it, its derivative rules
    included, is then evaluated in float64 for all that.
    """

    f: Callable[..., Any]
    tree: Any
    floating: tuple[bool, ...]
    typed: tuple[Shapes, Shapes] | None = None

    def __call__(self, leaves: tuple[Any, ...], others: tuple[Any, ...]) -> tuple[Any, ...]:
        """The floating leaves of f's output, at `leaves` and the arguments' other leaves."""
        if self.typed is None:
            return floats(self.f(*self.arguments(leaves, others)))
        return floats(self.walked(Walk(), leaves, others))

    def walked(self, walk: Walk, leaves: tuple[Any, ...], others: tuple[Any, ...]) -> Any:
        """f's output, by that walk through its primal."""
        typed = None if self.typed is None else self.arguments(*self.typed)
        return evaluated(self.f, self.arguments(leaves, others), walk, typed)

    def arguments(self, leaves: tuple[Any, ...], others: tuple[Any, ...]) -> Any:
        """The arguments of f."""
        moving, still = iter(leaves), iter(others)
        merged = [next(moving) if m else next(still) for m in self.floating]
        return jax.tree.unflatten(self.tree, merged)


def floats(tree: Any) -> tuple[Any, ...]:
    """The floating leaves of a tree."""
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    return tuple(v for v in leaves if jnp.issubdtype(v.dtype, jnp.floating))


def gradient(f: Flat, leaves: tuple[Any, ...], others: tuple[Any, ...], v: tuple[Any, ...]) -> Any:
    """(y, pull(v)) of the function by its own rules."""

    def by_rules(leaves: Any, others: Any, v: Any) -> Any:
        return pulled(lambda *leaves: floats(f.f(*f.arguments(leaves, others))), leaves, v)

    if f.typed is None:
        return by_rules(leaves, others, v)
    with jax.enable_x64(False):
        y = jax.eval_shape(lambda *at: floats(f.f(*f.arguments(*at))), *f.typed)
    return evaluated(by_rules, (leaves, others, v), Walk(), (*f.typed, y))


def pulled(f: Callable[..., Any], leaves: tuple[Any, ...], v: tuple[Any, ...]) -> Any:
    """(y, pull(v)), by what rules f has."""
    y, pull = jax.vjp(f, *leaves)
    return y, pull(tuple(jnp.asarray(a).astype(o.dtype) for a, o in zip(v, y, strict=True)))
