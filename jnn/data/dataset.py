"""The two types every reader of this package returns."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Examples(NamedTuple):
    """Inputs and their labels, one row each.

    Shapes: x (n, ...), float32 unless its reader says otherwise, y int32 (n,) with classes counted
    from 0, or (n, ...) where every position has one. Both are numpy arrays in host memory. A
    tuple, so `x, y = examples` unpacks it and JAX sees a pytree.

    >>> x, y = Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 1], np.int32))
    >>> x.shape, y.shape
    ((3, 2), (3,))
    """

    x: NDArray[Any]
    y: NDArray[np.int32]


def split(data: tuple[Any, Any], share: float, seed: int = 0) -> tuple[Examples, Examples]:
    """The examples in two parts, the second a `share` of them drawn at random: what is learned
    from, and what is held out to choose by, so that test data stay unseen.

    Raises ValueError where `share` is not between 0 and 1, lengths differ, or a part is empty.

    >>> x, y = np.arange(10.0, dtype=np.float32)[:, None], np.arange(10, dtype=np.int32)
    >>> train, validation = split((x, y), 0.2)
    >>> len(train.x), len(validation.x), sorted([*train.y, *validation.y]) == [*range(10)]
    (8, 2, True)
    """
    x, y = map(np.asarray, data)
    n, held_out = len(x), round(share * len(x)) if 0 < share < 1 else 0
    if len(y) != n or not 0 < held_out < n:
        raise ValueError(
            f"split: share is {share!r} of {n} examples with {len(y)} labels; there must be as "
            "many of each, and share between 0 and 1, so that neither part is empty"
        )
    order = np.random.default_rng(seed).permutation(n)
    kept, held = order[held_out:], order[:held_out]
    return Examples(x[kept], y[kept]), Examples(x[held], y[held])


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
