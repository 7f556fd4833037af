"""Optimizers that take the steps of their papers pass, and slips are caught and named."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import PLAIN, falling
from formulas import ADAM, ADAMW, DECAY, FALLING, KNOWN, LR, RULES, SLIPS, slipped, written

from jnn.gradcheck import WrongGradient, check_optimizer
from jnn.optimizers import Optimizer, adam, adamw, momentum, sgd


def quick(name, is_quick):
    return pytest.param(name, marks=() if is_quick else pytest.mark.slow)


@pytest.mark.parametrize("name", [quick(name, name != "muon") for name in PLAIN])
def test_optimizers_follow_their_formulas(name):
    report = check_optimizer(PLAIN[name](LR), RULES[name])
    assert report, str(report)
    assert max(report.power.values()) < 1e-9 and len(report.power) == 4


@pytest.mark.parametrize("name", [quick(name, i % 3 == 0) for i, name in enumerate(SLIPS)])
def test_slips_are_caught_and_named(name):
    (optimizer, formula), (cause, words) = SLIPS[name]
    report = check_optimizer(optimizer, formula, known=KNOWN)
    causes = {finding.cause for finding in report.findings if finding.path != "update"}
    assert causes == {cause}, str(report)
    with pytest.raises(WrongGradient, match=words):
        report.raise_if_failed()


def test_schedules_are_followed():
    assert check_optimizer(adam(falling), FALLING)


def test_another_optimizer_may_be_the_formula():
    other = sgd(falling)

    def formula(t, x, g, state=None):
        return other.update(g, other.init(x) if state is None else state, x)

    assert check_optimizer(other, formula, {"w": jnp.ones(2)})


def test_slips_are_named_without_constants_and_for_parameters_of_ones_own():
    params = {"kernel": jnp.full((5, 2), 0.1), "scale": jnp.ones(())}
    report = check_optimizer(slipped(begin=2), ADAM, params)
    assert [f.path for f in report.findings] == ["params"]
    assert "takes t + 1 for t; first at step 1" in str(report)


@pytest.mark.slow
def test_optax_follows_the_paper():
    optax = pytest.importorskip("optax")
    with jax.numpy_dtype_promotion("standard"):
        assert check_optimizer(optax.adam(LR), ADAM)
        report = check_optimizer(optax.adamw(LR, weight_decay=DECAY), ADAMW, known=KNOWN)
    assert "rank 1, such as biases, alone are wrong" in str(report)


def with_update(update, init=lambda params: {"t": jnp.zeros((), jnp.int32)}):
    return Optimizer(init, update)


def down(grads):
    return jax.tree.map(lambda g: -LR * g, grads)


def counted_outside(calls):
    def update(grads, state, params):
        calls.append(1)
        return jax.tree.map(lambda g: -LR * g * len(calls), grads), state

    return update


def in_place(grads, state, params):
    state["t"] = state["t"] + 1
    return down(grads), state


BROKEN = {
    "state grows": (
        lambda g, s, p: (down(g), {**s, "last": g}),
        ("structure", "has another structure: no loop"),
    ),
    "state changes its dtype": (
        lambda g, s, p: (down(g), {"t": s["t"].astype("float32")}),
        ("structure", r"has float32\[\] for int32\[\] at \['t'\]"),
    ),
    "updates in float32": (
        lambda g, s, p: (jax.tree.map(lambda g: -LR * g.astype("float32"), g), s),
        ("structure", "in bfloat16 the updates are not like"),
    ),
    "branches on the step": (
        lambda g, s, p: (down(g) if s["t"] == 0 else g, s),
        ("structure", "cannot be traced"),
    ),
    "mutates": (in_place, ("nondeterministic", "in place")),
    "counts outside": (counted_outside([]), ("nondeterministic", "compiled again")),
    "0 / 0 in float32": (
        lambda g, s, p: (
            jax.tree.map(
                lambda g: -LR * g if g.dtype == "float64" else -LR * g * abs(g) / abs(g), g
            ),
            s,
        ),
        ("nonfinite", "in float32 the update for a zero gradient is not finite"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_contracts_are_found(name):
    update, (cause, words) = BROKEN[name]
    report = check_optimizer(with_update(update), RULES["sgd"])
    assert cause in {finding.cause for finding in report.findings}
    with pytest.raises(WrongGradient, match=words):
        report.raise_if_failed()


def test_nan_never_passes():
    def rule(np, t, x, g):
        return -LR * g * abs(g) / abs(g)

    report = check_optimizer(written(partial(rule, jnp), 0), RULES["sgd"])
    assert {finding.cause for finding in report.findings} == {"nonfinite"}
    report = check_optimizer(written(partial(rule, jnp), 0), partial(rule, np))
    assert not report, "not even where the formula is as bad"


def test_x64_is_left_as_it_was():
    check_optimizer(sgd(LR), RULES["sgd"])
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: check_optimizer(adam, ADAM), "call it, as in adam"),
        (lambda: check_optimizer(adamw(LR), 3), "formula is 3"),
        (lambda: check_optimizer(adamw(LR), lambda t, x: x), "formula must take"),
        (lambda: check_optimizer(sgd(LR), lambda t, x, g: g.sum()), "dx of the shape of x"),
        (lambda: check_optimizer(momentum(LR), ADAM, steps=2), "steps is 2"),
        (lambda: check_optimizer(momentum(LR), ADAM, {"w": jnp.arange(3)}), "arrays of floats"),
        (lambda: check_optimizer(momentum(LR), ADAM, {}), "at least one"),
    ],
)
def test_what_cannot_be_checked_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
