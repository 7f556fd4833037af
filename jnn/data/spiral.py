"""Spiral arms in the plane: the smallest task that no linear classifier solves."""

import math

import numpy as np

from jnn.data.dataset import Dataset, Examples


def spiral(per_class: int = 100, classes: int = 3, noise: float = 0.2, seed: int = 0) -> Dataset:
    """Draw points along `classes` arms of a spiral, one arm a class.

        r = linspace(0, 1),   theta = linspace(4 j, 4 (j + 1)) + noise * normal
        x = (r sin theta, r cos theta)                for class j, `per_class` points each

    Shapes: x float32 (n, 2) in the unit disc, y int32 (n,), n = per_class * classes, sorted
    by class. The test part is a second, independent draw of the same size. One seed gives one
    dataset. Class 11 lies on class 0 (44 radians are seven turns), so keep `classes` below 12.

    Raises ValueError where per_class < 1, classes < 2, or noise is negative or not finite.

    Source: the case study of Stanford's CS231n, https://cs231n.github.io/neural-networks-case-study/.

    >>> data = spiral(per_class=5)
    >>> data.train.x.shape, data.test.y
    ((15, 2), array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2], dtype=int32))
    """
    if per_class < 1:
        raise ValueError(f"spiral: per_class is {per_class}, but must be at least 1")
    if classes < 2:
        raise ValueError(f"spiral: classes is {classes}, but must be at least 2")
    if not 0 <= noise < math.inf:
        raise ValueError(f"spiral: noise is {noise}, but must be finite and at least 0")

    def draw(stream: np.random.SeedSequence) -> Examples:
        j = np.arange(classes)
        r = np.linspace(0, 1, per_class)
        normal = np.random.default_rng(stream).standard_normal((classes, per_class))
        theta = np.linspace(4 * j, 4 * (j + 1), per_class, axis=1) + noise * normal
        x = np.stack([r * np.sin(theta), r * np.cos(theta)], axis=-1)
        return Examples(x.reshape(-1, 2).astype(np.float32), j.repeat(per_class).astype(np.int32))

    train, test = np.random.SeedSequence(seed).spawn(2)
    return Dataset("spiral", draw(train), draw(test), classes)
