"""Layers that standardise every example by itself: alike in training and evaluation, no state."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jnn.factors import Affine, Factor
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
from jnn.layers.checking import check_dtype, check_flags, check_params, check_positive, check_whole
from jnn.precision import widened


@dataclass(frozen=True)
class ExampleNorm(Layer):
    """The base of all: divides groups of numbers by their spread, after taking off their mean.

        forward    y = scale xhat + shift,   xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps)
        backward   dscale = sum dy xhat,   dshift = sum dy   (sums over examples and positions)
                   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = scale dy

    A subclass says by `grouped` which numbers are one group.
    """

    eps: float = field(default=1e-5, kw_only=True)
    centred: ClassVar[bool] = True  # whether a mean is taken off

    def __post_init__(self) -> None:
        check_flags(self)
        check_positive(self, "eps")

    def grouped(self, x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """x in the shape of its groups, and the axes over which they are standardised."""
        return x, (-1,)

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        del key
        check_floating(self, x)
        self._check_axes(x)
        (c,) = x.shape[-1:]
        values = {"scale": jnp.ones(c, x.dtype), "shift": jnp.zeros(c, x.dtype)}
        return {name: values[name] for name in self._names()}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, jax.Array]]:
        del mode
        x = floating(self, x)
        self._check_axes(x)
        check_params(self, params, dict.fromkeys(self._names(), tuple(x.shape[-1:])))
        check_dtype(self, x, params)
        shifted, axes = self._shifted(x)
        cache = {"x": x}
        if self.centred:
            cache["mean"] = shifted.mean(axes, keepdims=True)
            shifted = shifted - cache["mean"]
        # Of the centred numbers: E[x^2] - E[x]^2 would cancel.
        variance = jnp.square(shifted).mean(axes, keepdims=True)
        cache["rstd"] = jax.lax.rsqrt(variance + self.eps)
        y = self._standardised(cache) * params["scale"].astype(shifted.dtype)
        if "shift" in params:
            y = y + params["shift"].astype(shifted.dtype)
        return y.astype(x.dtype), cache

    def pull(self, params: Params, cache: dict[str, jax.Array], dy: jax.Array) -> jax.Array:
        check_cotangent(self, dy, cache["x"])
        xhat, axes = self.grouped(self._standardised(cache))
        g, _ = self.grouped(jnp.asarray(dy).astype(xhat.dtype) * params["scale"].astype(xhat.dtype))
        dx = g - xhat * (g * xhat).mean(axes, keepdims=True)
        if self.centred:
            dx = dx - g.mean(axes, keepdims=True)
        return (cache["rstd"] * dx).reshape(dy.shape).astype(dy.dtype)

    def factors(
        self, params: Params, cache: dict[str, jax.Array], dy: jax.Array
    ) -> dict[str, Factor]:
        del params
        factors: dict[str, Factor] = {"scale": Affine(self._standardised(cache), dy)}
        return factors | {name: Affine(None, dy) for name in self._names()[1:]}

    def _standardised(self, cache: dict[str, jax.Array]) -> jax.Array:
        """xhat, in the shape of x and in float32 at least."""
        shifted, _ = self._shifted(cache["x"])
        if self.centred:
            shifted = shifted - cache["mean"]
        return (shifted * cache["rstd"]).reshape(cache["x"].shape)

    def _shifted(self, x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """x by groups, seen from a number of each group if the mean is to be taken off.

        The result does not depend on which, so that nothing flows back through it; but an offset
        that dwarfs the spread costs no digits then.
        """
        groups, axes = self.grouped(widened(x))
        if self.centred:
            first = tuple(
                slice(1) if axis - groups.ndim in axes else slice(None)
                for axis in range(groups.ndim)
            )
            groups = groups - jax.lax.stop_gradient(groups[first])
        return groups, axes

    def _names(self) -> list[str]:
        return ["scale", "shift"] if getattr(self, "shift", False) else ["scale"]

    def _check_axes(self, x: Any) -> None:
        if x.ndim < 1 or x.shape[-1] == 0:
            fail(
                self, f"x is {shape_of(x)}; it must be (n, ..., c), with channels in its last axis"
            )


@dataclass(frozen=True)
class LayerNorm(ExampleNorm):
    """Gives the channels of every example and position mean 0 and variance 1, then scales, shifts.

        forward    y = scale xhat + shift,   xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps)
        backward   dscale = sum dy xhat,   dshift = sum dy   (sums over examples and positions)
                   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = scale dy

    mean and var, the biased one, are over the last axis. `shift=False` leaves the shift out.

    Shapes: x, y (n, ..., c), scale, shift (c,); no state.
    Cache: x, and mean and rstd of every position in float32 at least; the mean is that of the
    differences from the first channel, so that an offset that dwarfs the spread costs no digits.
    Source: Ba, Kiros & Hinton 2016, "Layer normalization".

    Raises LayerError, a ValueError, where eps is not positive, x has no channels, is not floating
    point or not of the dtype of scale, or dy is not like y.

    >>> layer, x = LayerNorm(), jnp.array([[1.0, 3.0], [30.0, 10.0]])
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> layer.forward(params, x, None)[0].round(3).tolist()
    [[-1.0, 1.0], [1.0, -1.0]]
    """

    shift: bool = True


@dataclass(frozen=True)
class RMSNorm(ExampleNorm):
    """Divides the channels of every example and position by their root mean square, then scales.

        forward    y = scale xhat,   xhat = x rrms,   rrms = 1 / sqrt(mean(x^2) + eps)
        backward   dscale = sum dy xhat   (over examples and positions)
                   dx = rrms (g - xhat mean(g xhat)),   g = scale dy

    The means are over the last axis. Unlike LayerNorm it leaves the mean where it is.

    Shapes: x, y (n, ..., c), scale (c,); no state.
    Cache: x, and rrms of every position in float32 at least.
    Source: Zhang & Sennrich 2019, "Root mean square layer normalization".

    Raises LayerError, a ValueError, as LayerNorm does.

    >>> layer, x = RMSNorm(), jnp.array([[1.0, 1.0], [30.0, -30.0]])
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> layer.forward(params, x, None)[0].round(3).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """

    centred = False


@dataclass(frozen=True)
class GroupNorm(ExampleNorm):
    """Gives each of `groups` groups of an example's channels mean 0 and variance 1.

        forward    y = scale xhat + shift,   xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps)
        backward   dscale = sum dy xhat,   dshift = sum dy   (sums over examples and positions)
                   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = scale dy

    mean and var, the biased one, are over the channels of a group and all positions: all axes
    but the first. As many groups as channels make instance norm; one makes layer norm over images.

    Shapes: x, y (n, ..., c), scale, shift (c,); no state.
    Cache: as LayerNorm's, mean and rstd for every example and group.
    Source: Wu & He 2018, "Group normalization".

    Raises LayerError, a ValueError, as LayerNorm does, and where groups is no positive integer that
    divides c.

    >>> layer, x = GroupNorm(2), jnp.array([[[1.0, 1.0, 0.0, 8.0], [3.0, 3.0, 8.0, 0.0]]])
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> layer.forward(params, x, None)[0].round(3).tolist()
    [[[-1.0, -1.0, -1.0, 1.0], [1.0, 1.0, 1.0, -1.0]]]
    """

    groups: int
    shift: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "groups")

    def grouped(self, x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        n, *positions, c = x.shape
        shape = (n, math.prod(positions), self.groups, c // self.groups)
        return x.reshape(shape), (-3, -1)

    def _check_axes(self, x: Any) -> None:
        super()._check_axes(x)
        if x.ndim < 2 or x.shape[-1] % self.groups:
            fail(
                self,
                f"x is {shape_of(x)}; it must be (n, ..., c), its channels a multiple of "
                f"groups={self.groups}",
            )
