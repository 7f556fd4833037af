"""Masks and tokens that layers hand on, which have no cotangent, through every way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

X = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
MASK = np.arange(5) < np.array([[5], [3], [1]])
IDS = np.array([[0, 1], [3, 4]])
BESIDE = jnn.Parallel(jnn.Dense(4), jnn.Identity())
SCALED = jnn.lift(lambda key, x: {}, lambda p, x: (x[0] * 2, x[1]))
TABLE = jnn.lift(lambda key, x: {"w": jnp.ones((7, 4))}, lambda p, x: p["w"][x])
NETS = {
    "mixed precision": (jnn.Serial(jnn.MixedPrecision(BESIDE), jnn.Attention(2)), (X, MASK)),
    "a lifted function": (jnn.Serial(SCALED, jnn.Attention(2)), (X, MASK)),
    "lifted tokens": (
        jnn.Serial(jnn.lift(lambda key, x: {}, lambda p, x: x), jnn.Embedding(7, 4)),
        IDS,
    ),
    "lifted tables": (jnn.Branch(TABLE, TABLE, join=jnn.Sum()), IDS),
    "a lifted table in mixed precision": (jnn.MixedPrecision(TABLE), IDS),
    "a loop": (
        jnn.Serial(
            jnn.Repeat(
                jnn.Branch(jnn.Residual(jnn.Attention(2), projection=jnn.Item(0)), jnn.Item(1)), 2
            ),
            jnn.Item(0),
        ),
        (X, MASK),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_what_has_no_cotangent_has_none_all_the_way(name):
    net, x = NETS[name]
    params, state = net.init(jax.random.key(0), x)
    y, cache = net.forward(params, x, jnn.Eval(state))
    grads, dx = net.backward(params, cache, jnp.ones_like(y))
    if not isinstance(x, tuple):
        assert dx is None
    else:
        assert dx[0].shape == X.shape and dx[1] is None
    f = jnn.as_function(net)
    by_grad = jax.grad(lambda p: f(p, x, jnn.Eval(state)).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grads, by_grad)


def test_such_a_network_is_watched_and_checked():
    net = jnn.Serial(BESIDE, jnn.Last(), jnn.Dense(3))
    y = np.arange(3)
    *_, record = jnn.run(
        net,
        jnn.SoftmaxCrossEntropy(),
        jnn.optimizers.adam(1e-3),
        ((X, MASK), y),
        key=jax.random.key(0),
        epochs=1,
        batch_size=3,
        watch=1,
    )
    assert [stats.path for stats in record.layers] == ["parallel1.dense1", "last1", "dense1"]
    params, state = net.init(jax.random.key(0), (X, MASK))
    loss, key = jnn.SoftmaxCrossEntropy(), jax.random.key(1)
    assert jnn.gradcheck.check_network(net, loss, params, (X, MASK), y, jnn.Eval(state), key=key)


def test_numbers_of_numpys_own_dtype_are_taken_where_x64_is_off():
    for layer in (jnn.Attention(2), jnn.LSTM(3), jnn.Repeat(jnn.Dense(4), 2)):
        params, state = layer.init(jax.random.key(0), X)
        y, _ = layer.forward(params, X.astype(np.float64), jnn.Eval(state))
        assert y.dtype == jnp.float32


def test_what_is_recomputed_draws_from_keys_of_either_kind_and_never_twice():
    net, x = jnn.Remat(jnn.Serial(jnn.Dropout(0.5), jnn.Dense(4))), jnp.asarray(X)
    params, _ = net.init(jax.random.key(0), x)

    @jax.jit
    def both(net_params, x, key):
        y, cache = net.forward(net_params, x, jnn.Train(key))
        return y, net.backward(net_params, cache, y)

    new, old = both(params, x, jax.random.key(7)), both(params, x, jax.random.PRNGKey(7))
    jax.tree.map(np.testing.assert_array_equal, new, old)
    mapped = jnn.Mapped(net)
    y, cache = mapped.forward(params, x, jnn.Eval())
    assert mapped.backward(params, cache, y)[1].shape == X.shape


def test_a_recurrence_runs_sharded():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, net = jax.sharding.PartitionSpec, jnn.LSTM(3)
    params, _ = net.init(jax.random.key(0), X)

    def passes(params, x):
        y, cache = net.forward(params, x, jnn.Eval())
        return net.backward(params, cache, y)[1]

    sharded = jax.shard_map(passes, mesh=mesh, in_specs=(spec(), spec("d")), out_specs=spec("d"))
    np.testing.assert_allclose(sharded(params, X), passes(params, X), rtol=1e-5)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: jnn.Attention(2, causal="no"), "causal is 'no'"),
        (lambda: jnn.Dense(3, bias="no"), "bias is 'no'"),
        (lambda: jnn.LayerNorm(shift=3), "shift is 3"),
        (lambda: jnn.PReLU(True), "slope is True"),
        (lambda: jnn.LeakyReLU(True), "slope is True"),
    ],
)
def test_a_switch_is_true_or_false_and_a_number_is_neither(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_place_is_shared_with_one_source():
    net = jnn.Serial(("a", jnn.Dense(4)), ("b", jnn.Dense(4)), ("c", jnn.Dense(4)))
    with pytest.raises(ValueError, match="overlap, or one is given twice"):
        jnn.Shared(net, [("b", "a"), ("b", "c")])
