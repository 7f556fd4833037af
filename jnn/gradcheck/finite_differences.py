"""Slopes by finite differences, with an error bar."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

ERROR_BARS = 10  # of a slope may be wrong with it: its bar is an estimate, not a bound


class Slope(NamedTuple):
    """A derivative, and how far from the truth it may be; both ()."""

    value: jax.Array
    error: jax.Array


def slope(f: Callable[[jax.Array], jax.Array], eps: float = 0.0) -> Slope:
    """The derivative of a function of one number at 0, from its values alone. Run it in float64.

    `eps`, where f computes in a narrower dtype within, is the one of that dtype.

        D(h) = (f(h) - f(-h)) / 2h,    R(h) = (4 D(h/2) - D(h)) / 3    (Richardson, error O(h^4))

    for h = 2^-3 down to 2^-26, steps that are exact. Large steps are wrong by curvature, or by a
    kink that they reach across; small ones by rounding, of about u |f| / h. Two neighbours that
    agree suffer from neither, and three still less, so the R(h/2) is taken for which

        error = |R(h) - R(h/2)| + |R(h/2) - R(h/4)| + 8 u |f| / h

    is least, and that is its error bar. Source: Richardson 1911; the trade-off in Gill, Murray,
    Saunders & Wright 1983, "Computing forward-difference intervals".

    >>> with jax.enable_x64(True):
    ...     value, error = map(float, slope(lambda t: jnp.exp(2 * t)))
    >>> abs(value - 2) <= error, error < 1e-10
    (True, True)
    """
    h = 2.0 ** -jnp.arange(3.0, 27.0)
    # One after another, not vmapped: f may hold a copy of every parameter for each step.
    above, below = jnp.split(jax.lax.map(f, jnp.concatenate([h, -h])), 2)
    centred = (above - below) / (2 * h)
    extrapolated = (4 * centred[1:] - centred[:-1]) / 3
    rounding = 8 * max(eps, float(jnp.finfo(h.dtype).eps)) * jnp.abs(above).max() / h[2:-1]
    change = jnp.abs(jnp.diff(extrapolated))
    errors = change[:-1] + change[1:] + rounding
    best = jnp.argmin(errors)
    return Slope(extrapolated[1:-1][best], errors[best])
