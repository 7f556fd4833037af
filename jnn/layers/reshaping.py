"""Layers that only rearrange."""

import math
from dataclasses import dataclass
from typing import Any

import jax

from jnn.layer import Layer, Mode, Params, check_cotangent, fail, floating, form, formed


@dataclass(frozen=True)
class Flatten(Layer):
    """Makes a vector of every example.

        forward    y = x reshaped to (n, a b c)
        backward   dx = dy reshaped to (n, a, b, c)

    Shapes: x (n, a, b, c) or any rank of at least 1, y (n, a b c).
    Cache: the shape of x, as an array of no bytes.

    Raises LayerError, a ValueError, where x has no axes or is not floating point, or dy is not
    like y.

    >>> import jax.numpy as jnp
    >>> Flatten().forward({}, jnp.ones((5, 8, 8, 1)), None)[0].shape
    (5, 64)
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if x.ndim < 1:
            fail(self, "x has no axes; its first axis must hold the examples: (n, ...)")
        return x.reshape(_flat(x)), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x = formed(cache)
        check_cotangent(self, dy, jax.ShapeDtypeStruct(_flat(x), x.dtype))
        return dy.reshape(x.shape)


def _flat(x: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int]:
    return x.shape[0], math.prod(x.shape[1:])
