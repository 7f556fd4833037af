"""Dense: golden values, fresh parameters, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn import Dense, Eval, LayerError
from jnn.initializers import he_normal, lecun_normal, zeros

PARAMS = {
    "w": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
    "b": np.array([10, 20, 30], np.float32),
}
X = np.array([[1, -1], [2, 0]], np.float32)
DY = np.array([[1, 0, -1], [2, 1, 0]], np.float32)


def test_it_is_the_lectures_affine_map():
    y, cache = Dense(3).forward(PARAMS, X, Eval())
    grads, dx = Dense(3).backward(PARAMS, cache, DY)
    np.testing.assert_array_equal(y, [[7, 17, 27], [12, 24, 36]])
    np.testing.assert_array_equal(grads["w"], [[5, 2, -1], [-1, 0, 1]])
    np.testing.assert_array_equal(grads["b"], [3, 1, -1])
    np.testing.assert_array_equal(dx, [[-2, -2], [4, 13]])


def test_the_gradients_are_sums_over_positions_too():
    _, cache = Dense(3).forward(PARAMS, X, Eval())
    flat, dx = Dense(3).backward(PARAMS, cache, DY)
    _, cache = Dense(3).forward(PARAMS, X[:, None], Eval())
    grads, dx_positions = Dense(3).backward(PARAMS, cache, DY[:, None])
    jax.tree.map(np.testing.assert_array_equal, grads, flat)
    np.testing.assert_array_equal(dx_positions, dx[:, None])


def test_without_bias_there_is_no_b():
    layer, params = Dense(3, bias=False), {"w": PARAMS["w"]}
    y, cache = layer.forward(params, X, Eval())
    np.testing.assert_array_equal(y, X @ PARAMS["w"])
    assert layer.backward(params, cache, DY)[0].keys() == {"w"}


@pytest.mark.parametrize("weight", [he_normal, lecun_normal, zeros])
def test_fresh_weights_come_from_the_initializer_and_biases_are_zero(weight):
    params, state = Dense(3, weight).init(jax.random.key(0), jnp.ones((7, 2)))
    want = weight(jax.random.key(0), (2, 3), jnp.float32)
    np.testing.assert_array_equal(params["w"], want)
    np.testing.assert_array_equal(params["b"], np.zeros(3, np.float32))
    assert state == {}


@pytest.mark.parametrize("features", [0, -1, 2.0, "3", None, True])
def test_bad_features_are_refused(features):
    with pytest.raises(LayerError, match=r"features is .*; it must be a positive integer"):
        Dense(features)


REFUSED = {
    "wrong width": (
        PARAMS,
        np.ones((4, 3), np.float32),
        "x is float32 (4, 3) and w is float32 (2, 3)",
    ),
    "no axes": (PARAMS, np.float32(1), "x is float32 () and w is float32 (2, 3)"),
    "another dtype": (PARAMS, np.ones((4, 2), np.float16), "x.astype('float32')"),
    "a list": (PARAMS, [[1.0, 2.0]], "x is a list; it must be an array of floating-point numbers"),
    "no parameters": ({}, X, "params is a dict of []; it must hold ['b', 'w'], as init makes"),
    "params and state": ((PARAMS, {}), X, "init returns (params, state): unpack it"),
    "weights of another layer": (
        {"w": np.ones((2, 4), np.float32), "b": np.ones(4, np.float32)},
        X,
        "w is float32 (2, 4); it must be (in, 3), as init makes",
    ),
    "bias of another layer": (
        {"w": PARAMS["w"], "b": np.ones((1,), np.float32)},
        X,
        "b is float32 (1,)",
    ),
}


@pytest.mark.parametrize("params, x, message", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(params, x, message):
    with pytest.raises(LayerError, match=re.escape("Dense(3): ") + ".*" + re.escape(message)):
        Dense(3).forward(params, x, Eval())


def test_an_input_without_axes_is_refused_by_init():
    with pytest.raises(LayerError, match="with inputs in its last axis"):
        Dense(3).init(jax.random.key(0), jnp.float32(1))
