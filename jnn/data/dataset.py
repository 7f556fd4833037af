"""The two types every reader of this package returns."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Examples(NamedTuple):
    """Inputs and their labels, one row each.

    Shapes: x float32 (n, ...), y int32 (n,) with classes counted from 0. Both are numpy
    arrays in host memory. A tuple, so `x, y = examples` unpacks it and JAX sees a pytree.

    >>> x, y = Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32))
    >>> x.shape, y.shape
    ((3, 2), (3,))
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]


class Dataset(NamedTuple):
    """A named set of examples in two parts, one to learn from and one to be judged by.

    Labels of both parts lie in 0..classes - 1; their inputs agree in shape but for n.

    >>> part = Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32))
    >>> Dataset("toy", train=part, test=part, classes=2).classes
    2
    """

    name: str
    train: Examples
    test: Examples
    classes: int
