"""Layers that make one number of a window: the largest, or the mean."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.convolutions import Window, padded, places, seen
from jnn.layer import (
    Layer,
    Mode,
    Params,
    check_cotangent,
    fail,
    floating,
    form,
    formed,
    shape_of,
)
from jnn.layers.convolution import (
    Padding,
    Sizes,
    check_axes_of,
    check_fits,
    check_padding,
    check_sizes,
    check_spatial,
    window_of,
)
from jnn.precision import accumulator, widened

# Places of a window that are added to one array in turn. Of more, XLA for CPU takes seconds to
# compile that and ten times as long to run it as to add as many arrays, which it fuses.
ADDED = 9


@dataclass(frozen=True)
class Pools(Layer):
    """The base of both: the window."""

    size: Sizes = 2
    stride: Sizes | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        check_sizes(self, "size")
        if self.stride is not None:
            check_sizes(self, "stride")
        check_padding(self)

    def window(self, x: Any) -> Window:
        """What an output sees of an x of that shape, or an error."""
        axes = check_spatial(self, x)
        for name in ("size", "stride", "padding"):
            check_axes_of(self, name, getattr(self, name), axes)
        stride = self.size if self.stride is None else self.stride
        window = window_of(x.shape[1:-1], self.size, stride, self.padding)
        check_fits(self, x, window)
        for pair, size in zip(window.padding, window.kernel, strict=True):
            if max(pair) >= size:
                fail(
                    self,
                    f"padding is {self.padding!r}; it must be less than the window of {size}, or "
                    "some would hold nothing of x",
                )
        return window


@dataclass(frozen=True)
class MaxPool(Pools):
    """The largest number of every window.

        forward    y_i = max over k of x[s i + k - p]
        backward   dx[s i + k - p] += dy_i where k won

    `size` and `stride` are numbers or tuples with one for each axis; without a stride windows lie
    side by side, and what is left over at the end is dropped. `padding` is as `Conv`'s, and never
    wins.

    Shapes: x (n, ..., c), y (n, ..., c) with one spatial axis, two or three between.
    Cache: the place in the window that won, one byte for each output (two or four of windows of
    more than 256), and the shape of x, as an array of no bytes. x itself is not kept.
    Ties: the first place wins and gets all of dy. A NaN wins over any number, the first of them.
    Source: Ranzato et al. 2007, "Unsupervised learning of invariant feature hierarchies".

    Raises LayerError, a ValueError, where size or stride is no positive integer nor a tuple of
    these, padding is none or not less than the size, x has no such axes, is smaller than a window
    or not floating point, or dy is not like y.

    >>> x = jnp.array([1.0, 5.0, 2.0, 2.0]).reshape(1, 4, 1)
    >>> y, cache = MaxPool().forward({}, x, None)
    >>> dx = MaxPool().pull({}, cache, jnp.array([10.0, 20.0]).reshape(1, 2, 1))
    >>> y.ravel().tolist(), dx.ravel().tolist()
    ([5.0, 2.0], [0.0, 10.0, 20.0, 0.0])
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, jax.Array]]:
        del params, mode
        x = floating(self, x)
        window = self.window(x)
        parts = seen(x, window)
        dtype = np.min_scalar_type(len(parts) - 1)
        real = _real(window, x.shape[1:-1])
        y, won = parts[0], jnp.zeros(parts[0].shape, dtype)
        # Padding may come first in a window; what is real replaces it whatever it is.
        best_is_real = real[0]
        for i, (part, part_is_real) in enumerate(zip(parts[1:], real[1:], strict=True), 1):
            better = (part > y) | (jnp.isnan(part) & ~jnp.isnan(y))
            if not np.all(part_is_real & best_is_real):
                better = part_is_real & (better | ~best_is_real)
                best_is_real = best_is_real | part_is_real
            y, won = jnp.where(better, part, y), jnp.where(better, i, won).astype(dtype)
        return y, {"won": won, "x": form(x)}

    def pull(self, params: Params, cache: dict[str, jax.Array], dy: jax.Array) -> jax.Array:
        del params
        x, won = formed(cache["x"]), cache["won"]
        check_cotangent(self, dy, jax.ShapeDtypeStruct(won.shape, x.dtype))

        def part(i: Any, won: jax.Array, dy: jax.Array) -> jax.Array:
            return jnp.where(won == jnp.asarray(i, won.dtype), dy, 0)

        return _scattered(part, (won, jnp.asarray(dy)), self.window(x), x).astype(dy.dtype)


@dataclass(frozen=True)
class AvgPool(Pools):
    """The mean of every window.

        forward    y_i = mean over k of x[s i + k - p]
        backward   dx[s i + k - p] += dy_i / (how many numbers y_i is the mean of)

    Arguments are those of `MaxPool`. Padding is not counted: the mean is of what is in x.

    Shapes: x (n, ..., c), y (n, ..., c) with one spatial axis, two or three between.
    Cache: the shape of x, as an array of no bytes.
    Low precision: sums in float32, rounded once.

    Raises LayerError, a ValueError, as MaxPool does.

    >>> AvgPool().forward({}, jnp.array([1.0, 5.0, 2.0, 2.0]).reshape(1, 4, 1), None)[0].tolist()
    [[[3.0], [2.0]]]
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        window, wide = self.window(x), accumulator(x.dtype)
        parts = [part.astype(wide) for part in seen(x, window)]
        y = sum(parts[1:], parts[0]) / _count(window, x).astype(wide)
        return y.astype(x.dtype), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x = formed(cache)
        window, wide = self.window(x), accumulator(x.dtype)
        shape = (x.shape[0], *window.lengths(x.shape[1:-1]), x.shape[-1])
        check_cotangent(self, dy, jax.ShapeDtypeStruct(shape, x.dtype))
        share = jnp.asarray(dy).astype(wide) / _count(window, x).astype(wide)
        return _scattered(lambda _, share: share, (share,), window, x).astype(dy.dtype)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all positions.

        forward    y = mean of x over all axes but the first and the last
        backward   dx = dy / (how many positions there are), everywhere

    Shapes: x (n, ..., c), y (n, c).
    Cache: the shape of x, as an array of no bytes.
    Low precision: sums in float32, rounded once.
    Source: Lin et al. 2014, "Network in network".

    Raises LayerError, a ValueError, where x is not (n, ..., c) or has no positions, is not floating
    point, or dy is not like y.

    >>> GlobalAvgPool().forward({}, jnp.arange(6.0).reshape(1, 3, 2), None)[0].tolist()
    [[2.0, 3.0]]
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if x.ndim < 2 or 0 in x.shape[1:]:
            fail(self, f"x is {shape_of(x)}; it must be (n, ..., c), with positions between")
        wide = widened(x)
        return wide.mean(axis=tuple(range(1, x.ndim - 1))).astype(x.dtype), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        x = formed(cache)
        check_cotangent(self, dy, jax.ShapeDtypeStruct((x.shape[0], x.shape[-1]), x.dtype))
        share = jnp.asarray(dy).astype(accumulator(x.dtype)) / math.prod(x.shape[1:-1])
        between = share.reshape(x.shape[0], *(1,) * (len(x.shape) - 2), x.shape[-1])
        return jnp.broadcast_to(between, x.shape).astype(x.dtype)


def _real(window: Window, spatial: tuple[int, ...]) -> list[np.ndarray]:
    """For every place in the window, which outputs see x there and not padding: (..., 1)."""
    inside = np.pad(np.ones(spatial, bool), window.padding)
    return [inside[at][..., None] for at in places(window, window.lengths(spatial))]


def _count(window: Window, x: Any) -> np.ndarray:
    """How many numbers of x every output sees, (..., 1)."""
    return np.sum(_real(window, x.shape[1:-1]), axis=0)


def _scattered(
    part: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], window: Window, x: Any
) -> jax.Array:
    """The x whose number at every place i of a window is what `part(i, *arrays)` says, added."""
    lengths = window.lengths(x.shape[1:-1])
    around = [low + n + high for n, (low, high) in zip(x.shape[1:-1], window.padding, strict=True)]
    back = tuple((-low, -high) for low, high in window.padding)
    if window.kernel == window.stride:
        # Windows side by side are a reshape: one pass, and nothing is added to anything.
        axes = range(2, 2 * len(lengths) + 1, 2)
        i = np.arange(math.prod(window.kernel)).reshape(window.kernel)
        # (1, 1, k, 1, k, 1), between the axes of the outputs.
        i = np.expand_dims(i, (0, *range(1, 2 * len(lengths), 2), 2 * len(lengths) + 1))
        wide = [jnp.expand_dims(a, tuple(axes)) for a in arrays]
        sizes = [size for pair in zip(lengths, window.kernel, strict=True) for size in pair]
        dx = jnp.broadcast_to(part(i, *wide), (x.shape[0], *sizes, x.shape[-1]))
        whole = [n * k for n, k in zip(lengths, window.kernel, strict=True)]
        dx = dx.reshape(x.shape[0], *whole, x.shape[-1])
        rest = tuple((0, a - n) for a, n in zip(around, whole, strict=True))
        return padded(padded(dx, rest), back)
    total = jnp.zeros((x.shape[0], *around, x.shape[-1]), accumulator(x.dtype))
    for i, at in enumerate(places(window, lengths)):
        here = part(i, *arrays).astype(total.dtype)
        if math.prod(window.kernel) <= ADDED:
            total = total.at[(slice(None), *at)].add(here)
        else:
            total = total + _spread(here, at, around)
    return padded(total, back)


def _spread(v: jax.Array, at: tuple[slice, ...], around: list[int]) -> jax.Array:
    """Zeros, but v in those places of their axes."""
    axes = [(p.start, n - p.stop, p.step - 1) for p, n in zip(at, around, strict=True)]
    return jax.lax.pad(v, jnp.zeros((), v.dtype), [(0, 0, 0), *axes, (0, 0, 0)])
