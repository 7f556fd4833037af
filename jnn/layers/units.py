"""Units whose shape is learned: Maxout from its pieces, PReLU by its slope."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

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
    form,
    form_of,
    formed,
    shape_of,
)
from jnn.layers.checking import check_flags


@dataclass(frozen=True)
class Maxout(Layer):
    """The largest of several linear pieces, which the layer before it computes.

        forward    y_j = max over p of x_pj,   x = [x_1 | x_2 | ...] in blocks of c channels
        backward   dx_pj = dy_j where piece p won, else 0

    After `Dense(pieces * c)`, whose weights are [w1 | w2] then, that is the lectures'
    max(w1 x + b1, w2 x + b2), of which ReLU (w2 = b2 = 0) is a special case; after a convolution
    it works just as well. The weights are Dense's, so nothing more is said of them here.

    Shapes: x (n, ..., pieces c), y (n, ..., c).
    Cache: the number of the piece that won, one byte for each output, in place of x; and the form
    of y, of no bytes.
    Ties: the first piece wins and gets all of dy. A NaN wins over any number.
    Source: Goodfellow et al. 2013, "Maxout networks".

    Raises LayerError, a ValueError, where `pieces` is not an integer from 2 to 256, x is not
    floating point, its last axis is not a multiple of `pieces`, or dy is not like y.

    >>> y, cache = Maxout().forward({}, jnp.array([[1.0, 5.0, 3.0, 5.0]]), None)
    >>> y.tolist(), Maxout().backward({}, cache, jnp.ones((1, 2)))[1].tolist()
    ([[3.0, 5.0]], [[0.0, 1.0, 1.0, 0.0]])
    """

    pieces: int = 2

    def __post_init__(self) -> None:
        whole = isinstance(self.pieces, Integral) and not isinstance(self.pieces, bool)
        if not whole or not 2 <= self.pieces <= 256:
            fail(self, f"pieces is {self.pieces!r}; it must be an integer from 2 to 256")

    def forward(
        self, params: Params, x: Any, mode: Mode
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        del params, mode
        x = floating(self, x)
        if x.ndim < 1 or x.shape[-1] % self.pieces:
            fail(
                self,
                f"x is {shape_of(x)}; its last axis must be a multiple of pieces = {self.pieces}: "
                "give the layer before it that many times the features",
            )
        y, *others = jnp.split(x, self.pieces, axis=-1)
        winner = jnp.zeros(y.shape, jnp.uint8)
        # Choices, unlike jnp.max, give the first of equals the whole derivative under jax.grad too.
        for p, piece in enumerate(others, 1):
            better = (piece > y) | jnp.isnan(piece)
            y, winner = jnp.where(better, piece, y), jnp.where(better, p, winner)
        return y, (winner, form(y))

    def pull(self, params: Params, cache: tuple[jax.Array, jax.Array], dy: jax.Array) -> jax.Array:
        del params
        winner, y = cache
        check_cotangent(self, dy, formed(y))
        return jnp.concatenate([jnp.where(winner == p, dy, 0) for p in range(self.pieces)], axis=-1)


@dataclass(frozen=True)
class PReLU(Layer):
    """A leaky ReLU that learns its slope, one for each channel.

        forward    y = x where x > 0, else s x
        backward   dx = dy where x > 0, else s dy,   ds = sum of x dy where x <= 0
                   (over examples and positions)

    Shapes: x and y (n, ..., c), s (c,); with `shared=True` all channels have one slope, s (1,).
    `slope` is what all begin with. Weight decay on s would pull it towards a ReLU.
    Cache: x, which ds needs, and because a learned s may be negative: y would not tell the sign.
    At the kink, x = 0, the derivative is taken as s. NaN stays NaN.
    Source: He et al. 2015, "Delving deep into rectifiers".

    Raises LayerError, a ValueError, where `slope` is not finite, x is not floating point, its last
    axis is not c, its dtype is not that of s, or dy is not like y.

    >>> net = PReLU()
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> y, cache = net.forward(params, jnp.array([[-2.0, 3.0]]), None)
    >>> grads, dx = net.backward(params, cache, jnp.ones((1, 2)))
    >>> y.tolist(), grads["slope"].tolist(), dx.tolist()
    ([[-0.5, 3.0]], [-2.0, 0.0], [[0.25, 1.0]])
    """

    slope: float = 0.25
    shared: bool = False

    def __post_init__(self) -> None:
        check_flags(self)
        number = isinstance(self.slope, Real) and not isinstance(self.slope, bool)
        if not number or not math.isfinite(self.slope):
            fail(self, f"slope is {self.slope!r}; it must be a finite number")
        # A numpy scalar would decide the dtype of s.
        object.__setattr__(self, "slope", float(self.slope))

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        del key
        check_floating(self, x)
        if x.ndim < 1:
            fail(self, f"x is {shape_of(x)}; it must be (n, ..., c), channels in its last axis")
        return {"slope": jnp.full(self._shape(x), self.slope, x.dtype)}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del mode
        x = floating(self, x)
        self._check(params, x)
        return jnp.where(x <= 0, params["slope"] * x, x), x

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        check_cotangent(self, dy, cache)
        return jnp.where(cache <= 0, params["slope"] * dy, dy)

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        del params
        h = jnp.where(cache > 0, 0, cache)
        # One slope is that of one channel, to which channels are so many positions.
        return {"slope": Affine(h[..., None], dy[..., None]) if self.shared else Affine(h, dy)}

    def _shape(self, x: Any) -> tuple[int, ...]:
        return (1,) if self.shared else x.shape[-1:]

    def _check(self, params: Params, x: jax.Array) -> None:
        if not isinstance(params, Mapping) or set(params) != {"slope"}:
            fail(self, f"params is {form_of(params)}; it must hold ['slope'], as init makes")
        s = params["slope"]
        if x.ndim < 1 or s.shape != self._shape(x) or s.dtype != x.dtype:
            fail(
                self,
                f"x is {shape_of(x)} and slope is {shape_of(s)}; slope must be {self._form()} of "
                "the dtype of x: give inputs like those that init was shown",
            )

    def _form(self) -> str:
        return "(1,)" if self.shared else "(c,) for x (n, ..., c)"
