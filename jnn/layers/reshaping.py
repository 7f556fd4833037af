"""Layers that only rearrange."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jnn.layer import Layer, Mode, Params, check_cotangent, fail, floating


@dataclass(frozen=True)
class Flatten(Layer):
    """Makes a vector of every example.

        forward    y = x reshaped to (n, a b c)
        backward   dx = dy reshaped to (n, a, b, c)

    Shapes: x (n, a, b, c) or any rank of at least 1, y (n, a b c).
    Cache: an array of no bytes, (0, a, b, c), whose shape remembers that of x; a tuple would not
    survive jit and scan.

    Raises LayerError, a ValueError, where x has no axes or is not floating point, or dy is not
    like y.

    >>> Flatten().forward({}, jnp.ones((5, 8, 8, 1)), None)[0].shape
    (5, 64)
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if x.ndim < 1:
            fail(self, "x has no axes; its first axis must hold the examples: (n, ...)")
        y = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return y, jnp.empty((0, *x.shape[1:]), x.dtype)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        rest = cache.shape[1:]
        y = jax.ShapeDtypeStruct((*dy.shape[:1], math.prod(rest)), cache.dtype)
        check_cotangent(self, dy, y)
        return dy.reshape(*dy.shape[:1], *rest)
