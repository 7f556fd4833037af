"""Hard activations: straight pieces, cheap on any machine, in place of curves."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jnn.layers.activations import Elementwise
from jnn.precision import accumulator, widened


@dataclass(frozen=True)
class ReLU6(Elementwise):
    """A ReLU that passes no more than 6.

        forward    y = min(max(x, 0), 6)
        backward   dx = dy where 0 < y < 6, else 0

    At both kinks, x = 0 and x = 6, the derivative is taken as 0. NaN stays NaN. Keeps y.
    Source: Krizhevsky 2010, "Convolutional deep belief networks on CIFAR-10".

    >>> ReLU6().forward({}, jnp.array([-2.0, 3.0, 8.0]), None)[0].tolist()
    [0.0, 3.0, 6.0]
    """

    def f(self, x: jax.Array) -> jax.Array:
        return _clip(x, 0, 6)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where((kept <= 0) | (kept >= 6), 0, dy)


@dataclass(frozen=True)
class HardTanh(Elementwise):
    """Squashes to [-1, 1]: the identity, cut off.

        forward    y = min(max(x, -1), 1)
        backward   dx = dy where -1 < y < 1, else 0

    At both kinks, x = -1 and x = 1, the derivative is taken as 0. NaN stays NaN. Keeps y.
    Source: Collobert 2004, "Large scale machine learning".

    >>> HardTanh().forward({}, jnp.array([-2.0, 0.5, 3.0]), None)[0].tolist()
    [-1.0, 0.5, 1.0]
    """

    bounds = (-1.0, 1.0)

    def f(self, x: jax.Array) -> jax.Array:
        return _clip(x, -1, 1)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where((kept <= -1) | (kept >= 1), 0, dy)


@dataclass(frozen=True)
class HardSigmoid(Elementwise):
    """Squashes to [0, 1] by a straight line of slope 1/6.

        forward    y = min(max((x + 3) / 6, 0), 1)
        backward   dx = dy / 6 where 0 < y < 1, else 0

    That is PyTorch's and MobileNet's line; the older one of Theano and Keras had slope 1/5. At both
    kinks, x = -3 and x = 3, the derivative is taken as 0. NaN stays NaN. Keeps y.
    Source: Howard et al. 2019, "Searching for MobileNetV3".

    >>> HardSigmoid().forward({}, jnp.array([-4.0, 0.0, 1.5, 3.0]), None)[0].tolist()
    [0.0, 0.5, 0.75, 1.0]
    """

    bounds = (0.0, 1.0)

    def f(self, x: jax.Array) -> jax.Array:
        return _clip(_line(widened(x)), 0, 1).astype(x.dtype)

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        # Low precision would round 1/6, by which XLA multiplies, and then the product.
        sixth = (widened(dy) * (1 / 6)).astype(dy.dtype)
        return jnp.where((kept <= 0) | (kept >= 1), 0, sixth)


@dataclass(frozen=True)
class HardSwish(Elementwise):
    """The SiLU with a hard sigmoid in place of the sigmoid.

        forward    y = x min(max((x + 3) / 6, 0), 1)
        backward   dx = (x / 3 + 1/2) dy where -3 < x < 3, 0 below, dy above

    At the kinks the derivative is taken as outside: 0 at x = -3, 1 at x = 3. NaN stays NaN. Keeps
    x: y falls before it rises, and so does not tell which side x was on.
    Source: Howard et al. 2019, "Searching for MobileNetV3".

    >>> HardSwish().forward({}, jnp.array([-1.5, 0.0, 1.5, 3.0]), None)[0].tolist()
    [-0.375, 0.0, 1.125, 3.0]
    """

    keeps = "x"

    def f(self, x: jax.Array) -> jax.Array:
        z = _clip(x, -3, 3).astype(accumulator(x.dtype))
        return jnp.where(x >= 3, x, (z * _line(z)).astype(x.dtype))

    def df(self, kept: jax.Array, dy: jax.Array) -> jax.Array:
        x = widened(kept)
        between = ((x / 3 + 0.5) * dy.astype(x.dtype)).astype(dy.dtype)
        return jnp.where(kept <= -3, 0, jnp.where(kept >= 3, dy, between))


def _line(x: jax.Array) -> jax.Array:
    # x / 6 + 1/2 may be compiled as x times a rounded 1/6, fused with the sum: not 0 at x = -3.
    return (x + 3) / 6


def _clip(x: jax.Array, low: float, high: float) -> jax.Array:
    # Choices, unlike jnp.clip, have a derivative of 0 at the kinks under jax.grad too.
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))
