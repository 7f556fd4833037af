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


@pytest.mark.slow
def test_a_map_of_the_class_is_of_its_example_alone_in_loops_too(x64):
    net = jnn.Serial(
        jnn.Conv(3), jnn.Repeat(jnn.Serial(jnn.Conv(3), jnn.Tanh()), 2), jnn.GlobalAvgPool()
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 4, 2)))
    params, state = net.init(jax.random.key(0), x)
    for layer in ("conv1", "repeat1.tanh1"):
        found = attribution.grad_cam(net, params, state, x, [0, 2, 1], layer=layer)
        alone = attribution.grad_cam(net, params, state, x[1:2], [2], layer=layer)
        assert_agree(jnp.moveaxis(found, -3, 0)[1], jnp.moveaxis(alone, -3, 0)[0], 1e-12)

    def score(y):
        return net.layers[-1][1].forward({}, y, jnn.Eval())[0][np.arange(3), [0, 2, 1]].sum()

    y = jnn.Serial(*net.layers[:2]).forward(params, x, jnn.Eval())[0]
    a = jax.grad(score)(y).mean((1, 2), keepdims=True)
    assert_agree(found[-1], jnp.maximum((a * y).sum(-1), 0), 1e-12)


def test_feedback_goes_into_loops_sharing_and_low_precision():
    block = jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(4))
    for net in (
        jnn.Repeat(block, 3),
        jnn.Shared(block, {"dense2": "dense1"}),
        jnn.MixedPrecision(block),
    ):
        x = jnp.asarray(X, jnp.float32)
        params, _ = net.init(jax.random.key(0), x)
        y, cache = net.forward(params, x, jnn.Eval())
        pull = rules.feedback_alignment(net, params, jax.random.key(1))
        grads, dx = jnn.backward(net, params, cache, y, pull=pull)
        assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
        assert jnp.isfinite(dx).all()


def test_relevance_is_refused_where_it_would_not_be_conserved():
    x = jnp.asarray(X, jnp.float32)
    added = jnn.Serial(jnn.Residual(jnn.Dense(4)), jnn.Dense(3))
    normed = jnn.Serial(jnn.LayerNorm(), jnn.Dense(3))
    for net, message in (
        (added, "net has a Residual"),
        (normed, "layernorm1 = LayerNorm.*no rule"),
    ):
        params, _ = net.init(jax.random.key(0), x)
        with pytest.raises(ValueError, match=message):
            attribution.relevance(net, params, {}, x, CHOSEN, pull=rules.relevance())
    rule = {jnn.LayerNorm: rules.straight_through, **rules.relevance()}
    assert attribution.relevance(net, params, {}, x, CHOSEN, pull=rule).shape == x.shape


def test_what_cannot_be_asked_is_refused(mlp):
    params, y, cache = mlp
    x = jnp.asarray(X)
    for chosen, message in (([9, 0, 0, 0, 0], "chosen has 9"), ([0.5] * 5, "chosen is")):
        with pytest.raises(ValueError, match=message):
            attribution.saliency(MLP, params, {}, x, chosen)
    with pytest.raises(ValueError, match="x is a tuple"):
        attribution.integrated_gradients(MLP, params, {}, (x, x), CHOSEN)
    with pytest.raises(ValueError, match="steps is 0"):
        attribution.integrated_gradients(MLP, params, {}, x, CHOSEN, steps=0)
    with pytest.raises(ValueError, match="the network has no such leaf"):
        jnn.backward(MLP, params, cache, y, pull={jnn.GELU: rules.guided})
    with pytest.raises(ValueError, match="pull is <function guided"):
        jnn.backward(MLP, params, cache, y, pull=rules.guided)
