"""Losses: what a prediction costs, and how that cost changes with the prediction.

    forward(prediction, target) -> (value, cache)
    backward(cache, dvalue)     -> dprediction

The value is the mean over the batch, a scalar; with `per_example=True` it is one value for each
example, shape (n,), never divided by n. Sums run in float32 at least. Shapes must agree exactly:
nothing is broadcast.

Where examples weigh differently, a value for one example includes its weight, and the mean over any
number of them, in whatever batches they come, is

    sum_i value_i / sum_i weight_i          values of loss.each(), loss.weight(target)
    sum_i correct_i / sum_i counted_i       loss.correct(prediction, target), loss.counted(target)
"""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import Cache, LayerError, Printed, form, formed, shape_of
from jnn.precision import accumulator


@dataclass(frozen=True)
class Loss(Printed):
    """The base of losses: a subclass states `values` and `pull`, this class the mean.

    `values(prediction, target) -> (values, cache)` has values of shape (n, ...), one for each
    example (and position, over which they are averaged); `pull(cache, dvalues) -> dprediction`
    takes cotangents of their shape. Values that are weighted go with `weight` and `total`, which
    tell their weights. Prediction and target are of one shape; a loss of scores (n, k) and integer
    labels (n,) is made from `losses.Labelled`.

    >>> @dataclass(frozen=True)
    ... class Distance(Loss):
    ...     def values(self, prediction, target):
    ...         return jnp.abs(prediction - target).sum(axis=-1), jnp.sign(prediction - target)
    ...     def pull(self, cache, dvalues):
    ...         return cache * dvalues[:, None]
    >>> value, cache = Distance().forward(jnp.array([[1.0, 5.0], [2.0, 0.0]]), jnp.zeros((2, 2)))
    >>> float(value), Distance().backward(cache, jnp.ones(())).tolist()
    (4.0, [[0.5, 0.5], [0.5, 0.0]])
    """

    per_example: bool = dataclasses.field(default=False, kw_only=True)

    def forward(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        """The value, and what `backward` will need."""
        for what, v in (("prediction", prediction), ("target", target)):
            if not hasattr(v, "shape") or not hasattr(v, "dtype"):
                self.fail(f"the {what} is a {type(v).__name__}; it must be an array")
        self.check_shapes(prediction, target)
        result = self.values(jnp.asarray(prediction), jnp.asarray(target))
        if not isinstance(result, tuple) or len(result) != 2:
            self.fail(f"values must return (values, cache); it returned a {type(result).__name__}")
        values, cache = result
        if values.shape[:1] != prediction.shape[:1]:
            self.fail(
                f"values returned {shape_of(values)}; it must be one for each of the "
                f"{prediction.shape[0]} examples, (n, ...): leave the mean to forward"
            )
        kept = cache, form(values)
        if self.per_example:
            return mean_of_each(values), kept
        total = self.total(cache)
        return (values.mean() if total is None else values.sum() / total), kept

    def backward(self, cache: Cache, dvalue: jax.Array) -> jax.Array:
        """The cotangent of the prediction; `dvalue` has the shape of the value."""
        inner, kept = cache
        dvalue, shape = jnp.asarray(dvalue), formed(kept).shape
        expected = shape[:1] if self.per_example else ()
        if jnp.shape(dvalue) != expected:
            self.fail(f"dvalue is {jnp.shape(dvalue)}; it must have the value's shape, {expected}")
        total = None if self.per_example else self.total(inner)
        share = dvalue / (math.prod(shape[len(expected) :]) if total is None else total)
        share = share.reshape(expected + (1,) * (len(shape) - len(expected)))
        return self.pull(inner, jnp.broadcast_to(share, shape))

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        """One value for each example and position, and the cache."""
        raise NotImplementedError(f"{type(self).__name__} must define values(prediction, target)")

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        """The cotangent of the prediction from those of the values."""
        raise NotImplementedError(f"{type(self).__name__} must define pull(cache, dvalues)")

    def draw(self, key: jax.Array, prediction: jax.Array) -> jax.Array:
        """Targets from the distribution whose negative logarithm the loss is, up to a constant."""
        del key, prediction
        return self.fail(
            "it is taken for no distribution that targets could be drawn from: define "
            "draw(key, prediction) -> target"
        )

    def total(self, cache: Cache) -> jax.Array | None:
        """The sum of the weights of all values, never 0; None where they weigh the same."""
        del cache
        return None

    def weight(self, target: jax.Array) -> jax.Array | None:
        """What each example weighs in a mean over a data set, shape (n,); None where all do 1."""
        del target
        return None

    def correct(self, prediction: jax.Array, target: jax.Array) -> jax.Array | None:
        """For each example the fraction that is right, shape (n,); None where nothing is.

        NaN for an example whose prediction is not finite: argmax of NaNs would be class 0.
        """
        del prediction, target
        return None

    def counted(self, target: jax.Array) -> jax.Array | None:
        """For each example the fraction that `correct` judges, shape (n,); None where all is."""
        del target
        return None

    def check_shapes(self, prediction: Any, target: Any) -> None:
        """Refuses shapes and dtypes that do not fit together, at trace time."""
        self.check_prediction(prediction)
        if jnp.issubdtype(target.dtype, jnp.complexfloating):
            self.fail(f"the target is {shape_of(target)}; it must be of real numbers")
        if target.shape != prediction.shape:
            self.fail(
                f"the prediction is {shape_of(prediction)} and the target {shape_of(target)}; "
                "their shapes must be equal, for nothing is broadcast: reshape one of them"
                + (
                    ", or make the loss from jnn.losses.Labelled, which takes labels"
                    if target.shape == prediction.shape[:-1]
                    and jnp.issubdtype(target.dtype, jnp.integer)
                    else ""
                )
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
class Cost(Loss):
    """The mean of what the network returns, which is a cost already, as a `CrossEntropyHead`'s.

        forward    L_i = p_i,   value = mean of all
        backward   dp = dL / (how many)

    Shapes: prediction (n, ...); the target may be anything of n entries, and is not looked at.

    >>> loss = Cost()
    >>> value, cache = loss.forward(jnp.array([1.0, 3.0]), jnp.zeros(2))
    >>> float(value), loss.backward(cache, jnp.ones(())).tolist()
    (2.0, [0.5, 0.5])
    """

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Cache]:
        del target
        return wide(prediction)[0], form(prediction)

    def pull(self, cache: Cache, dvalues: jax.Array) -> jax.Array:
        return dvalues.astype(formed(cache).dtype)

    def check_shapes(self, prediction: Any, target: Any) -> None:
        self.check_prediction(prediction)
        if target.shape[:1] != prediction.shape[:1]:
            self.fail(
                f"the prediction is {shape_of(prediction)} and the target {shape_of(target)}; they "
                "must be of as many examples"
            )


def show_first(values: np.ndarray, bad: np.ndarray) -> str:
    """How errors point at data: the first value where `bad` holds, and its index."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{values[index]} at index {index[0] if len(index) == 1 else index}"


def check_above_zero(loss: Loss, name: str) -> None:
    """Refuses a hyper-parameter that is no finite number above 0; makes it a plain float."""
    value = getattr(loss, name)
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        loss.fail(f"{name} is {value!r}; it must be a finite number above 0")
    object.__setattr__(loss, name, float(value))


def mean_of_each(values: jax.Array) -> jax.Array:
    """The mean over everything but the examples, (n, ...) -> (n,)."""
    return values.mean(axis=tuple(range(1, values.ndim)))


def wide(prediction: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """All of them in the dtype in which a loss of such a prediction computes."""
    dtype = accumulator(prediction.dtype)
    return tuple(v.astype(dtype) for v in (prediction, *others))


def scaled(x: jax.Array, dvalues: jax.Array) -> jax.Array:
    """x times the cotangent of its example."""
    return x * dvalues.reshape(dvalues.shape + (1,) * (x.ndim - dvalues.ndim)).astype(x.dtype)
