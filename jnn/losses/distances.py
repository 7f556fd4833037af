"""Losses of numbers: prediction and target have one shape."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import Cache
from jnn.losses.base import Loss, check_above_zero, mean_of_each, scaled, wide


@dataclass(frozen=True)
class SquaredError(Loss):
    """The squared distance to the target.

        forward    L_i = sum_j (p_ij - t_ij)^2,   value = mean_i L_i
        backward   dp = 2 (p - t) dL / n

    The sum runs over everything but the examples, and there is no factor 1/2: the lectures'
    definition. (Libraries that average over the outputs too are smaller by their number.)
    Shapes: prediction and target (n, ...). Cache: both, which are held anyway.

    >>> loss = SquaredError()
    >>> value, cache = loss.forward(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 2)))
    >>> float(value), loss.backward(cache, jnp.ones(())).tolist()
    (15.0, [[1.0, 2.0], [3.0, 4.0]])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        p, t = wide(prediction, target)
        square = jnp.square(p - t)
        return square.sum(axis=tuple(range(1, square.ndim))), (prediction, target)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        p, t = wide(*cache)
        return scaled(p - t, 2 * dvalues).astype(cache[0].dtype)

    def draw(self, key: jax.Array, prediction: jax.Array) -> jax.Array:
        # exp(-(p - t)^2) has a variance of 1/2.
        return prediction + jax.random.normal(key, prediction.shape, prediction.dtype) * 0.5**0.5


@dataclass(frozen=True)
class Huber(Loss):
    """The squared distance to the target, but no more than linear where it is far.

        forward    L_i = sum_j h(p_ij - t_ij),   value = mean_i L_i
                   h(d) = d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)
        backward   dp = clip(p - t, -delta, delta) dL / n

    One example that is far off pulls no harder than delta. The 1/2 is Huber's: near the target this
    is half of `SquaredError`; the sum runs likewise over everything but the examples. The slope has
    no jump at |d| = delta, so no convention is needed.
    Shapes: prediction and target (n, ...). Cache: both, which are held anyway.
    Source: Huber 1964, "Robust estimation of a location parameter".

    Raises LayerError, a ValueError, where `delta` is not a finite number above 0.

    >>> loss = Huber()
    >>> value, cache = loss.forward(jnp.array([[0.5], [5.0]]), jnp.zeros((2, 1)))
    >>> float(value), loss.backward(cache, jnp.ones(())).tolist()
    (2.3125, [[0.25], [0.5]])
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        check_above_zero(self, "delta")

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        p, t = wide(prediction, target)
        clipped = self._clipped(p - t)
        each = clipped * ((p - t) - clipped / 2)
        return each.sum(axis=tuple(range(1, each.ndim))), (prediction, target)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        p, t = wide(*cache)
        return scaled(self._clipped(p - t), dvalues).astype(cache[0].dtype)

    def _clipped(self, difference: jax.Array) -> jax.Array:
        return jnp.clip(difference, -self.delta, self.delta)


@dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    """Logistic loss of independent yes-or-no answers, from logits.

        forward    L_i = sum_j softplus(s_ij) - t_ij s_ij,   value = mean_i L_i
        backward   ds = (sigmoid(s) - t) dL / n

    That is -t log sigmoid(s) - (1 - t) log(1 - sigmoid(s)), stable for any finite logit.
    Shapes: prediction (logits s) and target t (n, ...); targets lie in [0, 1].
    Cache: logits and targets. An answer counts as right where (s > 0) == (t > 1/2).

    >>> loss = SigmoidCrossEntropy()
    >>> value, cache = loss.forward(jnp.array([[0.0], [100.0]]), jnp.array([[1.0], [1.0]]))
    >>> round(float(value), 4), loss.backward(cache, jnp.ones(())).tolist()
    (0.3466, [[-0.25], [0.0]])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        s, t = wide(prediction, target)
        each = jax.nn.softplus(s) - t * s
        return each.sum(axis=tuple(range(1, each.ndim))), (prediction, target)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        s, t = wide(*cache)
        return scaled(jax.nn.sigmoid(s) - t, dvalues).astype(cache[0].dtype)

    def draw(self, key: jax.Array, prediction: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, jax.nn.sigmoid(prediction)).astype(prediction.dtype)

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        right = ((prediction > 0) == (target.astype(prediction.dtype) > 0.5)).astype(jnp.float32)
        right = jnp.where(jnp.isfinite(prediction), right, jnp.nan)
        return mean_of_each(right)

    def check_values(self, prediction: Any, target: np.ndarray) -> None:
        super().check_values(prediction, target)
        if target.min() < 0 or target.max() > 1:
            self.fail(
                f"targets run from {target.min():g} to {target.max():g}; they must lie in [0, 1]"
            )
