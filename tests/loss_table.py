"""The table of all losses, their formulas as the lectures have them, and the two gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jnn import (
    Huber,
    Loss,
    MulticlassHinge,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)

FLOAT64 = 1e-13  # some hundred roundings of 1.1e-16
FLOAT32 = 2.0**-24  # the unit roundoff of float32
ONE = np.float32(1)


def squared_error(p, t):
    return ((p - t) ** 2).reshape(len(p), -1).sum(1)


def huber(p, t, delta=1.0):
    far = abs(p - t)
    each = np.where(far <= delta, far**2 / 2, delta * (far - delta / 2))
    return each.reshape(len(p), -1).sum(1)


def sigmoid_cross_entropy(s, t):
    p = 1 / (1 + np.exp(-s))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)).reshape(len(s), -1).sum(1)


def of_positions(each, weights=None, ignore=None):
    """The formula of one vector of scores and one label, weighted, over examples and positions."""

    def weight(label):
        return 0 if label == ignore else 1 if weights is None else weights[label]

    def values(s, labels):
        rows, flat = s.reshape(-1, s.shape[-1]), labels.reshape(-1)
        terms = [weight(y) and weight(y) * each(r, y) for r, y in zip(rows, flat, strict=True)]
        return np.reshape(terms, (len(s), -1)).mean(1)

    def shares(labels):
        return np.vectorize(weight, [float])(labels).reshape(len(labels), -1).mean(1)

    return values, shares


def cross_entropy(smoothing=0.0):
    def each(s, label):
        aim = (1 - smoothing) * np.eye(len(s))[label] + smoothing / len(s)
        return -(aim * np.log(np.exp(s) / np.exp(s).sum())).sum()

    return each


def hinge(margin=1.0):
    def each(s, label):
        return sum(max(0, s[j] - s[label] + margin) for j in range(len(s)) if j != label)

    return each


class Case(NamedTuple):
    loss: Loss
    formula: Callable[..., Any]  # (prediction, target) -> one value for each example
    prediction: np.ndarray
    target: np.ndarray
    weight: Callable[..., Any] = lambda target: np.ones(len(target))  # of each example


random = np.random.default_rng(0)
normal, uniform = random.standard_normal, random.random


def labelled(loss, each, shape, labels, **weighing):
    formula, weight = of_positions(each, **weighing)
    return Case(loss, formula, normal(shape), np.array(labels), weight)


POSITIONS = [[0, 3, 2], [1, -1, 3], [-1, -1, -1]]  # two of them ignored, one example wholly
WEIGHING = {"weights": (1.0, 0.0, 2.5, 0.1), "ignore": -1}
CASES = {
    "squared error": Case(SquaredError(), squared_error, normal((4, 3)), normal((4, 3))),
    "squared error of numbers": Case(SquaredError(), squared_error, normal(4), normal(4)),
    "squared error of images": Case(
        SquaredError(), squared_error, normal((2, 3, 2)), normal((2, 3, 2))
    ),
    "huber": Case(Huber(), huber, 2 * normal((4, 3)), normal((4, 3))),
    "huber, narrow": Case(
        Huber(0.3), lambda p, t: huber(p, t, 0.3), normal((2, 3, 2)), normal((2, 3, 2))
    ),
    "sigmoid": Case(
        SigmoidCrossEntropy(), sigmoid_cross_entropy, normal((4, 3)), random.integers(0, 2, (4, 3))
    ),
    "sigmoid of uncertain targets": Case(
        SigmoidCrossEntropy(), sigmoid_cross_entropy, normal(4), uniform(4)
    ),
    "softmax": labelled(SoftmaxCrossEntropy(), cross_entropy(), (4, 3), [2, 0, 0, 1]),
    "softmax of one class": labelled(SoftmaxCrossEntropy(), cross_entropy(), (2, 1), [0, 0]),
    "softmax over positions": labelled(
        SoftmaxCrossEntropy(), cross_entropy(), (2, 3, 4), random.integers(0, 4, (2, 3))
    ),
    "softmax, smoothed": labelled(
        SoftmaxCrossEntropy(smoothing=0.1), cross_entropy(0.1), (4, 3), [2, 0, 0, 1]
    ),
    "softmax, weighted": labelled(
        SoftmaxCrossEntropy(weights=(1, 3, 0.1)),
        cross_entropy(),
        (4, 3),
        [2, 0, 0, 1],
        weights=(1, 3, 0.1),
    ),
    "softmax, some ignored": labelled(
        SoftmaxCrossEntropy(ignore=255), cross_entropy(), (3, 3), [2, 255, 0], ignore=255
    ),
    "softmax, all at once": labelled(
        SoftmaxCrossEntropy(smoothing=0.2, **WEIGHING),
        cross_entropy(0.2),
        (3, 3, 4),
        POSITIONS,
        **WEIGHING,
    ),
    "hinge": labelled(MulticlassHinge(), hinge(), (4, 3), [2, 0, 0, 1]),
    "hinge, weighted, over positions": labelled(
        MulticlassHinge(0.5, **WEIGHING), hinge(0.5), (3, 3, 4), POSITIONS, **WEIGHING
    ),
}


def like(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def by_hand(loss, prediction, target, dvalue):
    value, cache = loss.forward(prediction, target)
    return value, loss.backward(cache, dvalue)


def by_vjp(loss, prediction, target, dvalue):
    value, vjp = jax.vjp(lambda p: loss.forward(p, target)[0], prediction)
    return value, *vjp(dvalue)


hand, auto = (jax.jit(f, static_argnums=0) for f in (by_hand, by_vjp))
