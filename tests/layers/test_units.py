"""Maxout and PReLU: golden values, ties and kinks, and what they refuse."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

from jnn import Dense, Eval, LayerError, LeakyReLU, Maxout, PReLU, ReLU, Serial
from jnn.factors import Affine


def passes(layer, params, x, dy):
    y, cache = layer.forward(params, x, Eval())
    return y, *layer.backward(params, cache, dy)


def by_vjp(layer, params, x, dy):
    y, vjp = jax.vjp(lambda params, x: layer.forward(params, x, Eval())[0], params, x)
    return y, *vjp(dy)


def test_a_maxout_after_dense_is_the_lectures_formula(x64):
    random = np.random.default_rng(0)
    w1, w2, b1, b2 = (random.standard_normal(s) for s in ((3, 4), (3, 4), 4, 4))
    x = random.standard_normal((5, 3))
    net = Serial(Dense(8), Maxout())
    params = {"dense1": {"w": np.hstack([w1, w2]), "b": np.hstack([b1, b2])}}
    y, _ = net.forward(params, x, Eval())
    np.testing.assert_allclose(y, np.maximum(x @ w1 + b1, x @ w2 + b2), rtol=1e-13)


def test_a_maxout_with_a_piece_of_zeros_is_a_relu():
    x = np.linspace(-2, 2, 9, dtype=np.float32)[None]
    y, _ = Maxout().forward({}, np.concatenate([np.zeros_like(x), x], axis=-1), Eval())
    np.testing.assert_array_equal(y, ReLU().forward({}, x, Eval())[0])


def test_of_equal_pieces_the_first_wins_in_both_gradients():
    x = np.array([[1, 4, 4, 2, 4, 4]], np.float32)  # two outputs of three pieces each
    dy = np.array([[10, 20]], np.float32)
    got = passes(Maxout(3), {}, x, dy)
    np.testing.assert_array_equal(got[0], [[4, 4]])
    np.testing.assert_array_equal(got[2], [[0, 20, 10, 0, 0, 0]])
    assert_agree(got, by_vjp(Maxout(3), {}, x, dy))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_wins_wherever_it_is(place):
    x = np.array([[1, 2, 3]], np.float32)
    x[0, place] = np.nan
    y, (winner, _) = Maxout(3).forward({}, x, Eval())
    assert np.isnan(y).all() and winner == place


def test_minus_infinity_everywhere_is_kept():
    x = np.full((1, 4), -np.inf, np.float32)
    y, _, dx = passes(Maxout(), {}, x, np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(y, x[:, :2])
    np.testing.assert_array_equal(dx, [[1, 1, 0, 0]])


def test_a_maxout_keeps_one_byte_for_each_output():
    _, cache = Maxout(256).forward({}, jnp.arange(512.0)[None], Eval())
    assert sum(v.nbytes for v in jax.tree.leaves(cache)) == 2
    np.testing.assert_array_equal(cache[0], [[255, 255]])


@pytest.mark.parametrize("pieces", [0, 1, 257, 2.0, "2", None, True])
def test_bad_pieces_are_refused(pieces):
    with pytest.raises(LayerError, match=r"pieces is .*; it must be an integer from 2 to 256"):
        Maxout(pieces)


@pytest.mark.parametrize("shape", [(2, 5), ()])
def test_channels_that_do_not_divide_are_refused(shape):
    message = f"x is float32 {shape}; its last axis must be a multiple of pieces = 2"
    with pytest.raises(LayerError, match=re.escape(message)):
        Maxout().forward({}, jnp.ones(shape), Eval())


X = np.array([[-2, 3], [-4, -1]], np.float32)
DY = np.array([[10, 20], [30, 40]], np.float32)


def test_a_prelu_learns_a_slope_for_each_channel():
    params = {"slope": np.array([0.5, -2], np.float32)}
    y, grads, dx = passes(PReLU(), params, X, DY)
    np.testing.assert_array_equal(y, [[-1, 3], [-2, 2]])
    np.testing.assert_array_equal(dx, [[5, 20], [15, -80]])
    np.testing.assert_array_equal(grads["slope"], [-2 * 10 - 4 * 30, -1 * 40])


def test_a_shared_slope_gathers_all_channels():
    params = {"slope": np.array([0.5], np.float32)}
    y, grads, dx = passes(PReLU(shared=True), params, X, DY)
    np.testing.assert_array_equal(y, [[-1, 3], [-2, -0.5]])
    np.testing.assert_array_equal(dx, [[5, 20], [15, 20]])
    np.testing.assert_array_equal(grads["slope"], [-20 - 120 - 40])


@pytest.mark.parametrize("shared", [False, True])
def test_a_fresh_prelu_is_a_leaky_relu(shared):
    layer = PReLU(0.125, shared)
    params, _ = layer.init(jax.random.key(0), X)
    assert params["slope"].shape == ((1,) if shared else (2,))
    y, _ = layer.forward(params, X, Eval())
    np.testing.assert_array_equal(y, LeakyReLU(0.125).forward({}, X, Eval())[0])


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_at_the_kink_the_slope_is_the_learned_one_in_both_gradients(zero):
    params, x = {"slope": np.array([0.25], np.float32)}, np.full((1, 1), zero, np.float32)
    got = passes(PReLU(), params, x, np.ones_like(x))
    assert got[2] == 0.25 and got[1]["slope"] == 0
    assert_agree(got, by_vjp(PReLU(), params, x, np.ones_like(x)))


def test_nan_stays_nan():
    params = {"slope": np.array([0.25], np.float32)}
    y, grads, _ = passes(PReLU(), params, np.full((1, 1), np.nan, np.float32), np.ones((1, 1), "f"))
    assert np.isnan(y) and np.isnan(grads["slope"])


def test_a_prelu_states_its_factor_per_example():
    params = {"slope": np.array([0.5], np.float32)}
    for layer, shape in ((PReLU(), (2, 2)), (PReLU(shared=True), (2, 2, 1))):
        _, cache = layer.forward(params | {"slope": np.ones(shape[-1], "f")}, X, Eval())
        factor = layer.factors(params, cache, DY)["slope"]
        assert isinstance(factor, Affine) and factor.d.shape == shape


def test_a_prelu_of_low_precision_begins_in_it():
    params, _ = PReLU(np.float64(0.3)).init(jax.random.key(0), jnp.ones((1, 2), jnp.bfloat16))
    assert params["slope"].dtype == jnp.bfloat16 and not params["slope"].weak_type


@pytest.mark.parametrize("slope", [float("nan"), float("inf"), "0.1", None])
def test_a_bad_slope_is_refused(slope):
    with pytest.raises(LayerError, match=r"slope is .*; it must be a finite number"):
        PReLU(slope)


REFUSED = {
    "another width": ({"slope": np.ones(3, "f")}, X, "slope is float32 (3,); slope must be (c,)"),
    "another dtype": ({"slope": np.ones(2, "f")}, X.astype(np.float16), "of the dtype of x"),
    "no axes": ({"slope": np.ones(1, "f")}, np.float32(1), "x is float32 ()"),
    "no parameters": ({}, X, "params is a dict of []; it must hold ['slope'], as init makes"),
}


@pytest.mark.parametrize("params, x, message", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(params, x, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        PReLU().forward(params, x, Eval())
    with pytest.raises(LayerError, match="channels in its last axis"):
        PReLU().init(jax.random.key(0), jnp.float32(1))
