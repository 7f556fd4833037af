"""Layers that are random in training."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from jnn.layer import Layer, Mode, Params, Train, check_cotangent, fail, floating, form, formed
from jnn.layers.checking import check_flags
from jnn.precision import accumulator


@dataclass(frozen=True)
class Dropout(Layer):
    """Drops each number of its input with probability `rate` in training.

        inverted   y = m x / (1 - rate) in training,   y = x in evaluation
        plain      y = m x in training,                y = (1 - rate) x in evaluation
        backward   dx as y, with dy for x

    m is 1 with probability 1 - rate, else 0, and the backward pass has the same m. `rate` is the
    probability of *dropping*. In the lectures' code p is that of keeping; where notes on them call
    p that of dropping and still multiply by p in evaluation, they mean 1 - p. Evaluation is the
    mean of training in either form; the inverted one, the default, leaves evaluation alone.

    Random numbers are what dropout costs, so two masks of 16 bits are cut out of every random word,
    or four of 8 where `rate` is a multiple of 1/256. Others are rounded to the nearest multiple of
    1/65536 below 1, and the rounded one takes the place of `rate` in the formulas above, so that
    the mean is exact. A `rate` of 0 draws nothing.

    Shapes: x, y (n, ...) alike; no parameters and no state.
    Cache: the mask, a byte for each number; the factor, 1 in inverted evaluation, (); the shape and
    dtype of x, as an array of no bytes.
    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from
    overfitting".

    Raises LayerError, a ValueError, where rate is not in [0, 1), x has no axes or is not floating
    point, or dy is not like y.

    >>> y, cache = Dropout(0.75).forward({}, jnp.ones((2, 4)), Train(jax.random.key(0)))
    >>> sorted(set(y.flatten().tolist())), cache["mask"].dtype
    ([0.0, 4.0], dtype('bool'))
    """

    rate: float = 0.5
    inverted: bool = True

    def __post_init__(self) -> None:
        check_flags(self)
        number = isinstance(self.rate, Real) and not isinstance(self.rate, bool)
        if not number or not 0 <= self.rate < 1:
            fail(
                self,
                f"rate is {self.rate!r}; it must be a number in [0, 1), the probability of "
                "dropping (1 - p where p is that of keeping)",
            )
        # A numpy scalar would decide the dtype of y.
        object.__setattr__(self, "rate", float(self.rate))

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, jax.Array]]:
        del params
        x = floating(self, x)
        if x.ndim < 1:
            fail(self, "x has no axes; its first axis must hold the examples: (n, ...)")
        bits, below = self._kept()
        keep = below / 2**bits
        if isinstance(mode, Train):
            mask = _mask(mode.key, x.shape, bits, below)
            factor = 1 / keep if self.inverted else 1.0
        else:
            mask = jnp.ones(x.shape, bool)
            factor = 1.0 if self.inverted else keep
        factor = jnp.full((), factor, accumulator(x.dtype))
        cache = {"mask": mask, "factor": factor, "form": form(x)}
        return _scaled(cache, x), cache

    def pull(self, params: Params, cache: dict[str, jax.Array], dy: jax.Array) -> jax.Array:
        del params
        check_cotangent(self, dy, formed(cache["form"]))
        return _scaled(cache, dy)

    def _kept(self) -> tuple[int, int]:
        """How many bits make a mask, and below which number they say to keep."""
        bits = 8 if (256 * self.rate).is_integer() else 16
        return bits, max(1, 2**bits - round(2**bits * self.rate))


def _scaled(cache: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    # In bfloat16 the factor itself would be rounded, and the mean with it.
    scaled = (x.astype(cache["factor"].dtype) * cache["factor"]).astype(x.dtype)
    return jnp.where(cache["mask"], scaled, 0)


def _mask(key: jax.Array, shape: tuple[int, ...], bits: int, below: int) -> jax.Array:
    """True with probability below / 2**bits, independently everywhere."""
    if below == 2**bits:
        return jnp.ones(shape, bool)
    # jax.random.bits would spend a whole word on every number of 8 or 16 bits. The slices of a word
    # go to examples far apart, for side by side they would have to be interleaved.
    n, *rest = shape
    slices = 32 // bits
    words = jax.random.bits(key, (math.ceil(n / slices), *rest), jnp.uint32)
    small = jnp.uint8 if bits == 8 else jnp.uint16
    kept = [(words >> (bits * i)).astype(small) < below for i in range(slices)]
    return jnp.concatenate(kept)[:n]
