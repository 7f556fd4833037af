"""Losses of scores and labels: one score for each class, and the number of the right one."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import Cache, shape_of
from jnn.losses.base import Loss, check_above_zero, mean_of_each, show_first, wide
from jnn.precision import accumulator


@dataclass(frozen=True)
class Labelled(Loss):
    """The base of losses of labels: a subclass states `costs` and `slopes`.

        forward    value = sum_i w_i L_i / sum_i w_i,   w_i = weights[y_i], 0 where y_i = ignore
        backward   ds_i = w_i dL_i/ds_i dL / sum_i w_i

    With neither `weights` nor `ignore` every w_i is 1, and none is computed. The sums run over
    examples and positions. With `per_example=True` the value is w_i L_i, or the mean of that over
    the positions of an example; `weight` gives w_i likewise, so that the mean over a data set is
    the sum of the one over the sum of the other. Where no label counts, value and gradient are 0.
    What weighs nothing adds nothing, be its scores NaN.

    weights   one number for each class, of at least 0 and not all 0; a tuple or what makes one
    ignore    a label that stands for no class, such as -1 or 255, and counts neither in the value
              nor in `correct`

    Shapes: prediction (scores s) (n, ..., k), target (labels y) (n, ...) of integers in 0..k-1;
    axes between are positions of an example (the tokens of a text), over which L_i is the mean.
    Cache: scores, labels and what `costs` keeps.

    A label outside 0..k-1 would silently count as another class in JAX's indexing. Here it makes
    the value NaN under jit, and `jnn.run` and `jnn.fit` refuse it before they compile.

    Raises LayerError, a ValueError, where `weights` or `ignore` is not as above, or there are not
    as many weights as classes.

    >>> loss = SoftmaxCrossEntropy(weights=(1, 3), ignore=-1)
    >>> scores, labels = jnp.array([[2.0, 0.0], [0.0, 0.0], [9.0, 9.0]]), jnp.array([0, 1, -1])
    >>> values, _ = loss.each().forward(scores, labels)
    >>> values.round(4).tolist(), loss.weight(labels).tolist()
    ([0.12690000236034393, 2.079400062561035, 0.0], [1.0, 3.0, 0.0])
    >>> loss.forward(scores, labels)[0].round(4) == (values.sum() / 4).round(4)
    Array(True, dtype=bool)

    A loss of one's own, the multiclass squared hinge, -1 being what a wrong class should score:

    >>> class SquaredHinge(Labelled):
    ...     def costs(self, s, right):
    ...         gap = jnp.maximum(jnp.where(right, 1 - s, 1 + s), 0)
    ...         return jnp.square(gap).sum(axis=-1), gap
    ...     def slopes(self, s, right, gap):
    ...         return jnp.where(right, -2, 2) * gap
    >>> float(SquaredHinge().forward(jnp.array([[2.0, -0.5]]), jnp.array([0]))[0])
    0.25
    """

    weights: tuple[float, ...] | None = field(default=None, kw_only=True)
    ignore: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", self._numbers(self.weights))
        if self.ignore is not None:
            if not isinstance(self.ignore, Integral) or isinstance(self.ignore, bool):
                self.fail(f"ignore is {self.ignore!r}; it must be a label, such as -1, or None")
            object.__setattr__(self, "ignore", int(self.ignore))

    def costs(self, s: jax.Array, right: jax.Array) -> tuple[jax.Array, Cache]:
        """L for scores in float32 or wider, and what `slopes` needs; `right` is true at the label.

        Shapes: s and right (n, ..., k), L (n, ...).
        """
        raise NotImplementedError(f"{type(self).__name__} must define costs(s, right)")

    def slopes(self, s: jax.Array, right: jax.Array, kept: Cache) -> jax.Array:
        """dL/ds, of the shape of s."""
        raise NotImplementedError(f"{type(self).__name__} must define slopes(s, right, kept)")

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        labels = valid = _labels(target)
        (s,) = wide(prediction)
        weights = self._weights(labels, s.dtype)
        if weights is not None:
            # Before anything is computed: NaN times 0 is NaN, in jax.grad too.
            s, valid = jnp.where(weights[..., None] == 0, 0, s), jnp.where(weights == 0, 0, labels)
        costs, kept = self.costs(s, _onehot(s, valid))
        costs = jnp.where(_in_range(s, valid), costs, jnp.nan)
        if weights is not None:
            costs = costs * weights
        return costs, (prediction, labels, kept)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        scores, labels, kept = cache
        (s,) = wide(scores)
        dvalues = jnp.where(_in_range(s, labels), dvalues, 0)
        weights = self._weights(labels, s.dtype)
        if weights is not None:
            dvalues = dvalues * weights
        ds = self.slopes(s, _onehot(s, labels), kept) * dvalues[..., None]
        if weights is not None:
            ds = jnp.where(weights[..., None] == 0, 0, ds)
        return ds.astype(scores.dtype)

    def total(self, cache: Cache) -> jax.Array | None:
        weights = self._weights(cache[1], accumulator(cache[0].dtype))
        if weights is None:
            return None
        total = weights.sum()
        return jnp.where(total == 0, 1, total)

    def weight(self, target: jax.Array) -> jax.Array | None:
        # In the widest dtype there is: of float32 weights, float64 values would not be the values.
        weights = self._weights(_labels(target), jnp.dtype(jax.dtypes.canonicalize_dtype(float)))
        return None if weights is None else mean_of_each(weights)

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        labels = _labels(target)
        right = (prediction.argmax(axis=-1).astype(labels.dtype) == labels).astype(jnp.float32)
        right = jnp.where(jnp.isfinite(prediction.max(axis=-1)), right, jnp.nan)
        if self.ignore is not None:
            right = jnp.where(_is(labels, self.ignore), 0, right)
        return mean_of_each(right)

    def counted(self, target: jax.Array) -> jax.Array | None:
        if self.ignore is None:
            return None
        return mean_of_each((~_is(_labels(target), self.ignore)).astype(jnp.float32))

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
        if self.weights is not None and len(self.weights) != prediction.shape[-1]:
            self.fail(
                f"the prediction is {shape_of(prediction)} and there are {len(self.weights)} "
                f"weights; there must be one for each of the {prediction.shape[-1]} classes"
            )

    def check_values(self, prediction: Any, target: np.ndarray) -> None:
        self.check_shapes(prediction, target)
        classes = prediction.shape[-1]
        wrong = (target < 0) | (target >= classes)
        if self.ignore is not None:
            wrong &= target != self.ignore
        if wrong.any():
            first = target[wrong][0]
            if target.min() == 1:
                mend = "subtract 1 from labels that start at 1"
            elif self.ignore is None and first in (-1, -100, 255):
                mend = f"mend the data, or pass ignore={first} if it marks what has no label"
            else:
                mend = "mend the data"
            self.fail(
                f"{wrong.sum()} of {target.size} labels lie outside 0..{classes - 1}, the first "
                f"being {show_first(target, wrong)}; {mend}, or give the last layer more outputs"
            )
        weights = np.ones(classes) if self.weights is None else np.asarray(self.weights)
        counting = target if self.ignore is None else target[target != self.ignore]
        if not weights[counting].any():
            self.fail(f"none of the {target.size} labels counts: all are ignored or weigh nothing")

    def _numbers(self, weights: Any) -> tuple[float, ...]:
        numbers = tuple(weights) if np.ndim(weights) == 1 else ()
        if not all(isinstance(w, Real) and 0 <= float(w) < math.inf for w in numbers) or not any(
            numbers
        ):
            self.fail(
                f"weights is {weights!r}; it must be a tuple of finite numbers of at least 0, one "
                "for each class, of which one or more are above 0"
            )
        return tuple(map(float, numbers))

    def _weights(self, labels: jax.Array, dtype: jnp.dtype) -> jax.Array | None:
        """The weight of each label, (n, ...); of one out of range, that of some class."""
        if self.weights is None:
            return None if self.ignore is None else (~_is(labels, self.ignore)).astype(dtype)
        nearest = jnp.clip(labels, 0, len(self.weights) - 1)
        weights = jnp.asarray(self.weights, dtype)[nearest]
        return weights if self.ignore is None else jnp.where(_is(labels, self.ignore), 0, weights)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Labelled):
    """The negative log-probability of the right class, from logits and integer labels.

        forward    L_i = log(sum_j exp(s_ij)) - s_i[y_i],   value = mean_i L_i
        backward   ds = (softmax(s) - onehot(y)) dL / n

    With `smoothing` e the right class is aimed at with probability 1 - e only, and e is spread over
    all k classes, the right one included:

        forward    L_i = log(sum_j exp(s_ij)) - (1 - e) s_i[y_i] - e mean_j s_ij
        backward   ds = (softmax(s) - (1 - e) onehot(y) - e / k) dL / n

    A guess then still costs log k, but no prediction costs nothing. `weights` and `ignore` are
    those of `Labelled`, and so are the shapes; a class weighs by the label, smoothed or not.
    Cache: logits, labels, and of each example the largest logit and the log of the sum without it,
    both (n, ...): logits that lie far from 0 then cost no digits. -inf rules a class out, at
    infinite cost if it is aimed at, as smoothing does at every class.
    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", for the smoothing.

    Raises LayerError, a ValueError, where `smoothing` is not in [0, 1), and as `Labelled` does.

    >>> loss = SoftmaxCrossEntropy()
    >>> value, cache = loss.forward(jnp.zeros((2, 4)), jnp.array([0, 3]))
    >>> round(float(value), 4), loss.backward(cache, jnp.ones(()))[0].tolist()
    (1.3863, [-0.375, 0.125, 0.125, 0.125])
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.smoothing, Real) or not 0 <= self.smoothing < 1:
            self.fail(f"smoothing is {self.smoothing!r}; it must be a number in [0, 1)")
        object.__setattr__(self, "smoothing", float(self.smoothing))

    def costs(self, s: jax.Array, right: jax.Array) -> tuple[jax.Array, Cache]:
        peak = jax.lax.stop_gradient(s.max(axis=-1))  # the value does not depend on it
        peak = jnp.where(jnp.isfinite(peak), peak, 0)
        s = s - peak[..., None]
        log_sum = jnp.log(jnp.exp(s).sum(axis=-1))
        aim = jnp.where(right, s, 0).sum(axis=-1)
        if self.smoothing:
            aim = (1 - self.smoothing) * aim + self.smoothing * s.mean(axis=-1)
        return log_sum - aim, (peak, log_sum)

    def slopes(self, s: jax.Array, right: jax.Array, kept: Cache) -> jax.Array:
        peak, log_sum = kept
        probability = jnp.exp((s - peak[..., None]) - log_sum[..., None])
        if self.smoothing:
            probability = probability - self.smoothing / s.shape[-1]
        return jnp.where(right, probability - (1 - self.smoothing), probability)

    def draw(self, key: jax.Array, prediction: jax.Array) -> jax.Array:
        return jax.random.categorical(key, prediction).astype(jnp.int32)


@dataclass(frozen=True)
class MulticlassHinge(Labelled):
    """The support vector machine's: the right class must win over each other by a margin.

        forward    L_i = sum over j != y_i of max(0, s_ij - s_i[y_i] + margin),   value = mean_i L_i
        backward   ds_ij = dL / n where that is above 0, else 0, for j != y_i;
                   ds_i[y_i] = - the sum of those

    At the kink, where a class keeps the margin exactly, the derivative is taken as 0. Equal scores
    cost (k - 1) margin. `weights` and `ignore` are those of `Labelled`, and so are the shapes.
    Cache: scores and labels, from which the differences follow again.
    Source: Weston & Watkins 1999, "Support vector machines for multi-class pattern recognition".

    Raises LayerError, a ValueError, where `margin` is not a finite number above 0, and as
    `Labelled` does.

    >>> loss, scores = MulticlassHinge(), jnp.array([[3.0, 2.5, 0.0], [1.0, 1.0, 1.0]])
    >>> value, cache = loss.forward(scores, jnp.array([0, 2]))
    >>> float(value), loss.backward(cache, jnp.ones(())).tolist()
    (1.25, [[-0.5, 0.5, 0.0], [0.5, 0.5, -1.0]])
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "margin")

    def costs(self, s: jax.Array, right: jax.Array) -> tuple[jax.Array, Cache]:
        excess = self._excess(s, right)
        return jnp.where(right | (excess <= 0), 0, excess).sum(axis=-1), None

    def slopes(self, s: jax.Array, right: jax.Array, kept: Cache) -> jax.Array:
        del kept
        over = jnp.where(right | (self._excess(s, right) <= 0), 0, 1).astype(s.dtype)
        return jnp.where(right, -over.sum(axis=-1, keepdims=True), over)

    def _excess(self, s: jax.Array, right: jax.Array) -> jax.Array:
        return s - jnp.where(right, s, 0).sum(axis=-1, keepdims=True) + self.margin


def _onehot(scores: jax.Array, labels: jax.Array) -> jax.Array:
    classes = jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1)
    return classes == labels[..., None]


def _in_range(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return (labels >= 0) & (labels < scores.shape[-1])


def _is(labels: jax.Array, label: int) -> jax.Array:
    """Where `labels` equal `label`; nowhere if their dtype cannot hold it."""
    limits = jnp.iinfo(labels.dtype)
    if not limits.min <= label <= limits.max:
        return jnp.zeros(labels.shape, bool)
    return labels == label


def _labels(target: jax.Array) -> jax.Array:
    """Labels of a dtype that can count the classes: uint8 could not tell class 256 from 0."""
    target = jnp.asarray(target)
    return target.astype(jnp.int32) if target.dtype.itemsize < 4 else target
