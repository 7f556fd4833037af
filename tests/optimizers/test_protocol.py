"""Pairs of functions, from wherever they come; and equal pairs of equal calls."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import ALL, PLAIN, falling, follow

import jnn
from jnn.optimizers import (
    MomentumState,
    Optimizer,
    SGDState,
    adam,
    apply_updates,
    average,
    chain,
    clip_norm,
    decay,
    freeze,
    momentum,
    reduce_on_plateau,
    sgd,
    takes_value,
)


def test_states_are_read_by_name():
    _, state = follow(momentum(falling), steps=3)
    assert isinstance(state, MomentumState)
    assert int(state.step) == 3
    assert float(state.lr) == pytest.approx(float(falling(2)))  # of the last, the step being 2
    _, state = follow(sgd(0.5), steps=1)
    assert isinstance(state, SGDState)
    assert (int(state.step), float(state.lr)) == (1, 0.5)


def test_an_update_of_another_shape_is_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match="their shapes must be equal"):
        apply_updates({"w": jnp.ones((3, 2))}, {"w": jnp.ones(2)})


class Foreign(NamedTuple):
    """A pair as other libraries make them, some of whose updates take any keyword."""

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


def test_who_takes_the_loss():
    def update(grads, state, params=None, **extra):
        return grads, (state, extra)

    assert takes_value(Foreign(tuple, update))
    assert takes_value(reduce_on_plateau(sgd(0.1)))
    assert takes_value(chain(sgd(0.1)))  # which asks its pieces
    assert not any(takes_value(make(0.1)) for make in PLAIN.values())


@pytest.mark.parametrize("wrap", [chain, average, reduce_on_plateau, lambda o: freeze(o, "b")])
def test_the_loss_reaches_those_within_who_take_it(wrap):
    got = []

    def update(grads, state, params, *, value):
        got.append(value)
        return grads, state

    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    for optimizer in (wrap(Optimizer(lambda p: (), update)), wrap(sgd(0.1))):
        state = optimizer.init(params)
        optimizer.update(params, state, params, value=jnp.float32(7))
    assert got == [7]


@pytest.mark.parametrize("wrap", [chain, average, reduce_on_plateau, lambda o: freeze(o, "b")])
@pytest.mark.parametrize("nothing", [None, 0.1, (sgd(0.1),), ("init", "update")])
def test_what_is_no_pair_is_refused(wrap, nothing):
    with pytest.raises(ValueError, match=r"must be a pair of functions \(init, update\)"):
        wrap(nothing)


def test_a_bare_tuple_of_two_functions_is_a_pair():
    bare, params = tuple(sgd(0.5)), {"w": jnp.ones(1)}
    optimizer = chain(bare)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].item() == -0.5


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("lr", [0.1, falling], ids=["number", "schedule"])
def test_equal_calls_make_equal_optimizers(name, lr):
    one, other = ALL[name](lr), ALL[name](lr)
    assert one == other
    assert hash(one) == hash(other)
    assert one.init != one.update
    assert one != ALL[name](0.2)


def test_however_the_call_is_written():
    assert adam(0.1) == adam(lr=0.1) == adam(0.1, 0.9) == adam(b1=0.9, lr=0.1)
    assert sgd(0.1) != momentum(0.1)
    assert chain(clip_norm(1.0), sgd(0.1)) != chain(sgd(0.1), clip_norm(1.0))
    assert freeze(sgd(0.1), "a") != freeze(sgd(0.1), ("a",))


def test_numbers_of_other_types_are_other_calls():
    ones = [sgd(1), sgd(1.0), sgd(np.float32(1)), sgd(np.float64(1))]
    assert len(set(ones)) == 4
    assert adam(0.1, bias_correction=True) != adam(0.1, bias_correction=1)


def test_what_has_no_hash_makes_an_optimizer_equal_to_itself_alone():
    lr = jnp.float32(0.1)
    one, other = sgd(lr), sgd(lr)
    assert one == one
    assert one != other
    hash(one)  # still a static argument
    jax.vmap(lambda lr: [hash(chain(sgd(lr), decay(lr))), lr][1])(jnp.ones(2))


def test_no_tracer_outlives_its_trace():
    with jax.checking_leaks():
        jax.jit(lambda lr: sgd(lambda step: lr).init({}).lr)(0.1)


def test_an_equal_optimizer_compiles_nothing_anew():
    traced = []

    @jax.jit(static_argnums=0)
    def step(optimizer, params):
        traced.append(optimizer)
        return optimizer.update(params, optimizer.init(params), params)[0]

    for _ in range(2):
        step(chain(clip_norm(1.0), adam(0.1)), {"w": jnp.ones(2)})
    assert len(traced) == 1
