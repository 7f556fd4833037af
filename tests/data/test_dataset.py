"""Examples are held out at random, each once."""

import numpy as np
import pytest

from jnn.data import split

X, Y = np.arange(20.0, dtype=np.float32).reshape(10, 2), np.arange(10, dtype=np.int32)


def test_every_example_is_in_one_part_with_its_label():
    train, validation = split((X, Y), 0.3)
    assert (len(train.x), len(validation.x)) == (7, 3)
    for x, y in (train, validation):
        np.testing.assert_array_equal(x, X[y])
    assert sorted([*train.y, *validation.y]) == list(range(10))


def test_one_seed_gives_one_split_and_another_another():
    first, same, other = (split((X, Y), 0.5, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.y, same.y)
    assert (first.y != other.y).any()


@pytest.mark.parametrize(
    "data, share", [((X, Y), 0), ((X, Y), 1), ((X, Y), 0.01), ((X, Y[1:]), 0.5)]
)
def test_parts_that_would_be_empty_are_refused(data, share):
    with pytest.raises(ValueError, match="neither part is empty"):
        split(data, share)
