"""First values for parameters: functions of (key, shape, dtype)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], jax.Array]


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """All zeros, as biases start. As weights they would keep every neuron equal to its neighbours.

    >>> zeros(jax.random.key(0), (2,), jnp.float32).tolist()
    [0.0, 0.0]
    """
    del key
    return jnp.zeros(shape, dtype)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Normal with variance 2 / fan_in, for weights (fan_in, ..., out) before a ReLU.

    A ReLU halves the second moment of its input and the 2 makes up for it, so the spread is
    kept from layer to layer. Source: He et al. 2015, "Delving deep into rectifiers".

    >>> w = he_normal(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 200 - 2) < 0.1)
    True
    """
    return math.sqrt(2 / _fan_in(shape)) * jax.random.normal(key, shape, dtype)


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Normal with variance 1 / fan_in: the lectures' `randn(n) / sqrt(n)`, for sigmoid and tanh.

    A weighted sum of n unit-variance inputs then has unit variance. Source: LeCun et al. 1998,
    "Efficient BackProp".

    >>> w = lecun_normal(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 200 - 1) < 0.1)
    True
    """
    return math.sqrt(1 / _fan_in(shape)) * jax.random.normal(key, shape, dtype)


def _fan_in(shape: tuple[int, ...]) -> int:
    return max(1, math.prod(shape[:-1]))
