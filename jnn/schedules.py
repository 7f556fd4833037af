"""Schedules: functions of the step, from 0, for anything that anneals.

A schedule is any function step -> value that JAX can trace; these are made to measure.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def cosine(start: float, steps: int, end: float = 0.0) -> Callable[[jax.Array], jax.Array]:
    """Half a cosine from `start` at step 0 to `end` at step `steps`, and `end` ever after.

        value(t) = end + (start - end) (1 + cos(pi min(t, steps) / steps)) / 2

    Source: Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    Raises ValueError where `steps` is not positive or `start` or `end` is not finite.

    >>> lr = cosine(0.1, steps=100)
    >>> [round(float(lr(t)), 4) for t in (0, 50, 100, 1000)]
    [0.1, 0.05, 0.0, 0.0]
    """
    if steps < 1:
        raise ValueError(f"cosine: steps is {steps!r}; it must be a positive number of steps")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError(f"cosine: start is {start!r} and end is {end!r}; both must be finite")

    def value(step: jax.Array) -> jax.Array:
        fraction = jnp.minimum(step, steps) / steps
        return end + (start - end) * (1 + jnp.cos(jnp.pi * fraction)) / 2

    return value
