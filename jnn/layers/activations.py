"""Activations: functions of one number, applied to every element."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jnn.layer import Layer, Mode, Params, check_cotangent, fail, floating
from jnn.precision import widened


@dataclass(frozen=True)
class Elementwise(Layer):
    """The base of activations: y = f(x) and dx = df(kept, dy), element by element.

    Shapes: x, y, dy, dx all alike, of any rank; no parameters and no state.
    Cache: one array, y or, where a subclass says `keeps = "x"`, x. It is what `df` is given. The
    default is y, which is usually held anyway, by the layer that follows.

    Raises LayerError, a ValueError, where x is not floating point or dy is not like y.

    >>> class Square(Elementwise):
    ...     keeps = "x"
    ...     def f(self, x):
    ...         return x * x
    ...     def df(self, kept, dy):
    ...         return 2 * kept * dy
    >>> y, cache = Square().forward({}, jnp.array([3.0]), None)
    >>> Square().backward({}, cache, jnp.ones(1))[1].tolist()
    [6.0]
    """

    keeps: ClassVar[Literal["x", "y"]] = "y"
    bounds: ClassVar[tuple[float, float] | None] = None  # the ends at which it saturates

    def f(self, x: jax.Array) -> jax.Array:
        """The function."""
        raise NotImplementedError(f"{type(self).__name__} must define f(x)")

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        """Its derivative times `dy`, from what was kept."""
        raise NotImplementedError(f"{type(self).__name__} must define df(kept, dy)")

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        y = self.f(x)
        return y, (x if self.keeps == "x" else y)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        check_cotangent(self, dy, cache)
        return self.df(cache, dy)


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """Squashes to (0, 1).

        forward    y = 1 / (1 + exp(-x))
        backward   dx = y (1 - y) dy

    Stable at both ends: no overflow for any x. Keeps y. Where |x| is so large that y rounds to
    0 or 1 the neuron is saturated, and dx is 0: at most one rounding of y away from the truth.

    >>> Sigmoid().forward({}, jnp.array([-1e4, 0.0, 1e4]), None)[0].tolist()
    [0.0, 0.5, 1.0]
    """

    bounds = (0.0, 1.0)

    def f(self, x: jax.Array) -> jax.Array:
        # In float16 itself, exp(-x) would overflow where y is still a number.
        return jax.nn.sigmoid(widened(x)).astype(x.dtype)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return dy * kept * (1 - kept)


@dataclass(frozen=True)
class Tanh(Elementwise):
    """Squashes to (-1, 1), centred on zero: a scaled sigmoid.

        forward    y = tanh(x) = 2 sigmoid(2x) - 1
        backward   dx = (1 - y^2) dy

    Stable at both ends, and accurate at zero too, which is why the right-hand formula is not
    what is evaluated: at x = 1e-8 in float32 it cancels to 0. Keeps y.

    >>> Tanh().forward({}, jnp.array([-1e4, 2.0**-30, 1e4]), None)[0].tolist()
    [-1.0, 9.313225746154785e-10, 1.0]
    """

    bounds = (-1.0, 1.0)

    def f(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return dy * (1 - kept) * (1 + kept)


@dataclass(frozen=True)
class ReLU(Elementwise):
    """Passes what is positive.

        forward    y = max(x, 0)
        backward   dx = dy where y > 0, else 0

    At the kink, x = 0, the derivative is taken as 0. NaN stays NaN. Keeps y.
    Source: Nair & Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".

    >>> ReLU().forward({}, jnp.array([-2.0, 0.0, 3.0]), None)[0].tolist()
    [0.0, 0.0, 3.0]
    """

    def f(self, x: jax.Array) -> jax.Array:
        # A choice, unlike jnp.maximum, has a derivative of 0 at the kink under jax.grad too.
        return jnp.where(x <= 0, 0, x)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where(kept <= 0, 0, dy)


@dataclass(frozen=True)
class LeakyReLU(Elementwise):
    """Passes what is positive and a little of what is not, so that no neuron dies.

        forward    y = x where x > 0, else slope x
        backward   dx = dy where y > 0, else slope dy

    At the kink, x = 0, the derivative is taken as `slope`. NaN stays NaN. Keeps y, whose sign
    is that of x because slope >= 0.
    Source: Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models".

    Raises LayerError, a ValueError, where `slope` is negative or not finite.

    >>> LeakyReLU(0.25).forward({}, jnp.array([-2.0, 0.0, 3.0]), None)[0].tolist()
    [-0.5, 0.0, 3.0]
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        _check_at_least_zero(self, "slope")

    def f(self, x: jax.Array) -> jax.Array:
        return jnp.where(x <= 0, self.slope * x, x)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where(kept <= 0, self.slope * dy, dy)


@dataclass(frozen=True)
class ELU(Elementwise):
    """Passes what is positive and bends what is not towards -alpha.

        forward    y = x where x > 0, else alpha (exp(x) - 1)
        backward   dx = dy where y > 0, else (y + alpha) dy

    With alpha = 1 there is no kink; with another, the derivative at x = 0 is taken as `alpha`.
    exp(x) - 1 is one function, so that small x keep their digits. NaN stays NaN. Keeps y, whose
    sign is that of x because alpha >= 0: where y has saturated at -alpha, dx is 0.
    Source: Clevert et al. 2016, "Fast and accurate deep network learning by exponential linear
    units".

    Raises LayerError, a ValueError, where `alpha` is negative or not finite.

    >>> ELU().forward({}, jnp.array([-1e4, 0.0, 3.0]), None)[0].tolist()
    [-1.0, 0.0, 3.0]
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_at_least_zero(self, "alpha")

    def f(self, x: jax.Array) -> jax.Array:
        wide = widened(x)
        return jnp.where(x <= 0, self.alpha * _expm1_of_negative(wide), wide).astype(x.dtype)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where(kept <= 0, dy * (kept + self.alpha), dy)


@dataclass(frozen=True)
class SELU(Elementwise):
    """An ELU scaled so that activations keep mean 0 and variance 1 from layer to layer.

        forward    y = s x where x > 0, else s a (exp(x) - 1)    s = 1.0507..., a = 1.6733...
        backward   dx = s dy where y > 0, else (y + s a) dy

    At the kink, x = 0, the derivative is taken as s a. It keeps its promise for weights drawn with
    variance 1 / fan_in (`lecun_normal`). NaN stays NaN. Keeps y, as ELU does.
    Source: Klambauer et al. 2017, "Self-normalizing neural networks".

    >>> [round(y, 4) for y in SELU().forward({}, jnp.array([-1e4, 0.0, 1.0]), None)[0].tolist()]
    [-1.7581, 0.0, 1.0507]
    """

    scale: ClassVar[float] = 1.0507009873554805
    low: ClassVar[float] = 1.0507009873554805 * 1.6732632423543772

    def f(self, x: jax.Array) -> jax.Array:
        wide = widened(x)
        y = jnp.where(x <= 0, self.low * _expm1_of_negative(wide), self.scale * wide)
        return y.astype(x.dtype)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return dy * jnp.where(kept <= 0, kept + self.low, self.scale)


@dataclass(frozen=True)
class Softplus(Elementwise):
    """A ReLU without a kink.

        forward    y = log(1 + exp(x))
        backward   dx = sigmoid(x) dy = (1 - exp(-y)) dy

    Stable at both ends: x where x is large, exp(x) where it is very negative. Keeps y, from which
    the derivative follows with all its digits.
    Source: Dugas et al. 2001, "Incorporating second-order functional knowledge for better option
    pricing".

    >>> Softplus().forward({}, jnp.array([-1e4, 1e4]), None)[0].tolist()
    [0.0, 10000.0]
    """

    def f(self, x: jax.Array) -> jax.Array:
        return jax.nn.softplus(widened(x)).astype(x.dtype)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        wide = widened(kept)
        return (dy.astype(wide.dtype) * -jnp.expm1(-wide)).astype(dy.dtype)


def _expm1_of_negative(x: jax.Array) -> jax.Array:
    # Where x is positive the result is not chosen, but an infinite one would be NaN in jax.grad.
    return jnp.expm1(jnp.where(x <= 0, x, 0))


def _check_at_least_zero(layer: Elementwise, name: str) -> None:
    value = getattr(layer, name)
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < math.inf:
        fail(layer, f"{name} is {value!r}; it must be a finite number of at least 0")
    # A numpy scalar would decide the dtype of y.
    object.__setattr__(layer, name, float(value))
