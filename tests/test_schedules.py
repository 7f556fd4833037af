"""Schedules follow their formulas, and are exact where they begin, join and end."""

import math
from functools import partial
from inspect import isfunction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import distance

from jnn import optimizers, schedules
from jnn.schedules import (
    constant,
    cosine,
    exponential,
    inverse,
    linear,
    one_cycle,
    piecewise,
    step_decay,
    warmup,
)


def half_cosine(start, end, way):
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def joined(t):
    if t < 3:
        return 0.3
    return 0.2 - 0.1 * (t - 3) / 4 if t < 7 else 0.05 * math.exp(-0.5 * (t - 7))


# Each with its formula in plain Python.
FORMULAS = [
    (constant(0.3), lambda t: 0.3),
    (step_decay(0.3, every=4, factor=0.1), lambda t: 0.3 * 0.1 ** (t // 4)),
    (exponential(0.3, rate=0.2), lambda t: 0.3 * math.exp(-0.2 * t)),
    (exponential(1e-6, rate=-0.5), lambda t: 1e-6 * math.exp(0.5 * t)),
    (inverse(0.3, rate=0.2), lambda t: 0.3 / (1 + 0.2 * t)),
    (linear(0.5, 7, 0.99), lambda t: 0.5 + 0.49 * min(t, 7) / 7),
    (cosine(0.3, 7, 0.1), lambda t: half_cosine(0.3, 0.1, min(t, 7) / 7)),
    (
        warmup(inverse(0.3, 0.2), 5, start=0.1),
        lambda t: 0.1 + 0.2 * t / 5 if t < 5 else 0.3 / (1 + 0.2 * (t - 5)),
    ),
    (warmup(0.3, 5), lambda t: 0.3 * min(t, 5) / 5),
    (piecewise((0.3, linear(0.2, 4, 0.1), exponential(0.05, 0.5)), at=(3, 7)), joined),
    (
        one_cycle(0.1, 0.7, steps=10, end=0.01, rise=0.4),
        lambda t: (
            half_cosine(0.1, 0.7, t / 4) if t < 4 else half_cosine(0.7, 0.01, min(t - 4, 6) / 6)
        ),
    ),
]
over_schedules = pytest.mark.parametrize(
    "schedule", [schedule for schedule, _ in FORMULAS], ids=str
)


@partial(jax.jit, static_argnums=0)
def compiled(schedule, step):
    return schedule(step)


def exactly(value, number):
    """Whether it is the float32 that is nearest to the number."""
    return value.dtype == jnp.float32 and float(value) == float(np.float32(number))


@pytest.mark.parametrize(
    ("schedule", "formula"), FORMULAS, ids=lambda v: None if isfunction(v) else str(v)
)
def test_it_follows_its_formula_in_float64(x64, schedule, formula):
    steps = np.arange(20, dtype=np.int32)
    want = [formula(t) for t in range(20)]
    np.testing.assert_allclose(compiled(schedule, steps), want, rtol=1e-14, atol=1e-16)


@over_schedules
def test_one_step_or_many_compiled_or_not(schedule):
    steps = np.arange(12, dtype=np.int32)
    many, mapped = compiled(schedule, steps), jax.vmap(schedule)(steps)
    one = np.stack([schedule(t) for t in steps.tolist()])
    assert many.dtype == mapped.dtype == one.dtype == jnp.float32
    assert not many.weak_type and compiled(schedule, jnp.int32(3)).shape == ()
    for other in (many, mapped):  # two evaluations of some four roundings each
        assert distance(other, one) <= 8 * 2.0**-24


# What is exact, and when: (schedule, {step: value}).
NEAR, FAR = 49, 2**24 + 1  # 49 * (1 / 49) is not 1, and float32 cannot tell 2^24 + 1 from 2^24
EXACT = [
    (constant(0.1), {0: 0.1, 2**31 - 1: 0.1}),
    (step_decay(0.1, 3, 0.5), {0: 0.1, 2: 0.1, 3: 0.05, 5: 0.05, 6: 0.025, 2**31 - 1: 0}),
    (step_decay(0.1, FAR, 0.5), {FAR - 1: 0.1, FAR: 0.05, 2 * FAR - 1: 0.05, 2 * FAR: 0.025}),
    (exponential(0.1, 0.3), {0: 0.1, 2**31 - 1: 0}),
    (inverse(0.1, 0.3), {0: 0.1}),
    *(
        (kind(0.7, steps, 0.1), {0: 0.7, steps: 0.1, steps + 1: 0.1, 2**31 - 1: 0.1})
        for kind in (linear, cosine)
        for steps in (1, NEAR, FAR)
    ),
    *(
        (
            warmup(step_decay(0.7, 1, 0.5), steps, start=0.1),
            {0: 0.1, steps: 0.7, steps + 1: 0.35, steps + 2: 0.175},
        )
        for steps in (1, NEAR, FAR)
    ),
    *(
        (
            piecewise((0.7, 0.1, linear(0.3, 1, 0.2)), (t, t + 1)),
            {0: 0.7, t - 1: 0.7, t: 0.1, t + 1: 0.3, t + 2: 0.2, 2**31 - 1: 0.2},
        )
        for t in (1, NEAR, FAR)
    ),
    (one_cycle(0.1, 0.7, 2 * NEAR, 0.01, 0.5), {0: 0.1, NEAR: 0.7, 2 * NEAR: 0.01, 10**9: 0.01}),
    (one_cycle(0.1, 0.7, 2 * FAR, 0.01, 0.5), {0: 0.1, FAR: 0.7, 2 * FAR: 0.01}),
    (one_cycle(0.1, 0.7, 2, 0.01, 0.5), {0: 0.1, 1: 0.7, 2: 0.01, 3: 0.01}),
]


@pytest.mark.parametrize(("schedule", "values"), EXACT, ids=str)
def test_it_is_exact_at_the_start_at_joints_and_at_the_end(schedule, values):
    for t, want in values.items():
        assert exactly(compiled(schedule, jnp.int32(t)), want), t
        assert exactly(schedule(t), want), t


def test_nothing_leaves_the_range_on_the_way():
    for kind in (linear, cosine):
        values = np.asarray(compiled(kind(0.7, NEAR, 0.1), np.arange(NEAR + 1, dtype=np.int32)))
        assert (np.diff(values) < 0).all()


def test_update_t_takes_value_t():
    schedule = piecewise((0.5, 0.25, 0.125), at=(1, 2))
    optimizer = optimizers.sgd(schedule)
    params = {"w": jnp.zeros(())}
    state, taken = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update({"w": jnp.ones(())}, state, params)
        taken.append(-float(updates["w"]))
    assert taken == [0.5, 0.25, 0.125, 0.125]


def test_own_schedules_can_be_joined_whatever_they_return():
    schedule = warmup(lambda step: 0.5, 2)
    assert [float(schedule(t)) for t in range(4)] == [0.0, 0.25, 0.5, 0.5]
    schedule = piecewise((lambda step: jnp.bfloat16(2) * step.astype(jnp.bfloat16), 1), at=(2,))
    assert [float(schedule(t)) for t in range(4)] == [0.0, 2.0, 1.0, 1.0]
    assert schedule(0).dtype == jnp.float32


def test_numbers_may_be_traced_so_that_a_sweep_is_one_program():
    def at(start, step):
        cycle = one_cycle(start / 4, start, 8)
        return jnp.stack([warmup(cosine(start, 4), 2)(step), step_decay(start, 2, start)(step)]), (
            piecewise((start, cycle), at=(1,))(step)
        )

    starts = np.array([0.5, 0.25], np.float32)
    got = jax.jit(jax.vmap(at, (0, None)))(starts, jnp.int32(3))
    want = [at(start, jnp.int32(3)) for start in starts.tolist()]
    chex.assert_trees_all_close(got, jax.tree.map(lambda *v: jnp.stack(v), *want), rtol=1e-6)


@over_schedules
def test_equal_schedules_are_equal_and_print_as_they_are_written(schedule):
    twin = eval(repr(schedule), vars(schedules))
    assert twin is not schedule
    assert twin == schedule and hash(twin) == hash(schedule)
    assert all(other != schedule for other, _ in FORMULAS if other is not schedule)


def test_lists_will_do_and_are_still_values():
    assert piecewise([1, 2], at=[5]) == piecewise((1.0, 2.0), at=(5,))
    assert hash(piecewise([1, 2], at=[5])) == hash(piecewise((1.0, 2.0), at=(5,)))


BAD = [math.nan, math.inf, "0.1", None, True, [0.1], np.ones(2), 1j]


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("constant: value", constant),
        ("step_decay: start", lambda v: step_decay(v, 2)),
        ("step_decay: factor", lambda v: step_decay(1.0, 2, v)),
        ("exponential: start", lambda v: exponential(v, 1.0)),
        ("exponential: rate", lambda v: exponential(1.0, v)),
        ("inverse: start", lambda v: inverse(v, 1.0)),
        ("inverse: rate", lambda v: inverse(1.0, v)),
        ("linear: start", lambda v: linear(v, 5)),
        ("linear: end", lambda v: linear(1.0, 5, v)),
        ("cosine: start", lambda v: cosine(v, 5)),
        ("cosine: end", lambda v: cosine(1.0, 5, v)),
        ("warmup: start", lambda v: warmup(1.0, 5, v)),
        ("one_cycle: start", lambda v: one_cycle(v, 1.0, 10)),
        ("one_cycle: peak", lambda v: one_cycle(0.0, v, 10)),
        ("one_cycle: end", lambda v: one_cycle(0.0, 1.0, 10, v)),
    ],
)
def test_bad_numbers_are_refused_by_name(name, build, bad):
    with pytest.raises(ValueError, match=f"^{name} is .*it must be a finite number"):
        build(bad)


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_pieces_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"^warmup: schedule is .*a schedule or a finite number"):
        warmup(bad, 5)
    with pytest.raises(ValueError, match=r"^piecewise: pieces\[1\] is .*a schedule or a finite"):
        piecewise((1.0, bad), at=(5,))


@pytest.mark.parametrize("bad", [0, -1, 2.0, "2", None, True, 2**31])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("step_decay: every", lambda n: step_decay(1.0, n)),
        ("linear: steps", lambda n: linear(1.0, n)),
        ("cosine: steps", lambda n: cosine(1.0, n)),
        ("warmup: steps", lambda n: warmup(1.0, n)),
        ("one_cycle: steps", lambda n: one_cycle(0.0, 1.0, n)),
    ],
)
def test_bad_steps_are_refused_by_name(name, build, bad):
    with pytest.raises(ValueError, match=f"^{name} is .*positive number of steps, an integer"):
        build(bad)


@pytest.mark.parametrize("at", [(0,), (-1,), (1.0,), (True,), (2**31,)])
def test_bad_joints_are_refused(at):
    with pytest.raises(ValueError, match=r"piecewise: at is .*integers from 1 to 2\^31 - 1"):
        piecewise((1.0, 0.5), at)


def test_joints_must_increase_and_be_one_fewer_than_pieces():
    for at in ((5, 5), (6, 5)):
        with pytest.raises(ValueError, match=r"piecewise: at is .*that increase"):
            piecewise((1.0, 0.5, 0.25), at)
    with pytest.raises(ValueError, match=r"there are 2 pieces and at is .*one step fewer"):
        piecewise((1.0, 0.5), at=())


@pytest.mark.parametrize("rise", [0.0, 1.0, -0.5, 0.01, 0.99, math.nan, "0.3", None, True])
def test_a_cycle_must_rise_and_fall(rise):
    with pytest.raises(ValueError, match=r"one_cycle: rise is .* leaves at least one to rise"):
        one_cycle(0.0, 1.0, steps=10, rise=rise)


def test_what_would_change_sign_or_divide_by_zero_is_refused():
    with pytest.raises(ValueError, match=r"step_decay: factor is -0\.5; it must be at least 0"):
        step_decay(1.0, 5, -0.5)
    with pytest.raises(ValueError, match=r"inverse: rate is -0\.5; it must be at least 0"):
        inverse(1.0, -0.5)
