"""Layers that rearrange: the order of the numbers, and what they refuse."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn import Flatten, LayerError


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5), (2,), (0, 3, 4), (2, 0, 4)])
def test_it_is_numpys_reshape_and_back(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    y, cache = Flatten().forward({}, x, None)
    np.testing.assert_array_equal(y, x.reshape(shape[0], int(np.prod(shape[1:]))))
    grads, dx = Flatten().backward({}, cache, y)
    assert grads == {}
    np.testing.assert_array_equal(dx, x)


def test_the_cache_takes_no_memory():
    assert Flatten().forward({}, jnp.ones((5, 8, 8)), None)[1].nbytes == 0


def test_a_single_number_is_refused():
    with pytest.raises(LayerError, match="its first axis must hold the examples"):
        Flatten().forward({}, jnp.float32(1), None)


X = jnp.arange(24.0).reshape(2, 3, 4)


def passes(layer, x, dy=None):
    y, cache = layer.forward({}, x, jnn.Eval())
    return y, layer.pull({}, cache, y if dy is None else dy)


@pytest.mark.parametrize(
    "layer, want",
    [
        (jnn.Reshape((4, 3)), np.arange(24.0).reshape(2, 4, 3)),
        (jnn.Reshape((-1,)), np.arange(24.0).reshape(2, 12)),
        (jnn.Transpose((2, 1)), np.arange(24.0).reshape(2, 3, 4).transpose(0, 2, 1)),
        (
            jnn.Pad(((1, 0), (0, 2))),
            np.pad(np.arange(24.0).reshape(2, 3, 4), ((0, 0), (1, 0), (0, 2))),
        ),
        (jnn.Identity(), np.arange(24.0).reshape(2, 3, 4)),
    ],
)
def test_what_is_rearranged_goes_back_to_its_place(layer, want):
    y, dx = passes(layer, X)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(dx, X)


def test_the_identity_takes_trees_and_integers():
    x = X, jnp.arange(3)
    y, cache = jnn.Identity().forward({}, x, jnn.Eval())
    assert y == x
    dx = jnn.Identity().pull({}, cache, (X, None))
    assert dx[1] is None and dx[0] is X
    for dy in ((X[:1], None), (None, None), X):
        with pytest.raises(LayerError, match="dy is not like the output"):
            jnn.Identity().pull({}, cache, dy)


def test_the_last_position_is_the_last_real_one_wherever_padding_is():
    mask = jnp.array([[False, True, False], [True, True, True]])
    y, (dx, none) = passes(jnn.Last(), (X.at[0, 2].set(jnp.nan), mask))
    np.testing.assert_array_equal(y, [X[0, 1], X[1, 2]])
    np.testing.assert_array_equal(dx, jnp.zeros_like(X).at[0, 1].set(y[0]).at[1, 2].set(y[1]))
    assert none is None
    y, dx = passes(jnn.Last(), X)
    np.testing.assert_array_equal(y, X[:, 2])


def test_of_a_sequence_without_a_real_position_there_is_nothing():
    y, (dx, _) = passes(jnn.Last(), (X, jnp.zeros((2, 3), bool)), jnp.ones((2, 4)))
    assert not y.any() and not dx.any()


@pytest.mark.parametrize(
    "make, x, message",
    [
        (lambda: jnn.Reshape(3), X, "shape is 3; it must be a tuple of positive integers"),
        (lambda: jnn.Reshape((-1, -1)), X, "one may be -1"),
        (lambda: jnn.Reshape((0, 3)), X, "shape is (0, 3); it must be a tuple of positive"),
        (lambda: jnn.Reshape((5, -1)), X, "its examples must have the numbers of (5, -1)"),
        (lambda: jnn.Transpose((0, 1)), X, "axes is (0, 1); it must be (1, 2, ...) in some order"),
        (lambda: jnn.Transpose((1, 2, 3)), X, "it must have 3 axes after the first"),
        (lambda: jnn.Pad(((1, -1),)), X, "it must be a tuple of pairs (before, after)"),
        (lambda: jnn.Pad(((1, 1),)), X, "it must have 1 axes after the first"),
        (lambda: jnn.Pad(((1, 1),), "0"), X, "value is '0'; it must be a number"),
        (lambda: jnn.Last(), X[:, :0], "it must be (n, t, ...), with a position or more"),
        (lambda: jnn.Last(), (X, X), "it must be booleans (2, 3), True where x is real"),
        (lambda: jnn.Last(), (X, None), "mask is a NoneType; it must be booleans (2, 3)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, x, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        make().forward({}, x, jnn.Eval())
