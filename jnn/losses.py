"""Losses: what a prediction costs, and how that cost changes with the prediction.

    forward(prediction, target) -> (value, cache)
    backward(cache, dvalue)     -> dprediction

The value is the mean over the batch, a scalar; with `per_example=True` it is one value for each
example, shape (n,), never divided by n. Sums run in float32 at least. Shapes must agree exactly:
nothing is broadcast.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import Cache, LayerError, Printed, shape_of
from jnn.precision import accumulator


@dataclass(frozen=True)
class Loss(Printed):
    """The base of losses: a subclass states `values` and `pull`, this class the mean.

    `values(prediction, target) -> (values, cache)` has values of shape (n, ...), one for each
    example (and position, over which they are averaged); `pull(cache, dvalues) -> dprediction`
    takes cotangents that broadcast against them.
    """

    per_example: bool = False

    def forward(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        """The value, and what `backward` will need."""
        self.check_shapes(prediction, target)
        values, cache = self.values(jnp.asarray(prediction), jnp.asarray(target))
        return values.mean(axis=tuple(range(1 if self.per_example else 0, values.ndim))), cache

    def backward(self, cache: Cache, dvalue: jax.Array) -> jax.Array:
        """The cotangent of the prediction; `dvalue` has the shape of the value."""
        shape = self.values_shape(cache)
        expected = shape[:1] if self.per_example else ()
        if jnp.shape(dvalue) != expected:
            self.fail(f"dvalue is {jnp.shape(dvalue)}; it must have the value's shape, {expected}")
        share = dvalue / math.prod(shape[len(expected) :])
        return self.pull(cache, share.reshape(expected + (1,) * (len(shape) - len(expected))))

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        """One value for each example and position, and the cache."""
        raise NotImplementedError(f"{type(self).__name__} must define values(prediction, target)")

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        """The cotangent of the prediction from those of the values."""
        raise NotImplementedError(f"{type(self).__name__} must define pull(cache, dvalues)")

    def values_shape(self, cache: Cache) -> tuple[int, ...]:
        """The shape of the values, read off the cache."""
        raise NotImplementedError(f"{type(self).__name__} must define values_shape(cache)")

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array | None:
        """For each example the fraction that is right, shape (n,); None where nothing is.

        NaN for an example whose prediction is not finite: argmax of NaNs would be class 0.
        """
        del prediction, target
        return None

    def check_shapes(self, prediction: Any, target: Any) -> None:
        """Refuses shapes and dtypes that do not fit together, at trace time."""
        if not jnp.issubdtype(prediction.dtype, jnp.floating):
            self.fail(f"the prediction is {shape_of(prediction)}; it must be floating point")
        if target.shape != prediction.shape:
            self.fail(
                f"the prediction is {shape_of(prediction)} and the target {shape_of(target)}; "
                "their shapes must be equal, for nothing is broadcast: reshape one of them"
            )
        if prediction.ndim < 1 or prediction.shape[0] == 0:
            self.fail(f"the prediction is {shape_of(prediction)}; it must hold an example or more")

    def check_values(self, prediction: Any, target: np.ndarray) -> None:
        """Refuses targets that cannot be right. Run on the host, once for a whole data set."""
        self.check_shapes(prediction, target)
        if (bad := ~np.isfinite(target)).any():
            self.fail(f"the target holds {show_first(target, bad)}; every number must be finite")

    def each(self) -> Self:
        """The same loss in its per-example form."""
        return dataclasses.replace(self, per_example=True)

    def fail(self, problem: str) -> NoReturn:
        """Raises the error that every check of a loss ends in."""
        raise LayerError(self, problem)


@dataclass(frozen=True)
class SquaredError(Loss):
    """The squared distance to the target.

        forward    L_i = sum_j (p_ij - t_ij)^2,   value = mean_i L_i
        backward   dp = 2 (p - t) dL / n

    The sum runs over everything but the examples, and there is no factor 1/2: the lectures'
    definition. (Libraries that average over the outputs too are smaller by their number.)
    Shapes: prediction and target (n, ...). Cache: the difference p - t.

    >>> loss = SquaredError()
    >>> value, cache = loss.forward(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 2)))
    >>> float(value), loss.backward(cache, jnp.ones(())).tolist()
    (15.0, [[1.0, 2.0], [3.0, 4.0]])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        difference = prediction - target.astype(prediction.dtype)
        square = jnp.square(difference.astype(accumulator(difference.dtype)))
        return square.sum(axis=tuple(range(1, square.ndim))), difference

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        return _scale(2 * cache, dvalues)

    def values_shape(self, cache: Cache) -> tuple[int, ...]:
        return cache.shape[:1]


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
        target = target.astype(prediction.dtype)
        s, t = (v.astype(accumulator(v.dtype)) for v in (prediction, target))
        each = jax.nn.softplus(s) - t * s
        return each.sum(axis=tuple(range(1, each.ndim))), (prediction, target)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        logits, target = cache
        return _scale(jax.nn.sigmoid(logits) - target, dvalues)

    def values_shape(self, cache: Cache) -> tuple[int, ...]:
        return cache[0].shape[:1]

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        right = ((prediction > 0) == (target.astype(prediction.dtype) > 0.5)).astype(jnp.float32)
        right = jnp.where(jnp.isfinite(prediction), right, jnp.nan)
        return right.mean(axis=tuple(range(1, right.ndim)))

    def check_values(self, prediction: Any, target: np.ndarray) -> None:
        super().check_values(prediction, target)
        if target.min() < 0 or target.max() > 1:
            self.fail(
                f"targets run from {target.min():g} to {target.max():g}; they must lie in [0, 1]"
            )


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """The negative log-probability of the right class, from logits and integer labels.

        forward    L_i = log(sum_j exp(s_ij)) - s_i[y_i],   value = mean_i L_i
        backward   ds = (softmax(s) - onehot(y)) dL / n

    Shapes: prediction (logits s) (n, ..., k), target (labels y) (n, ...) of integers in 0..k-1;
    axes between are positions of an example (the tokens of a text), over which L_i is the mean.
    Cache: logits, labels, and the log of the sum, (n, ...). A logit of -inf rules a class out.

    A label outside 0..k-1 would silently count as another class in JAX's indexing. Here it makes
    the value NaN under jit, and `jnn.run` and `jnn.fit` refuse it before they compile.

    >>> loss = SoftmaxCrossEntropy()
    >>> value, cache = loss.forward(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> round(float(value), 4), loss.backward(cache, jnp.ones(()))[0].tolist()
    (1.3863, [-0.375, 0.125, 0.125, 0.125])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        s = prediction.astype(accumulator(prediction.dtype))
        log_sum = jax.nn.logsumexp(s, axis=-1)
        chosen = jnp.where(_onehot(s, target), s, 0).sum(axis=-1)
        value = jnp.where(_in_range(s, target), log_sum - chosen, jnp.nan)
        return value, (prediction, target, log_sum)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        logits, labels, log_sum = cache
        dvalues = jnp.where(_in_range(logits, labels), dvalues, 0)[..., None]
        probability = jnp.exp(logits.astype(log_sum.dtype) - log_sum[..., None])
        excess = jnp.where(_onehot(logits, labels), probability - 1, probability)
        return (excess * dvalues).astype(logits.dtype)

    def values_shape(self, cache: Cache) -> tuple[int, ...]:
        return cache[1].shape

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        right = (prediction.argmax(axis=-1).astype(target.dtype) == target).astype(jnp.float32)
        right = jnp.where(jnp.isfinite(prediction.max(axis=-1)), right, jnp.nan)
        return right.mean(axis=tuple(range(1, right.ndim)))

    def check_shapes(self, prediction: Any, target: Any) -> None:
        if prediction.ndim < 2:
            self.fail(f"the prediction is {shape_of(prediction)}; it must be logits (n, ..., k)")
        if not jnp.issubdtype(target.dtype, jnp.integer):
            mend = ".argmax(axis=-1)" if target.shape == prediction.shape else ".astype('int32')"
            self.fail(f"the labels are {shape_of(target)}; they must be integers: labels{mend}")
        one_each = jax.ShapeDtypeStruct(prediction.shape[:-1], prediction.dtype)
        super().check_shapes(one_each, target)

    def check_values(self, prediction: Any, target: np.ndarray) -> None:
        self.check_shapes(prediction, target)
        classes = prediction.shape[-1]
        wrong = (target < 0) | (target >= classes)
        if wrong.any():
            mend = (
                "subtract 1 from labels that start at 1" if target.min() == 1 else "mend the data"
            )
            self.fail(
                f"{wrong.sum()} of {target.size} labels lie outside 0..{classes - 1}, the first "
                f"being {show_first(target, wrong)}; {mend}, or give the last layer more outputs"
            )


def show_first(values: np.ndarray, bad: np.ndarray) -> str:
    """How errors point at data: the first value where `bad` holds, and its index."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{values[index]} at index {index[0] if len(index) == 1 else index}"


def _onehot(logits: jax.Array, labels: jax.Array) -> jax.Array:
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    return classes == labels[..., None]


def _in_range(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (labels >= 0) & (labels < logits.shape[-1])


def _scale(x: jax.Array, dvalues: jax.Array) -> jax.Array:
    """x times the cotangent of its example, in the dtype of x."""
    dvalues = dvalues.reshape(dvalues.shape + (1,) * (x.ndim - dvalues.ndim))
    return (x.astype(dvalues.dtype) * dvalues).astype(x.dtype)
