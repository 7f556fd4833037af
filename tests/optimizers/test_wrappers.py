"""Chains, frozen parameters and averages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import follow

import jnn
from jnn.optimizers import (
    adam,
    apply_updates,
    average,
    chain,
    clip_norm,
    decay,
    freeze,
    max_norm,
    momentum,
    sgd,
)


def test_a_chain_hands_on_the_updates_in_order(x64):
    got, state = follow(chain(clip_norm(0.5), decay(0.1, "*"), sgd(0.1)), steps=1)
    start, _ = follow(sgd(0.0), steps=1)
    plain, _ = follow(sgd(1.0), steps=1)
    grads = jax.tree.map(jnp.subtract, start, plain)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    expected = jax.tree.map(lambda p, g: p - 0.1 * (g * 0.5 / norm + 0.1 * p), start, grads)
    chex.assert_trees_all_close(got, expected, rtol=1e-12)
    assert float(state[0].norm) == pytest.approx(norm, rel=1e-12)
    assert int(state[2].step) == 1


def test_chains_nest(x64):
    pieces = clip_norm(0.5), decay(0.1), momentum(0.1), max_norm(1.0)
    flat, _ = follow(chain(*pieces), steps=20)
    nested, state = follow(chain(pieces[0], chain(*pieces[1:3]), pieces[3]), steps=20)
    chex.assert_trees_all_equal(flat, nested)
    assert int(state[1][1].step) == 20


def test_a_chain_of_nothing_changes_nothing():
    grads = {"w": jnp.ones(2)}
    assert chain().update(grads, (), grads) == (grads, ())


def test_frozen_parameters_stay_and_hold_no_moments():
    params = {"a": {"w": jnp.array([-0.0, 2.0])}, "b": {"w": jnp.ones(2)}}
    optimizer = freeze(adam(0.1), "a.*")
    state = optimizer.init(params)
    assert state.mean["a"] == {"w": None}
    grads = {"a": {"w": jnp.full(2, np.nan)}, "b": {"w": jnp.ones(2)}}
    updates, state = optimizer.update(grads, state, params)
    moved = apply_updates(params, updates)
    assert moved["a"]["w"].tobytes() == params["a"]["w"].tobytes()  # -0 as well
    np.testing.assert_allclose(moved["b"]["w"], 0.9, rtol=1e-6)
    assert state.square["a"] == {"w": None}


def test_the_others_train_as_if_alone(x64):
    both, _ = follow(freeze(chain(clip_norm(0.5), adam(0.1)), "nest.*"))
    start, _ = follow(sgd(0.0))
    chex.assert_trees_all_equal(both["nest"], start["nest"])
    optimizer = chain(clip_norm(0.5), adam(0.1))
    params, grads = {"w": jnp.ones(2)}, {"w": jnp.array([3.0, 4.0])}
    alone, _ = optimizer.update(grads, optimizer.init(params), params)
    more, huge = params | {"b": jnp.ones(2)}, grads | {"b": jnp.full(2, 1e9)}
    frozen = freeze(optimizer, "b")
    together, state = frozen.update(huge, frozen.init(more), more)
    chex.assert_trees_all_equal(together["w"], alone["w"])
    assert float(state[0].norm) == 5  # the frozen do not count


@pytest.mark.parametrize("gradient", [jnn.backprop, jnn.autodiff])
def test_no_gradient_is_computed_for_frozen_parameters(gradient):
    net, loss = jnn.Serial(jnn.Dense(64), jnn.Tanh(), jnn.Dense(64)), jnn.SquaredError()
    x = jnp.ones((32, 64))
    params, _ = net.init(jax.random.key(0), x)

    def flops(optimizer):
        def step(params, state, x, y):
            (_, _), grads = gradient(net, loss)(params, x, y, jnn.Eval({}))
            updates, state = optimizer.update(grads, state, params)
            return apply_updates(params, updates), state

        lowered = jax.jit(step).lower(params, optimizer.init(params), x, x)
        return lowered.compile().cost_analysis()["flops"]

    product = 2 * 32 * 64 * 64
    free = flops(sgd(0.1))
    assert free > 5 * product  # two forward, two dw, one dx
    # Without the first layer's dw, its dy is for nobody either: neither product is left.
    assert flops(freeze(sgd(0.1), "dense1.*")) < free - 1.9 * product
    assert flops(freeze(sgd(0.1), "dense2.w")) < free - 0.9 * product


def test_freezing_all_or_by_a_function():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    for where, moving in (("*", []), (jnn.masks.weights, ["b"])):
        optimizer = freeze(momentum(1.0), where)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert [name for name in sorted(params) if (updates[name] != 0).all()] == moving


def test_a_pattern_that_freezes_nothing_is_refused():
    with pytest.raises(ValueError, match="fits none of the parameters"):
        freeze(sgd(0.1), "dense9.*").init({"w": jnp.ones(2)})


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_is_the_weighted_mean_of_all_that_was(x64, decay):
    optimizer, params = average(sgd(0.1), decay), {"w": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    chex.assert_trees_all_equal(state.average, params)
    seen = []
    for t in range(30):
        grads = {"w": jnp.array([np.cos(t), np.sin(3 * t)])}
        updates, state = optimizer.update(grads, state, params)
        params = apply_updates(params, updates)
        seen.append(np.asarray(params["w"]))
        weights = np.array([decay ** (t - s) for s in range(t + 1)])
        expected = weights @ np.array(seen) / weights.sum()
        np.testing.assert_allclose(state.average["w"], expected, rtol=1e-12)
    assert int(state.step) == int(state.inner.step) == 30


def test_the_average_changes_no_step(x64):
    plain, _ = follow(momentum(0.05))
    averaged, _ = follow(average(momentum(0.05)))
    chex.assert_trees_all_equal(plain, averaged)


def test_the_average_of_bfloat16_is_kept_in_float32():
    """In bfloat16 it would not move at all: 1 + 0.001 is 1."""
    optimizer, params = average(sgd(0.0), 0.999), {"w": jnp.ones(1, jnp.bfloat16)}
    state = optimizer.init(params)._replace(step=jnp.int32(10**6))
    state = state._replace(average={"w": jnp.full(1, 2.0)})
    _, state = optimizer.update(params, state, params)
    assert state.average["w"].item() == pytest.approx(1.999, rel=1e-6)


def test_parameters_and_average_never_alias():
    params = {"w": jnp.ones(3)}
    optimizer = average(sgd(0.1))
    for state in (optimizer.init(params), jax.jit(optimizer.init)(params)):
        buffers = [v["w"].unsafe_buffer_pointer() for v in (params, state.average)]
        assert buffers[0] != buffers[1]


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), None])
def test_a_bad_decay_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^decay is "):
        average(sgd(0.1), value)
