"""Weighted sums of gradients are those of vmap(grad)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from test_readings import by_example

import jnn
from jnn import clipping

X = np.random.default_rng(0).integers(0, 7, (5, 6))
TIED = jnn.Shared(
    jnn.Serial(
        ("tokens", jnn.Embedding(7, 4)),
        jnn.Repeat(jnn.Residual(jnn.LayerNorm(), jnn.Attention(2, causal=True)), 2),
        ("scores", jnn.Unembed(7)),
    ),
    {"scores.w": "tokens.w"},
)


@pytest.fixture
def passed(x64):
    params, _ = TIED.init(jax.random.key(0), X)
    params = jax.tree.map(lambda p: p.astype(jnp.float64) + 0.1, params)
    y, cache = TIED.forward(params, X, jnn.Eval())
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape))
    return params, cache, dy, by_example(TIED, params, X, dy, jnn.Eval())


def norms(parts):
    return jnp.sqrt(sum((g.reshape(5, -1) ** 2).sum(1) for g in jax.tree.leaves(parts)))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [clipping.at_most, clipping.automatic])
def test_all_parameters_as_one(passed, rule):
    params, cache, dy, parts = passed
    limit = float(jnp.median(norms(parts)))
    found, _ = clipping.clipped(TIED, params, cache, dy, limit, rule=rule)
    c = rule(norms(parts), limit)
    assert_agree(found.norms["all"], norms(parts), 1e-12)
    assert_agree(found.grads, jax.tree.map(lambda g: jnp.tensordot(c, g, 1), parts), 1e-12)
    assert found.sensitivity == limit and (c < 1).sum() > 0


@pytest.mark.slow
def test_by_group_no_example_moves_the_sum_by_more_than_the_limit(passed):
    params, cache, dy, parts = passed

    def group(path):
        return path.split(".")[0]

    found, _ = clipping.clipped(TIED, params, cache, dy, 0.1, group=group)
    assert set(found.norms) == {"tokens", "repeat1"}
    each = {
        name: clipping.at_most(norms(parts[name]), 0.1 / 2**0.5) for name in ("tokens", "repeat1")
    }
    for name, c in each.items():
        exact = jax.tree.map(lambda g, c=c: jnp.tensordot(c, g, 1), parts[name])
        assert_agree(found.grads[name], exact, 1e-12)
    weighed = {
        name: jax.tree.map(lambda g, c=c: (g.T * c).T, parts[name]) for name, c in each.items()
    }
    assert norms(weighed).max() <= 0.1 * (1 + 1e-12)


def test_noise_is_as_large_as_asked_and_others_for_each_array():
    zeros = {"a": jnp.zeros(10_000), "b": jnp.zeros(10_000, jnp.bfloat16)}
    noise = clipping.noised(zeros, jax.random.key(0), 2.0)
    assert noise["b"].dtype == jnp.bfloat16
    for v in noise.values():
        assert abs(float(v.astype(jnp.float32).std()) - 2) < 0.1
    assert abs(float((noise["a"] * noise["b"].astype(jnp.float32)).mean())) < 0.2


@pytest.mark.parametrize("n", [2, 200])
def test_a_clipped_step_is_that_of_the_clipped_gradient(n, x64):
    net = jnn.Serial(jnn.Dense(6), jnn.Tanh(), jnn.LayerNorm(), jnn.Dense(3))
    x = np.random.default_rng(0).standard_normal((n, 4))
    params, _ = net.init(jax.random.key(0), x)
    y, cache = net.forward(params, x, jnn.Eval())
    grads, _ = net.backward(params, cache, y)
    size = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    for limit in (0.1, 1e6):
        moved, norm = clipping.descended(net, params, cache, y, rate=0.5, limit=limit)
        c = min(1.0, limit / float(size))
        assert_agree(norm, size, 1e-12)
        assert_agree(moved, jax.tree.map(lambda p, g, c=c: p - 0.5 * c * g, params, grads), 1e-12)


def test_a_limit_that_is_no_norm_is_refused():
    with pytest.raises(ValueError, match="limit is 0"):
        clipping.clipped(TIED, {}, {}, None, 0)


def test_a_norm_that_is_no_number_shows_and_what_cannot_be_clipped_is_refused():
    assert jnp.isnan(clipping.at_most(jnp.array([jnp.nan, 1.0]), 1.0)).tolist() == [True, False]
    net, x = jnn.Dense(3), jnp.ones((4, 2))
    params, _ = net.init(jax.random.key(0), x)
    y, cache = net.forward(params, x, jnn.Eval())
    for limit in (0, -1.0, "1", float("nan")):
        with pytest.raises(ValueError, match="limit is"):
            clipping.clipped(net, params, cache, y, limit)
        with pytest.raises(ValueError, match="limit is"):
            clipping.descended(net, params, cache, y, rate=0.1, limit=limit)
    with pytest.raises(ValueError, match=r"ReLU\(\) has no parameters"):
        y, cache = jnn.ReLU().forward({}, x, jnn.Eval())
        clipping.clipped(jnn.ReLU(), {}, cache, y, 1.0)
    with pytest.raises(ValueError, match=r"norms is \{\}"):
        jnn.factors.total({})
