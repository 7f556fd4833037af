"""Layers that only rearrange."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import (
    Layer,
    Mode,
    Params,
    check_cotangent,
    fail,
    floating,
    form,
    form_of,
    formed,
    moving,
    shape_of,
)
from jnn.layers.checking import is_whole


@dataclass(frozen=True)
class Flatten(Layer):
    """Makes a vector of every example.

        forward    y = x reshaped to (n, a b c)
        backward   dx = dy reshaped to (n, a, b, c)

    Shapes: x (n, a, b, c) or any rank of at least 1, y (n, a b c).
    Cache: the shape of x, as an array of no bytes.

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
        return x.reshape(_flat(x)), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x = formed(cache)
        check_cotangent(self, dy, jax.ShapeDtypeStruct(_flat(x), x.dtype))
        return dy.reshape(x.shape)


def _flat(x: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int]:
    return x.shape[0], math.prod(x.shape[1:])


@dataclass(frozen=True)
class Identity(Layer):
    """Hands on what it is given: a branch that is left as it is.

        forward    y = x
        backward   dx = dy

    Shapes: x, y any, trees of arrays too; dx is None where x holds integers.
    Cache: the shapes and dtypes of x, as arrays of no bytes.

    Raises LayerError, a ValueError, where dy is not like y.

    >>> Identity().forward({}, jnp.array([1.0, 2.0]), None)[0].tolist()
    [1.0, 2.0]
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Any]:
        del params, mode
        x = jax.tree.map(jnp.asarray, x)
        return x, jax.tree.map(form, x)

    def pull(self, params: Params, cache: Any, dy: Any) -> Any:
        del params
        dx = moving(dy)
        check_cotangent(self, dx, moving(jax.tree.map(formed, cache)))
        return dx


@dataclass(frozen=True)
class Reshape(Layer):
    """Gives every example another shape.

        forward    y = x reshaped to (n, *shape)
        backward   dx = dy reshaped to the shape of x

    `shape` is that of an example; one entry may be -1, for what is left.

    Shapes: x (n, ...), y (n, *shape).
    Cache: the shape of x, as an array of no bytes.

    Raises LayerError, a ValueError, where shape is no tuple of integers of at least 1 with at most
    one -1, an example has not as many numbers, x is not floating point, or dy is not like y.

    >>> Reshape((2, -1)).forward({}, jnp.ones((5, 6)), None)[0].shape
    (5, 2, 3)
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shape: Any = self.shape
        right = isinstance(shape, tuple | list) and all(is_whole(v) for v in shape)
        if not right or any(v < 1 and v != -1 for v in shape) or list(shape).count(-1) > 1:
            fail(
                self,
                f"shape is {shape!r}; it must be a tuple of positive integers, that of an example "
                "without the first axis; one may be -1",
            )
        object.__setattr__(self, "shape", tuple(int(v) for v in shape))

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        return x.reshape(self._reshaped(x)), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x = formed(cache)
        check_cotangent(self, dy, jax.ShapeDtypeStruct(self._reshaped(x), x.dtype))
        return dy.reshape(x.shape)

    def _reshaped(self, x: Any) -> tuple[int, ...]:
        size, known = math.prod(x.shape[1:]), math.prod(v for v in self.shape if v != -1)
        if x.ndim < 1 or (size % known if -1 in self.shape else size != known):
            fail(self, f"x is {shape_of(x)}; its examples must have the numbers of {self.shape}")
        return x.shape[0], *(size // known if v == -1 else v for v in self.shape)


@dataclass(frozen=True)
class Transpose(Layer):
    """Puts the axes of every example into another order.

        forward    y[n, i_p1, i_p2, ...] = x[n, i_1, i_2, ...]
        backward   dx = dy with its axes back in their order

    `axes` says which axis of x comes where, as numpy's transpose: (2, 1) exchanges the two after
    the examples, whose axis 0 stays the first and is left out.

    Shapes: x (n, ...), y (n, ...).
    Cache: the shape of x, as an array of no bytes.

    Raises LayerError, a ValueError, where axes are not 1, 2, ... in some order, x has not these, is
    not floating point, or dy is not like y.

    >>> Transpose((2, 3, 1)).forward({}, jnp.ones((5, 3, 28, 32)), None)[0].shape
    (5, 28, 32, 3)
    """

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        axes: Any = self.axes
        right = isinstance(axes, tuple | list) and all(is_whole(v) for v in axes)
        if not right or sorted(axes) != list(range(1, len(axes) + 1)):
            fail(self, f"axes is {axes!r}; it must be (1, 2, ...) in some order; axis 0 stays")
        object.__setattr__(self, "axes", tuple(int(v) for v in axes))

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if x.ndim != len(self.axes) + 1:
            fail(self, f"x is {shape_of(x)}; it must have {len(self.axes)} axes after the first")
        return x.transpose(0, *self.axes), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x, order = formed(cache), (0, *self.axes)
        y = jax.ShapeDtypeStruct(tuple(x.shape[axis] for axis in order), x.dtype)
        check_cotangent(self, dy, y)
        return dy.transpose(np.argsort(order))


@dataclass(frozen=True)
class Pad(Layer):
    """Puts a value around every example.

        forward    y = x with `value` before and after it along its axes
        backward   dx = dy without what was put there

    Shapes: x (n, ...), y (n, ...) with before + after more along each axis after the first;
    `pairs` has a pair (before, after) for each of these.
    Cache: the shape of x, as an array of no bytes.

    Raises LayerError, a ValueError, where pairs are not pairs of integers of at least 0, value is
    no number, x has not as many axes after the first, is not floating point, or dy is not like y.

    >>> Pad(((1, 2),), value=9).forward({}, jnp.zeros((1, 2)), None)[0].tolist()
    [[9.0, 0.0, 0.0, 9.0, 9.0]]
    """

    pairs: tuple[tuple[int, int], ...]
    value: float = 0.0

    def __post_init__(self) -> None:
        pairs: Any = self.pairs
        right = isinstance(pairs, tuple | list) and all(
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(is_whole(v) and v >= 0 for v in pair)
            for pair in pairs
        )
        if not right:
            fail(
                self,
                f"pairs is {pairs!r}; it must be a tuple of pairs (before, after) of integers of "
                "at least 0, one for each axis after the first",
            )
        object.__setattr__(self, "pairs", tuple((int(a), int(b)) for a, b in pairs))
        if not isinstance(self.value, Real) or isinstance(self.value, bool):
            fail(self, f"value is {self.value!r}; it must be a number")
        object.__setattr__(self, "value", float(self.value))

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if x.ndim != len(self.pairs) + 1:
            fail(self, f"x is {shape_of(x)}; it must have {len(self.pairs)} axes after the first")
        return jnp.pad(x, ((0, 0), *self.pairs), constant_values=self.value), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x = formed(cache)
        pairs = ((0, 0), *self.pairs)
        shape = tuple(a + n + b for n, (a, b) in zip(x.shape, pairs, strict=True))
        check_cotangent(self, dy, jax.ShapeDtypeStruct(shape, x.dtype))
        return dy[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pairs, strict=True))]


@dataclass(frozen=True)
class Item(Layer):
    """One entry of a tuple: a mask that is to go around a layer, what an LSTM is left with.

        forward    y = x[i], or deeper within, x[i][j]
        backward   dx = dy at that entry, 0 at all others

    Shapes: x a tuple, of tuples too; y its entry, an array or a tuple; dx is None where x holds
    integers or booleans.
    Cache: the shapes and dtypes of x, as arrays of no bytes.

    Raises LayerError, a ValueError, where index is no integer of at least 0 nor a tuple of these, x
    has no such entry, or dy is not like y.

    >>> import jax, jnn
    >>> net = jnn.Serial(jnn.LSTM(3, final=True), Item((1, 0)), jnn.Dense(2))  # of (y, (h, c)), h
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((2, 5, 4)))
    >>> net.forward(params, jnp.ones((2, 5, 4)), jnn.Eval())[0].shape
    (2, 2)
    """

    index: int | tuple[int, ...]

    def __post_init__(self) -> None:
        for i in self._index or (None,):
            if not isinstance(i, int) or isinstance(i, bool) or i < 0:
                fail(self, f"index is {self.index!r}; it must be 0, 1, ..., or a tuple of these")

    @property
    def _index(self) -> tuple[int, ...]:
        return self.index if isinstance(self.index, tuple) else (self.index,)

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Any]:
        del params, mode
        y = x
        for i in self._index:
            if not isinstance(y, tuple) or i >= len(y):
                was = f"a tuple of {len(y)}" if isinstance(y, tuple) else form_of(y)
                fail(self, f"x has no such entry: there is no entry {i} of {was}; give a tuple")
            y = y[i]
        return jax.tree.map(jnp.asarray, y), jax.tree.map(form, jax.tree.map(jnp.asarray, x))

    def pull(self, params: Params, cache: Any, dy: Any) -> Any:
        del params

        def placed(kept: Any, index: tuple[int, ...]) -> Any:
            if not index:
                dx = moving(dy)
                check_cotangent(self, dx, moving(jax.tree.map(formed, kept)))
                return dx
            zeros = moving(jax.tree.map(lambda v: jnp.zeros(v.shape[:-1], v.dtype), kept))
            i, *rest = index
            return (*zeros[:i], placed(kept[i], tuple(rest)), *zeros[i + 1 :])

        return placed(cache, self._index)


@dataclass(frozen=True)
class Last(Layer):
    """The last position of every sequence: what a recurrent layer knows in the end.

        forward    y = x_t,   t the last position, or the last at which the mask is True
        backward   dx_t = dy,   0 elsewhere

    Shapes: x (n, t, ...), or a pair with a mask (n, t) of booleans, True where a position is real;
    y (n, ...), 0 where none is. dx as x, None for the mask.
    Cache: the shape of x, as an array of no bytes, and t, -1 for none.

    Raises LayerError, a ValueError, where x is not (n, t, ...), has no positions or is not floating
    point, the mask is not (n, t) of booleans, or dy is not like y.

    >>> x, mask = jnp.arange(6.0).reshape(2, 3, 1), jnp.array([[True, True, False], [False] * 3])
    >>> Last().forward({}, (x, mask), None)[0].tolist()
    [[1.0], [0.0]]
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, Any]]:
        del params, mode
        mask: Any
        padded = isinstance(x, tuple) and len(x) == 2
        x, mask = x if padded else (x, None)
        x = floating(self, x)
        if x.ndim < 2 or x.shape[1] == 0:
            fail(self, f"x is {shape_of(x)}; it must be (n, t, ...), with a position or more")
        t = x.shape[1]
        if not padded:
            return x[:, -1], {"x": form(x), "t": None}
        if not hasattr(mask, "dtype") or mask.dtype != bool or mask.shape != x.shape[:2]:
            was = shape_of(mask) if hasattr(mask, "dtype") else f"a {type(mask).__name__}"
            fail(self, f"mask is {was}; it must be booleans {x.shape[:2]}, True where x is real")
        last = jnp.where(jnp.asarray(mask), jnp.arange(t), -1).max(axis=1)
        y = x[jnp.arange(len(x)), jnp.maximum(last, 0)]
        some = (last >= 0).reshape(-1, *(1,) * (y.ndim - 1))
        return jnp.where(some, y, 0), {"x": form(x), "t": last}

    def pull(self, params: Params, cache: dict[str, Any], dy: jax.Array) -> Any:
        del params
        x = formed(cache["x"])
        shape = (x.shape[0], *x.shape[2:])
        check_cotangent(self, dy, jax.ShapeDtypeStruct(shape, x.dtype))
        if cache["t"] is None:
            return jnp.zeros(x.shape, x.dtype).at[:, -1].set(dy)
        return jnp.where(_at(cache["t"], x.shape), jnp.asarray(dy)[:, None], 0), None


def _at(last: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """True at these positions, (n, t, 1, ...)."""
    found = last[:, None] == jnp.arange(shape[1])
    return found.reshape(*found.shape, *(1,) * (len(shape) - 2))
