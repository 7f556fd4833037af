"""What combinators promise beyond the properties that the table of all layers shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from toys import Centre, Noise

import jnn
from jnn.layer import leaves

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32)
BLOCK = jnn.Serial(jnn.Dense(5), jnn.Tanh())
MLP = jnn.Serial(jnn.Dense(8), jnn.ReLU(), jnn.Dense(3))


def gradients(net, params, x, mode=None):
    y, cache = net.forward(params, x, jnn.Eval() if mode is None else mode)
    return y, *net.backward(params, cache, jnp.cos(y))


def test_repeat_is_serial_of_its_copies(x64):
    net, x = jnn.Repeat(BLOCK, 3), jnp.asarray(X, jnp.float64)
    params, _ = net.init(jax.random.key(0), x)
    copies = jnn.Serial(*[(f"copy{i}", BLOCK) for i in range(3)])
    apart = {f"copy{i}": jax.tree.map(lambda v, i=i: v[i], params) for i in range(3)}
    y, grads, dx = gradients(net, params, x)
    y_apart, grads_apart, dx_apart = gradients(copies, apart, x)
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *grads_apart.values())
    assert_agree((y, grads, dx), (y_apart, stacked, dx_apart), 1e-13)
    w = params["dense1"]["w"]
    assert not (w[0] == w[1]).any() and not (w[1] == w[2]).any()


def test_a_program_does_not_grow_with_depth():
    def program(n):
        net = jnn.Repeat(BLOCK, n)
        params, _ = jax.eval_shape(net.init, jax.random.key(0), X)
        return jax.jit(lambda p, x: gradients(net, p, x)).lower(params, X).as_text().count("\n")

    assert program(48) == program(4)


def test_repeat_refuses_what_changes_the_shape():
    with pytest.raises(jnn.LayerError, match="output"):
        jnn.Repeat(jnn.Dense(3), 2).init(jax.random.key(0), X)
    with pytest.raises(jnn.LayerError, match="n is 0; it must be a positive integer"):
        jnn.Repeat(BLOCK, 0)


def test_remat_in_a_loop_computes_a_second_time_and_keeps_less():
    block = jnn.Serial(*[layer for _ in range(4) for layer in (jnn.Dense(64), jnn.Tanh())])
    x = jnp.ones((64, 64))
    params, _ = jax.eval_shape(jnn.Repeat(block, 8).init, jax.random.key(0), x)

    def compiled(net):
        return jax.jit(lambda p, x: gradients(net, p, x)).lower(params, x).compile()

    def size(program):
        return program.memory_analysis().temp_size_in_bytes

    kept, dropped = (compiled(jnn.Repeat(layer, 8)) for layer in (block, jnn.Remat(block)))
    # The body of a loop is counted once.
    forward = 4 * 2 * 64**3
    assert dropped.cost_analysis()["flops"] >= kept.cost_analysis()["flops"] + forward
    assert size(dropped) <= 0.5 * size(kept)


def test_remat_changes_no_gradient():
    params, _ = MLP.init(jax.random.key(0), X)
    _, cache = jnn.Remat(MLP).forward(params, X, jnn.Eval())
    kept = [v.size for v in jax.tree.leaves(cache) if v.dtype == jnp.float32]
    assert sum(kept) == X.size
    both = (jax.tree.leaves(gradients(net, params, X)) for net in (jnn.Remat(MLP), MLP))
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda net: net, jnn.Remat, lambda net: jnn.Repeat(net, 2)])
def test_state_is_observed_through_them(wrap):
    net = wrap(jnn.Serial(Centre(), Noise()))
    params, state = net.init(jax.random.key(0), X)
    _, cache = net.forward(params, X, jnn.Train(jax.random.key(0)))
    seen = net.observe(state, cache)["centre1"]["mean"]
    np.testing.assert_allclose(seen.reshape(-1, 5)[0], 0.25 * X.mean(0), rtol=1e-6)


def test_gradients_of_shared_parameters_add():
    net = jnn.Serial(("first", jnn.Dense(5)), jnn.Tanh(), ("second", jnn.Dense(5)))
    tied = jnn.Shared(net, {"second": "first"})
    params, _ = tied.init(jax.random.key(0), X)
    assert set(params) == {"first"}
    both = {"first": params["first"], "second": params["first"]}
    y, grads, dx = gradients(tied, params, X)
    y_apart, apart, dx_apart = gradients(net, both, X)
    np.testing.assert_array_equal(y, y_apart)
    np.testing.assert_array_equal(dx, dx_apart)
    total = jax.tree.map(jnp.add, apart["first"], apart["second"])
    jax.tree.map(np.testing.assert_array_equal, grads["first"], total)


@pytest.mark.parametrize(
    ("places", "words"),
    [({"nowhere": "first"}, "nowhere"), ({"second": "first"}, "differ|alike|shape|belongs")],
)
def test_what_cannot_be_shared_is_refused(places, words):
    net = jnn.Shared(jnn.Serial(("first", jnn.Dense(4)), ("second", jnn.Dense(3))), places)
    with pytest.raises(jnn.LayerError, match=words):
        net.init(jax.random.key(0), X)


def test_a_residual_of_another_shape_asks_for_a_projection():
    with pytest.raises(jnn.LayerError, match="projection"):
        jnn.Residual(jnn.Dense(3)).init(jax.random.key(0), X)


def test_mapped_draws_for_every_slice():
    net, x = jnn.Mapped(Noise(), axis=1), jnp.ones((2, 3, 4))
    y, _ = net.forward({}, x, jnn.Train(jax.random.key(0)))
    assert not (y[:, 0] == y[:, 1]).any()
    with pytest.raises(jnn.LayerError, match="state"):
        jnn.Mapped(Centre()).init(jax.random.key(0), x)


def test_rewriting_keeps_names_and_leaves_the_network_alone():
    params, _ = MLP.init(jax.random.key(0), X)
    smooth = jnn.rewrite(MLP, {jnn.ReLU: jnn.GELU()})
    assert [path for path, _ in leaves(smooth)] == [path for path, _ in leaves(MLP)]
    assert dict(leaves(smooth))["relu1"] == jnn.GELU() and dict(leaves(MLP))["relu1"] == jnn.ReLU()
    y, _ = smooth.forward(params, X, jnn.Eval())
    expected = jax.nn.gelu(X @ params["dense1"]["w"], approximate=False) @ params["dense2"]["w"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    by_path = jnn.rewrite(MLP, {"dense2": jnn.Remat})
    assert by_path == jnn.rewrite(MLP, lambda p, leaf: jnn.Remat(leaf) if p == "dense2" else leaf)
    with pytest.raises(ValueError, match="lead nowhere"):
        jnn.rewrite(MLP, {"dense7": jnn.ReLU()})
    with pytest.raises(ValueError, match="it must be a layer, or a function"):
        jnn.rewrite(MLP, {jnn.ReLU: 3})
    with pytest.raises(ValueError, match=r"'a\.b' cannot name a layer"):
        jnn.Named("a.b", jnn.ReLU())


def test_frozen_batch_norm_uses_its_moments_in_training():
    net = jnn.Serial(jnn.Dense(5), jnn.BatchNorm())
    params, state = net.init(jax.random.key(0), X)
    frozen = jnn.rewrite(net, {jnn.BatchNorm: jnn.Frozen})
    y, cache = frozen.forward(params, X, jnn.Train(jax.random.key(0), state))
    np.testing.assert_array_equal(y, net.forward(params, X, jnn.Eval(state))[0])
    jax.tree.map(np.testing.assert_array_equal, frozen.observe(state, cache), state)


def test_another_rule_goes_backward():
    reverse = jnn.with_backward(jnn.Dense(3), pull=reversal)
    params, _ = reverse.init(jax.random.key(0), X)
    _, grads, dx = gradients(reverse, params, X)
    _, grads_plain, dx_plain = gradients(jnn.Dense(3), params, X)
    np.testing.assert_array_equal(dx, -dx_plain)
    jax.tree.map(np.testing.assert_array_equal, grads, grads_plain)
    assert not jnn.check_layer(reverse, X, regimes=["given"])


def reversal(layer, params, cache, dy):
    return -layer.pull(params, cache, dy)


def test_mixed_precision_casts_there_and_back():
    net = jnn.MixedPrecision(MLP)
    params, _ = net.init(jax.random.key(0), X)
    y, grads, dx = gradients(net, params, X)
    assert {v.dtype for v in jax.tree.leaves((y, grads, dx))} == {jnp.dtype("float32")}
    low, x = jax.tree.map(lambda v: v.astype(jnp.bfloat16), (params, X))
    np.testing.assert_array_equal(y, MLP.forward(low, x, jnn.Eval())[0].astype(jnp.float32))
    _, cache = net.forward(params, X, jnn.Eval())
    kept = {v.dtype for v in jax.tree.leaves(cache["cache"])}
    assert jnp.dtype("bfloat16") in kept and jnp.dtype("float32") not in kept
    with pytest.raises(jnn.LayerError, match="compute is 'int8'; it must be a dtype of floats"):
        jnn.MixedPrecision(MLP, compute="int8")


def test_a_network_prints_as_a_tree():
    net = jnn.Serial(jnn.Repeat(jnn.Residual(jnn.Dense(5)), 3), ("head", jnn.Dense(2)))
    assert str(net).splitlines() == [
        "Serial",
        "  repeat1  Repeat x 3 of Residual",
        "    dense1  Dense(5)",
        "  head     Dense(2)",
    ]
    assert eval(repr(net), vars(jnn)) == net


@pytest.mark.slow
def test_a_deep_network_trains():
    data = jnn.data.digits()
    blocks = jnn.Repeat(jnn.Remat(jnn.Residual(jnn.Dense(32), jnn.Tanh())), 4)
    net = jnn.Serial(jnn.Flatten(), jnn.Dense(32), blocks, jnn.Dense(10))
    loss = jnn.SoftmaxCrossEntropy()
    by = {
        gradient: jnn.fit(
            net,
            loss,
            jnn.optimizers.adam(1e-3),
            data.train,
            key=jax.random.key(0),
            epochs=1,
            batch_size=128,
            gradient=gradient,
        )
        for gradient in ("backprop", "autodiff")
    }
    a, b = (jax.tree.leaves(result.params) for result in by.values())
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)
