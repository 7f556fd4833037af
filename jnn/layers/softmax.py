"""Softmax and its logarithm: functions of all numbers along one axis together."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jnn.layer import Layer, Mode, Params, check_cotangent, fail, floating, shape_of
from jnn.layers.checking import check_integer
from jnn.precision import widened


@dataclass(frozen=True)
class OverAxis(Layer):
    """The base of both: y = f(x) and dx = df(y, dy), computed in float32 or wider, rounded once."""

    axis: int = -1

    def __post_init__(self) -> None:
        check_integer(self, "axis")

    def f(self, x: jax.Array) -> jax.Array:
        """The function."""
        raise NotImplementedError(f"{type(self).__name__} must define f(x)")

    def df(self, y: jax.Array, dy: jax.Array) -> jax.Array:
        """The cotangent of x."""
        raise NotImplementedError(f"{type(self).__name__} must define df(y, dy)")

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] == 0:
            fail(self, f"x is {shape_of(x)}; it must hold a number or more along axis {self.axis}")
        y = self.f(widened(x)).astype(x.dtype)
        return y, y

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        check_cotangent(self, dy, cache)
        y, wide_dy = (widened(v) for v in (cache, dy))
        return self.df(y, wide_dy).astype(dy.dtype)

    def apart(self, cache: jax.Array) -> bool:
        return range(cache.ndim)[self.axis] != 0


@dataclass(frozen=True)
class Softmax(OverAxis):
    """Probabilities that sum to 1 along an axis.

        forward    y_i = exp(x_i) / sum_j exp(x_j)
        backward   dx = y (dy - sum(y dy))

    The sum of the backward pass runs along `axis` too: every output depends on every input. To
    train a classifier, leave this layer out and give the logits to `SoftmaxCrossEntropy`, in which
    softmax and logarithm are one.

    Shapes: x, y, dy, dx all alike, of rank 1 or more; no parameters and no state.
    Cache: y, which is usually held anyway, by the layer that follows.
    Stable for any finite x. -inf gives 0, but where all are -inf, or one is +inf, all are NaN.

    Raises LayerError, a ValueError, where `axis` is no integer, x has no such axis or nothing along
    it or is not floating point, or dy is not like y.

    >>> y, cache = Softmax().forward({}, jnp.array([[1000.0, 1000.0]]), None)
    >>> y.tolist(), Softmax().backward({}, cache, jnp.array([[1.0, 0.0]]))[1].tolist()
    ([[0.5, 0.5]], [[0.25, -0.25]])
    """

    def f(self, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x, axis=self.axis)

    def df(self, y: jax.Array, dy: jax.Array) -> jax.Array:
        return y * (dy - (y * dy).sum(axis=self.axis, keepdims=True))


@dataclass(frozen=True)
class LogSoftmax(OverAxis):
    """The logarithms of the probabilities that Softmax gives.

        forward    y_i = x_i - log(sum_j exp(x_j))
        backward   dx = dy - exp(y) sum(dy)

    Exact where a probability is too small to be written down: the logarithm of Softmax would be
    -inf. The sum of the backward pass runs along `axis` too.

    Shapes: x, y, dy, dx all alike, of rank 1 or more; no parameters and no state.
    Cache: y, which is usually held anyway, by the layer that follows.
    Stable for any finite x. -inf stays -inf, but where all are -inf, or one is +inf, all are NaN.

    Raises LayerError, a ValueError, where `axis` is no integer, x has no such axis or nothing along
    it or is not floating point, or dy is not like y.

    >>> LogSoftmax().forward({}, jnp.array([0.0, 1000.0]), None)[0].tolist()
    [-1000.0, 0.0]
    """

    def f(self, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(x, axis=self.axis)

    def df(self, y: jax.Array, dy: jax.Array) -> jax.Array:
        return dy - jnp.exp(y) * dy.sum(axis=self.axis, keepdims=True)
