"""What holds of every optimizer: dtypes, counters, compilations, vmap, zeros, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import ALL, PLAIN, falling, take

from jnn.optimizers import adam, apply_updates, momentum, sgd

DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64]
RATES = {
    "float": 0.1,
    "float32": np.float32(0.1),
    "float64": np.float64(0.1),
    "array": None,  # made within the test: no backend starts at import
    "float32 schedule": lambda step: jnp.float32(0.1),
    "float schedule": lambda step: 0.1,
}


def some(dtype, fill=1.0):
    shapes = {"w": (3, 2), "nest": {"b": (2,), "s": ()}}
    return jax.tree.map(
        lambda shape: jnp.full(shape, fill, dtype), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def dtypes(tree):
    return [(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rate", RATES)
def test_no_dtype_ever_changes(x64, name, rate):
    params = {jnp.dtype(dtype).name: some(dtype) for dtype in DTYPES}
    optimizer = ALL[name](jnp.float32(0.1) if rate == "array" else RATES[rate])

    def step(state):
        updates, state = take(optimizer, params, state, params)
        return updates, state, apply_updates(params, updates)

    state = jax.eval_shape(optimizer.init, params)
    updates, after, moved = jax.eval_shape(step, state)
    chex.assert_trees_all_equal_structs(state, after)
    assert dtypes(state) == dtypes(after)
    assert dtypes(moved) == dtypes(updates) == dtypes(params)
    assert not any(weak for _, weak in dtypes((moved, after)))
    # Moments in low precision would stand still: 0.999 v + 0.001 g^2 is v in bfloat16.
    assert all(dtype.itemsize >= 4 for dtype, _ in dtypes(after))


@pytest.mark.parametrize("name", ["sgd", "momentum"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", RATES)
def test_the_step_has_the_precision_of_the_dtype(x64, name, dtype, rate):
    """0.1 is known to the precision of the rate, 0.9 to that of the parameter."""
    params = some(dtype)
    lr = jnp.float32(0.1) if rate == "array" else RATES[rate]
    optimizer = ALL[name](lr)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    got = apply_updates(params, updates)["w"]
    exact = 1 - float(lr(0) if callable(lr) else lr)
    assert float(got[0, 0]) == pytest.approx(exact, rel=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_of_zero_is_no_nan(x64, name, dtype):
    params, zeros = some(dtype), some(dtype, 0.0)

    @jax.jit
    def two(params):
        optimizer = ALL[name](0.1)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = take(optimizer, zeros, state, params)
        return updates, state

    for leaf in jax.tree.leaves(two(params)):
        assert not jnp.isnan(leaf).any()


@pytest.mark.parametrize("name", PLAIN)
def test_step_counters_saturate(name):
    last = jnp.int32(2**31 - 1)
    optimizer, params = PLAIN[name](falling), some(jnp.float32)
    state = optimizer.init(params)._replace(step=last)
    updates, state = optimizer.update(params, state, params)
    assert int(state.step) == last
    assert float(state.lr) == pytest.approx(float(falling(last)))
    for leaf in jax.tree.leaves((updates, state)):
        assert jnp.isfinite(leaf).all()
    assert (updates["w"] <= 0).all()  # whatever depends on t still points downhill


@pytest.mark.parametrize("name", ALL)
def test_the_second_call_does_not_compile_again(name):
    optimizer, params = ALL[name](0.1), some(jnp.float32)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params, state):
        updates, state = take(optimizer, params, state, params)
        return apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)


@pytest.mark.parametrize("name", ALL)
def test_a_sweep_over_learning_rates_is_one_vmap(name):
    params = some(jnp.float32)

    def train(lr):
        optimizer = ALL[name](lr)

        def step(_, carry):
            x, state = carry
            updates, state = take(optimizer, x, state, x)
            return apply_updates(x, updates), state

        return jax.lax.fori_loop(0, 2, step, (params, optimizer.init(params)))

    rates = (0.01, 0.3)
    swept = jax.jit(jax.vmap(train))(jnp.array(rates, jnp.float32))
    alone = jax.jit(train)
    for i, lr in enumerate(rates):
        expected = alone(jnp.float32(lr))
        got = jax.tree.map(lambda v, i=i: v[i], swept)
        # The parameters began at 1, and their roundings stay those of 1.
        chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_no_two_arrays_are_one_so_all_may_be_donated(name):
    """Donating one buffer twice is an error, which the CPU reports as well."""
    optimizer, params = ALL[name](0.1), some(jnp.float32)

    def step(params, state):
        updates, state = take(optimizer, params, state, params)
        return apply_updates(params, updates), state

    for init in (optimizer.init, jax.jit(optimizer.init)):
        copy = jax.tree.map(jnp.copy, params)
        jax.block_until_ready(jax.jit(step, donate_argnums=(0, 1))(copy, init(copy)))


def test_the_first_step_is_0_for_schedules_and_1_for_adam():
    seen = []

    def lr(step):
        seen.append(int(step))
        return 0.1

    optimizer, params = adam(lr), {"w": jnp.ones(1)}
    state = optimizer.init(params)
    seen.clear()
    for count in (1, 2, 3):
        updates, state = optimizer.update(params, state, params)
        assert int(state.step) == count
        assert updates["w"].item() == pytest.approx(-0.1, rel=1e-6)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf"), "0.1", None, True, [0.1]])
@pytest.mark.parametrize("name", PLAIN)
def test_a_bad_learning_rate_is_refused_by_name(name, lr):
    with pytest.raises(ValueError, match=r"^lr is "):
        PLAIN[name](lr)


def test_a_schedule_of_many_numbers_is_refused():
    with pytest.raises(
        ValueError, match=r"lr of the step is float32 \(2,\); it must be one number"
    ):
        sgd(lambda step: jnp.ones(2)).init({})


@pytest.mark.parametrize("mu", [-0.1, 1.0, float("nan"), "0.9"])
def test_a_bad_mu_is_refused_by_name(mu):
    with pytest.raises(ValueError, match=r"^mu is "):
        momentum(0.1, mu)


@pytest.mark.parametrize(
    "options", [{"b1": 1.0}, {"b2": -0.1}, {"eps": 0.0}, {"eps": 1e-50}, {"eps": float("nan")}]
)
def test_bad_hyper_parameters_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name} is .* must lie in \["):
        adam(0.1, **options)


def test_what_must_be_known_in_advance_may_not_be_traced():
    with pytest.raises(ValueError, match="b1 is traced"):
        jax.eval_shape(lambda b1: adam(0.1, b1=b1).init({}), jnp.float32(0.9))


def test_a_gradient_of_another_shape_is_refused_rather_than_broadcast():
    optimizer, params = momentum(0.1), {"w": jnp.ones((3, 2))}
    with pytest.raises(ValueError, match=r"a gradient is float32 \(2,\).*must be equal"):
        optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
