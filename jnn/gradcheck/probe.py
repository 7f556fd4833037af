"""One look at a gradient: beside the exact one, with how much of the difference is rounding."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.exact import Measured, exact_gradient
from jnn.gradcheck.finite_differences import ERROR_BARS
from jnn.gradcheck.flat import Flat, gradient
from jnn.gradcheck.primal import BRIEFLY
from jnn.gradcheck.sizes import deviation, root_mean_square

REPLICATES = 6  # of a point, a few ulps apart: enough to know the spread of rounding errors
SPREADS = 12  # standard deviations of that spread are still rounding
ULPS = 64  # of the last operations, which a spread of few replicates may miss


class Seen(NamedTuple):
    """A gradient beside the exact one: tuples with an array for each floating leaf."""

    hand: tuple[Any, ...]
    exact: tuple[Any, ...]
    allowed: tuple[Any, ...]  # the absolute difference that rounding accounts for, by element
    y: tuple[Any, ...]  # the output under differentiation
    y_exact: tuple[Any, ...]
    v: tuple[Any, ...]  # the cotangent
    contract: dict[str, Any]  # what the gradient is at other cotangents

    def worst(self, leaf: int, wrong: np.ndarray, most: int = 20) -> tuple[tuple[int, ...], ...]:
        """The indices of the wrong elements of a leaf, the worst first."""
        hand, exact = self.hand[leaf], self.exact[leaf]
        off = np.where(np.isfinite(hand), abs(hand - exact), np.inf)
        order = np.argsort(-np.where(wrong, off, -1), axis=None)[: min(wrong.sum(), most)]
        return tuple(tuple(int(k) for k in np.unravel_index(n, wrong.shape)) for n in order)


def look(
    f: Flat,
    reference: Flat,
    leaves: tuple[Any, ...],
    others: tuple[Any, ...],
    draws: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]],
    rng: np.random.Generator,
    ulps: float,
    u: float,
    scaled: bool = True,
) -> Seen:
    """f's gradient at `leaves`, in float64, beside that of the reference; u is its unit roundoff.

    The cotangent is the first of the two draws, where `scaled` each of its arrays divided by the
    root mean square of its output, so that all outputs count alike. The difference is taken again
    at points up to `ulps` and cotangents up to 8 ulps away: that of a right gradient is rounding
    and changes each time, that of a wrong one stays. An element is wrong if

        |hand - exact| > 64 u (|hand| + |exact| + rms(exact)) sqrt(1 + log2 n)
                         + 12 (sd of its differences + their rms over the leaf) sqrt(1 + 1/K)

    and 10 error bars more where the reference is measured by finite differences.
    """

    def jittered(a: Any, ulps: float) -> np.ndarray:
        factors = 1 + 2 * ulps * u * rng.uniform(-1, 1, (REPLICATES, *np.shape(a)))
        factors[0] = 1
        return np.asarray(a) * factors

    points = tuple(jittered(a, ulps) for a in leaves)
    by = tuple(jittered(a, 8) for a in draws[0])
    v, y, y_exact, hands, exacts, bars, contract = jax.tree.map(
        np.asarray, _looked(f, reference, leaves, others, points, by, *draws, scaled)
    )
    n = max(1, sum(a.size for a in (*leaves, *v)))

    def allowed(hand: np.ndarray, exact: np.ndarray, bar: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            sd = deviation(hand - exact)
            usual = root_mean_square(np.where(np.isfinite(exact[0]), exact[0], 0))
            floor = ULPS * u * (abs(hand[0]) + abs(exact[0]) + usual) * np.sqrt(1 + np.log2(n))
            spread = sd + root_mean_square(np.where(np.isfinite(sd), sd, 0))
            return floor + SPREADS * spread * np.sqrt(1 + 1 / REPLICATES) + ERROR_BARS * bar

    return Seen(
        tuple(a[0] for a in hands),
        tuple(a[0] for a in exacts),
        tuple(map(allowed, hands, exacts, bars)),
        y,
        y_exact,
        v,
        {name: tuple(a[k] for a in contract) for k, name in enumerate(CONTRACT)},
    )


# Multiples of the two cotangents at which linearity shows.
CONTRACT = {"zero": (0, 0), "one": (1, 0), "double": (2, 0), "other": (0, 1), "mixed": (1.7, -37.3)}


@partial(jax.jit, static_argnums=(0, 1), compiler_options=BRIEFLY)
def _looked(
    f: Flat,
    reference: Flat,
    leaves: Any,
    others: Any,
    points: Any,
    by: Any,
    v: Any,
    w: Any,
    scaled: jax.Array,
) -> Any:
    def scale(a: jax.Array) -> jax.Array:
        size = jnp.sqrt(jnp.square(a.astype(jnp.float64)).mean()) if a.size else jnp.ones(())
        return jnp.where(scaled & jnp.isfinite(size) & (size > 0), size, 1)

    sizes = tuple(map(scale, f(leaves, others)))
    v, w, by = (tuple(a / s for a, s in zip(t, sizes, strict=True)) for t in (v, w, by))
    rows = np.array(list(CONTRACT.values()))
    plain = [jnp.tensordot(rows, jnp.stack([a, b]), axes=1) for a, b in zip(v, w, strict=True)]
    still = [jnp.broadcast_to(a, (len(rows), *a.shape)) for a in leaves]

    def joined(a: Any, b: Any) -> tuple[jax.Array, ...]:
        return tuple(jnp.concatenate(pair) for pair in zip(a, b, strict=True))

    def by_hand(at: Any) -> Any:
        leaves, cotangent = at
        return gradient(f, leaves, others, cotangent)

    def exactly(at: Any) -> Any:
        leaves, cotangent = at
        return exact_gradient(reference, leaves, others, cotangent)

    y, hands = jax.lax.map(by_hand, (joined(points, still), joined(by, plain)))
    # What is measured, slowly, once will do for all points: they are nearer than its error bars.
    few = 1 if isinstance(reference, Measured) else REPLICATES
    y_exact, exacts, bars = jax.lax.map(exactly, jax.tree.map(lambda a: a[:few], (points, by)))
    bars = tuple(a[0] for a in bars)
    hands, contract = (tuple(a[s] for a in hands) for s in (np.s_[:REPLICATES], np.s_[REPLICATES:]))
    y, y_exact = (tuple(a[0] for a in t) for t in (y, y_exact))
    return v, y, y_exact, hands, exacts, bars, contract
