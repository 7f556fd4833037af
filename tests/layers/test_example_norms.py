import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.layer import LayerError


def begun(layer, x):
    return layer.init(jax.random.key(0), x)[0]


NORMS = [jnn.LayerNorm(), jnn.RMSNorm(), jnn.GroupNorm(2)]
over_norms = pytest.mark.parametrize("layer", NORMS, ids=repr)


def forward(layer, x):
    return layer.forward(begun(layer, x), x, jnn.Eval())[0]


def test_layer_norm_is_its_formula(x64):
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 7))
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    assert_agree(forward(jnn.LayerNorm(), x), jnp.asarray(want), 1e-14)


def test_rms_norm_is_its_formula(x64):
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 7))
    want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1)
    assert_agree(forward(jnn.RMSNorm(eps=0.1), x), jnp.asarray(want), 1e-14)


def test_group_norm_takes_neighbouring_channels_over_all_positions(x64):
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 6))
    y = np.asarray(forward(jnn.GroupNorm(3, eps=1e-12), x))
    for i in range(2):
        for g in range(3):
            part = x[i, :, :, 2 * g : 2 * g + 2]
            want = (part - part.mean()) / part.std()
            np.testing.assert_allclose(y[i, :, :, 2 * g : 2 * g + 2], want, rtol=1e-10)


def test_one_group_over_vectors_is_layer_norm(x64):
    x = np.random.default_rng(0).normal(size=(4, 6))
    assert_agree(forward(jnn.GroupNorm(1), x), forward(jnn.LayerNorm(), x), 1e-15)


@over_norms
def test_no_example_moves_another(layer, x64):
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    assert_agree(forward(layer, x)[1:2], forward(layer, x[1:2]), 1e-15)


@pytest.mark.parametrize("layer", [jnn.LayerNorm(), jnn.GroupNorm(2)], ids=repr)
def test_an_offset_that_dwarfs_the_spread_costs_no_digits(layer):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 64)), jnp.float32)
    far = x + 1e4
    # Adding the offset rounds x itself; what is left of it is the truth to compare with.
    assert_agree(forward(layer, far), forward(layer, far - 1e4))


@over_norms
def test_an_all_zero_example_has_finite_gradients(layer):
    x = jnp.zeros((2, 3, 4))
    params = begun(layer, x)
    y, cache = layer.forward(params, x, jnn.Eval())
    grads, dx = layer.backward(params, cache, jnp.ones_like(y))
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, grads, dx)))


def test_the_cache_is_x_and_two_numbers_for_each_position():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    layer = jnn.LayerNorm()
    _, cache = layer.forward(begun(layer, x), x, jnn.Eval())
    assert {name: (v.shape, str(v.dtype)) for name, v in cache.items()} == {
        "x": ((2, 3, 4), "bfloat16"),
        "mean": ((2, 3, 1), "float32"),
        "rstd": ((2, 3, 1), "float32"),
    }


@pytest.mark.parametrize("eps", [0, -1.0, "small", True, float("nan"), float("inf")])
def test_an_eps_that_is_not_positive_is_refused(eps):
    with pytest.raises(LayerError, match=r"eps is .*; it must be a positive finite number"):
        jnn.LayerNorm(eps=eps)


@pytest.mark.parametrize("groups", [0, 1.5, True, None])
def test_groups_that_are_no_positive_integer_are_refused(groups):
    with pytest.raises(LayerError, match=r"groups is .*; it must be a positive integer"):
        jnn.GroupNorm(groups)


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (jnn.LayerNorm(), (), r"it must be (n, ..., c)"),
        (jnn.RMSNorm(), (3, 0), r"it must be (n, ..., c)"),
        (jnn.GroupNorm(2), (4,), "its channels a multiple of groups=2"),
        (jnn.GroupNorm(4), (2, 6), "its channels a multiple of groups=4"),
    ],
)
def test_an_x_without_such_channels_is_refused(layer, shape, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        begun(layer, jnp.ones(shape))


@over_norms
def test_parameters_of_other_inputs_are_refused(layer):
    params = begun(layer, jnp.ones((2, 4)))
    with pytest.raises(LayerError, match=r"scale is float32 \(4,\); .* shape \(6,\)"):
        layer.forward(params, jnp.ones((2, 6)), jnn.Eval())
    with pytest.raises(LayerError, match="it must hold"):
        layer.forward({}, jnp.ones((2, 4)), jnn.Eval())
    with pytest.raises(LayerError, match=r"their dtypes must be equal: cast one"):
        layer.forward(params, jnp.ones((2, 4), jnp.bfloat16), jnn.Eval())
