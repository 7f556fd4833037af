"""Convolutions over one axis or several, and their transposes."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jnn.convolutions import FORMS, Window, conv, pull, swapped
from jnn.factors import Affine, Factor, Unfolded
from jnn.initializers import Initializer, grouped, he_normal, zeros
from jnn.layer import (
    Layer,
    Mode,
    Params,
    State,
    check_cotangent,
    check_floating,
    fail,
    floating,
    shape_of,
)
from jnn.layers.checking import (
    check_dtype,
    check_flags,
    check_initializer,
    check_params,
    check_whole,
    is_whole,
)

Sizes = int | tuple[int, ...]  # one for all axes, or one for each
Padding = str | int | tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Convolves(Layer):
    """The base of both: hyper-parameters, weights, and the window that they make."""

    features: int
    kernel_size: Sizes = 3
    stride: Sizes = field(default=1, kw_only=True)
    padding: Padding = field(default="SAME", kw_only=True)
    dilation: Sizes = field(default=1, kw_only=True)
    groups: int = field(default=1, kw_only=True)
    weight: Initializer = field(default=he_normal, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    form: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_flags(self)
        check_whole(self, "features")
        check_whole(self, "groups")
        for name in ("kernel_size", "stride", "dilation"):
            check_sizes(self, name)
        check_padding(self)
        check_initializer(self, "weight")
        if self.features % self.groups:
            fail(self, f"groups is {self.groups}; it must divide features={self.features}")
        if self.form not in (None, *FORMS):
            fail(self, f"form is {self.form!r}; it must be one of {FORMS}, or None to choose")

    def window(self, x: Any) -> Window:
        """What an output sees of an x of that shape, or an input reaches of y."""
        raise NotImplementedError(f"{type(self).__name__} must define window(x)")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_floating(self, x)
        self._lengths(x)
        shapes = self._shapes(x)
        draw = grouped(self.weight, self.groups)
        params = {"w": draw(key, shapes["w"], x.dtype)}
        if self.bias:
            params["b"] = zeros(key, shapes["b"], x.dtype)
        return params, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del mode
        x = floating(self, x)
        self._lengths(x)
        check_params(self, params, self._shapes(x))
        check_dtype(self, x, params)
        y = self._product(x, params["w"])
        if self.bias:
            y = y + params["b"].astype(y.dtype)
        return y.astype(x.dtype), x

    def _product(self, x: jax.Array, w: jax.Array) -> jax.Array:
        """y without bias, in float32 or wider."""
        raise NotImplementedError

    def _lengths(self, x: Any) -> tuple[int, ...]:
        """The spatial shape of y, or an error."""
        raise NotImplementedError

    def _check_dy(self, x: jax.Array, dy: Any) -> None:
        shape = (x.shape[0], *self._lengths(x), self.features)
        check_cotangent(self, dy, jax.ShapeDtypeStruct(shape, x.dtype))

    def _over(self, spatial: tuple[int, ...]) -> Window:
        return window_of(
            spatial,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.form,
        )

    def _shapes(self, x: Any) -> dict[str, tuple[int, ...]]:
        kernel = each_axis(self.kernel_size, x.ndim - 2)
        shapes = {"w": (*kernel, x.shape[-1] // self.groups, self.features)}
        return shapes | ({"b": (self.features,)} if self.bias else {})

    def _check_axes(self, x: Any) -> None:
        axes = check_spatial(self, x)
        for name in ("kernel_size", "stride", "dilation"):
            check_axes_of(self, name, getattr(self, name), axes)
        if not isinstance(self.padding, str | int):
            check_axes_of(self, "padding", self.padding, axes)
        if x.shape[-1] % self.groups:
            fail(self, f"x is {shape_of(x)}; groups={self.groups} must divide its channels")


@dataclass(frozen=True)
class Conv(Convolves):
    """Every output is a weighted sum of what its window sees: the same weights everywhere.

        forward    y_i = sum over k of x[s i + d k - p] w_k + b
        backward   dw_k = sum over examples and i of x[s i + d k - p] (x) dy_i,   db = sum dy
                   dx[s i + d k - p] += dy_i w_k^T

    s is `stride`, d `dilation`, p the padding before: numbers, or a tuple with one for each axis.
    `padding` puts zeros around x: "SAME" as many as keep ceil(size / stride) positions, the odd one
    after; "VALID" none; a number, so many on every side; or ((before, after), ...). With `groups`
    an output sees the channels of its own group alone; as many as channels make it depthwise.
    It is a cross-correlation, as in all such libraries: the kernel is not flipped.

    `form` is how it is computed, "lax" or "unfolded", None for the faster where it runs; see
    `jnn.convolutions`. They differ by rounding alone.

    Shapes: x (n, ..., in) and y (n, ..., features) with one spatial axis, two or three between,
    channels last; w (kernel..., in / groups, features), b (features,).
    Cache: x alone, which dw needs.
    Low precision: products of bfloat16 and float16 are accumulated in float32 and rounded once.
    Source: LeCun et al. 1989, "Backpropagation applied to handwritten zip code recognition".

    Raises LayerError, a ValueError, where a hyper-parameter is no positive integer or no such
    tuple, groups do not divide the channels, x has no such axes, is not floating point or not of
    the dtype of w, the kernel does not fit into it, or dy is not like y.

    >>> net, x = Conv(8, 3, stride=2), jnp.ones((4, 28, 28, 1))
    >>> params, _ = net.init(jax.random.key(0), x)
    >>> y, cache = net.forward(params, x, None)
    >>> params["w"].shape, y.shape, net.backward(params, cache, y)[1].shape
    ((3, 3, 1, 8), (4, 14, 14, 8), (4, 28, 28, 1))
    """

    def window(self, x: Any) -> Window:
        return self._over(x.shape[1:-1])

    def _product(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return conv(x, w, self.window(x))

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        self._check_dy(cache, dy)
        dx = pull(jnp.asarray(dy), params["w"], self.window(cache), cache.shape[1:-1])
        return dx.astype(cache.dtype)

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        del params
        factors: dict[str, Factor] = {"w": Unfolded(cache, dy, self.window(cache))}
        return factors | ({"b": Affine(None, dy)} if self.bias else {})

    def _lengths(self, x: Any) -> tuple[int, ...]:
        self._check_axes(x)
        return check_fits(self, x, self.window(x))


@dataclass(frozen=True)
class ConvTranspose(Convolves):
    """The transpose of a convolution: every input reaches what it would have been seen by.

        forward    y[s i + d k - p] += x_i w_k,   then + b
        backward   dw_k = sum over examples and i of x_i (x) dy[s i + d k - p],   db = sum dy
                   dx_i = sum over k of dy[s i + d k - p] w_k^T

    It is what `Conv` of the same hyper-parameters does to cotangents, and makes small pictures
    large. `padding` is that of this convolution, and is cut off: "SAME" gives stride * size
    positions; "VALID" all that are reached, stride (size - 1) + dilation (kernel - 1) + 1; a number
    or pairs cut off so many of these, as in PyTorch.

    Shapes: x (n, ..., in), y (n, ..., features), w (kernel..., in / groups, features), b
    (features,); one spatial axis, two or three.
    Cache: x alone. Arguments, precision and errors: those of `Conv`.
    Source: Zeiler et al. 2010, "Deconvolutional networks".

    >>> net, x = ConvTranspose(1, 4, stride=2), jnp.ones((4, 7, 7, 8))
    >>> params, _ = net.init(jax.random.key(0), x)
    >>> net.forward(params, x, None)[0].shape
    (4, 14, 14, 1)
    """

    def window(self, x: Any) -> Window:
        return self._over(self._lengths(x))

    def _product(self, x: jax.Array, w: jax.Array) -> jax.Array:
        return pull(x, swapped(w, self.groups), self.window(x), self._lengths(x))

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        self._check_dy(cache, dy)
        dx = conv(jnp.asarray(dy), swapped(params["w"], self.groups), self.window(cache))
        return dx.astype(cache.dtype)

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        del params
        factors: dict[str, Factor] = {"w": Unfolded(dy, cache, self.window(cache), transposed=True)}
        return factors | ({"b": Affine(None, dy)} if self.bias else {})

    def _lengths(self, x: Any) -> tuple[int, ...]:
        self._check_axes(x)
        axes = x.ndim - 2
        strides = each_axis(self.stride, axes)
        if self.padding == "SAME":
            return tuple(s * size for s, size in zip(strides, x.shape[1:-1], strict=True))
        window = self._over((0,) * axes)
        parts = zip(x.shape[1:-1], strides, window.reach, window.padding, strict=True)
        lengths = tuple(
            s * (size - 1) + reach - low - high for size, s, reach, (low, high) in parts
        )
        if min(lengths) < 1:
            fail(self, f"x is {shape_of(x)}, of which padding={self.padding!r} leaves nothing")
        return lengths


def window_of(
    spatial: tuple[int, ...],
    size: Sizes,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes = 1,
    groups: int = 1,
    form: str | None = None,
) -> Window:
    """What an output sees of so many positions."""
    axes = len(spatial)
    kernel, strides, dilations = (each_axis(v, axes) for v in (size, stride, dilation))
    padding = 0 if padding == "VALID" else padding
    if isinstance(padding, int):
        pads = ((padding, padding),) * axes
    elif isinstance(padding, tuple):
        pads = padding
    else:
        missing = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True)
        ]
        pads = tuple((m // 2, m - m // 2) for m in missing)
    return Window(kernel, strides, pads, dilations, groups, form)


def each_axis(sizes: Sizes, axes: int) -> tuple[int, ...]:
    """One for each axis."""
    return (sizes,) * axes if isinstance(sizes, int) else sizes


def check_sizes(layer: Layer, name: str) -> None:
    """Refuses a field that is neither a positive integer nor a tuple of these."""
    value: Any = getattr(layer, name)
    several: tuple[Any, ...] = (
        tuple(value) if isinstance(value, tuple | list) and value else (value,)
    )
    if not all(is_whole(v) and v >= 1 for v in several):
        fail(layer, f"{name} is {value!r}; it must be a positive integer, or a tuple of these")
    whole = tuple(int(v) for v in several)
    object.__setattr__(layer, name, whole if isinstance(value, tuple | list) else whole[0])


def check_padding(layer: Any) -> None:
    """Refuses a padding that is none."""
    padding: Any = layer.padding
    value, right = padding, False
    if isinstance(padding, str):
        value = padding.upper()
        right = value in ("SAME", "VALID")
    elif is_whole(padding):
        right = padding >= 0
    elif isinstance(padding, tuple | list):
        value = tuple(tuple(pair) if isinstance(pair, tuple | list) else () for pair in padding)
        right = all(len(pair) == 2 and all(is_whole(n) and n >= 0 for n in pair) for pair in value)
    if not right:
        fail(
            layer,
            f"padding is {padding!r}; it must be 'SAME', 'VALID', a number of at least 0, or a "
            "tuple of pairs (before, after), one for each spatial axis",
        )
    object.__setattr__(layer, "padding", value)


def check_spatial(layer: Layer, x: Any) -> int:
    """The number of spatial axes of x, or an error."""
    if not 3 <= x.ndim <= 5 or 0 in x.shape[1:]:
        fail(
            layer,
            f"x is {shape_of(x)}; it must be (n, ..., c) with channels last and one to three "
            "spatial axes, such as (n, height, width, c)",
        )
    return x.ndim - 2


def check_axes_of(layer: Layer, name: str, value: Any, axes: int) -> None:
    """Refuses a tuple that has not one entry for each of so many axes."""
    if isinstance(value, tuple) and len(value) != axes:
        fail(layer, f"{name} is {value!r}; x has {axes} spatial axes: give one entry for each")


def check_fits(layer: Layer, x: Any, window: Window) -> tuple[int, ...]:
    """The spatial shape of what such a window makes of x, or an error."""
    lengths = window.lengths(x.shape[1:-1])
    if min(lengths) < 1:
        fail(
            layer,
            f"x is {shape_of(x)}; a window that reaches over {window.reach} does not fit into it: "
            "give padding, or a smaller kernel",
        )
    return lengths
