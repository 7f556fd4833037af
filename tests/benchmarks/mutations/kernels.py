"""Attention, convolutions, loops and factors: what runs in kernels.

Written from what goes wrong in practice, without reading the checker or running it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

D = 5
READ = np.arange(7) < np.array([7, 4])[:, None]


def read(q, k, m):
    return jax.nn.softmax(
        jnp.where(m[:, None], jnp.einsum("btd,bsd->bts", q, k) / D**0.5, -jnp.inf)
    )


def crossed(q, k, v, m):
    """Attention of each query to what is not padding."""
    return jnp.einsum("bts,bsd->btd", read(q, k, m), v)


def crossed_rule(q, k, v, m, dy, mask=lambda m: m, keep=1, scale=D**0.5, at=None, some=slice(None)):
    p = read(q, k, mask(m))
    dp = jnp.einsum("btd,bsd->bts", dy, v)
    ds = p * (dp - keep * (dp * p).sum(-1, keepdims=True)) / scale
    dk = jnp.einsum("bts,btd->bsd", ds[:, some], q[:, some])
    return (
        jnp.einsum("bts,bsd->btd", ds, k if at is None else at(k, v)),
        dk,
        jnp.einsum("bts,btd->bsd", p, dy),
        None,
    )


CROSSED = Function(
    "attention to what is not padding",
    crossed,
    crossed_rule,
    {
        "q": normal("asked", 2, 3, D),
        "k": normal("asked for", 2, 7, D),
        "v": normal("answers", 2, 7, D),
        "m": READ,
    },
    {
        "padding forgotten in dv": slip(
            "other-branch", v=part(crossed_rule, 2, mask=jnp.ones_like)
        ),
        "padding of the other example": slip(
            "wrong-operand", backward=partial(crossed_rule, mask=lambda m: m[::-1])
        ),
        "row sums forgotten": slip("edge", "missing-term", q=part(crossed_rule, 0, keep=0)),
        "d for its root in dk": slip(
            "scale", words="sqrt(5)", k=part(crossed_rule, 1, scale=float(D))
        ),
        "v for k": slip("wrong-operand", q=part(crossed_rule, 0, at=lambda k, v: v)),
        "first query lost in dk": slip(
            "missing-term", "some-examples", k=part(crossed_rule, 1, some=slice(1, None))
        ),
        "dk and dv exchanged": slip("swapped", k=part(crossed_rule, 2), v=part(crossed_rule, 1)),
    },
    {
        "row sums of the output": same(
            q=lambda q, k, v, m, dy: (
                jnp.einsum(
                    "bts,bsd->btd",
                    read(q, k, m)
                    * (
                        jnp.einsum("btd,bsd->bts", dy, v)
                        - (dy * crossed(q, k, v, m)).sum(-1, keepdims=True)
                    ),
                    k,
                )
                / D**0.5
            )
        ),
        "example by example": same(
            v=lambda q, k, v, m, dy: jnp.stack([read(q, k, m)[i].T @ dy[i] for i in range(len(dy))])
        ),
    },
)

AGO, CAP = np.arange(7)[:, None] - np.arange(7), 1.5
NEAR = (AGO >= 0) & (AGO < 3)


def capped(q, k):
    return jnp.tanh(q @ k.T / (CAP * 3**0.5))


def near(q, k, v, mask=NEAR):
    """Attention to three places, with scores within a cap."""
    return jax.nn.softmax(jnp.where(mask, CAP * capped(q, k), -jnp.inf)) @ v


def near_rule(q, k, v, dy, mask=NEAR, slope=lambda t: 1 - t**2, turn=jnp.transpose):
    t = capped(q, k)
    p = jax.nn.softmax(jnp.where(mask, CAP * t, -jnp.inf))
    dp = dy @ v.T
    ds = p * (dp - (dp * p).sum(1, keepdims=True)) * slope(t) / 3**0.5
    return ds @ k, turn(ds) @ q, p.T @ dy


WINDOWED = Function(
    "attention to three places with a cap",
    near,
    near_rule,
    {"q": normal("near q", 7, 3), "k": normal("near k", 7, 3), "v": normal("near v", 7, 2)},
    {
        "slope of the cap forgotten": slip(
            "local-derivative", q=part(near_rule, 0, slope=jnp.ones_like)
        ),
        "slope of the capped score": slip(
            "local-derivative",
            "wrong-operand",
            k=part(near_rule, 1, slope=lambda t: 1 - (CAP * t) ** 2),
        ),
        "divided by the cap once more": slip(
            "scale", words="cap", k=part(near_rule, 1, slope=lambda t: (1 - t**2) / CAP)
        ),
        "four places": slip("wrong-operand", v=part(near_rule, 2, mask=(AGO >= 0) & (AGO < 4))),
        "places to come": slip("wrong-operand", backward=partial(near_rule, mask=NEAR.T)),
        "scores not transposed": slip("wrong-operand", k=part(near_rule, 1, turn=lambda s: s)),
    },
    {
        "slope by cosh": same(
            backward=partial(near_rule, slope=lambda t: 1 / jnp.cosh(jnp.arctanh(t)) ** 2)
        ),
        "of the last place": same(wrap=lambda f: lambda *a: f(*a)[-1]),
    },
    known={"cap": CAP},
)

APART = (np.arange(D) - np.arange(D)[:, None] + D - 1).astype(np.int32)
TIMES = np.bincount(APART.ravel()).astype(np.float32)


def placed(s, b, v):
    """Attention by scores and a bias that is looked up by how far apart two places are."""
    return jax.nn.softmax(s + b[APART]) @ v


def placed_rule(s, b, v, dy, keep=1, at=APART, bias=1):
    p = jax.nn.softmax(s + bias * b[APART])
    dp = dy @ v.T
    ds = p * (dp - keep * (dp * p).sum(1, keepdims=True))
    return ds, jnp.zeros_like(b).at[at].add(ds), p.T @ dy


PLACED = Function(
    "attention with a table of distances",
    placed,
    placed_rule,
    {"s": normal("scores", D, D), "b": normal("distances", 2 * D - 1), "v": normal("v", D, 3)},
    {
        "set for add": slip(
            "some-elements",
            b=lambda s, b, v, dy: jnp.zeros_like(b).at[APART].set(placed_rule(s, b, v, dy)[0]),
        ),
        "distances turned round": slip("permutation", b=part(placed_rule, 1, at=APART.T)),
        "distances from 1": slip("permutation", b=part(placed_rule, 1, at=(APART + 1) % 9)),
        "a mean of each distance": slip(
            "some-elements",
            "local-derivative",
            b=lambda *a: placed_rule(*a)[1] / jnp.asarray(TIMES, a[0].dtype),
        ),
        "row sums forgotten": slip("edge", "missing-term", b=part(placed_rule, 1, keep=0)),
        "ds transposed": slip("transpose", s=lambda *a: placed_rule(*a)[0].T),
        "bias forgotten": slip("wrong-operand", "missing-term", s=part(placed_rule, 0, bias=0)),
    },
    {
        "diagonal by diagonal": same(
            b=lambda *a: jnp.stack([jnp.trace(placed_rule(*a)[0], i) for i in range(1 - D, D)])
        )
    },
)


def strided(x, w):
    """Three taps two apart, at every third place; what remains at the end is not read."""
    return jnp.einsum("bctk,ock->bot", taps(x), w)


def taps(x, stride=3, apart=2):
    return jnp.stack([x[..., apart * k :][..., : 2 * stride + 1 : stride] for k in range(3)], -1)


def strided_rule(x, w, dy, stride=3, apart=2, start=0, mirror=1, some=slice(None)):
    d, dx = jnp.einsum("bot,ock->bctk", dy, w[..., ::mirror]), jnp.zeros_like(x)
    for k in range(3):
        first = start + apart * k
        dx = dx.at[..., first : first + 2 * stride + 1 : stride].add(d[..., k])
    return dx, jnp.einsum("bctk,bot->ock", taps(x)[some], dy[some])


STRIDED = Function(
    "convolution with stride and holes",
    strided,
    strided_rule,
    {"x": normal("wave", 2, 3, 13), "w": normal("three taps", D, 3, 3)},
    {
        "holes forgotten": slip("permutation", x=part(strided_rule, 0, apart=1)),
        "stride and holes exchanged": slip(
            "permutation", x=part(strided_rule, 0, stride=2, apart=3)
        ),
        "from the end": slip("permutation", x=part(strided_rule, 0, start=2)),
        "taps in reversed order": slip("wrong-operand", x=part(strided_rule, 0, mirror=-1)),
        "dw of the second example": slip(
            "some-examples", w=part(strided_rule, 1, some=slice(1, None))
        ),
        "dw a mean over places": slip("scale", words="1/3", w=lambda *a: strided_rule(*a)[1] / 3),
        "dw flipped": slip("permutation", w=lambda *a: strided_rule(*a)[1][..., ::-1]),
    },
    {
        "by the convolution": same(
            backward=lambda x, w, dy: jax.vjp(
                lambda x, w: jax.lax.conv_general_dilated(x, w, (3,), "VALID", rhs_dilation=(2,)),
                x,
                w,
            )[1](dy)
        ),
        "tap by tap": same(
            w=lambda x, w, dy: jnp.stack(
                [jnp.einsum("bct,bot->oc", taps(x)[..., k], dy) for k in range(3)], -1
            )
        ),
    },
)


def spread(x, w, b):
    """Each value spread over three places, from every second on."""
    y = jnp.zeros((2, 2, 11), x.dtype) + b[:, None]
    for k in range(3):
        y = y.at[..., k : k + 9 : 2].add(jnp.einsum("bct,co->bot", x, w[..., k]))
    return y


def heard(dy, stride=2):
    return jnp.stack([dy[..., k:][..., : 4 * stride + 1 : stride] for k in range(3)], -1)


def spread_rule(x, w, b, dy, stride=2, mirror=1, last=3):
    d = heard(dy, stride)
    dx = jnp.einsum("botk,cok->bct", d[..., :last], w[..., :last][..., ::mirror])
    return dx, jnp.einsum("bct,botk->cok", x, heard(dy)), dy.sum((0, 2))


SPREAD = Function(
    "transposed convolution",
    spread,
    spread_rule,
    {"x": normal("codes", 2, 3, D), "w": normal("spread", 3, 2, 3), "b": normal("ground", 2)},
    {
        "stride forgotten": slip("wrong-operand", x=part(spread_rule, 0, stride=1)),
        "taps in reversed order": slip("wrong-operand", x=part(spread_rule, 0, mirror=-1)),
        "last tap lost": slip("edge", "missing-term", x=part(spread_rule, 0, last=2)),
        "dw off by one tap": slip("permutation", w=lambda *a: jnp.roll(spread_rule(*a)[1], 1, 2)),
        "db a mean": slip("scale", words="1/11", b=lambda x, w, b, dy: dy.mean(2).sum(0)),
        "db of the first example": slip("some-examples", b=lambda x, w, b, dy: dy[0].sum(1)),
    },
    {
        "by autodiff": same(backward=lambda *a: jax.vjp(spread, *a[:-1])[1](a[-1])),
        "without ground": same(args={"b": np.zeros(2, np.float32)}),
    },
)


def halved(a, half=0.5):
    return jnp.tril(a) - (1 - half) * jnp.diag(jnp.diag(a))


def cholesky_rule(
    a, dy, half=0.5, twice=True, lower=jnp.tril, turn=jnp.transpose, inner=jnp.transpose
):
    y = jnp.linalg.cholesky(a)
    inverse = jnp.linalg.inv(y)
    s = turn(inverse) @ halved(inner(y) @ lower(dy), half) @ turn(inverse).T
    return ((s + s.T) / 2 if twice else s,)


ROOT = normal("root", D, D)
CHOLESKY = Function(
    "Cholesky factor",
    jnp.linalg.cholesky,
    cholesky_rule,
    {"a": ROOT @ ROOT.T + np.eye(D, dtype=np.float32)},
    {
        "diagonal not halved": slip("local-derivative", a=part(cholesky_rule, 0, half=1.0)),
        "not made symmetric": slip(
            "local-derivative", "missing-term", a=part(cholesky_rule, 0, twice=False)
        ),
        "y not transposed within": slip(
            "wrong-operand", a=part(cholesky_rule, 0, inner=lambda y: y)
        ),
        "inverse not transposed": slip("wrong-operand", a=part(cholesky_rule, 0, turn=lambda i: i)),
        "of the lower half": slip(
            "some-elements",
            a=lambda a, dy: (s := cholesky_rule(a, dy)[0]) + jnp.tril(s, -1) - jnp.triu(s, 1),
        ),
    },
    {
        "what is above the diagonal too": same(a=part(cholesky_rule, 0, lower=lambda d: d)),
        "by solving": same(
            a=lambda a, dy: (
                (
                    (
                        s := jnp.linalg.solve(
                            (y := jnp.linalg.cholesky(a)).T,
                            jnp.linalg.solve(y.T, halved(y.T @ jnp.tril(dy)).T).T,
                        )
                    )
                    + s.T
                )
                / 2
            )
        ),
    },
)

STEPS, RATE, MOMENTUM = 4, 0.1, 0.7


def descended(a, b, w):
    """Four steps of descent with momentum towards a w = b."""

    def step(_, state):
        w, m = state
        m = MOMENTUM * m + a @ w - b
        return w - RATE * m, m

    return jax.lax.fori_loop(0, STEPS, step, (w, jnp.zeros_like(w)))[0]


def descended_rule(a, b, w, dy, carry=MOMENTUM, turn=jnp.transpose, last=False, some=0, skip=1):
    states = [w, *(w - RATE * m for w, m in momenta(a, b, w))]
    dw, dm, da, db = dy, jnp.zeros_like(w), jnp.zeros_like(a), jnp.zeros_like(b)
    for t in reversed(range(some, STEPS)):
        dm = dm - RATE * dw
        da, db = da + jnp.outer(dm, states[t + last]), db - dm
        dw, dm = skip * dw + turn(a) @ dm, carry * dm
    return da, db, dw


def momenta(a, b, w):
    m = jnp.zeros_like(w)
    for _ in range(STEPS):
        m = MOMENTUM * m + a @ w - b
        yield w, m
        w = w - RATE * m


DESCENDED = Function(
    "four steps of descent",
    descended,
    descended_rule,
    {"a": normal("a", D, D), "b": normal("b", D), "w": normal("start", D)},
    {
        "a not transposed": slip("wrong-operand", w=part(descended_rule, 2, turn=lambda a: a)),
        "momentum not carried back": slip(
            "edge", "missing-term", a=part(descended_rule, 0, carry=0)
        ),
        "momentum for what it lacks of 1": slip(
            "edge", "local-derivative", b=part(descended_rule, 1, carry=1 - MOMENTUM)
        ),
        "rate forgotten in db": slip(
            "scale", words="rate", b=lambda *s: descended_rule(*s)[1] / RATE
        ),
        "db without its minus": slip("sign", b=lambda *s: -descended_rule(*s)[1]),
        "w after the step in da": slip("wrong-operand", a=part(descended_rule, 0, last=True)),
        "first step lost": slip("edge", "missing-term", a=part(descended_rule, 0, some=1)),
    },
    {
        "by autodiff": same(backward=lambda *s: jax.vjp(descended, *s[:-1])[1](s[-1])),
        "under jit": same(wrap=jax.jit),
    },
    known={"rate": RATE, "momentum": MOMENTUM},
)

FUNCTIONS = [CROSSED, WINDOWED, PLACED, STRIDED, SPREAD, CHOLESKY, DESCENDED]
