"""Attention, recurrences, filters and matrices. Written once the checker's hypotheses stood."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

T, D = 5, 3
PAST = np.tri(T, dtype=bool)
WRONG = ("wrong-operand", "local-derivative")


def grouped_weights(q, k, mask):
    scores = jnp.einsum("gtd,sd->gts", q, k) / D**0.5
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))


def grouped(q, k, v):
    """Two query heads over one of keys and values."""
    return jnp.einsum("gts,sd->gtd", grouped_weights(q, k, PAST), v)


def grouped_rule(q, k, v, dy, mask=PAST, keep=1, heads=2, scale=D**0.5, turn=True):
    p = grouped_weights(q, k, mask)
    dp = jnp.einsum("gtd,sd->gts", dy, v)
    ds = p * (dp - keep * (dp * p).sum(-1, keepdims=True)) / scale
    dk = jnp.einsum("gts,gtd->sd", ds[:heads], q[:heads])
    dv = jnp.einsum("gts,gtd->sd" if turn else "gst,gtd->sd", p, dy)
    return jnp.einsum("gts,sd->gtd", ds, k), dk, dv


GROUPED = Function(
    "attention of two heads over one",
    grouped,
    grouped_rule,
    {"q": normal("heads", 2, T, D), "k": normal("keys", T, D), "v": normal("values", T, D)},
    {
        "dk of the first head": slip(
            "some-examples", "missing-term", "edge", k=part(grouped_rule, 1, heads=1)
        ),
        "dk a mean of heads": slip("scale", words="0.5", k=lambda *a: grouped_rule(*a)[1] / 2),
        "row sums forgotten": slip(
            "edge",
            "missing-term",
            q=part(grouped_rule, 0, keep=0),
            k=part(grouped_rule, 1, keep=0),
        ),
        "scale forgotten": slip("scale", words="sqrt(3)", q=part(grouped_rule, 0, scale=1.0)),
        "mask forgotten": slip(
            "other-branch", backward=partial(grouped_rule, mask=np.ones((T, T), bool))
        ),
        "weights not transposed in dv": slip("wrong-operand", v=part(grouped_rule, 2, turn=False)),
    },
    {
        "head by head": same(
            v=lambda q, k, v, dy: sum(
                p.T @ d for p, d in zip(grouped_weights(q, k, PAST), dy, strict=True)
            )
        )
    },
)


def feature(x):
    return jax.nn.elu(x) + 1


def feature_slope(x):
    return jnp.where(x > 0, 1, jnp.exp(jnp.minimum(x, 0)))


def linear(q, k, v):
    return feature(q) @ (feature(k).T @ v)


def linear_rule(q, k, v, dy, slope=feature_slope, kept=feature):
    s = feature(k).T @ v
    dq = slope(q) * (dy @ s.T)
    ds = feature(q).T @ dy
    return dq, feature_slope(k) * (v @ ds.T), kept(k) @ ds


LINEAR = Function(
    "linear attention",
    linear,
    linear_rule,
    {"q": normal("q", T, D), "k": normal("k", T, D), "v": normal("v", T, 2)},
    {
        "slope of the feature forgotten": slip(
            "local-derivative", "other-branch", q=part(linear_rule, 0, slope=jnp.ones_like)
        ),
        "slope at k for q": slip(
            *WRONG,
            q=lambda q, k, v, dy: feature_slope(k) * (dy @ (feature(k).T @ v).T),
        ),
        "k for its feature": slip(
            "wrong-operand", "local-derivative", v=part(linear_rule, 2, kept=lambda k: k)
        ),
        "feature for its slope": slip(
            "local-derivative",
            "wrong-operand",
            "some-elements",
            q=part(linear_rule, 0, slope=feature),
        ),
    },
    {"in the other order": same(v=lambda q, k, v, dy: (feature(k) @ feature(q).T) @ dy)},
)

AWAY = np.abs(np.arange(T)[:, None] - np.arange(T)).astype(np.float32)


def away(dtype):
    return jnp.asarray(AWAY, dtype)


def biased(s, v, m):
    return jax.nn.softmax(s - m * away(s.dtype)) @ v


def biased_rule(s, v, m, dy, bias=1.0, far=away):
    p = jax.nn.softmax(s - bias * m * away(s.dtype))
    dp = dy @ v.T
    ds = p * (dp - (dp * p).sum(1, keepdims=True))
    return ds, p.T @ dy, -(ds * far(s.dtype)).sum()


BIASED = Function(
    "scores with a bias for distance",
    biased,
    biased_rule,
    {"s": normal("raw scores", T, T), "v": normal("v", T, D), "m": np.float32(0.4)},
    {
        "bias forgotten in dv": slip(
            "edge",
            "local-derivative",
            "wrong-operand",
            "missing-term",
            v=part(biased_rule, 1, bias=0.0),
        ),
        "distance squared in dm": slip(
            "local-derivative",
            "wrong-operand",
            "scale",
            m=part(biased_rule, 2, far=lambda dtype: away(dtype) ** 2),
        ),
        "dm without its minus": slip("sign", m=lambda *a: -biased_rule(*a)[2]),
        "weights not transposed in dv": slip(
            "wrong-operand",
            v=lambda s, v, m, dy: jax.nn.softmax(s - m * away(s.dtype)) @ dy,
        ),
        "softmax over queries in dv": slip(
            *WRONG, v=lambda s, v, m, dy: jax.nn.softmax(s - m * away(s.dtype), 0).T @ dy
        ),
    },
    {"bias inside": same(v=lambda s, v, m, dy: jax.nn.softmax(-(m * away(s.dtype) - s)).T @ dy)},
)


def recurrent_states(x, w, u, h):
    def step(h, x):
        new = jnp.tanh(x @ w + h @ u)
        return new, (new, h)

    return jax.lax.scan(step, h, x)[1]


def recurrent(x, w, u, h):
    return recurrent_states(x, w, u, h)[0]


def recurrent_rule(x, w, u, h, dy, carry=1.0, turn=True, last=False, slope=lambda y: 1 - y**2):
    ys, hs = recurrent_states(x, w, u, h)

    def back(kept, given):
        dh, dw, du = kept
        x, y, h, dy = given
        a = (dh + dy) * slope(y)
        dw, du = dw + jnp.outer(x, a), du + jnp.outer(y if last else h, a)
        return (carry * ((u if turn else u.T) @ a), dw, du), w @ a

    start = jnp.zeros_like(h), jnp.zeros_like(w), jnp.zeros_like(u)
    (dh, dw, du), dx = jax.lax.scan(back, start, (x, ys, hs, dy), reverse=True)
    return dx, dw, du, dh


RECURRENT = Function(
    "plain recurrence",
    recurrent,
    recurrent_rule,
    {
        "x": normal("sequence", T, 2),
        "w": normal("into", 2, D),
        "u": normal("onwards", D, D),
        "h": normal("first state", D),
    },
    {
        "not carried back": slip(
            "edge", "missing-term", "zero", backward=partial(recurrent_rule, carry=0.0)
        ),
        "u not transposed": slip("wrong-operand", x=part(recurrent_rule, 0, turn=False)),
        "new state for the old in du": slip("wrong-operand", u=part(recurrent_rule, 2, last=True)),
        "slope of tanh forgotten": slip(
            "local-derivative", backward=partial(recurrent_rule, slope=jnp.ones_like)
        ),
        "no gradient of the first state": slip("zero", h=lambda *a: jnp.zeros_like(a[3])),
        "half of what is carried": slip("edge", "scale", w=part(recurrent_rule, 1, carry=0.5)),
        "dx in reversed order": slip("permutation", x=lambda *a: recurrent_rule(*a)[0][::-1]),
    },
    {"by autodiff": same(backward=lambda *a: jax.vjp(recurrent, *a[:-1])[1](a[-1]))},
)

FADE = 0.9


def average(x):
    def step(m, x):
        m = FADE * m + (1 - FADE) * x
        return m, m

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def average_rule(x, dy, reverse=True, fade=FADE, share=1 - FADE, carry=True):
    def step(m, d):
        m = d + (fade * m if carry else 0)
        return m, share * m

    return (jax.lax.scan(step, jnp.zeros_like(x[0]), dy, reverse=reverse)[1],)


AVERAGE = Function(
    "moving average",
    average,
    average_rule,
    {"x": normal("over time", 11, D)},
    {
        "forwards again": slip("wrong-operand", x=part(average_rule, 0, reverse=False)),
        "1 - b forgotten": slip("scale", words="1 - fade", x=part(average_rule, 0, share=1.0)),
        "b forgotten": slip("edge", "local-derivative", x=part(average_rule, 0, fade=1.0)),
        "not carried back": slip("edge", "missing-term", x=part(average_rule, 0, carry=False)),
        "first step lost": slip(
            "some-elements", x=lambda x, dy: average_rule(x, dy)[0].at[0].set(0)
        ),
    },
    {"by autodiff": same(x=lambda x, dy: jax.vjp(average, x)[1](dy)[0])},
    known={"fade": FADE},
)


def filtered(x, w):
    """Each channel along time with a filter of its own, of 3 taps, into the past."""
    p = jnp.pad(x, [(0, 0), (2, 0), (0, 0)])
    return sum(w[j] * p[:, j : j + 7] for j in range(3))


def filtered_rule(x, w, dy, taps=range(3)):
    p, d = jnp.pad(x, [(0, 0), (2, 0), (0, 0)]), jnp.pad(dy, [(0, 0), (0, 2), (0, 0)])
    dx = sum(w[j] * d[:, 2 - j : 9 - j] for j in taps)
    return dx, jnp.stack([(p[:, j : j + 7] * dy).sum((0, 1)) for j in range(3)])


FILTERED = Function(
    "causal filter of each channel",
    filtered,
    filtered_rule,
    {"x": normal("channels", 3, 7, 2), "w": normal("taps", 3, 2)},
    {
        "into the past again": slip(
            "wrong-operand", "permutation", x=lambda x, w, dy: filtered(dy, w)
        ),
        "last tap lost": slip("edge", "missing-term", x=part(filtered_rule, 0, taps=range(2))),
        "dw reversed": slip("permutation", w=lambda *a: filtered_rule(*a)[1][::-1]),
        "dw of the first example": slip(
            "some-examples", w=lambda x, w, dy: filtered_rule(x[:1], w, dy[:1])[1]
        ),
        "dw a mean": slip("scale", words="1/3", w=lambda *a: filtered_rule(*a)[1] / 3),
        "taps in reversed order": slip(
            "wrong-operand", x=lambda x, w, dy: filtered_rule(x, w[::-1], dy)[0]
        ),
        "end lost in dx": slip("some-elements", x=lambda *a: filtered_rule(*a)[0].at[:, -1].set(0)),
    },
    {"dw by einsum": same(w=lambda x, w, dy: jax.vjp(filtered, x, w)[1](dy)[1])},
)


def pooled(x):
    """Means of 3 at every second place."""
    return (x[:, 0:6:2] + x[:, 1:7:2] + x[:, 2:8:2]) / 3


def pooled_rule(x, dy, by=3, first=0, set=False):
    dx = jnp.zeros_like(x)
    for i in range(3):
        at = dx.at[:, first + i : first + i + 6 : 2] if i + first < 3 else dx.at[:, 2:8:2]
        dx = at.set(dy / by) if set else at.add(dy / by)
    return (dx,)


POOLED = Function(
    "means of overlapping windows",
    pooled,
    pooled_rule,
    {"x": normal("signal", 5, 7)},
    {
        "not divided": slip("scale", words="3", x=part(pooled_rule, 0, by=1)),
        "divided by the stride": slip("scale", x=part(pooled_rule, 0, by=2)),
        "set where windows overlap": slip("some-elements", x=part(pooled_rule, 0, set=True)),
        "off by one": slip("permutation", x=lambda x, dy: jnp.roll(pooled_rule(x, dy)[0], 1, 1)),
    },
    {"divided first": same(x=lambda x, dy: pooled_rule(x, dy / 3, by=1)[0])},
)

ROWS = {"a": normal("system", 5, 5) + 4 * np.eye(5, dtype=np.float32)}


def logdet(a):
    return jnp.linalg.slogdet(a)[1]


LOGDET = Function(
    "logarithm of the determinant",
    logdet,
    lambda a, dy: (dy * jnp.linalg.inv(a).T,),
    ROWS,
    {
        "not transposed": slip("transpose", a=lambda a, dy: dy * jnp.linalg.inv(a)),
        "minus": slip("sign", a=lambda a, dy: -dy * jnp.linalg.inv(a).T),
        "dy forgotten": slip("ignores-cotangent", a=lambda a, dy: jnp.linalg.inv(a).T),
        "diagonal only": slip(
            "some-elements", a=lambda a, dy: dy * jnp.diag(jnp.diag(jnp.linalg.inv(a)))
        ),
    },
    {"by solving": same(a=lambda a, dy: dy * jnp.linalg.solve(a.T, jnp.eye(5, dtype=a.dtype)))},
)


def running(x):
    return jnp.cumprod(1 + x**2, 0)


def running_rule(x, dy, reverse=True, divide=True):
    d = 2 * x * jax.lax.cumsum(dy * running(x), 0, reverse=reverse)
    return (d / (1 + x**2) if divide else d,)


RUNNING = Function(
    "running product",
    running,
    running_rule,
    {"x": 0.3 * normal("factors", 11, D)},
    {
        "summed forwards": slip("wrong-operand", x=part(running_rule, 0, reverse=False)),
        "not divided by the factor": slip(
            "local-derivative", "wrong-operand", "edge", x=part(running_rule, 0, divide=False)
        ),
        "own product only": slip(
            "edge", "missing-term", x=lambda x, dy: dy * 2 * x * running(x) / (1 + x**2)
        ),
    },
    {"by autodiff": same(x=lambda x, dy: jax.vjp(running, x)[1](dy)[0])},
)


def clipped(x):
    size = jnp.sqrt(jnp.square(x).sum(1, keepdims=True))
    return jnp.where(size > 2, x * 2 / size, x)


def clipped_rule(x, dy, keep=1.0, always=False, never=False):
    size = jnp.sqrt(jnp.square(x).sum(1, keepdims=True))
    y = x / size
    within = 2 / size * (dy - keep * y * (dy * y).sum(1, keepdims=True))
    if always or never:
        return (within if always else dy,)
    return (jnp.where(size > 2, within, dy),)


CLIPPED = Function(
    "rows of length 2 at most",
    clipped,
    clipped_rule,
    {"x": normal("long and short", 11, D)},
    {
        "change of the length forgotten": slip(
            "edge", "missing-term", "some-elements", x=part(clipped_rule, 0, keep=0.0)
        ),
        "as if all were clipped": slip(
            "other-branch", "some-elements", "some-examples", x=part(clipped_rule, 0, always=True)
        ),
        "as if none were": slip(
            "other-branch", "some-elements", "some-examples", x=part(clipped_rule, 0, never=True)
        ),
    },
    {"by autodiff": same(x=lambda x, dy: jax.vjp(clipped, x)[1](dy)[0])},
)


def experts(x, r, w):
    """A mixture of two dense layers."""
    return jnp.einsum("ne,nei->ni", jax.nn.softmax(x @ r), jnp.einsum("ni,eij->nej", x, w))


def experts_rule(x, r, w, dy, gate=1.0, keep=1.0, weigh=True, route=1.0):
    p, y = jax.nn.softmax(x @ r), jnp.einsum("ni,eij->nej", x, w)
    dp = jnp.einsum("ni,nei->ne", dy, y)
    ds = p * (dp - keep * (dp * p).sum(1, keepdims=True))
    d = jnp.einsum("ne,ni->nei", p if weigh else jnp.ones_like(p), dy)
    dx = route * jnp.einsum("nej,eij->ni", d, w) + gate * ds @ r.T
    return dx, x.T @ ds, jnp.einsum("ni,nej->eij", x, d)


EXPERTS = Function(
    "mixture of experts",
    experts,
    experts_rule,
    {"x": normal("tokens", 11, 5), "r": normal("router", 5, 2), "w": normal("experts", 2, 5, 3)},
    {
        "path through the gate forgotten": slip(
            "edge", "missing-term", x=part(experts_rule, 0, gate=0.0)
        ),
        "path through the experts forgotten": slip(
            "edge", "missing-term", x=part(experts_rule, 0, route=0.0)
        ),
        "gate forgotten in dw": slip(
            "wrong-operand", "local-derivative", w=part(experts_rule, 2, weigh=False)
        ),
        "row sums forgotten in dr": slip("edge", "missing-term", r=part(experts_rule, 1, keep=0.0)),
        "second expert forgotten": slip(
            "some-elements", w=lambda *a: experts_rule(*a)[2].at[1].set(0)
        ),
        "dw of the first half": slip(
            "some-examples", w=lambda x, r, w, dy: experts_rule(x[:6], r, w, dy[:6])[2]
        ),
    },
    {"under jit": same(wrap=jax.jit)},
)

FUNCTIONS = [GROUPED, LINEAR, BIASED, RECURRENT, AVERAGE, FILTERED]
FUNCTIONS += [POOLED, LOGDET, RUNNING, CLIPPED, EXPERTS]
