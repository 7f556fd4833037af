"""One look at a gradient: beside the exact one, with how much of the difference is rounding."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.primal import stripped

REPLICATES = 6  # of a point, a few ulps apart: enough to know the spread of rounding errors
SPREADS = 12  # standard deviations of that spread are still rounding
ULPS = 64  # of the last operations, which a spread of few replicates may miss


@dataclass(frozen=True)
class Flat:
    """A function of the floating leaves of its arguments, as tuples in and out; hashable."""

    f: Callable[..., Any]
    tree: Any
    floating: tuple[bool, ...]

    def __call__(self, leaves: tuple[Any, ...], others: tuple[Any, ...]) -> tuple[Any, ...]:
        """The floating leaves of f's output, at `leaves` and the arguments' other leaves."""
        return floats(self.f(*self.arguments(leaves, others)))

    def arguments(self, leaves: tuple[Any, ...], others: tuple[Any, ...]) -> Any:
        """The arguments of f."""
        moving, still = iter(leaves), iter(others)
        merged = [next(moving) if m else next(still) for m in self.floating]
        return jax.tree.unflatten(self.tree, merged)


class Seen(NamedTuple):
    """A gradient beside the exact one: tuples with an array for each floating leaf."""

    hand: tuple[Any, ...]
    exact: tuple[Any, ...]
    allowed: tuple[Any, ...]  # the absolute difference that rounding accounts for, by element
    y: tuple[Any, ...]  # the output under differentiation
    y_exact: tuple[Any, ...]
    contract: dict[str, Any]  # what the gradient is at other cotangents

    def worst(self, leaf: int, wrong: np.ndarray, most: int = 20) -> tuple[tuple[int, ...], ...]:
        """The indices of the wrong elements of a leaf, the worst first."""
        hand, exact = self.hand[leaf], self.exact[leaf]
        off = np.where(np.isfinite(hand), abs(hand - exact), np.inf)
        order = np.argsort(-np.where(wrong, off, -1), axis=None)[: min(wrong.sum(), most)]
        return tuple(tuple(int(k) for k in np.unravel_index(n, wrong.shape)) for n in order)


def floats(tree: Any) -> tuple[Any, ...]:
    """The floating leaves of a tree."""
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    return tuple(v for v in leaves if jnp.issubdtype(v.dtype, jnp.floating))


def gradient(f: Flat, leaves: tuple[Any, ...], others: tuple[Any, ...], v: tuple[Any, ...]) -> Any:
    """(y, pull(v)) of the function by its own rules."""
    y, pull = jax.vjp(lambda *leaves: f(leaves, others), *leaves)
    return y, pull(v)


def exact_gradient(
    reference: Flat, leaves: tuple[Any, ...], others: tuple[Any, ...], v: tuple[Any, ...]
) -> Any:
    """(y, pull(v)) of the primal by autodiff: backwards, or where a loop forbids it, forwards."""

    def primal(*leaves: Any) -> tuple[Any, ...]:
        return reference(leaves, others)

    try:
        y, pull = jax.vjp(primal, *leaves)
        return y, pull(v)
    except ValueError as error:
        if "everse-mode" not in str(error):
            raise

    def slope(i: Any, leaf: int) -> jax.Array:
        shape, size = leaves[leaf].shape, leaves[leaf].size
        tangents = [jnp.zeros_like(v) for v in leaves]
        tangents[leaf] = jnp.zeros(size, leaves[leaf].dtype).at[i].set(1).reshape(shape)
        _, dy = jax.jvp(primal, leaves, tuple(tangents))
        return sum((jnp.vdot(a, b) for a, b in zip(v, dy, strict=True)), jnp.zeros(()))

    found = [
        jax.lax.map(partial(slope, leaf=i), jnp.arange(leaf.size)).reshape(leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return primal(*leaves), tuple(found)


def bare(f: Flat) -> Flat:
    """Its primal."""
    return replace(f, f=_Stripped(f.f))


@dataclass(frozen=True)
class _Stripped:
    """`stripped(f)`, equal for equal f."""

    f: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return stripped(self.f)(*args)


@partial(jax.jit, static_argnums=(0, 1))
def look(
    f: Flat,
    reference: Flat,
    leaves: tuple[Any, ...],
    others: tuple[Any, ...],
    v: tuple[Any, ...],
    w: tuple[Any, ...],
    key: jax.Array,
    ulps: float,
) -> Seen:
    """f's gradient at `leaves` for the cotangent v, in float64, beside that of the reference.

    The difference is taken again at points up to `ulps` and cotangents up to 8 ulps away: that of a
    right gradient is rounding and changes each time, that of a wrong one stays. An element is wrong
    if

        |hand - exact| > 64 u (|hand| + |exact| + rms(exact)) sqrt(1 + log2 n)
                         + 12 (sd of its differences + their rms over the leaf) sqrt(1 + 1/K)
    """
    u = jnp.finfo(jnp.float64).eps / 2

    def replicate(k: jax.Array) -> tuple[Any, ...]:
        def jitter(i: int, a: jax.Array, ulps: float) -> jax.Array:
            draw = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, i), k), a.shape)
            return a * jnp.where(k == 0, 1, 1 + 2 * ulps * u * (2 * draw.astype(a.dtype) - 1))

        at = tuple(jitter(i, a, ulps) for i, a in enumerate(leaves))
        by = tuple(jitter(len(leaves) + i, a, 8) for i, a in enumerate(v))
        y, hand = gradient(f, at, others, by)
        y_exact, exact = exact_gradient(reference, at, others, by)
        return y, y_exact, hand, exact

    y, y_exact, hands, exacts = jax.lax.map(replicate, jnp.arange(REPLICATES))
    n = sum(a.size for a in (*leaves, *v))

    def allowed(hand: jax.Array, exact: jax.Array) -> jax.Array:
        off = hand - exact
        sd = jnp.std(off, axis=0)
        told = jnp.where(jnp.isfinite(sd), sd, 0)
        sizes = jnp.where(jnp.isfinite(exact[0]), exact[0], 0)
        typical = jnp.sqrt(jnp.square(sizes).mean()) if sizes.size else 0.0
        floor = ULPS * u * (abs(hand[0]) + abs(exact[0]) + typical) * np.sqrt(1 + np.log2(n))
        spread = sd + (jnp.sqrt(jnp.square(told).mean()) if sd.size else 0.0)
        return floor + SPREADS * spread * np.sqrt(1 + 1 / REPLICATES)

    def at(*cotangent: jax.Array) -> Any:
        return gradient(f, leaves, others, cotangent)[1]

    pairs = list(zip(v, w, strict=True))
    contract = {
        "zero": at(*(0 * a for a in v)),
        "one": at(*v),
        "double": at(*(2 * a for a in v)),
        "other": at(*w),
        "mixed": at(*(1.7 * a - 37.3 * b for a, b in pairs)),
    }
    first = [tuple(a[0] for a in found) for found in (hands, exacts, y, y_exact)]
    hand, exact, y, y_exact = first
    return Seen(hand, exact, tuple(map(allowed, hands, exacts)), y, y_exact, contract)
