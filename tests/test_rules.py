"""Other rules of the backward pass, each in the limit where it is a known one; and attributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn import attribution, rules

X = np.random.default_rng(0).standard_normal((5, 4))
MLP = jnn.Serial(jnn.Dense(6), jnn.ReLU(), jnn.Dense(6), jnn.ReLU(), jnn.Dense(3))
CHOSEN = np.array([0, 2, 1, 1, 0])


@pytest.fixture
def mlp(x64):
    params, _ = MLP.init(jax.random.key(0), X)
    params = jax.tree.map(lambda p: p + 0.1, params)
    y, cache = MLP.forward(params, X, jnn.Eval())
    return params, y, cache


def test_feedback_by_the_weights_themselves_is_backpropagation(mlp):
    params, y, cache = mlp
    own = {path: rules.feedback(params[path]["w"]) for path in ("dense1", "dense2", "dense3")}
    assert_agree(jnn.backward(MLP, params, cache, y, pull=own), MLP.backward(params, cache, y), 0)
    aligned = rules.feedback_alignment(MLP, params, jax.random.key(1))
    grads, _ = jnn.backward(MLP, params, cache, y, pull=aligned)
    # The last layer's gradients need nothing of what comes back.
    assert_agree(grads["dense3"], MLP.backward(params, cache, y)[0]["dense3"], 1e-15)
    assert abs(grads["dense1"]["w"] - MLP.backward(params, cache, y)[0]["dense1"]["w"]).max() > 0.1


def test_direct_feedback_by_the_product_of_the_weights_is_that_of_a_linear_network(x64):
    net = jnn.Serial(jnn.Dense(6), jnn.Dense(5), jnn.Dense(3))
    params, _ = net.init(jax.random.key(0), X)
    y, cache = net.forward(params, X, jnn.Eval())
    w2, w3 = params["dense2"]["w"], params["dense3"]["w"]
    at_once = {
        "dense3": lambda layer, params, cache, _: y @ w3.T,
        "dense2": lambda layer, params, cache, _: y @ (w2 @ w3).T,
    }
    found, _ = jnn.backward(net, params, cache, y, pull=at_once)
    assert_agree(found, net.backward(params, cache, y)[0], 1e-12)
    drawn = rules.direct_feedback(net, params, jax.random.key(1), y)
    assert set(drawn) == {"dense2", "dense3"}
    assert jnn.backward(net, params, cache, y, pull=drawn)[0]["dense1"]["w"].shape == (4, 6)


def test_where_all_are_active_or_all_weights_alike_the_rules_are_backpropagation(mlp):
    params, _, _ = mlp
    positive = jax.tree.map(lambda p: jnp.full(p.shape, 0.5), params)
    x = abs(X)
    y, cache = MLP.forward(positive, x, jnn.Eval())
    _, dx = MLP.backward(positive, cache, y)
    for rule in (rules.guided, rules.deconvnet, rules.straight_through):
        assert_agree(jnn.backward(MLP, positive, cache, y, pull={jnn.ReLU: rule})[1], dx, 1e-15)
    found = jnn.backward(MLP, positive, cache, y, pull={jnn.Dense: rules.sign_symmetric})[1]
    assert_agree(found, dx, 1e-15)
    turned = jnn.backward(MLP, positive, cache, y, pull={"relu2": rules.reversed_by(3.0)})[1]
    assert_agree(turned, -3 * dx, 1e-14)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.5}, {"positive": True}], ids=str)
def test_relevance_is_conserved_without_biases(options, x64):
    net = jnn.Serial(
        jnn.Conv(3, bias=False),
        jnn.ReLU(),
        jnn.MaxPool(2),
        jnn.Flatten(),
        jnn.Dense(6, bias=False),
        jnn.ReLU(),
        jnn.Dense(3, bias=False),
    )
    x = np.random.default_rng(0).random((5, 6, 4, 2))
    params, state = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.2, params)  # that no ReLU is shut for all
    scores, _ = net.forward(params, x, jnn.Eval(state))
    found = attribution.relevance(net, params, state, x, CHOSEN, pull=rules.relevance(**options))
    wanted = scores[np.arange(5), CHOSEN]
    np.testing.assert_allclose(found.sum((1, 2, 3)), wanted, rtol=1e-10)


def test_relevance_without_biases_is_input_times_slope(mlp):
    params, _, _ = mlp
    params = jax.tree.map(lambda p: p if p.ndim > 1 else 0 * p, params)
    slope = attribution.saliency(MLP, params, {}, jnp.asarray(X), CHOSEN)
    found = attribution.relevance(MLP, params, {}, jnp.asarray(X), CHOSEN, pull=rules.relevance())
    assert_agree(found, X * slope, 1e-10)


def test_integrated_gradients_sum_to_the_difference(x64):
    net = jnn.Serial(jnn.Dense(6), jnn.Tanh(), jnn.Dense(3))
    params, state = net.init(jax.random.key(0), X)
    x = jnp.asarray(X)

    def score(x):
        return net.forward(params, x, jnn.Eval())[0][np.arange(5), CHOSEN]

    for baseline in (0.0, 0.3):
        found = attribution.integrated_gradients(
            net, params, state, x, CHOSEN, baseline=baseline, steps=24
        )
        expected = score(x) - score(jnp.full_like(x, baseline))
        np.testing.assert_allclose(found.sum(1), expected, rtol=0, atol=1e-9)


def test_smooth_gradient_without_noise_is_the_slope_and_cam_sees_where(mlp):
    params, _, _ = mlp
    x = jnp.asarray(X)
    slope = attribution.saliency(MLP, params, {}, x, CHOSEN)
    smooth = attribution.smooth_gradient(
        MLP, params, {}, x, CHOSEN, key=jax.random.key(0), deviation=0.0, samples=3
    )
    assert_agree(smooth, slope, 1e-14)
    net = jnn.Serial(jnn.Conv(1, 1, bias=False), jnn.GlobalAvgPool(), jnn.Dense(2, bias=False))
    params = {"conv1": {"w": jnp.ones((1, 1, 1, 1))}, "dense1": {"w": jnp.array([[2.0, -2.0]])}}
    spot = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2].set(1)
    seen = attribution.grad_cam(net, params, {}, spot, [0], layer="conv1")
    assert (seen[0] > 0).sum() == 1 and seen[0, 1, 2] > 0
    assert not attribution.grad_cam(net, params, {}, spot, [1], layer="conv1").any()
    with pytest.raises(ValueError, match="layer is 'conv9'"):
        attribution.grad_cam(net, params, {}, spot, [1], layer="conv9")
    with pytest.raises(ValueError, match="chosen is"):
        attribution.saliency(net, params, {}, spot, [1, 0])
