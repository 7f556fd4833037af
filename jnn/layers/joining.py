"""Layers that make one of several inputs: what a Branch or a Parallel is joined by."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from jnn.layer import (
    Layer,
    Mode,
    Params,
    check_cotangent,
    check_floating,
    fail,
    form,
    form_of,
    formed,
    shape_of,
)
from jnn.layers.checking import check_integer
from jnn.precision import accumulator


@dataclass(frozen=True)
class Joins(Layer):
    """The base of all: the check that x is a tuple of arrays that fit together."""

    def _entries(self, x: Any, alike: bool = True) -> tuple[jax.Array, ...]:
        if not isinstance(x, tuple) or not x:
            fail(self, f"x is {form_of(x)}; it must be a tuple of arrays, one or more")
        for v in x:
            check_floating(self, v)
            if v.dtype != x[0].dtype or (alike and v.shape != x[0].shape):
                must = "be alike" if alike else "have one dtype"
                fail(self, f"x holds {', '.join(map(shape_of, x))}; its arrays must {must}")
        return tuple(map(jnp.asarray, x))


@dataclass(frozen=True)
class Sum(Joins):
    """The sum of several arrays.

        forward    y = x_1 + ... + x_k
        backward   dx_i = dy

    Shapes: x a tuple of arrays alike, y like each of them.
    Cache: the shape and dtype of each, as arrays of no bytes.
    Low precision: added in float32 and rounded once.

    Raises LayerError, a ValueError, where x is no such tuple or not floating point, or dy is not
    like y.

    >>> Sum().forward({}, (jnp.array([1.0]), jnp.array([2.0]), jnp.array([4.0])), None)[0].tolist()
    [7.0]
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, Any]:
        del params, mode
        x = self._entries(x)
        return _reduced(jnp.add, x), tuple(map(form, x))

    def pull(self, params: Params, cache: Any, dy: jax.Array) -> tuple[jax.Array, ...]:
        del params
        check_cotangent(self, dy, formed(cache[0]))
        return (dy,) * len(cache)


@dataclass(frozen=True)
class Product(Joins):
    """The product of several arrays, number by number: one gates another.

        forward    y = x_1 ... x_k
        backward   dx_i = dy times all others

    The others are multiplied, not y divided by x_i, so that zeros are as good as other numbers.

    Shapes: x a tuple of arrays alike, y like each of them.
    Cache: all of x.
    Low precision: multiplied in float32 and rounded once.

    Raises LayerError, a ValueError, as Sum does.

    >>> y, cache = Product().forward({}, (jnp.array([0.0]), jnp.array([3.0])), None)
    >>> y.tolist(), [dx.tolist() for dx in Product().pull({}, cache, jnp.array([1.0]))]
    ([0.0], [[3.0], [0.0]])
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, Any]:
        del params, mode
        x = self._entries(x)
        return _reduced(jnp.multiply, x), x

    def pull(self, params: Params, cache: Any, dy: jax.Array) -> tuple[jax.Array, ...]:
        del params
        check_cotangent(self, dy, cache[0])
        dy = jnp.asarray(dy)
        others = [(*cache[:i], *cache[i + 1 :]) for i in range(len(cache))]
        return tuple(_reduced(jnp.multiply, (dy, *rest)) for rest in others)


@dataclass(frozen=True)
class Concatenate(Joins):
    """Several arrays one after the other along an axis, by default the channels.

        forward    y = [x_1 | ... | x_k]
        backward   dx_i = the part of dy that x_i is

    Shapes: x a tuple of arrays (n, ..., c_i) alike but for that axis, y (n, ..., c_1 + ... + c_k).
    Cache: the shape and dtype of each, as arrays of no bytes.

    Raises LayerError, a ValueError, where axis is no integer or that of the examples, x is no such
    tuple or not floating point, or dy is not like y.

    >>> Concatenate().forward({}, (jnp.ones((2, 3)), jnp.ones((2, 4))), None)[0].shape
    (2, 7)
    """

    axis: int = -1

    def __post_init__(self) -> None:
        check_integer(self, "axis")

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, Any]:
        del params, mode
        x = self._entries(x, alike=False)
        rest = {self._without(v) for v in x}
        if len(rest) > 1:
            fail(
                self,
                f"x holds {', '.join(map(shape_of, x))}; its arrays must be alike but for axis "
                f"{self.axis}",
            )
        return jnp.concatenate(x, axis=self.axis), tuple(map(form, x))

    def pull(self, params: Params, cache: Any, dy: jax.Array) -> tuple[jax.Array, ...]:
        del params
        x = tuple(map(formed, cache))
        y = jax.eval_shape(lambda *v: jnp.concatenate(v, axis=self.axis), *x)
        check_cotangent(self, dy, y)
        ends = list(accumulate(v.shape[self.axis] for v in x))[:-1]
        return tuple(jnp.split(jnp.asarray(dy), ends, axis=self.axis))

    def _without(self, v: Any) -> tuple[int, ...]:
        """The shape but for the axis."""
        if not -v.ndim <= self.axis < v.ndim or self.axis % v.ndim == 0:
            fail(
                self,
                f"x holds {shape_of(v)}; it must have an axis {self.axis}, other than that of the "
                "examples",
            )
        axis = self.axis % v.ndim
        return (*v.shape[:axis], 0, *v.shape[axis + 1 :])


def _reduced(f: Callable[..., jax.Array], x: tuple[jax.Array, ...]) -> jax.Array:
    dtype = x[0].dtype
    return reduce(f, [v.astype(accumulator(dtype)) for v in x]).astype(dtype)
