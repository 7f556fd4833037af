import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jnn.data import spiral


@given(st.integers(1, 20), st.integers(2, 6), st.floats(0, 10), st.integers(0, 2**63))
def test_shapes_and_radii(per_class, classes, noise, seed):
    data = spiral(per_class, classes, noise, seed)
    assert (data.name, data.classes) == ("spiral", classes)
    for x, y in (data.train, data.test):
        assert x.shape == (per_class * classes, 2) and x.dtype == np.float32
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, np.repeat(np.arange(classes), per_class))
        # Noise turns a point about the origin and leaves its radius alone.
        radii = np.tile(np.linspace(0, 1, per_class), classes)
        np.testing.assert_allclose(np.hypot(*x.T), radii, atol=1e-6)


def test_without_noise_it_is_the_formula():
    train, test = spiral(per_class=3, classes=2, noise=0)[1:3]
    points = [
        (r * np.sin(t), r * np.cos(t))
        for j in (0, 4)
        for r, t in ((0, j), (0.5, j + 2), (1, j + 4))
    ]
    np.testing.assert_allclose(train.x, points, atol=1e-7)
    np.testing.assert_array_equal(train.x, test.x)


def test_noise_has_the_stated_spread():
    x = spiral(per_class=20_000, classes=2, noise=0.2).train.x[:20_000]
    theta = np.linspace(0, 4, 20_000)
    angle = np.arctan2(x[1:, 0], x[1:, 1]) - theta[1:]
    error = (angle + np.pi) % (2 * np.pi) - np.pi
    assert abs(error.mean()) < 0.01 and abs(error.std() - 0.2) < 0.01


def shared(one: np.ndarray, other: np.ndarray) -> float:
    """The share of points that two draws have in common."""
    return float(np.mean(np.isclose(one, other).all(axis=1)))


def test_a_seed_gives_one_dataset():
    one, same, other = spiral(seed=1), spiral(seed=1), spiral(seed=2)
    np.testing.assert_array_equal(one.train.x, same.train.x)
    np.testing.assert_array_equal(one.test.x, same.test.x)
    # The three points at the origin do not depend on the noise.
    assert shared(one.train.x, other.train.x) < 0.05
    assert shared(one.test.x, other.test.x) < 0.05


def test_the_test_part_is_another_draw():
    data = spiral()
    assert shared(data.train.x, data.test.x) < 0.05


@pytest.mark.parametrize(
    "argument, value, needed",
    [
        ("per_class", 0, "at least 1"),
        ("per_class", -3, "at least 1"),
        ("classes", 1, "at least 2"),
        ("noise", -0.1, "finite and at least 0"),
        ("noise", float("nan"), "finite and at least 0"),
        ("noise", float("inf"), "finite and at least 0"),
    ],
)
def test_bad_arguments(argument, value, needed):
    message = re.escape(f"spiral: {argument} is {value}, but must be {needed}")
    with pytest.raises(ValueError, match=message):
        spiral(**{argument: value})
