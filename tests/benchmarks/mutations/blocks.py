"""Blocks that networks are built from. Written once the checker's hypotheses stood."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip
from .curves import curve

N, C = 11, 7
X = normal("block input", N, C)


def grouped(x, g, b):
    """Group norm of 3 examples, 5 places and 6 channels in 2 groups."""
    return standard(x)[0] * g + b


def standard(x):
    by = x.reshape(3, 5, 2, 3)
    off = by - by.mean((1, 3), keepdims=True)
    r = jax.lax.rsqrt(jnp.square(off).mean((1, 3), keepdims=True) + 1e-3)
    return (off * r).reshape(x.shape), r


def grouped_rule(x, g, b, dy, mean=1, variance=1, gain=lambda g: g):
    xhat, r = standard(x)
    d, h = ((v).reshape(3, 5, 2, 3) for v in (dy * gain(g), xhat))
    along = d.mean((1, 3), keepdims=True), (d * h).mean((1, 3), keepdims=True)
    dx = r * (d - mean * along[0] - variance * h * along[1])
    return dx.reshape(x.shape), (dy * xhat).sum((0, 1)), dy.sum((0, 1))


GROUPED = Function(
    "group norm",
    grouped,
    grouped_rule,
    {
        "x": normal("places", 3, 5, 6),
        "g": 1 + 0.5 * normal("gain", 6),
        "b": normal("offset", 6),
    },
    {
        "path through the mean forgotten": slip(
            "edge", "missing-term", x=part(grouped_rule, 0, mean=0)
        ),
        "path through the variance forgotten": slip(
            "edge", "missing-term", x=part(grouped_rule, 0, variance=0)
        ),
        "g forgotten": slip(
            "wrong-operand", "local-derivative", x=part(grouped_rule, 0, gain=jnp.ones_like)
        ),
        "dg of x": slip("wrong-operand", g=lambda x, g, b, dy: (dy * x).sum((0, 1))),
        "db of the first example": slip("some-examples", b=lambda x, g, b, dy: dy[0].sum(0)),
        "dg a mean over places": slip("scale", words="1/5", g=lambda *a: grouped_rule(*a)[1] / 5),
    },
    {"by autodiff": same(x=lambda x, g, b, dy: jax.vjp(lambda x: grouped(x, g, b), x)[1](dy)[0])},
)


def swiglu(x, u, v):
    return (x @ u) * jax.nn.silu(x @ v)


def swiglu_rule(x, u, v, dy, gate=1.0, value=1.0, full=True):
    a, b = x @ u, x @ v
    s = jax.nn.sigmoid(b)
    da, db = dy * b * s, dy * a * (s * (1 + b * (1 - s)) if full else s)
    return value * da @ u.T + gate * db @ v.T, x.T @ da, x.T @ db


SWIGLU = Function(
    "gated unit with SiLU",
    swiglu,
    swiglu_rule,
    {"x": X, "u": normal("up", C, 5), "v": normal("gate weights", C, 5)},
    {
        "slope of SiLU taken for a sigmoid": slip(
            "local-derivative", "edge", "missing-term", backward=partial(swiglu_rule, full=False)
        ),
        "gate forgotten in dx": slip("edge", "missing-term", x=part(swiglu_rule, 0, gate=0.0)),
        "value forgotten in dx": slip("edge", "missing-term", x=part(swiglu_rule, 0, value=0.0)),
        "sigmoid for SiLU in du": slip(
            "wrong-operand",
            "local-derivative",
            u=lambda x, u, v, dy: x.T @ (dy * jax.nn.sigmoid(x @ v)),
        ),
        "du and dv exchanged": slip("swapped", u=part(swiglu_rule, 2), v=part(swiglu_rule, 1)),
        "dv of the first half": slip(
            "some-examples", v=lambda x, u, v, dy: swiglu_rule(x[:5], u, v, dy[:5])[2]
        ),
    },
    {"under checkpoint": same(wrap=jax.checkpoint)},
)


def prelu(x, a):
    return jnp.where(x > 0, x, a * x)


PRELU = Function(
    "PReLU",
    prelu,
    lambda x, a, dy: (
        jnp.where(x > 0, dy, a * dy),
        jnp.where(x > 0, 0, x * dy).sum(0),
    ),
    {"x": X, "a": 0.1 + 0.1 * normal("slopes", C) ** 2},
    {
        "da of all": slip(
            "other-branch", "wrong-operand", "some-elements", a=lambda x, a, dy: (x * dy).sum(0)
        ),
        "da of the other side": slip(
            "wrong-operand", a=lambda x, a, dy: jnp.where(x > 0, x * dy, 0).sum(0)
        ),
        "da a mean": slip(
            "scale", words="1/11", a=lambda x, a, dy: jnp.where(x > 0, 0, x * dy).mean(0)
        ),
        "x forgotten in da": slip(
            "wrong-operand",
            "local-derivative",
            a=lambda x, a, dy: jnp.where(x > 0, 0, dy).sum(0),
        ),
        "slope of 1 on both sides": slip("some-elements", "other-branch", x=lambda x, a, dy: dy),
        "slope of 0 below 0": slip(
            "some-elements", "edge", "missing-term", x=lambda x, a, dy: jnp.where(x > 0, dy, 0)
        ),
    },
    {"by minimum": same(a=lambda x, a, dy: (jnp.minimum(x, 0) * dy).sum(0))},
)


def mish_slope(x, second=True, inner=True):
    t, s = jnp.tanh(jax.nn.softplus(x)), jax.nn.sigmoid(x)
    return t + (x * (1 - t**2) * (s if inner else 1) if second else 0)


MISH = curve(
    "mish",
    lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    mish_slope,
    {
        "second term forgotten": (
            ("edge", "missing-term", "local-derivative"),
            partial(mish_slope, second=False),
        ),
        "sigmoid forgotten": (("local-derivative", "edge"), partial(mish_slope, inner=False)),
        "slope of SiLU": (
            ("local-derivative",),
            lambda x: jax.nn.sigmoid(x) * (1 + x * (1 - jax.nn.sigmoid(x))),
        ),
    },
    {"by autodiff": jax.vmap(jax.vmap(jax.grad(lambda x: x * jnp.tanh(jax.nn.softplus(x)))))},
    x=X,
)

CLIPPED = curve(
    "hard tanh",
    lambda x: jnp.clip(x, -1, 1),
    lambda x: (abs(x) < 1).astype(x.dtype),
    {
        "up to 1.5": (("some-elements",), lambda x: (abs(x) < 1.5).astype(x.dtype)),
        "1 everywhere": (("other-branch", "some-elements"), jnp.ones_like),
        "0 within": (
            ("local-derivative", "wrong-operand", "other-branch"),
            lambda x: (abs(x) >= 1).astype(x.dtype),
        ),
        "slope of tanh": (("local-derivative",), lambda x: 1 - jnp.tanh(x) ** 2),
    },
    {"by its output": lambda x: (abs(jnp.clip(x, -1, 1)) < 1).astype(x.dtype)},
    x=X,
)


def normed(x, v, g):
    return x @ (g * v / jnp.linalg.norm(v, axis=0))


def normed_rule(x, v, g, dy, keep=1.0, gain=lambda g: g, unit=True):
    m = jnp.linalg.norm(v, axis=0)
    w, dw = v / m, x.T @ dy
    along = (w * dw).sum(0)
    return dy @ (g * w).T, gain(g) / m * (dw - keep * w * along), along if unit else along * m


NORMED = Function(
    "weight normalisation",
    normed,
    normed_rule,
    {"x": X, "v": normal("directions", C, 5), "g": 1 + 0.3 * normal("lengths", 5)},
    {
        "change of the length forgotten": slip(
            "edge", "missing-term", v=part(normed_rule, 1, keep=0.0)
        ),
        "g forgotten in dv": slip(
            "local-derivative", "wrong-operand", v=part(normed_rule, 1, gain=jnp.ones_like)
        ),
        "dg not normalised": slip(
            "local-derivative", "wrong-operand", "edge", g=part(normed_rule, 2, unit=False)
        ),
        "g forgotten in dx": slip(
            "local-derivative",
            "wrong-operand",
            "edge",
            x=lambda x, v, g, dy: dy @ (v / jnp.linalg.norm(v, axis=0)).T,
        ),
        "dv of w": slip(
            "edge",
            "local-derivative",
            "wrong-operand",
            v=lambda x, v, g, dy: x.T @ dy,
        ),
    },
    {"dg by the output": same(g=lambda x, v, g, dy: (normed(x, v, g) * dy).sum(0) / g)},
)

RANK = 0.5


def adapted(x, w, a, b):
    return x @ w + RANK * (x @ a) @ b


def adapted_rule(x, w, a, b, dy, base=1.0, low=1.0, times=RANK):
    d = times * dy
    return base * dy @ w.T + low * RANK * (dy @ b.T) @ a.T, x.T @ dy, x.T @ (d @ b.T), (x @ a).T @ d


ADAPTED = Function(
    "dense with a low-rank adapter",
    adapted,
    adapted_rule,
    {"x": X, "w": normal("frozen", C, 5), "a": normal("down", C, 3), "b": normal("up again", 3, 5)},
    {
        "adapter forgotten in dx": slip("edge", "missing-term", x=part(adapted_rule, 0, low=0.0)),
        "base forgotten in dx": slip("edge", "missing-term", x=part(adapted_rule, 0, base=0.0)),
        "scale forgotten in da": slip("scale", words="2", a=part(adapted_rule, 2, times=1.0)),
        "scale twice in db": slip("scale", words="0.5", b=part(adapted_rule, 3, times=RANK**2)),
        "last example lost in da": slip(
            "some-examples",
            a=lambda x, w, a, b, dy: adapted_rule(x[:-1], w, a, b, dy[:-1])[2],
        ),
        "dw negated": slip("sign", w=lambda x, w, a, b, dy: -x.T @ dy),
    },
    {"merged first": same(x=lambda x, w, a, b, dy: dy @ (w + RANK * a @ b).T)},
    known={"scale": RANK},
)


def scaled_branch(x, w, g):
    return x + g * jnp.tanh(x @ w)


def scaled_branch_rule(x, w, g, dy, skip=1.0, gain=lambda g: g, slope=lambda y: 1 - y**2):
    y = jnp.tanh(x @ w)
    d = dy * gain(g) * slope(y)
    return skip * dy + d @ w.T, x.T @ d, (dy * y).sum(0)


SCALED_BRANCH = Function(
    "residual with a scale for each channel",
    scaled_branch,
    scaled_branch_rule,
    {"x": X, "w": normal("branch", C, C), "g": 0.5 + normal("scales", C) ** 2},
    {
        "scale forgotten in dw": slip(
            "local-derivative", "wrong-operand", w=part(scaled_branch_rule, 1, gain=jnp.ones_like)
        ),
        "dg of x": slip("wrong-operand", g=lambda x, w, g, dy: (dy * x).sum(0)),
        "dg before the tanh": slip(
            "wrong-operand", "local-derivative", g=lambda x, w, g, dy: (dy * (x @ w)).sum(0)
        ),
        "skip forgotten": slip("edge", "missing-term", x=part(scaled_branch_rule, 0, skip=0.0)),
        "1 - y for the slope": slip(
            "local-derivative",
            backward=partial(scaled_branch_rule, slope=lambda y: 1 - y),
        ),
        "w not transposed": slip(
            "wrong-operand",
            x=lambda x, w, g, dy: dy + (dy * g * (1 - jnp.tanh(x @ w) ** 2)) @ w,
        ),
        "by way of float16": slip(
            "precision",
            g=lambda x, w, g, dy: (
                (dy.astype(jnp.float16) * jnp.tanh(x @ w).astype(jnp.float16))
                .sum(0)
                .astype(dy.dtype)
            ),
        ),
    },
    {
        "dw by einsum": same(
            w=lambda *a: jnp.einsum(
                "ni,nj->ij", a[0], a[3] * a[2] * (1 - jnp.tanh(a[0] @ a[1]) ** 2)
            )
        )
    },
)

IDS = np.array([[2, 5, 0], [5, 5, 1], [8, 3, 2], [0, 9, 7], [5, 1, 10]], np.int32)


def bag(table, ids):
    return table[ids].mean(1)


def bag_rule(table, ids, dy, by=3):
    d = jnp.broadcast_to(dy[:, None] / by, (5, 3, 3))
    return jnp.zeros_like(table).at[ids].add(d), None


BAG = Function(
    "mean of embeddings",
    bag,
    bag_rule,
    {"table": normal("words", 13, 3), "ids": IDS},
    {
        "not divided": slip("scale", words="3", table=part(bag_rule, 0, by=1)),
        "set for add": slip(
            "some-elements",
            "some-examples",
            table=lambda t, i, dy: (
                jnp.zeros_like(t).at[i].set(jnp.broadcast_to(dy[:, None] / 3, (5, 3, 3)))
            ),
        ),
        "first of each only": slip(
            "some-elements",
            "missing-term",
            "edge",
            table=lambda t, i, dy: jnp.zeros_like(t).at[i[:, 0]].add(dy / 3),
        ),
        "ids from 1": slip(
            "permutation", "wrong-operand", table=lambda t, i, dy: bag_rule(t, (i + 1) % 13, dy)[0]
        ),
        "row 0 left out": slip(
            "some-elements", table=lambda t, i, dy: bag_rule(t, i, dy)[0].at[0].set(0)
        ),
    },
    {
        "by one-hot": same(
            table=lambda t, i, dy: jax.nn.one_hot(i, 13, dtype=dy.dtype).mean(1).T @ dy
        )
    },
)


def rounded(x, w):
    return (x + jax.lax.stop_gradient(jnp.round(2 * x) / 2 - x)) * w


ROUNDED = Function(
    "rounding straight through",
    rounded,
    lambda x, w, dy: (dy * w, (dy * jnp.round(2 * x) / 2).sum(0)),
    {"x": X, "w": normal("steps", C)},
    {
        "slope of 0": slip("zero", x=lambda x, w, dy: jnp.zeros_like(x)),
        "dw before rounding": slip("wrong-operand", w=lambda x, w, dy: (dy * x).sum(0)),
        "w forgotten": slip("wrong-operand", "local-derivative", x=lambda x, w, dy: dy),
        "slope of 2": slip("scale", words="2", x=lambda x, w, dy: 2 * dy * w),
    },
    {"as written": same(w=lambda x, w, dy: (dy * (x + (jnp.round(2 * x) / 2 - x))).sum(0))},
)

FUNCTIONS = [
    GROUPED,
    SWIGLU,
    PRELU,
    MISH,
    CLIPPED,
    NORMED,
    ADAPTED,
    SCALED_BRANCH,
    BAG,
    ROUNDED,
]
