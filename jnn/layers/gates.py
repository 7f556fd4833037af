"""Smooth gates: x times a number between 0 and 1 that rises with x."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jnn.layer import fail
from jnn.layers.activations import Elementwise
from jnn.precision import widened

FAR = 800.0  # beyond it every gate here is 0 or 1 in float64, and its slope 0


@dataclass(frozen=True)
class Gated(Elementwise):
    """The base of smooth gates.

        forward    y = x g(x)
        backward   dx = (g(x) + x g'(x)) dy

    Stable at both ends, infinities included: y goes to 0 with slope 0, and to x with slope 1.
    Smooth, so without a convention. Low precision is computed in float32 and rounded once.
    Keeps x: y falls before it rises, and so does not tell x.
    """

    keeps = "x"

    def gate(self, x: jax.Array) -> jax.Array:
        """The function g."""
        raise NotImplementedError(f"{type(self).__name__} must define gate(x)")

    def slope(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """Its derivative, of which g may be a part."""
        raise NotImplementedError(f"{type(self).__name__} must define slope(x, g)")

    def f(self, x: jax.Array) -> jax.Array:
        wide = widened(x)
        # An infinite x times a gate of 0 would be NaN.
        y = jnp.where(wide < -FAR, 0, wide) * self.gate(jnp.clip(wide, -FAR, FAR))
        return y.astype(x.dtype)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        x = jnp.clip(widened(kept), -FAR, FAR)
        g = self.gate(x)
        return (dy.astype(x.dtype) * (g + x * self.slope(x, g))).astype(dy.dtype)


@dataclass(frozen=True)
class SiLU(Gated):
    """x times its own sigmoid, also called swish.

        forward    y = x s            s = sigmoid(x)
        backward   dx = s (1 + x (1 - s)) dy

    Stable at both ends and smooth. Keeps x.
    Source: Elfwing et al. 2018, "Sigmoid-weighted linear units"; Ramachandran et al. 2017,
    "Searching for activation functions".

    >>> SiLU().forward({}, jnp.array([-1e4, 0.0, 1e4]), None)[0].tolist()
    [0.0, 0.0, 10000.0]
    """

    def gate(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)

    def slope(self, x: jax.Array, g: jax.Array) -> jax.Array:
        del x
        return g * (1 - g)


@dataclass(frozen=True)
class GELU(Gated):
    """x times the probability that a standard normal number is less than x.

        forward    y = x Phi(x)       Phi(x) = (1 + erf(x / sqrt 2)) / 2
        backward   dx = (Phi(x) + x phi(x)) dy,   phi(x) = exp(-x^2 / 2) / sqrt(2 pi)

    With `approximate=True` it is the tanh form of GPT-2 and of BERT's first code, off by at most
    5e-4, which is as well written with the sigmoid:

        forward    y = x s            s = sigmoid(2u) = (1 + tanh(u)) / 2,
                                      u = sqrt(2 / pi) (x + 0.044715 x^3)
        backward   dx = (s + 2 x u' s (1 - s)) dy,   u' = sqrt(2 / pi) (1 + 0.134145 x^2)

    1 + erf and 1 + tanh would cancel at the left end, so the complement erfc(-x / sqrt 2) and the
    sigmoid are what is evaluated. Smooth. Keeps x.
    Source: Hendrycks & Gimpel 2016, "Gaussian error linear units".

    Raises LayerError, a ValueError, where `approximate` is neither True nor False.

    >>> [round(y, 4) for y in GELU().forward({}, jnp.array([-1e4, 0.0, 1.0]), None)[0].tolist()]
    [0.0, 0.0, 0.8413]
    """

    approximate: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.approximate, bool):
            fail(
                self,
                f"approximate is {self.approximate!r}; it must be True for the tanh form or False",
            )

    def gate(self, x: jax.Array) -> jax.Array:
        if self.approximate:
            return jax.nn.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
        return jax.lax.erfc(-math.sqrt(0.5) * x) / 2

    def slope(self, x: jax.Array, g: jax.Array) -> jax.Array:
        if self.approximate:
            return math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x**2) * g * (1 - g)
        return jnp.exp(-jnp.square(x) / 2) / math.sqrt(2 * math.pi)
