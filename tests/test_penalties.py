"""Penalties: formulas, whom they spare, both gradients with them, and what they refuse."""

import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from toys import Centre

import jnn
from jnn import L1, L2, ElasticNet, Train
from jnn.gradients import autodiff, backprop
from jnn.penalties import OnChosen, Penalty, Sum

W = np.array([[3.0, 0.0], [-4.0, 0.5]])
# Stacked biases and scales have rank 2, and are spared all the same.
PARAMS = {
    "dense1": {"w": W, "b": np.array([5.0, 6.0])},
    "stack": {"norm1": {"scale": np.ones((3, 2))}, "dense1": {"w": 2 * W[None], "b": W}},
}
# penalty -> (cost, slope) of a number
FORMULAS = {
    L2(0.5): (lambda w: 0.5 / 2 * w**2, lambda w: 0.5 * w),
    L1(0.5): (lambda w: 0.5 * np.abs(w), lambda w: 0.5 * np.sign(w)),
    ElasticNet(0.25, 0.5): (
        lambda w: 0.25 * np.abs(w) + 0.5 / 2 * w**2,
        lambda w: 0.25 * np.sign(w) + 0.5 * w,
    ),
    L2(0.5) + L1(2): (lambda w: 0.25 * w**2 + 2 * np.abs(w), lambda w: 0.5 * w + 2 * np.sign(w)),
}
over_all = pytest.mark.parametrize("penalty", FORMULAS, ids=repr)


@over_all
def test_value_and_gradient_are_those_of_the_formula_on_weights_alone(penalty, x64):
    cost, slope = FORMULAS[penalty]
    value = penalty.value(PARAMS)
    assert value.shape == () and value.dtype == np.float64
    np.testing.assert_allclose(value, cost(W).sum() + cost(2 * W).sum(), rtol=1e-15)
    want = {
        "dense1": {"w": slope(W), "b": np.zeros(2)},
        "stack": {
            "norm1": {"scale": np.zeros((3, 2))},
            "dense1": {"w": slope(2 * W[None]), "b": np.zeros((2, 2))},
        },
    }
    assert_agree(penalty.grad(PARAMS), want, 1e-15)


@over_all
def test_the_gradient_is_that_of_the_value_at_the_kink_too(penalty, x64):
    assert_agree(penalty.grad(PARAMS), jax.jit(jax.grad(penalty.value))(PARAMS), 1e-15)


@over_all
def test_where_chooses_others_by_name(penalty, x64):
    if isinstance(penalty, Sum):
        return
    cost, slope = FORMULAS[penalty]
    rates = {"l1": 0.25, "l2": 0.5} if isinstance(penalty, ElasticNet) else {"rate": 0.5}
    on_biases = type(penalty)(**rates, where="*.b")
    b = PARAMS["dense1"]["b"]
    np.testing.assert_allclose(on_biases.value(PARAMS), cost(b).sum() + cost(W).sum(), rtol=1e-15)
    assert_agree(on_biases.grad(PARAMS)["dense1"], {"b": slope(b), "w": np.zeros((2, 2))}, 1e-15)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@over_all
def test_low_precision_is_summed_in_float32_and_rounded_once(penalty, dtype):
    # 70000 squares of 1 overflow float16 and stand still at 256 in bfloat16.
    params = {"w": jnp.ones((700, 100), dtype), "b": jnp.ones(100, dtype)}
    cost, slope = FORMULAS[penalty]
    value, grads = penalty.value(params), penalty.grad(params)
    assert value.dtype == np.float32 and not value.weak_type
    np.testing.assert_allclose(value, 70000 * cost(1.0), rtol=1e-6)
    np.testing.assert_array_equal(grads["w"], np.full((700, 100), slope(1.0)).astype(dtype))
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(dtype)}


def test_parameters_of_several_dtypes_cost_in_the_widest(x64):
    params = {"a": jnp.ones((1, 2), jnp.bfloat16), "c": jnp.ones((1, 3), jnp.float64)}
    assert L2(2).value(params).dtype == np.float64 and L2(2).value(params) == 5
    assert (L2(2, "a") + L1(1, "c")).value(params) == 5
    assert L2(2).grad(params)["a"].dtype == jnp.bfloat16


# Values


@over_all
def test_it_is_a_value(penalty):
    assert hash(penalty) == hash(eval(repr(penalty), vars(jnn) | {"Sum": Sum}))
    assert penalty in FORMULAS and penalty != L2(0.75)


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), jnp.float32(0.5)])
def test_rates_of_any_number_type_are_plain_numbers(rate):
    assert L2(rate) == L2(0.5) and hash(L1(rate)) == hash(L1(0.5))


def test_sums_add_up(x64):
    whole = L2(0.5) + L1(0.25) + L2(1, "stack.*")
    parts = L2(0.5), L1(0.25), L2(1, "stack.*")
    np.testing.assert_allclose(whole.value(PARAMS), sum(p.value(PARAMS) for p in parts))
    want = jax.tree.map(lambda *g: sum(g), *(p.grad(PARAMS) for p in parts))
    assert_agree(whole.grad(PARAMS), want, 1e-15)
    with pytest.raises(TypeError):
        L2(0.5) + 1


@pytest.mark.parametrize("penalty", [L2, L1, partial(ElasticNet, 0.1)])
def test_a_sweep_varies_the_rate_within_one_program(penalty):
    rates = np.array([0, 0.5, 2], np.float32)
    params = jax.tree.map(np.float32, PARAMS)
    values, grads = jax.vmap(lambda r: (penalty(r).value(params), penalty(r).grad(params)))(rates)
    for i, rate in enumerate(rates):
        at = penalty(rate)
        np.testing.assert_allclose(values[i], at.value(params), rtol=1e-6)
        assert_agree(jax.tree.map(lambda g, i=i: g[i], grads), at.grad(params), 1e-6)


# The two gradients


@dataclass(frozen=True)
class Cubic(OnChosen):
    where: jnn.masks.Where = jnn.masks.weights

    def cost(self, w):
        return jnp.abs(w) ** 3

    def slope(self, w):
        return 3 * w * jnp.abs(w)


def problem(dtype=np.float64):
    net = jnn.Serial(jnn.Dense(3), jnn.Tanh(), ("norm", jnn.BatchNorm()), Centre(), jnn.Dense(2))
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((4, 2)).astype(dtype) for _ in range(2))
    params, _ = jax.eval_shape(partial(net.init, x=x), jax.random.key(0))
    params = jax.tree.map(lambda p: random.standard_normal(p.shape).astype(dtype), params)
    return net, params, x, y


@pytest.mark.parametrize("penalty", [*FORMULAS, Cubic(), L2(1, "norm.scale")], ids=repr)
def test_both_gradients_include_the_penalty(penalty, x64):
    net, params, x, y = problem()

    @jax.jit
    def gradients(params):
        return [
            f(net, jnn.SquaredError(), *more)(params, x, y, Train(jax.random.key(0)))
            for f, more in ((backprop, ()), (backprop, (penalty,)), (autodiff, (penalty,)))
        ]

    ((value, _), grads), hand, auto = gradients(params)
    assert_agree(hand, auto, 1e-13)
    (got, _), got_grads = hand
    np.testing.assert_allclose(got, value + penalty.value(params), rtol=1e-14)
    want = jax.tree.map(jnp.add, grads, penalty.grad(params))
    assert_agree(got_grads, want, 1e-14)


def test_the_dtypes_are_those_without_a_penalty():
    net, params, x, y = problem(np.float16)
    for gradient in (backprop, autodiff):
        without, with_ = (
            jax.eval_shape(
                gradient(net, jnn.SquaredError(), penalty), params, x, y, Train(jax.random.key(0))
            )
            for penalty in (None, L2(0.1))
        )
        assert without == with_


# What they refuse


@pytest.mark.parametrize("make", [L2, L1, partial(ElasticNet, 0.1), lambda r: ElasticNet(r, 0.1)])
@pytest.mark.parametrize("rate", [-1e-4, float("nan"), float("inf"), np.float32(-1)])
def test_a_negative_or_infinite_rate_is_refused(make, rate):
    with pytest.raises(ValueError, match=r"(rate|l1|l2) is .*; it must be finite and not negative"):
        make(rate)


@pytest.mark.parametrize("rate", ["0.1", None, True, np.ones(2), jnp.ones(2)])
def test_a_rate_that_is_no_number_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate is .*; it must be a number"):
        L2(rate)


@pytest.mark.parametrize("call", [Penalty.value, Penalty.grad])
def test_a_penalty_on_nothing_is_refused(call):
    with pytest.raises(ValueError, match=r"'dense9\.\*', which fits none of the parameters"):
        getattr(L2(0.1, "dense9.*"), call.__name__)(PARAMS)
    message = re.escape("L2(0.1): where chooses none of the parameters ['b']")
    with pytest.raises(ValueError, match=message):
        getattr(L2(0.1), call.__name__)({"b": np.ones(3)})


@pytest.mark.parametrize("gradient", [backprop, autodiff])
@pytest.mark.parametrize("penalty", [0.1, L2, "l2"])
def test_what_is_no_penalty_is_refused(gradient, penalty):
    with pytest.raises(ValueError, match=r"penalty is .*; it must be a penalty such as jnn\.L2"):
        gradient(jnn.Serial(jnn.Dense(1)), jnn.SquaredError(), penalty)


def test_a_penalty_without_formulas_says_which_to_define():
    for f, name in ((Penalty().value, "value"), (Penalty().grad, "grad")):
        with pytest.raises(NotImplementedError, match=rf"Penalty must define {name}\(params\)"):
            f(PARAMS)
    with pytest.raises(NotImplementedError, match=r"OnChosen must define cost\(w\)"):
        OnChosen().cost(W)
    with pytest.raises(NotImplementedError, match=r"OnChosen must define slope\(w\)"):
        OnChosen().slope(W)


@pytest.mark.parametrize(
    "penalty, words", [(1e-4, "penalty is 0.0001"), (jnn.L2(1, "v*"), "fits none")]
)
def test_what_is_no_penalty_or_fits_nothing_is_refused_at_the_call_of_a_run(penalty, words):
    data = np.ones((8, 4), np.float32), np.zeros(8, np.int32)
    parts = jnn.Dense(3), jnn.SoftmaxCrossEntropy(), jnn.optimizers.sgd(0.1), data
    with pytest.raises(ValueError, match=words):
        jnn.run(*parts, key=jax.random.key(0), epochs=1, batch_size=4, penalty=penalty)
