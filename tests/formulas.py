"""Optimizers' formulas written out, and slips that people make in them, with what must be said."""

import jax
import jax.numpy as jnp
import numpy as np

from jnn.optimizers import Optimizer

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
        rows = [
            rule(state["t"].astype(x.dtype), x, *row)
            for x, *row in zip(leaves, *columns, strict=True)
        ]
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
    beside=lambda x: 0,
    b1=B1,
    b2=B2,
    **options,
):
    """Adam with one thing exchanged."""

    def rule(t, x, g, m, v):
        g = gradient(x, g)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        dx = -lr(t) * quotient(first(m, t), second(v, t))
        return (dx + beside(x)).astype(x.dtype), m, v

    return written(rule, 2, **options)


def of_rank(n, c):
    return lambda x: -c * x if x.ndim >= n else 0


def heavy(g=LR, v=MU, ahead=None, lr=lambda t: 1):
    """Momentum with other weights, and a look-ahead."""

    def rule(t, x, dx, u):
        u = v * u - g * lr(t) * dx
        return (u if ahead is None else ahead * u - LR * dx), u

    return written(rule)


def first_not_dampened(t, x, g, v):
    v = jnp.where(t == 1, -LR * g / (1 - MU), MU * v - LR * g)
    return v, v


def early_epsilon(t, x, g, m, v):
    """eps + the root of v, and both corrections afterwards, as one step size."""
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
    size = LR * jnp.sqrt(1 - B2**t) / (1 - B1**t)
    return -size * m / (jnp.sqrt(v) + EPS), m, v


def coupled(c):
    return lambda x, g: g + c * x if x.ndim > 1 else g


def l2_rule(t, x, g, *kept):
    return ADAM(t, x, coupled(DECAY)(x, g), *kept)


def falling_momentum_rule(t, x, g, v=0):
    v = MU * v - rate(t) * g
    return v, v


ADAM, ADAMW, FALLING = adam_rule(), adam_rule(decay=DECAY), adam_rule(lr=rate)
UNCORRECTED = adam_rule(corrected=False)


def bias(**exchanged):
    return slipped(**exchanged), ADAM


# (optimizer, formula), cause, what it says
SLIPS = {
    "no correction": (
        bias(first=lambda m, t: m, second=lambda v, t: v),
        ("missing-term", "bias correction: that of both moments is missing"),
    ),
    "first not corrected": (
        bias(first=lambda m, t: m),
        ("missing-term", "bias correction: that of the first moment is missing"),
    ),
    "second not corrected": (
        bias(second=lambda v, t: v),
        ("missing-term", "bias correction: that of the second moment is missing"),
    ),
    "first corrected twice": (
        bias(first=lambda m, t: m / (1 - B1**t) ** 2),
        ("extra-term", "bias correction: that of the first moment is applied once more"),
    ),
    "correction not in the formula": (
        (slipped(), UNCORRECTED),
        ("extra-term", "bias correction: that of both moments is applied once more"),
    ),
    "second by t + 1": (
        bias(second=lambda v, t: v / (1 - B2 ** (t + 1))),
        ("scale", r"bias correction: that of the second moment takes t \+ 1 for t"),
    ),
    "b1 for b2": (
        bias(second=lambda v, t: v / (1 - B1**t)),
        ("scale", "bias correction: that of the second moment fades by 0.9 for 0.999"),
    ),
    "t from 0": (bias(begin=0), ("swapped", "step count: it takes t - 1 for t")),
    "t counted before too": (bias(begin=2), ("swapped", r"step count: it takes t \+ 1 for t")),
    "t counted twice": (
        bias(begin=2, count=lambda t: t + 2),
        ("swapped", "step count: it takes 2 t for t"),
    ),
    "t stands": (bias(count=lambda t: t), ("swapped", "step count: it takes t = 1 for ever")),
    "t begins again": (
        bias(count=lambda t: t % 5 + 1),
        ("swapped", "step count: it begins again after 5; first at step 6"),
    ),
    "t begins again late": (
        bias(count=lambda t: t % 100 + 1),
        ("swapped", "step count: it begins again after 100; first at step 101"),
    ),
    "t of 7 bits": (
        bias(count=lambda t: jnp.minimum(t + 1, 127)),
        ("swapped", "step count: it stops at 127; first at step 128"),
    ),
    "schedule stands too": (
        (slipped(lr=rate, count=lambda t: t), FALLING),
        ("swapped", "step count: it takes t = 1 for ever"),
    ),
    "state dropped": (
        (written(lambda t, x, g, v: (MU * v - LR * g, 0 * v)), momentum_rule),
        ("missing-term", "step count: no state is carried on"),
    ),
    "schedule a step early": (
        (slipped(lr=lambda t: rate(t + 1)), FALLING),
        ("swapped", r"learning rate: the schedule takes t \+ 1 for t, the bias"),
    ),
    "schedule a step late": (
        (slipped(lr=lambda t: rate(t - 1)), FALLING),
        ("swapped", "learning rate: the schedule takes t - 1 for t, the bias"),
    ),
    "momentum's schedule a step late": (
        (heavy(g=1, lr=lambda t: rate(t - 1)), falling_momentum_rule),
        ("swapped", "step count: it takes t - 1 for t"),
    ),
    "uphill": (
        bias(lr=lambda t: -LR),
        ("sign", "learning rate: the update has the wrong sign"),
    ),
    "no step": (bias(lr=lambda t: 0), ("zero", "learning rate: the update is 0")),
    "lr twice": (
        bias(lr=lambda t: LR**2),
        ("scale", "learning rate: the update is 0.05 = lr times"),
    ),
    "eps inside": (
        bias(quotient=lambda m, v: m / jnp.sqrt(v + EPS)),
        ("swapped", "epsilon: it stands inside the root, as 1e-08"),
    ),
    "eps of another size": (
        bias(quotient=lambda m, v: m / (jnp.sqrt(v) + 1e-7)),
        ("scale", "epsilon: it is 10 times what it must be, as 1e-07"),
    ),
    "eps before the correction": (
        (written(early_epsilon, 2), ADAM),
        ("swapped", "epsilon: it is added before the bias correction"),
    ),
    "no eps": (
        bias(quotient=lambda m, v: m / jnp.sqrt(v)),
        ("missing-term", "epsilon: it is missing"),
    ),
    "no eps in Adagrad": (
        (written(lambda t, x, g, s: (-LR * g / jnp.sqrt(s + g**2), s + g**2)), adagrad_rule),
        ("missing-term", "epsilon: it is missing"),
    ),
    "no decay": ((slipped(), ADAMW), ("missing-term", "decay: it is missing")),
    "biases decay": (
        (slipped(beside=of_rank(1, LR * DECAY)), ADAMW),
        ("extra-term", "decay: .* = lr decay at step 1, .* rank 1, such as biases"),
    ),
    "decay without lr": (
        (slipped(beside=of_rank(2, DECAY)), ADAMW),
        ("scale", "decay: it is 20 = 1/lr times what it must be"),
    ),
    "growth": (
        (slipped(beside=of_rank(2, -LR * DECAY)), ADAMW),
        ("sign", "decay: it has the wrong sign"),
    ),
    "coupled decay": (
        (slipped(gradient=coupled(DECAY)), ADAMW),
        ("swapped", "decay: coupled: 0.01 = decay x is added to the gradient, not beside it"),
    ),
    "coupled decay that is not in the formula": (
        bias(gradient=coupled(DECAY)),
        ("extra-term", "decay: 0.01 = decay x is added to the gradient"),
    ),
    "coupled growth": (
        (slipped(gradient=coupled(-DECAY)), l2_rule),
        ("sign", "decay: it has the wrong sign"),
    ),
    "decoupled decay": (
        (slipped(beside=of_rank(2, LR * DECAY)), l2_rule),
        ("swapped", "decay: it is beside the gradient"),
    ),
    "other b1": (
        bias(b1=0.8, first=lambda m, t: m / (1 - 0.8**t)),
        ("scale", "momentum: the first moment fades by 0.8 for 0.9"),
    ),
    "other b2": (
        bias(b2=0.99, second=lambda v, t: v / (1 - 0.99**t)),
        ("scale", "momentum: the second moment fades by 0.99 for 0.999"),
    ),
    "other momentum": (
        (heavy(v=0.81), momentum_rule),
        ("scale", r"momentum: it is 0.9 = b1 times .* dx = \+0.81 dx'"),
    ),
    "no momentum": (
        (written(lambda t, x, g: -LR * g, 0), nesterov_rule),
        ("missing-term", "momentum: it is missing"),
    ),
    "velocity's sign": (
        (heavy(v=-MU), momentum_rule),
        ("sign", "momentum: the velocity has the wrong sign"),
    ),
    "dampened": (
        (heavy(g=LR * (1 - MU)), momentum_rule),
        ("scale", "momentum: it is dampened, 0.1 = 1 - b1 times"),
    ),
    "first step not dampened": (
        (written(first_not_dampened), momentum_rule),
        ("scale", r"momentum: only the first step is wrong, .* 10 = 1/\(1 - b1\)"),
    ),
    "no look-ahead": (
        (heavy(), nesterov_rule),
        ("missing-term", "momentum: the look-ahead of Nesterov's is missing"),
    ),
    "Nesterov for momentum": (
        (heavy(ahead=MU), momentum_rule),
        ("extra-term", "momentum: the look-ahead of Nesterov's must not be there"),
    ),
    "by way of float32": (
        bias(first=lambda m, t: (m / (1 - B1**t)).astype("float32").astype(m.dtype)),
        ("precision", "by way of float32"),
    ),
    "clipped": (
        bias(gradient=lambda x, g: jnp.clip(g, -0.1, 0.1)),
        ("unexplained", "it differs .*; tiny ones all but right"),
    ),
}
