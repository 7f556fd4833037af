"""Layers that normalise, gate, choose or condition what passes through them.

Written from what goes wrong in practice, without reading the checker or running it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from .case import Function, normal, part, same, slip

B, T, C, EPS = 3, 7, 5, 1e-2
X = normal("series", B, T, C)


def inverse(variance):
    return jax.lax.rsqrt(variance + EPS)


def standard(x, root=inverse):
    off = x - x.mean(1, keepdims=True)
    r = root(jnp.square(off).mean(1, keepdims=True))
    return off * r, r


def instance_norm(x, g, b):
    return standard(x)[0] * g + b


def instance_rule(x, g, b, dy, over=1, root=inverse, variance=1, kept=lambda y, g, b: y):
    y, r = standard(x, root)
    d = dy * g
    means = d.mean(over, keepdims=True), (d * y).mean(over, keepdims=True)
    dx = r * (d - means[0] - variance * y * means[1])
    return dx, (dy * kept(standard(x)[0], g, b)).sum((0, 1)), dy.sum((0, 1))


INSTANCE = Function(
    "instance norm",
    instance_norm,
    instance_rule,
    {"x": X, "g": 1 + 0.5 * normal("gain", C), "b": normal("shift", C)},
    {
        "means over the batch too": slip(
            "structure", "wrong-operand", "edge", x=part(instance_rule, 0, over=(0, 1))
        ),
        "eps outside the root": slip(
            "wrong-operand",
            "local-derivative",
            x=part(instance_rule, 0, root=lambda v: 1 / (jnp.sqrt(v) + EPS)),
        ),
        "path through the variance forgotten": slip(
            "edge", "missing-term", x=part(instance_rule, 0, variance=0)
        ),
        "dg of the output": slip(
            "wrong-operand", g=part(instance_rule, 1, kept=lambda y, g, b: y * g + b)
        ),
        "dg a mean over time": slip(
            "scale", words="1/7", g=lambda *a: instance_rule(*a)[1] / a[0].shape[1]
        ),
        "db of the first example": slip("some-examples", b=lambda x, g, b, dy: dy[0].sum(0)),
        "dy clipped": slip(
            "nonlinear", x=lambda x, g, b, dy: instance_rule(x, g, b, jnp.clip(dy, -2, 2))[0]
        ),
    },
    {
        "example by example": same(
            x=lambda x, g, b, dy: jax.vmap(
                lambda x, dy: instance_rule(x[None], g, b, dy[None])[0][0]
            )(x, dy)
        ),
        "means taken off twice": same(
            x=lambda *a: (d := instance_rule(*a)[0]) - d.mean(1, keepdims=True)
        ),
    },
    known={"eps": EPS},
)


def halves(x, w):
    """A gated linear unit of one product's halves."""
    a, b = jnp.split(x @ w, 2, 1)
    return a * jax.nn.sigmoid(b)


def halves_rule(x, w, dy, slope=lambda s: s * (1 - s), of=lambda a, b: b, gate=1, join=None):
    a, b = jnp.split(x @ w, 2, 1)
    s = jax.nn.sigmoid(of(a, b))
    d = dy * s, gate * dy * a * slope(s)
    d = join(*d) if join else jnp.concatenate(d, 1)
    return d @ w.T, x.T @ d


HALVES = Function(
    "gated halves of a product",
    halves,
    halves_rule,
    {"x": normal("ungated", 11, 3), "w": normal("both halves", 3, 2 * C)},
    {
        "halves exchanged in dw": slip(
            "permutation", w=lambda *a: jnp.roll(halves_rule(*a)[1], C, 1)
        ),
        "interleaved in dw": slip(
            "permutation",
            w=part(halves_rule, 1, join=lambda a, b: jnp.stack([a, b], 2).reshape(-1, 2 * C)),
        ),
        "gate taken for a constant": slip("edge", "missing-term", x=part(halves_rule, 0, gate=0)),
        "gate of the other half": slip(
            "wrong-operand", backward=partial(halves_rule, of=lambda a, b: a)
        ),
        "slope of tanh": slip(
            "local-derivative", backward=partial(halves_rule, slope=lambda s: 1 - s**2)
        ),
        "output for what is gated": slip(
            "wrong-operand",
            "local-derivative",
            w=part(halves_rule, 1, slope=lambda s: s**2 * (1 - s)),
        ),
    },
    {
        "half by half": same(
            x=part(
                halves_rule, 0, join=lambda a, b: jnp.hstack([a, 0 * b]) + jnp.hstack([0 * a, b])
            )
        ),
        "under checkpoint": same(wrap=jax.checkpoint),
    },
)


def swish(x, b):
    return x * jax.nn.sigmoid(b * x)


def swish_rule(x, b, dy, slope=1, inner=lambda b: b, of=lambda x, b: b * x, power=2):
    s = jax.nn.sigmoid(of(x, b))
    dx = dy * (s + slope * inner(b) * x * s * (1 - s))
    return dx, (dy * x**power * s * (1 - s)).sum(0)


SWISH = Function(
    "swish with a slope for each channel",
    swish,
    swish_rule,
    {"x": normal("x", 11, C), "b": 1.5 + 0.5 * normal("slopes", C)},
    {
        "slope of the gate forgotten": slip("edge", "missing-term", x=part(swish_rule, 0, slope=0)),
        "b forgotten in the gate's slope": slip(
            "wrong-operand", "local-derivative", x=part(swish_rule, 0, inner=jnp.ones_like)
        ),
        "gate of x": slip(
            "wrong-operand",
            "local-derivative",
            backward=partial(swish_rule, of=lambda x, b: x),
        ),
        "x for its square in db": slip(
            "wrong-operand", "local-derivative", b=part(swish_rule, 1, power=1)
        ),
        "db a mean": slip("scale", words="1/11", b=lambda *a: swish_rule(*a)[1] / 11),
        "through bfloat16": slip(
            "precision",
            x=lambda x, b, dy: swish_rule(
                *(jnp.asarray(v, jnp.bfloat16).astype(dy.dtype) for v in (x, b)), dy
            )[0],
        ),
    },
    {
        "by the output": same(
            x=lambda x, b, dy: (
                dy * ((s := jax.nn.sigmoid(b * x)) + b * (y := swish(x, b)) - b * y * s)
            )
        )
    },
)


def pieces(x, w, b):
    return jnp.einsum("ni,ihk->nhk", x, w) + b


def maxout(x, w, b):
    return pieces(x, w, b).max(-1)


def largest(x, w, b):
    return jax.nn.one_hot(pieces(x, w, b).argmax(-1), 2, dtype=x.dtype)


def maxout_rule(x, w, b, dy, chosen=largest, some=slice(None)):
    d = chosen(x, w, b) * dy[..., None]
    return jnp.einsum("nhk,ihk->ni", d, w), jnp.einsum("ni,nhk->ihk", x, d), d[some].sum(0)


def shared_by(greatest, dtype):
    """1 for the greatest, of several alike a share for each."""
    greatest = greatest.astype(dtype)
    return greatest / greatest.sum(-1, keepdims=True)


MAXOUT = Function(
    "greater of two products",
    maxout,
    maxout_rule,
    {"x": normal("x", 11, 3), "w": normal("pieces", 3, C, 2), "b": normal("offsets", C, 2)},
    {
        "chosen without b": slip(
            "wrong-operand",
            backward=partial(maxout_rule, chosen=lambda x, w, b: largest(x, w, 0 * b)),
        ),
        "both of them": slip(
            "local-derivative",
            x=part(maxout_rule, 0, chosen=lambda x, w, b: jnp.ones((11, C, 2), x.dtype)),
        ),
        "the smaller": slip(
            "local-derivative",
            "wrong-operand",
            w=part(maxout_rule, 1, chosen=lambda x, w, b: 1 - largest(x, w, b)),
        ),
        "chosen for the example before": slip(
            "wrong-operand",
            "structure",
            x=part(maxout_rule, 0, chosen=lambda *a: jnp.roll(largest(*a), 1, 0)),
        ),
        "db but of the last": slip("some-examples", b=part(maxout_rule, 2, some=slice(-1))),
    },
    {
        "by comparison": same(
            backward=partial(
                maxout_rule,
                chosen=lambda *a: shared_by(pieces(*a) == maxout(*a)[..., None], a[0].dtype),
            )
        )
    },
)


def stream(x, r, g):
    """A residual stream, and its root mean square norm."""
    h = x + r
    return h * inverse(jnp.square(h).mean(1, keepdims=True)) * (1 + g), h


def stream_rule(x, r, g, dys, one=1, own=1, length=1, of=None):
    (dy, dh), h = dys, x + r
    i = inverse(jnp.square(h).mean(1, keepdims=True))
    d = dy * (one + g)
    d = own * dh + i * d - length * i**3 * h * (d * h).mean(1, keepdims=True)
    return d, d, (dy * (h * i if of is None else of(x, r) * i)).sum(0)


STREAM = Function(
    "residual stream and its norm",
    stream,
    stream_rule,
    {"x": normal("stream", 11, C), "r": normal("branch", 11, C), "g": normal("gain less 1", C)},
    {
        "the stream's own forgotten": slip("edge", "missing-term", x=part(stream_rule, 0, own=0)),
        "the stream's own twice": slip("edge", "extra-term", r=part(stream_rule, 1, own=2)),
        "g for 1 + g": slip("wrong-operand", "missing-term", x=part(stream_rule, 0, one=0)),
        "path through the length forgotten": slip(
            "edge", "missing-term", x=part(stream_rule, 0, length=0)
        ),
        "nothing for the branch": slip("zero", r=lambda x, r, g, dys: jnp.zeros_like(r)),
        "dg of the branch": slip("wrong-operand", g=part(stream_rule, 2, of=lambda x, r: r)),
    },
    {
        "the norm only": same(wrap=lambda f: lambda *a: f(*a)[0]),
        "by the normed": same(
            x=lambda x, r, g, dys: (
                dys[1]
                + (i := inverse(jnp.square(x + r).mean(1, keepdims=True)))
                * (
                    (d := dys[0] * (1 + g))
                    - (y := (x + r) * i) * jnp.einsum("ni,ni->n", d, y)[:, None] / C
                )
            )
        ),
    },
)


def squeezed(x, w):
    """Channels gated by their means over time."""
    return x * jax.nn.sigmoid(x.mean(1) @ w)[:, None]


def squeezed_rule(x, w, dy, times=T, turn=jnp.transpose, path=lambda d: d[:, None], some=B):
    m = x.mean(1)
    s = jax.nn.sigmoid(m @ w)
    da = (dy * x).sum(1) * s * (1 - s)
    return dy * s[:, None] + path(da @ turn(w)) / times, m[:some].T @ da[:some]


SQUEEZED = Function(
    "channels gated by their means",
    squeezed,
    squeezed_rule,
    {"x": X, "w": normal("excite", C, C)},
    {
        "gate taken for a constant": slip(
            "edge", "missing-term", x=part(squeezed_rule, 0, path=lambda d: 0)
        ),
        "sum for the mean": slip("edge", words="7", x=part(squeezed_rule, 0, times=1)),
        "w not transposed": slip("wrong-operand", x=part(squeezed_rule, 0, turn=lambda w: w)),
        "gates of all examples": slip(
            "structure", x=part(squeezed_rule, 0, path=lambda d: d.sum(0))
        ),
        "dw transposed": slip("transpose", w=lambda *a: squeezed_rule(*a)[1].T),
        "dw but of the last": slip("some-examples", w=part(squeezed_rule, 1, some=-1)),
        "decay in dw": slip(
            "constant-term", "extra-term", w=lambda x, w, dy: squeezed_rule(x, w, dy)[1] + 1e-3 * w
        ),
    },
    {
        "dw by autodiff": same(w=lambda x, w, dy: jax.vjp(partial(squeezed, x), w)[1](dy)[0]),
        "under vmap": same(wrap=lambda f: lambda x, w: jax.vmap(f, (1, None))(x[:, None], w)),
    },
)


def conditioned(x, c, w):
    """Each channel scaled and shifted by what a condition says."""
    s, t = jnp.split(c @ w, 2, 1)
    return x * (1 + s)[:, None] + t[:, None]


def conditioned_rule(x, c, w, dy, one=1, scales=1, over=jnp.sum, of=None, by=lambda c: c):
    s = (c @ w)[:, :C]
    ds = over(dy * (x if of is None else of(x, c, w)), 1)
    d = jnp.concatenate([scales * ds, over(dy, 1)], 1)
    return dy * (one + s)[:, None], d @ w.T, by(c).T @ d


CONDITIONED = Function(
    "scale and shift by a condition",
    conditioned,
    conditioned_rule,
    {"x": X, "c": normal("condition", B, 2), "w": normal("film", 2, 2 * C)},
    {
        "1 forgotten": slip("edge", "missing-term", x=part(conditioned_rule, 0, one=0)),
        "path through the scales forgotten": slip(
            "edge", "missing-term", c=part(conditioned_rule, 1, scales=0)
        ),
        "scales and shifts exchanged in dw": slip(
            "permutation", w=lambda *a: jnp.roll(conditioned_rule(*a)[2], C, 1)
        ),
        "a mean over time": slip("scale", words="1/7", w=part(conditioned_rule, 2, over=jnp.mean)),
        "output for x": slip("wrong-operand", c=part(conditioned_rule, 1, of=conditioned)),
        "conditions of the examples before": slip(
            "wrong-operand", w=part(conditioned_rule, 2, by=lambda c: jnp.roll(c, 1, 0))
        ),
    },
    {
        "by einsum": same(
            w=lambda x, c, w, dy: jnp.hstack(
                [jnp.einsum("nk,ntc,ntc->kc", c, dy, x), jnp.einsum("nk,ntc->kc", c, dy)]
            )
        )
    },
)

FUNCTIONS = [INSTANCE, HALVES, SWISH, MAXOUT, STREAM, SQUEEZED, CONDITIONED]
