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
        dvalue, shape = jnp.asarray(dvalue), self.values_shape(cache)
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
        self.check_prediction(prediction)
        if target.shape != prediction.shape:
            self.fail(
                f"the prediction is {shape_of(prediction)} and the target {shape_of(target)}; "
                "their shapes must be equal, for nothing is broadcast: reshape one of them"
            )

    def check_prediction(self, prediction: Any) -> None:
        """Refuses a prediction that is not of floating-point numbers, or of no examples."""
        if not jnp.issubdtype(prediction.dtype, jnp.floating):
            self.fail(f"the prediction is {shape_of(prediction)}; it must be floating point")
        if prediction.ndim < 1 or 0 in prediction.shape:
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
    Shapes: prediction and target (n, ...). Cache: both, which are held anyway.

    >>> loss = SquaredError()
    >>> value, cache = loss.forward(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros((2, 2)))
    >>> float(value), loss.backward(cache, jnp.ones(())).tolist()
    (15.0, [[1.0, 2.0], [3.0, 4.0]])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        p, t = _wide(prediction, target)
        square = jnp.square(p - t)
        return square.sum(axis=tuple(range(1, square.ndim))), (prediction, target)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        p, t = _wide(*cache)
        return _scaled(p - t, 2 * dvalues).astype(cache[0].dtype)

    def values_shape(self, cache: Cache) -> tuple[int, ...]:
        return cache[0].shape[:1]


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
        s, t = _wide(prediction, target)
        each = jax.nn.softplus(s) - t * s
        return each.sum(axis=tuple(range(1, each.ndim))), (prediction, target)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        s, t = _wide(*cache)
        return _scaled(jax.nn.sigmoid(s) - t, dvalues).astype(cache[0].dtype)

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
    Cache: logits, labels, and of each example the largest logit and the log of the sum without it,
    both (n, ...): logits that lie far from 0 then cost no digits. -inf rules a class out.

    A label outside 0..k-1 would silently count as another class in JAX's indexing. Here it makes
    the value NaN under jit, and `jnn.run` and `jnn.fit` refuse it before they compile.

    >>> loss = SoftmaxCrossEntropy()
    >>> value, cache = loss.forward(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> round(float(value), 4), loss.backward(cache, jnp.ones(()))[0].tolist()
    (1.3863, [-0.375, 0.125, 0.125, 0.125])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        labels = _labels(target)
        (s,) = _wide(prediction)
        peak = jax.lax.stop_gradient(s.max(axis=-1))  # the value does not depend on it
        peak = jnp.where(jnp.isfinite(peak), peak, 0)
        s = s - peak[..., None]
        log_sum = jnp.log(jnp.exp(s).sum(axis=-1))
        chosen = jnp.where(_onehot(s, labels), s, 0).sum(axis=-1)
        value = jnp.where(_in_range(s, labels), log_sum - chosen, jnp.nan)
        return value, (prediction, labels, peak, log_sum)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        logits, labels, peak, log_sum = cache
        dvalues = jnp.where(_in_range(logits, labels), dvalues, 0)[..., None]
        (s,) = _wide(logits)
        probability = jnp.exp((s - peak[..., None]) - log_sum[..., None])
        excess = jnp.where(_onehot(logits, labels), probability - 1, probability)
        return (excess * dvalues).astype(logits.dtype)

    def values_shape(self, cache: Cache) -> tuple[int, ...]:
        return cache[1].shape

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        labels = _labels(target)
        right = (prediction.argmax(axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)
        right = jnp.where(jnp.isfinite(prediction.max(axis=-1)), right, jnp.nan)
        return right.mean(axis=tuple(range(1, right.ndim)))

    def check_shapes(self, prediction: Any, target: Any) -> None:
        if prediction.ndim < 2:
            self.fail(f"the prediction is {shape_of(prediction)}; it must be logits (n, ..., k)")
        self.check_prediction(prediction)
        if target.shape == prediction.shape:
            self.fail(
                f"the labels are {shape_of(target)}, like the logits; if they are one-hot, "
                "pass labels.argmax(axis=-1)"
            )
        if not jnp.issubdtype(target.dtype, jnp.integer):
            self.fail(
                f"the labels are {shape_of(target)}; they must be integers: labels.astype('int32')"
            )
        if target.shape != prediction.shape[:-1]:
            self.fail(
                f"the prediction is {shape_of(prediction)} and the labels {shape_of(target)}; "
                f"their shapes must be equal but for the classes, for nothing is broadcast: "
                f"reshape the labels to {tuple(prediction.shape[:-1])}"
            )

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


def _labels(target: jax.Array) -> jax.Array:
    """Labels of a dtype that can count the classes: uint8 could not tell class 256 from 0."""
    return target.astype(jnp.int32) if target.dtype.itemsize < 4 else target


def _wide(prediction: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """All of them in the dtype in which a loss of such a prediction computes."""
    dtype = accumulator(prediction.dtype)
    return tuple(v.astype(dtype) for v in (prediction, *others))


def _scaled(x: jax.Array, dvalues: jax.Array) -> jax.Array:
    """x times the cotangent of its example."""
    return x * dvalues.reshape(dvalues.shape + (1,) * (x.ndim - dvalues.ndim)).astype(x.dtype)
