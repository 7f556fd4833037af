import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.layer import LayerError

ONE, TWO = jnp.ones((2, 3)), jnp.ones((2, 4))


def test_a_product_has_its_gradient_where_factors_are_zero():
    x = tuple(jnp.array([v]) for v in (0.0, 0.0, 5.0))
    _, cache = jnn.Product().forward({}, x, jnn.Eval())
    dx = jnn.Product().pull({}, cache, jnp.array([1.0]))
    assert [v.tolist() for v in dx] == [[0], [0], [0]]
    _, cache = jnn.Product().forward({}, x[1:], jnn.Eval())
    assert [v.tolist() for v in jnn.Product().pull({}, cache, jnp.array([1.0]))] == [[5], [0]]


@pytest.mark.parametrize("axis", [1, 2, -2, -1])
def test_concatenation_goes_along_any_axis_but_the_first(axis):
    x = tuple(jnp.asarray(np.random.default_rng(i).normal(size=(2, 3, 4))) for i in range(3))
    y, cache = jnn.Concatenate(axis).forward({}, x, jnn.Eval())
    np.testing.assert_array_equal(y, np.concatenate(x, axis))
    for got, want in zip(jnn.Concatenate(axis).pull({}, cache, y), x, strict=True):
        np.testing.assert_array_equal(got, want)


def test_low_precision_is_added_in_float32():
    x = tuple(jnp.full(1, v, jnp.bfloat16) for v in (256.0, 1.0, 1.0))
    assert jnn.Sum().forward({}, x, jnn.Eval())[0].tolist() == [258]


def test_a_residual_is_a_branch_with_the_identity():
    net = jnn.Branch(jnn.Identity(), jnn.Serial(jnn.Dense(3), jnn.Tanh()), join=jnn.Sum())
    params, state = net.init(jax.random.key(0), ONE)
    want, _ = jnn.Residual(jnn.Dense(3), jnn.Tanh()).forward(
        params["serial1"], ONE, jnn.Eval(state)
    )
    np.testing.assert_array_equal(net.forward(params, ONE, jnn.Eval(state))[0], want)


@pytest.mark.parametrize(
    "make, x, message",
    [
        (jnn.Sum, ONE, "it must be a tuple of arrays, one or more"),
        (jnn.Product, (), "x is a tuple; it must be a tuple of arrays, one or more"),
        (jnn.Sum, (ONE, TWO), "float32 (2, 3), float32 (2, 4); its arrays must be alike"),
        (jnn.Sum, (ONE, ONE.astype(int)), "it must hold floating-point numbers"),
        (jnn.Concatenate, (ONE, TWO.astype("float16")), "its arrays must have one dtype"),
        (jnn.Concatenate, (ONE, TWO[:1]), "its arrays must be alike but for axis -1"),
        (lambda: jnn.Concatenate(0), (ONE,), "an axis 0, other than that of the examples"),
        (lambda: jnn.Concatenate(2), (ONE,), "an axis 2, other than that of the examples"),
        (lambda: jnn.Concatenate(1.0), (ONE,), "axis is 1.0; it must be an integer"),
    ],
)
def test_what_makes_no_sense_is_refused(make, x, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        make().forward({}, x, jnn.Eval())
