"""Optimizers follow their formulas to the last digits, in every dtype, without recompiling."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.optimizers import MomentumState, SGDState, apply_updates, momentum, sgd
from jnn.schedules import cosine

SHAPES = {"w": (3, 2), "nest": {"b": (2,), "s": ()}}
OPTIMIZERS = {"sgd": sgd, "momentum": momentum}


def tree(rng):
    return jax.tree.map(rng.standard_normal, SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def falling(step):
    return 0.1 / (1 + 0.05 * jnp.asarray(step, float))


def follow(optimizer, steps=200):
    """The parameters after steps whose gradients change and depend on the parameters."""
    rng = np.random.default_rng(0)
    params, target = (jax.tree.map(jnp.asarray, tree(rng)) for _ in range(2))

    def step(carry, noise):
        params, state = carry
        grads = jax.tree.map(lambda p, t: p - t + noise, params, target)
        updates, state = optimizer.update(grads, state, params)
        return (apply_updates(params, updates), state), None

    noises = jnp.asarray(np.random.default_rng(1).standard_normal(steps))
    (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, noises))(
        (params, optimizer.init(params))
    )
    return params, state


def formula(lr, mu, steps=200):
    """The lectures' update, leaf by leaf in plain numpy: v = mu v - lr dx, x = x + v."""
    rng = np.random.default_rng(0)
    params, target = (jax.tree.leaves(tree(rng)) for _ in range(2))
    velocity = [np.zeros_like(p) for p in params]
    for t, noise in enumerate(np.random.default_rng(1).standard_normal(steps)):
        for i, p in enumerate(params):
            velocity[i] = mu * velocity[i] - lr(t) * (p - target[i] + noise)
            params[i] = p + velocity[i]
    return params, velocity


@pytest.mark.parametrize("lr", [0.05, falling], ids=["number", "schedule"])
@pytest.mark.parametrize(("name", "mu"), [("sgd", 0.0), ("momentum", 0.9)])
def test_200_steps_follow_the_formula_in_float64(x64, name, mu, lr):
    params, state = follow(OPTIMIZERS[name](lr))
    expected, velocity = formula(lr if callable(lr) else lambda t: lr, mu)
    chex.assert_trees_all_close(jax.tree.leaves(params), expected, rtol=1e-12, atol=1e-13)
    if name == "momentum":
        got = jax.tree.leaves(state.velocity)
        chex.assert_trees_all_close(got, velocity, rtol=1e-12, atol=1e-13)


def test_states_are_read_by_name():
    _, state = follow(momentum(falling), steps=3)
    assert isinstance(state, MomentumState)
    assert int(state.step) == 3
    assert float(state.lr) == pytest.approx(falling(2))  # of the last update, the step being 2
    _, state = follow(sgd(0.5), steps=1)
    assert isinstance(state, SGDState)
    assert (int(state.step), float(state.lr)) == (1, 0.5)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "lr",
    [0.1, np.float32(0.1), np.float64(0.1), lambda step: jnp.float32(0.1), lambda step: 0.1],
    ids=["float", "float32", "float64", "float32 schedule", "float schedule"],
)
def test_no_learning_rate_changes_the_dtype_of_a_parameter(x64, name, dtype, lr):
    params = {"w": jnp.ones(3, dtype)}
    optimizer = OPTIMIZERS[name](lr)
    state = optimizer.init(params)
    updates, after = jax.jit(optimizer.update)(params, state, params)
    new = apply_updates(params, updates)
    assert new["w"].dtype == updates["w"].dtype == dtype
    # 0.1 is known to the precision of the rate, 0.9 to that of the parameter.
    exact = 1 - float(lr(0) if callable(lr) else lr)
    assert new["w"].tolist() == pytest.approx([exact] * 3, rel=float(jnp.finfo(dtype).eps))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_second_call_does_not_compile_again(name):
    optimizer = OPTIMIZERS[name](0.1)
    params = {"w": jnp.ones(3)}
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_counters_saturate(name):
    optimizer, params = OPTIMIZERS[name](0.1), {"w": jnp.ones(3)}
    last = jnp.int32(2**31 - 1)
    state = optimizer.init(params)._replace(step=last)
    _, state = optimizer.update(params, state, params)
    assert int(state.step) == last


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf"), "0.1", None, True, [0.1]])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_learning_rate_is_refused_by_name(name, lr):
    with pytest.raises(ValueError, match=r"^lr is "):
        OPTIMIZERS[name](lr)


@pytest.mark.parametrize("mu", [-0.1, 1.0, float("nan")])
def test_a_bad_mu_is_refused_by_name(mu):
    with pytest.raises(ValueError, match=r"mu is .*\[0, 1\)"):
        momentum(0.1, mu)


def test_an_update_of_another_shape_is_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match="their shapes must be equal"):
        apply_updates({"w": jnp.ones((3, 2))}, {"w": jnp.ones(2)})


class Foreign(NamedTuple):
    """A pair as other libraries make them."""

    init: object
    update: object


def test_a_foreign_pair_trains_in_a_run():
    foreign = Foreign(lambda params: (), lambda g, s, p: (jax.tree.map(lambda v: -0.1 * v, g), s))
    x, y = np.eye(4, dtype=np.float32), np.arange(4) % 2
    options = {"epochs": 2, "batch_size": 2, "progress": False}
    fitted = [
        jnn.fit(
            jnn.Serial(jnn.Dense(2)),
            jnn.SoftmaxCrossEntropy(),
            optimizer,
            (x, y),
            key=jax.random.key(0),
            **options,
        ).params
        for optimizer in (foreign, sgd(0.1))
    ]
    chex.assert_trees_all_close(*fitted, rtol=1e-6)


def test_the_cosine_is_exact_at_its_start_middle_and_end():
    lr = cosine(0.5, steps=8, end=0.1)
    values = [float(lr(jnp.int32(t))) for t in (0, 4, 8, 9, 10**6)]
    assert values == pytest.approx([0.5, 0.3, 0.1, 0.1, 0.1], rel=1e-6)
    assert values[0] == float(jnp.float32(0.5))
    assert values[2] == float(jnp.float32(0.1))
    quarter = float(lr(jnp.int32(2)))
    assert quarter == pytest.approx(0.1 + 0.4 * (1 + np.sqrt(0.5)) / 2, rel=1e-6)


def test_a_bad_cosine_is_refused():
    with pytest.raises(ValueError, match="steps is 0"):
        cosine(0.1, 0)
    with pytest.raises(ValueError, match="start is nan"):
        cosine(float("nan"), 5)
