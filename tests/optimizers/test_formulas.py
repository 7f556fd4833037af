"""200 steps with changing gradients follow the formulas, written out here in numpy, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import PLAIN, by_hand, falling, follow, rate, rising

from jnn.optimizers import adam, adamw, lion, momentum, muon, nesterov

EPS = 1e-8


def sgd_rule(lr):
    return lambda t, x, dx: (x - lr(t) * dx,)


def momentum_rule(lr, mu=lambda t: 0.9):
    def rule(t, x, dx, v):
        v = mu(t) * v - lr(t) * dx
        return x + v, v

    return rule


def nesterov_rule(lr, mu=lambda t: 0.9):
    def rule(t, x, dx, v):
        v_prev = v
        v = mu(t) * v - lr(t) * dx
        return x + -mu(t) * v_prev + (1 + mu(t)) * v, v

    return rule


def adagrad_rule(lr):
    def rule(t, x, dx, cache):
        cache = cache + dx**2
        return x - lr(t) * dx / (np.sqrt(cache) + EPS), cache

    return rule


def rmsprop_rule(lr):
    def rule(t, x, dx, cache):
        cache = 0.9 * cache + 0.1 * dx**2
        return x - lr(t) * dx / (np.sqrt(cache) + EPS), cache

    return rule


def adadelta_rule(lr):
    def rule(t, x, dx, square, change):
        square = 0.9 * square + 0.1 * dx**2
        step = np.sqrt(change + 1e-6) / np.sqrt(square + 1e-6) * dx
        return x - lr(t) * step, square, 0.9 * change + 0.1 * step**2

    return rule


def adam_rule(lr, b1=0.9, b2=0.999, corrected=True, decay=0.0):
    def rule(t, x, dx, m, v):
        m = b1 * m + (1 - b1) * dx
        v = b2 * v + (1 - b2) * dx**2
        m_hat = m / (1 - b1 ** (t + 1)) if corrected else m
        v_hat = v / (1 - b2 ** (t + 1)) if corrected else v
        decayed = decay * x if np.ndim(x) == 2 else 0
        return x - lr(t) * (m_hat / (np.sqrt(v_hat) + EPS) + decayed), m, v

    return rule


def lion_rule(lr, decay=0.1):
    def rule(t, x, dx, m):
        decayed = decay * x if np.ndim(x) == 2 else 0
        x = x - lr(t) * (np.sign(0.9 * m + 0.1 * dx) + decayed)
        return x, 0.99 * m + 0.01 * dx

    return rule


def newton_schulz(g):
    x = g / np.linalg.norm(g)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
    return x


def muon_rule(lr):
    """The matrix uses the first moment for its velocity, the others both for Adam."""
    others = adam_rule(lr, b2=0.95)

    def rule(t, x, dx, m, v):
        if np.ndim(x) < 2:
            return others(t, x, dx, m, v)
        m = 0.95 * m + dx
        turned = newton_schulz(dx + 0.95 * m)
        return x - lr(t) * (0.2 * np.sqrt(max(x.shape)) * turned + 0.1 * x), m, v

    return rule


# rule, moments, and the names of the state's moments in that order
RULES = {
    "sgd": (sgd_rule, ()),
    "momentum": (momentum_rule, ("velocity",)),
    "nesterov": (nesterov_rule, ("velocity",)),
    "adagrad": (adagrad_rule, ("square",)),
    "rmsprop": (rmsprop_rule, ("square",)),
    "adadelta": (adadelta_rule, ("square", "change")),
    "adam": (adam_rule, ("mean", "square")),
    "adam, uncorrected": (lambda lr: adam_rule(lr, corrected=False), ("mean", "square")),
    "adamw": (lambda lr: adam_rule(lr, decay=0.01), ("mean", "square")),
    "lion": (lion_rule, ("mean",)),
    "muon": (muon_rule, ()),
}


def check(optimizer, rule, moments, names=()):
    params, state = follow(optimizer)
    expected, *rest = by_hand(rule, moments)
    got = [params, *(getattr(state, name) for name in names)]
    for mine, theirs in zip(got, [expected, *rest[: len(names)]], strict=True):
        chex.assert_trees_all_close(jax.tree.leaves(mine), theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lr", [0.05, falling], ids=["number", "schedule"])
@pytest.mark.parametrize("name", PLAIN)
def test_200_steps_follow_the_formula(x64, name, lr):
    rule, names = RULES[name]
    moments = 2 if name == "muon" else len(names)
    check(PLAIN[name](lr), rule(rate(lr)), moments, names)


@pytest.mark.parametrize(
    ("optimizer", "rule"), [(momentum, momentum_rule), (nesterov, nesterov_rule)]
)
def test_momentum_may_follow_a_schedule(x64, optimizer, rule):
    check(optimizer(falling, rising), rule(rate(falling), rate(rising)), 1, ("velocity",))


def test_decay_may_follow_a_schedule(x64):
    lr, decay = rate(falling), rate(rising)
    check(lion(falling, decay=rising), lambda t, *rest: lion_rule(lr, decay(t))(t, *rest), 1)


def test_other_hyper_parameters_than_the_defaults(x64):
    check(adam(0.05, b1=0, b2=0.5), adam_rule(lambda t: 0.05, 0, 0.5), 2, ("mean", "square"))


def test_all_parameters_decay_where_all_are_chosen(x64):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    grads = jax.tree.map(jnp.zeros_like, params)
    optimizer = adamw(0.5, decay=0.3, where="*")
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda p: -0.15 * p, params), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_the_bias_of_adam_is_corrected_exactly_in_float32_too(steps):
    """With a constant gradient both corrected means are that gradient and its square."""

    optimizer = adam(1.0)
    grads = {"w": jnp.float32(0.25)}
    state = jax.lax.fori_loop(
        0, steps - 1, lambda _, s: optimizer.update(grads, s, grads)[1], optimizer.init(grads)
    )
    updates, _ = optimizer.update(grads, state, grads)
    # A fading mean carries the roundings of its last 1 / (1 - b2) steps.
    assert abs(float(updates["w"]) + 1) < min(steps, 1000) * 2.0**-23


def test_epsilon_stands_outside_the_root_and_after_the_correction(x64):
    grads = {"w": jnp.float64(1e-8)}
    optimizer = adam(1.0, eps=1e-8)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    assert float(updates["w"]) == pytest.approx(-0.5, rel=1e-12)


def test_muon_leaves_the_rest_to_adamw_and_keeps_their_moments_apart(x64):
    _, state = follow(muon(0.05), steps=3)
    assert state.velocity["nest"] == {"b": None, "s": None}
    assert state.rest.mean["w"] is state.rest.square["w"] is None
    assert int(state.step) == int(state.rest.step) == 3
