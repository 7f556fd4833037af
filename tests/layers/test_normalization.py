"""BatchNorm: golden values, running moments, digits at large offsets, and what it refuses."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

from jnn import BatchNorm, Eval, LayerError, Serial, Train, as_function
from jnn.factors import grad, is_factor

PARAMS = {"scale": np.array([2, -1], np.float32), "shift": np.array([1, 0.5], np.float32)}
STATE = {
    "mean": np.array([1, 2], np.float32),
    "var": np.array([4, 9], np.float32),
    "steps": np.int32(3),
}
X = np.array([[1, 30], [3, 10]], np.float32)
DY = np.array([[1, 0], [2, 4]], np.float32)
TRAIN = Train(None)  # it draws nothing
ULP = 2.0**-23  # of float32, at 1


@partial(jax.jit, static_argnums=0)
def passes(layer, mode, params, x, dy):
    y, cache = layer.forward(params, x, mode)
    return y, *layer.backward(params, cache, dy)


@partial(jax.jit, static_argnums=0)
def by_autodiff(forward, params, x, dy):
    y, vjp = jax.vjp(forward, params, x)
    return y, *vjp(dy)


def textbook(params, x):
    """Mean and variance as they are written down."""
    axes = tuple(range(x.ndim - 1))
    xhat = (x - x.mean(axes)) / jnp.sqrt(jnp.square(x - x.mean(axes)).mean(axes) + 1e-5)
    return params["scale"] * xhat + params["shift"]


def numbers(offset, n=256, c=8):
    """(params, x, dy) of float32."""
    random = np.random.default_rng(0)
    params = {name: random.standard_normal(c, np.float32) for name in ("scale", "shift")}
    x, dy = (random.standard_normal((n, c), np.float32) for _ in range(2))
    return params, x + np.float32(offset), dy


def test_training_is_the_formula_of_the_paper(x64):
    params, x, dy = jax.tree.map(np.float64, numbers(1))
    got = passes(BatchNorm(), TRAIN, params, x, dy)
    assert_agree(got, by_autodiff(textbook, params, x, dy), 1e-13)


def test_evaluation_takes_the_running_moments():
    layer = BatchNorm(eps=1e-12)
    y, grads, dx = passes(layer, Eval(STATE), PARAMS, X, DY)
    xhat = (X - STATE["mean"]) / np.array([2, 3], np.float32)
    np.testing.assert_allclose(y, PARAMS["scale"] * xhat + PARAMS["shift"], rtol=4 * ULP)
    np.testing.assert_allclose(grads["scale"], (DY * xhat).sum(0), rtol=4 * ULP)
    np.testing.assert_allclose(grads["shift"], DY.sum(0), rtol=4 * ULP)
    np.testing.assert_allclose(dx, DY * PARAMS["scale"] / [2, 3], rtol=4 * ULP)


@pytest.mark.parametrize("mode", [TRAIN, Eval(STATE)], ids=["train", "eval"])
def test_channels_of_images_are_features_of_all_their_positions(mode):
    _, x, dy = numbers(1, 12, 2)
    flat = passes(BatchNorm(), mode, PARAMS, x, dy)
    y, grads, dx = passes(BatchNorm(), mode, PARAMS, *(v.reshape(2, 2, 3, 2) for v in (x, dy)))
    assert_agree((y.reshape(12, 2), grads, dx.reshape(12, 2)), flat, 4 * ULP)


def forward(params, x):
    return BatchNorm().forward(params, x, TRAIN)[0]


@pytest.mark.parametrize("n", [256, 8000])
@pytest.mark.parametrize("offset", [0, 100, 3000])
def test_a_large_offset_costs_no_digits(offset, n, x64):
    given = numbers(offset, n)
    exact = by_autodiff(textbook, *jax.tree.map(np.float64, given))
    hand = passes(BatchNorm(), TRAIN, *given)
    auto = by_autodiff(forward, *given)
    for h, a, e in zip(*map(jax.tree.leaves, (hand, auto, exact)), strict=True):
        assert h.dtype == np.float32
        error, other = (np.abs(np.float64(v) - e).max() for v in (h, a))
        # The textbook's formula in float32 is off by 1000 ulps and more at an offset of 3000.
        assert error <= other + 10 * ULP * np.abs(e).max()
        assert error <= 10 * ULP * np.abs(e).max()


def test_a_first_example_that_is_an_outlier_costs_few_digits(x64):
    params, x, dy = numbers(0)
    x[0] = 1e4
    exact = by_autodiff(textbook, *jax.tree.map(np.float64, (params, x, dy)))
    got = passes(BatchNorm(), TRAIN, params, x, dy)
    # Numbers of 1e4 are rounded to 1e4 ulps of 1, and the spread is 1e4 / sqrt(n).
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        assert np.abs(np.float64(g) - e).max() <= 10 * ULP * np.sqrt(len(x)) * np.abs(e).max()


@pytest.mark.parametrize("value", [0.0, 3000.1])
def test_a_constant_channel_is_its_shift(value):
    x = np.full((7, 2), value, np.float32)
    y, grads, dx = passes(BatchNorm(), TRAIN, PARAMS, x, np.ones_like(x))
    np.testing.assert_array_equal(y, np.broadcast_to(PARAMS["shift"], x.shape))
    np.testing.assert_array_equal(grads["scale"], [0, 0])
    # 1 - 7/7 may be rounded, and is then multiplied by scale rstd.
    np.testing.assert_allclose(dx, np.zeros_like(x), atol=2 * ULP / np.sqrt(1e-5))


def test_the_factors_sum_to_the_gradient(x64):
    params, x, dy = jax.tree.map(np.float64, numbers(1))
    layer = BatchNorm()
    _, cache = layer.forward(params, x.reshape(4, 64, 8), TRAIN)
    grads, dx = layer.backward(params, cache, dy.reshape(4, 64, 8))
    factors = layer.factors(params, cache, jnp.asarray(dy.reshape(4, 64, 8)))
    assert_agree(jax.tree.map(grad, factors, is_leaf=is_factor), grads, 1e-14)
    assert_agree(layer.pull(params, cache, dy.reshape(4, 64, 8)), dx)


@pytest.mark.parametrize("mode", [TRAIN, Eval(STATE)], ids=["train", "eval"])
def test_second_derivatives_see_through_the_cache(mode, x64):
    params, x, dy = jax.tree.map(np.float64, numbers(1, 5, 2))

    @jax.jit
    def hessians(x):
        by_rule, plain = as_function(BatchNorm()), lambda p, x, m: BatchNorm().forward(p, x, m)[0]
        return [
            jax.hessian(lambda x, f=f: (dy * f(params, x, mode) ** 2).sum())(x)
            for f in (by_rule, plain)
        ]

    assert_agree(*hessians(x), 1e-12)


# Running moments


@partial(jax.jit, static_argnums=0)
def observed(layer, state, batches):
    params, _ = layer.init(None, batches[0])
    for x in batches:
        state = layer.observe(state, layer.forward(params, x, TRAIN)[1])
    return state


def test_running_moments_begin_as_plain_averages_and_go_on_as_exponential_ones(x64):
    batches = np.random.default_rng(0).normal(5, 2, (6, 3, 4))
    layer = BatchNorm(momentum=0.7)
    _, state = layer.init(None, batches[0])
    np.testing.assert_array_equal(state["mean"], np.zeros(4))
    np.testing.assert_array_equal(state["var"], np.ones(4))
    mean, var = batches[0].mean(0), batches[0].var(0, ddof=1)
    for weight, batch in zip((1 / 2, 1 / 3, 0.3, 0.3, 0.3), batches[1:], strict=True):
        mean = (1 - weight) * mean + weight * batch.mean(0)
        var = (1 - weight) * var + weight * batch.var(0, ddof=1)
    got = observed(layer, state, batches)
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-13)
    np.testing.assert_allclose(got["var"], var, rtol=1e-13)
    assert got["steps"] == 6


def test_the_running_variance_is_that_of_the_population_however_small_the_batches():
    # The average of biased ones would come to half of it.
    batches = np.random.default_rng(0).standard_normal((9, 2, 2000), np.float32)
    layer = BatchNorm()
    var = observed(layer, layer.init(None, batches[0])[1], batches)["var"]
    # 18000 numbers in 9 pairs: the mean of 18000 squares with one degree of freedom.
    assert abs(var.mean() - 1) < 5 * np.sqrt(2 / 18000)


def test_observing_an_evaluation_changes_nothing():
    _, cache = BatchNorm().forward(PARAMS, X, Eval(STATE))
    assert_agree(BatchNorm().observe(jax.device_put(STATE), cache), jax.device_put(STATE))


def test_the_count_of_steps_saturates():
    state = STATE | {"steps": np.int32(2**31 - 1)}
    _, cache = BatchNorm().forward(PARAMS, X, TRAIN)
    after = BatchNorm().observe(jax.device_put(state), cache)
    assert after["steps"] == 2**31 - 1
    np.testing.assert_allclose(after["mean"], 0.9 * STATE["mean"] + 0.1 * X.mean(0), rtol=4 * ULP)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_running_moments_are_of_float32_at_least(dtype, x64):
    x = np.random.default_rng(0).normal(300, 1, (512, 2)).astype(dtype)
    params, state = BatchNorm().init(None, x)
    y, _ = jax.eval_shape(partial(BatchNorm().forward, mode=TRAIN), params, x)
    state = observed(BatchNorm(), state, x[None])
    wide = np.float64 if dtype == "float64" else np.float32
    assert y.dtype == params["scale"].dtype == dtype
    assert state["mean"].dtype == state["var"].dtype == wide
    np.testing.assert_allclose(state["mean"], x.astype(np.float64).mean(0), rtol=4 * ULP)
    np.testing.assert_allclose(state["var"], x.astype(np.float64).var(0, ddof=1), rtol=1e-5)


# Batches of one


@pytest.mark.parametrize("shape", [(1, 2), (1, 1, 1, 2)])
def test_one_value_a_channel_is_refused_in_training_and_evaluated_all_the_same(shape):
    x = X[:1].reshape(shape)
    message = f"x is float32 {shape}, one value a channel"
    with pytest.raises(LayerError, match=re.escape(message) + ".*at least 2 examples"):
        jax.eval_shape(partial(BatchNorm().forward, mode=TRAIN), PARAMS, x)
    y, _ = BatchNorm().forward(PARAMS, x, Eval(STATE))
    whole, _ = BatchNorm().forward(PARAMS, X, Eval(STATE))
    np.testing.assert_array_equal(y.reshape(1, 2), whole[:1])


def test_one_example_of_many_positions_is_enough():
    y, _ = BatchNorm().forward(PARAMS, X[None], TRAIN)
    np.testing.assert_array_equal(y[0], BatchNorm().forward(PARAMS, X, TRAIN)[0])


# What it refuses


@pytest.mark.parametrize("momentum", [-0.1, 1, 1.5, float("nan"), "0.9", None, True])
def test_a_bad_momentum_is_refused(momentum):
    with pytest.raises(LayerError, match=r"momentum is .*; it must be a number in \[0, 1\)"):
        BatchNorm(momentum)


@pytest.mark.parametrize("eps", [0, -1e-5, float("inf"), float("nan"), "1e-5", None])
def test_a_bad_eps_is_refused(eps):
    with pytest.raises(LayerError, match=r"eps is .*; it must be a positive finite number"):
        BatchNorm(eps=eps)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5)])
def test_numpy_numbers_are_plain_ones(number):
    layer = BatchNorm(number, number)
    assert repr(layer) == "BatchNorm(momentum=0.5, eps=0.5)"
    x = np.ones((2, 2), jnp.bfloat16)
    assert layer.forward(layer.init(None, x)[0], x, TRAIN)[0].dtype == jnp.bfloat16


NARROW = np.ones((4, 3), np.float32)
REFUSED = {
    "another width": (
        PARAMS,
        NARROW,
        TRAIN,
        "x is float32 (4, 3) and scale is float32 (2,); it must have the dtype of x and shape (3,)",
    ),
    "another dtype": (PARAMS, X.astype(np.float16), TRAIN, "must have the dtype of x"),
    "no examples' axis": (PARAMS, X[0], TRAIN, "x is float32 (2,); it must be (n, ..., c)"),
    "params of another layer": ({"w": X}, X, TRAIN, "params is a dict of ['w']; it must hold"),
    "no running moments": (PARAMS, X, Eval(), "the state of mode is a tuple; it must hold"),
    "no mode": (PARAMS, X, None, "the state of mode is a NoneType; it must hold"),
    "moments of another layer": (
        PARAMS,
        X,
        Eval(STATE | {"var": np.ones(1, np.float32)}),
        "the running var float32 (1,); it must be (2,)",
    ),
}


@pytest.mark.parametrize("params, x, mode, message", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(params, x, mode, message):
    with pytest.raises(LayerError, match=re.escape("BatchNorm(): ") + ".*" + re.escape(message)):
        BatchNorm().forward(params, x, mode)


def test_evaluation_without_state_names_the_layer_in_a_network():
    net = Serial(("norm", BatchNorm()))
    with pytest.raises(LayerError, match=r"^norm = BatchNorm\(\): the state of mode is a dict"):
        net.forward({"norm": PARAMS}, X, Eval())
