"""Optimizers that take the steps of their papers pass, and slips are caught and named."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descents import PLAIN, falling

from jnn.gradcheck import WrongGradient, check_optimizer
from jnn.optimizers import Optimizer, adam, adamw, momentum, nesterov, sgd

LR, B1, B2, EPS, DECAY, MU = 0.05, 0.9, 0.999, 1e-8, 0.01, 0.9
KNOWN = {"lr": LR, "b1": B1, "b2": B2, "eps": EPS, "decay": DECAY}


def rate(t):
    """`falling`, of t that begins with 1."""
    return 0.1 / (1 + 0.05 * (t - 1))


def adam_rule(np=np, lr=lambda t: LR, b1=B1, b2=B2, decay=0.0, corrected=True):
    def rule(t, x, g, m=0, v=0):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = (m / (1 - b1**t), v / (1 - b2**t)) if corrected else (m, v)
        shrink = decay * x if x.ndim > 1 else 0
        return -lr(t) * (m_hat / (np.sqrt(v_hat) + EPS) + shrink), m, v

    return rule


def momentum_rule(t, x, g, v=0):
    v = MU * v - LR * g
    return v, v


def nesterov_rule(t, x, g, v=0):
    u, v = v, MU * v - LR * g
    return -MU * u + (1 + MU) * v, v


def adagrad_rule(t, x, g, s=0):
    s = s + g**2
    return -LR * g / (np.sqrt(s) + EPS), s


def rmsprop_rule(t, x, g, s=0):
    s = 0.9 * s + 0.1 * g**2
    return -LR * g / (np.sqrt(s) + EPS), s


def adadelta_rule(t, x, g, s=0, u=0):
    s = 0.9 * s + 0.1 * g**2
    d = np.sqrt(u + 1e-6) / np.sqrt(s + 1e-6) * g
    return -LR * d, s, 0.9 * u + 0.1 * d**2


def lion_rule(t, x, g, m=0):
    shrink = 0.1 * x if x.ndim > 1 else 0
    return -LR * (np.sign(0.9 * m + 0.1 * g) + shrink), 0.99 * m + 0.01 * g


def muon_rule(t, x, g, m=0, v=0):
    if x.ndim < 2:
        return adam_rule(b2=0.95)(t, x, g, m, v)
    m = 0.95 * m + g
    turned = g + 0.95 * m
    turned = turned / (np.linalg.norm(turned) or 1)
    for _ in range(5):
        a = turned @ turned.T
        turned = 3.4445 * turned - 4.7750 * a @ turned + 2.0315 * a @ a @ turned
    return -LR * (0.2 * np.sqrt(max(x.shape)) * turned + 0.1 * x), m, v


RULES = {
    "sgd": lambda t, x, g: -LR * g,
    "momentum": momentum_rule,
    "nesterov": nesterov_rule,
    "adagrad": adagrad_rule,
    "rmsprop": rmsprop_rule,
    "adadelta": adadelta_rule,
    "adam": adam_rule(),
    "adam, uncorrected": adam_rule(corrected=False),
    "adamw": adam_rule(decay=DECAY),
    "lion": lion_rule,
    "muon": muon_rule,
}


def written(rule, moments=1, count=lambda t: t + 1, begin=1):
    """The pair of a rule in jax.numpy, with moments that start at 0 and a t that starts at 1."""

    def init(params):
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(moments)]
        return {"t": jnp.asarray(begin), "moments": zeros}

    def update(grads, state, params):
        leaves, tree = jax.tree.flatten(params)
        columns = map(tree.flatten_up_to, (grads, *state["moments"]))
        rows = [rule(state["t"], *row) for row in zip(leaves, *columns, strict=True)]
        rows = [row if isinstance(row, tuple) else (row,) for row in rows]
        dx, *kept = (tree.unflatten(column) for column in zip(*rows, strict=True))
        return dx, {"t": count(state["t"]), "moments": kept}

    return Optimizer(init, update)


def slipped(
    lr=lambda t: LR,
    first=lambda m, t: m / (1 - B1**t),
    second=lambda v, t: v / (1 - B2**t),
    quotient=lambda m, v: m / (jnp.sqrt(v) + EPS),
    gradient=lambda x, g: g,
    beside=lambda x, dx: 0,
    b1=B1,
    b2=B2,
    **options,
):
    """Adam with one thing exchanged."""

    def rule(t, x, g, m, v):
        g = gradient(x, g)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        t = t.astype(x.dtype)  # for a strict promotion of dtypes
        dx = -lr(t) * quotient(first(m, t), second(v, t))
        return (dx + beside(x, dx)).astype(x.dtype), m, v

    return written(rule, 2, **options)


def moving(rule, **options):
    """Momentum, or what else remembers one thing."""
    return written(rule, 1, **options)


def of_rank(n, c):
    return lambda x, dx: -c * x if x.ndim >= n else 0


def first_not_dampened(t, x, g, v):
    v = jnp.where(t == 1, -LR * g / (1 - MU), MU * v - LR * g)
    return v, v


def before_the_correction():
    """eps + the root of v, and both corrections afterwards, as one step size."""

    def rule(t, x, g, m, v):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        t = t.astype(x.dtype)
        size = LR * jnp.sqrt(1 - B2**t) / (1 - B1**t)
        return -size * m / (jnp.sqrt(v) + EPS), m, v

    return written(rule, 2)


ADAM, ADAMW, FALLING = adam_rule(), adam_rule(decay=DECAY), adam_rule(lr=rate)
L2: Any = {"gradient": lambda x, g: g + DECAY * x if x.ndim > 1 else g}
# optimizer, formula, path, cause, what it says
SLIPS = {
    "no correction": (
        slipped(first=lambda m, t: m, second=lambda v, t: v),
        (ADAM, "params", "missing-term", "bias correction: that of both moments is missing"),
    ),
    "first not corrected": (
        slipped(first=lambda m, t: m),
        (ADAM, "params", "missing-term", "bias correction: that of the first moment is missing"),
    ),
    "second not corrected": (
        slipped(second=lambda v, t: v),
        (ADAM, "params", "missing-term", "bias correction: that of the second moment is missing"),
    ),
    "t from 0": (
        slipped(begin=0),
        (ADAM, "params", "swapped", "step count: it takes t - 1 for t"),
    ),
    "t counted before too": (
        slipped(begin=2),
        (ADAM, "params", "swapped", "step count: it takes t \\+ 1 for t"),
    ),
    "t counted twice": (
        slipped(begin=2, count=lambda t: t + 2),
        (ADAM, "params", "swapped", "step count: it takes 2 t for t"),
    ),
    "t stands": (
        slipped(count=lambda t: t),
        (ADAM, "params", "swapped", "step count: it takes t = 1 for ever"),
    ),
    "second by t + 1": (
        slipped(second=lambda v, t: v / (1 - B2 ** (t + 1))),
        (ADAM, "params", "scale", "that of the second moment takes t \\+ 1 for t"),
    ),
    "b1 for b2": (
        slipped(second=lambda v, t: v / (1 - B1**t)),
        (ADAM, "params", "scale", "that of the second moment fades by 0.9 for 0.999"),
    ),
    "correction not in the formula": (
        slipped(),
        (
            adam_rule(corrected=False),
            "params",
            "extra-term",
            "that of both moments is applied once more",
        ),
    ),
    "eps inside": (
        slipped(quotient=lambda m, v: m / jnp.sqrt(v + EPS)),
        (ADAM, "params", "swapped", "epsilon: it stands inside the root, as 1e-08"),
    ),
    "eps of another size": (
        slipped(quotient=lambda m, v: m / (jnp.sqrt(v) + 1e-7)),
        (ADAM, "params", "scale", "epsilon: it is 10 times what it must be"),
    ),
    "eps before the correction": (
        before_the_correction(),
        (ADAM, "params", "swapped", "epsilon: it is added before the bias correction"),
    ),
    "no eps": (
        slipped(quotient=lambda m, v: m / jnp.sqrt(v)),
        (ADAM, "params", "missing-term", "epsilon: it is missing"),
    ),
    "no decay": (
        slipped(),
        (ADAMW, "params['w']", "missing-term", "decay: it is missing"),
    ),
    "biases decay": (
        slipped(beside=of_rank(1, LR * DECAY)),
        (ADAMW, "params['b']", "extra-term", "decay: .* and must not; .* rank 1, such as biases"),
    ),
    "decay without lr": (
        slipped(beside=of_rank(2, DECAY)),
        (ADAMW, "params['w']", "scale", "decay: it is 20 = 1/lr times what it must be"),
    ),
    "growth": (
        slipped(beside=of_rank(2, -LR * DECAY)),
        (ADAMW, "params['w']", "sign", "decay: it has the wrong sign"),
    ),
    "coupled decay": (
        slipped(**L2),
        (
            ADAMW,
            "params['w']",
            "swapped",
            "decay: coupled: 0.01 = decay x is added to the gradient, not",
        ),
    ),
    "L2 that is not in the formula": (
        slipped(**L2),
        (ADAM, "params['w']", "extra-term", "decay: 0.01 = decay x is added to the gradient"),
    ),
    "decoupled for coupled": (
        slipped(beside=of_rank(2, LR * DECAY)),
        (
            lambda t, x, g, *kept: ADAM(t, x, g + DECAY * x if x.ndim > 1 else g, *kept),
            "params['w']",
            "swapped",
            "decay: it is beside the gradient",
        ),
    ),
    "schedule of the next step": (
        slipped(lr=lambda t: rate(t + 1)),
        (FALLING, "params", "swapped", "learning rate: the schedule takes t \\+ 1 for t, the bias"),
    ),
    "schedule of the last step": (
        written(lambda t, x, g: -rate((t - 1).astype(x.dtype)) * g, 0),
        (lambda t, x, g: -rate(t) * g, "params", "swapped", "step count: it takes t - 1 for t"),
    ),
    "schedule and count stand": (
        slipped(lr=rate, count=lambda t: t),
        (FALLING, "params", "swapped", "step count: it takes t = 1 for ever"),
    ),
    "momentum that takes lr(t + 1)": (
        moving(
            lambda t, x, g, v: (
                MU * v - rate(t.astype(x.dtype) + 1) * g,
                MU * v - rate(t.astype(x.dtype) + 1) * g,
            )
        ),
        (
            lambda t, x, g, v=0: (MU * v - rate(t) * g,) * 2,
            "params",
            "swapped",
            "step count: it takes t \\+ 1 for t",
        ),
    ),
    "state dropped": (
        slipped(count=lambda t: t, b1=0.0, first=lambda m, t: (1 - B1) * m),
        (ADAM, "params", "scale", "momentum: the first moment fades by 0 for 0.9"),
    ),
    "momentum dropped": (
        moving(lambda t, x, g, v: (MU * v - LR * g, 0 * v)),
        (momentum_rule, "params", "missing-term", "step count: no state is carried on"),
    ),
    "counter of 7 bits": (
        slipped(count=lambda t: jnp.minimum(t + 1, 127)),
        (ADAM, "params", "swapped", "step count: it stops at 127; first at step 128"),
    ),
    "count begins again": (
        slipped(count=lambda t: t % 100 + 1),
        (ADAM, "params", "swapped", "step count: it begins again after 100; first at step 101"),
    ),
    "velocity's sign": (
        moving(lambda t, x, g, v: (-MU * v - LR * g,) * 2),
        (momentum_rule, "params", "sign", "momentum: the velocity has the wrong sign"),
    ),
    "first step not dampened": (
        moving(first_not_dampened),
        (momentum_rule, "params", "scale", "only the first step is wrong, .* 10 = 1/\\(1 - b1\\)"),
    ),
    "dampened": (
        moving(lambda t, x, g, v: (MU * v - LR * (1 - MU) * g,) * 2),
        (momentum_rule, "params", "scale", "momentum: it is dampened, 0.1 = 1 - b1 times"),
    ),
    "Nesterov with the old velocity": (
        moving(lambda t, x, g, v: (-LR * g + MU * v, MU * v - LR * g)),
        (nesterov_rule, "params", "missing-term", "momentum: the look-ahead of Nesterov's"),
    ),
    "Nesterov for momentum": (
        moving(lambda t, x, g, v: (MU * (MU * v - LR * g) - LR * g, MU * v - LR * g)),
        (momentum_rule, "params", "extra-term", "momentum: there is a look-ahead"),
    ),
    "uphill": (
        slipped(lr=lambda t: -LR),
        (ADAM, "params", "sign", "learning rate: the update has the wrong sign"),
    ),
    "lr twice": (
        slipped(lr=lambda t: LR**2),
        (ADAM, "params", "scale", "learning rate: the update is 0.05 = lr times"),
    ),
    "other moment": (
        slipped(b2=0.99, second=lambda v, t: v / (1 - 0.99**t)),
        (ADAM, "params", "scale", "momentum: the second moment fades by 0.99 for 0.999"),
    ),
    "by way of float32": (
        slipped(first=lambda m, t: (m / (1 - B1**t)).astype("float32").astype(m.dtype)),
        (ADAM, "params", "precision", "by way of float32"),
    ),
    "clipped": (
        slipped(gradient=lambda x, g: jnp.clip(g, -1, 1)),
        (ADAM, "params['w']", "unexplained", "it differs .*; tiny ones all but right"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_optimizers_follow_their_formulas(name):
    report = check_optimizer(PLAIN[name](LR), RULES[name])
    assert report, str(report)
    assert max(report.power.values()) < 1e-9 and len(report.power) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIPS)
def test_slips_are_caught_and_named(name):
    optimizer, (formula, path, cause, words) = SLIPS[name]
    report = check_optimizer(optimizer, formula, known=KNOWN)
    findings = {finding.path: finding for finding in report.findings}
    assert path in findings, str(report)
    assert findings[path].cause == cause, str(report)
    with pytest.raises(WrongGradient, match=words):
        report.raise_if_failed()


def test_schedules_are_followed():
    assert check_optimizer(adam(falling), FALLING)


def test_another_optimizer_may_be_the_formula():
    other = nesterov(LR)

    def formula(t, x, g, state=None):
        return other.update(g, other.init(x) if state is None else state, x)

    assert check_optimizer(nesterov(LR), formula)


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
