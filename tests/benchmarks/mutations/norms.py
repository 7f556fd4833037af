"""Softmax and its loss, layer, root-mean-square and batch norm, attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

N, C = 11, 7
Z, LABELS = normal("logits", N, C), np.array([3, 0, 6, 3, 1, 2, 5, 3, 0, 4, 6], np.int32)
SCALE = {"g": 1 + 0.5 * normal("scale", C), "b": normal("shift", C)}


def cross_entropy(z, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1).mean()


def cross_entropy_rule(z, y, dy, n=N, softmax=jax.nn.softmax, label=1, at=lambda y: y):
    hot = jax.nn.one_hot(at(y), C, dtype=z.dtype)
    return (softmax(z) - label * hot) * (dy / n), None


def changed(**options):
    return part(cross_entropy_rule, 0, **options)


CROSS_ENTROPY = Function(
    "softmax cross-entropy",
    cross_entropy,
    cross_entropy_rule,
    {"z": Z, "y": LABELS},
    {
        "not divided by the batch": slip("scale", words="11", z=changed(n=1)),
        "divided by the classes too": slip("scale", words="1/7", z=changed(n=N * C)),
        "divided by the batch - 1": slip("scale", words="11", z=changed(n=N - 1)),
        "y - p": slip("sign", z=changed(n=-N)),
        "1 at the label forgotten": slip(
            "edge", "some-elements", "missing-term", z=changed(label=0)
        ),
        "p forgotten": slip("edge", "missing-term", z=changed(softmax=jnp.zeros_like)),
        "label off by one": slip(
            "wrong-operand", "some-elements", z=changed(at=lambda y: (y + 1) % C)
        ),
        "softmax over the batch": slip(
            "wrong-operand", "local-derivative", z=changed(softmax=partial(jax.nn.softmax, axis=0))
        ),
        "sigmoid for softmax": slip(
            "wrong-operand", "local-derivative", z=changed(softmax=jax.nn.sigmoid)
        ),
        "dy taken for 1": slip(
            "ignores-cotangent", z=lambda z, y, dy: changed()(z, y, jnp.ones_like(dy))
        ),
        "last example ignored": slip(
            "some-examples", "some-elements", z=lambda *a: changed()(*a).at[-1].set(0)
        ),
    },
    {
        "exp of log_softmax": same(z=changed(softmax=lambda z: jnp.exp(jax.nn.log_softmax(z)))),
        "one subtracted at the label": same(
            z=lambda z, y, dy: changed(label=0)(z, y, dy).at[jnp.arange(N), y].add(-dy / N)
        ),
        "under jit": same(wrap=jax.jit),
    },
)


def softmax_rule(z, dy, axis=1, keep=1, slope=lambda y: y):
    y = jax.nn.softmax(z)
    return (slope(y) * (dy - keep * (dy * y).sum(axis, keepdims=True)),)


SOFTMAX = Function(
    "softmax",
    jax.nn.softmax,
    softmax_rule,
    {"z": Z},
    {
        "sum forgotten": slip("edge", "missing-term", z=part(softmax_rule, 0, keep=0)),
        "sum added": slip("edge", "missing-term", z=part(softmax_rule, 0, keep=-1)),
        "sum over the batch": slip("edge", "wrong-operand", z=part(softmax_rule, 0, axis=0)),
        "diagonal only": slip(
            "local-derivative",
            "edge",
            "missing-term",
            z=part(softmax_rule, 0, keep=0, slope=lambda y: y * (1 - y)),
        ),
        "y forgotten": slip("local-derivative", z=part(softmax_rule, 0, slope=jnp.ones_like)),
    },
    {
        "by the whole Jacobian": same(
            z=lambda z, dy: jnp.einsum(
                "ni,nij->nj",
                dy,
                jax.vmap(lambda y: jnp.diag(y) - jnp.outer(y, y))(jax.nn.softmax(z)),
            )
        ),
        "multiplied out": same(
            z=lambda z, dy: (
                (y := jax.nn.softmax(z)) * dy - y * jnp.einsum("ni,ni->n", dy, y)[:, None]
            )
        ),
    },
)

EPS = 1e-3


def standard(x, axis, eps=EPS):
    mean = x.mean(axis, keepdims=True)
    r = jax.lax.rsqrt(jnp.square(x - mean).mean(axis, keepdims=True) + eps)
    return (x - mean) * r, r


def norm(x, g, b, axis):
    return standard(x, axis)[0] * g + b


def norm_rule(x, g, b, dy, axis, over=None, eps=EPS, mean=1, variance=1, sides=None, scale=None):
    xhat, r = standard(x, axis, eps)
    d, over = dy * (scale(g) if scale else g), axis if over is None else over
    along = d.mean(over, keepdims=True), (d * xhat).mean(over, keepdims=True)
    dx = (sides(r) if sides else r) * (d - mean * along[0] - variance * xhat * along[1])
    return dx, (dy * xhat).sum(0), dy.sum(0)


layer_norm_rule, batch_norm_rule = partial(norm_rule, axis=1), partial(norm_rule, axis=0)


def through_layer(**options):
    return part(layer_norm_rule, 0, **options)


LAYER_NORM = Function(
    "layer norm",
    partial(norm, axis=1),
    layer_norm_rule,
    {"x": Z, **SCALE},
    {
        "path through the mean forgotten": slip("edge", "missing-term", x=through_layer(mean=0)),
        "path through the variance forgotten": slip(
            "edge", "missing-term", x=through_layer(variance=0)
        ),
        "both paths forgotten": slip("edge", "missing-term", x=through_layer(mean=0, variance=0)),
        "sums for means": slip("edge", x=through_layer(mean=C, variance=C)),
        "means over the batch": slip("edge", "wrong-operand", x=through_layer(over=0)),
        "g forgotten": slip(
            "wrong-operand", "local-derivative", x=through_layer(scale=jnp.ones_like)
        ),
        "r squared": slip("wrong-operand", "local-derivative", x=through_layer(sides=jnp.square)),
        "r forgotten": slip("local-derivative", "edge", x=through_layer(sides=jnp.ones_like)),
        "eps forgotten": slip(
            "wrong-operand", "local-derivative", "edge", "missing-term", x=through_layer(eps=0)
        ),
        "dg of x": slip("wrong-operand", g=lambda x, g, b, dy: (dy * x).sum(0)),
        "dg a mean": slip(
            "scale", words="1/11", g=lambda x, g, b, dy: (dy * standard(x, 1)[0]).mean(0)
        ),
        "dg and db exchanged": slip(
            "swapped",
            g=part(layer_norm_rule, 2),
            b=part(layer_norm_rule, 1),
        ),
    },
    {
        "by autodiff": same(x=lambda x, g, b, dy: jax.vjp(lambda x: norm(x, g, b, 1), x)[1](dy)[0]),
        "through the centred values": same(
            x=lambda x, g, b, dy: (
                (d := (s := standard(x, 1))[1] * (dy * g - s[0] * (dy * g * s[0]).mean(1)[:, None]))
                - d.mean(1, keepdims=True)
            )
        ),
        "of every second column": same(wrap=lambda f: lambda *a: f(*a)[:, ::2]),
        "behind a mean": same(wrap=lambda f: lambda *a: f(*a).mean()),
    },
)

BATCH_NORM = Function(
    "batch norm",
    partial(norm, axis=0),
    batch_norm_rule,
    {"x": Z, **SCALE},
    {
        "gradient of evaluation": slip(
            "edge", "missing-term", x=part(batch_norm_rule, 0, mean=0, variance=0)
        ),
        "path through the variance forgotten": slip(
            "edge", "missing-term", x=part(batch_norm_rule, 0, variance=0)
        ),
        "variance of n - 1": slip(
            "edge", words="11", x=part(batch_norm_rule, 0, variance=N / (N - 1))
        ),
        "g squared": slip(
            "wrong-operand", "local-derivative", x=part(batch_norm_rule, 0, scale=jnp.square)
        ),
        "db of the normalised": slip("swapped", "wrong-operand", b=part(batch_norm_rule, 1)),
        "statistics of each example": slip(
            "wrong-operand",
            "edge",
            x=part(batch_norm_rule, 0, over=1),
        ),
    },
    {
        "n times all": same(
            x=lambda x, g, b, dy: (
                (s := standard(x, 0))[1] * g / N * (N * dy - dy.sum(0) - s[0] * (dy * s[0]).sum(0))
            )
        ),
        "dg by einsum": same(g=lambda x, g, b, dy: jnp.einsum("ni,ni->i", standard(x, 0)[0], dy)),
    },
)


def rms_norm(x, g):
    return x * jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + EPS) * g


def rms_rule(x, g, dy, keep=1.0, power=3, scale=lambda g: g):
    r = jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + EPS)
    d = dy * scale(g)
    return r * d - keep * x * r**power * (d * x).mean(1, keepdims=True), (dy * x * r).sum(0)


RMS_NORM = Function(
    "RMS norm",
    rms_norm,
    rms_rule,
    {"x": Z, "g": SCALE["g"]},
    {
        "path through the norm forgotten": slip(
            "edge", "missing-term", x=part(rms_rule, 0, keep=0)
        ),
        "a sum for the mean": slip("edge", words="7", x=part(rms_rule, 0, keep=C)),
        "path added": slip("edge", "missing-term", x=part(rms_rule, 0, keep=-1)),
        "r squared for r cubed": slip(
            "edge", "local-derivative", "wrong-operand", x=part(rms_rule, 0, power=2)
        ),
        "dg of x": slip("wrong-operand", g=lambda x, g, dy: (dy * x).sum(0)),
        "g forgotten": slip(
            "local-derivative", "wrong-operand", x=part(rms_rule, 0, scale=jnp.ones_like)
        ),
    },
    {
        "as with the normalised": same(
            x=lambda x, g, dy: (
                (r := jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + EPS))
                * (dy * g - x * r * (dy * g * x * r).mean(1, keepdims=True))
            )
        )
    },
)

T, D = 7, 5
PAST = np.tril(np.ones((T, T), bool))


def weights(q, k, mask=PAST):
    return jax.nn.softmax(jnp.where(mask, q @ k.T / D**0.5, -jnp.inf))


def attention(q, k, v):
    return weights(q, k) @ v


def attention_rule(q, k, v, dy, mask=PAST, keep=1):
    p = weights(q, k, mask)
    dp = dy @ v.T
    ds = p * (dp - keep * (dp * p).sum(1, keepdims=True)) / D**0.5
    return ds @ k, ds.T @ q, p.T @ dy


def scores(q, k, v, dy):
    p = weights(q, k)
    dp = dy @ v.T
    return p * (dp - (dp * p).sum(1, keepdims=True)) / D**0.5


ATTENTION = Function(
    "causal attention",
    attention,
    attention_rule,
    {"q": normal("q", T, D), "k": normal("k", T, D), "v": normal("v", T, D)},
    {
        "row sums forgotten": slip(
            "edge",
            "missing-term",
            q=part(attention_rule, 0, keep=0),
            k=part(attention_rule, 1, keep=0),
        ),
        "sqrt(d) forgotten in dq": slip(
            "scale", words="sqrt(5)", q=lambda *a: D**0.5 * attention_rule(*a)[0]
        ),
        "sqrt(d) twice in dk": slip(
            "scale", words="sqrt(5)", k=lambda *a: attention_rule(*a)[1] / D**0.5
        ),
        "mask forgotten": slip(
            "other-branch", backward=partial(attention_rule, mask=np.ones((T, T), bool))
        ),
        "scores not transposed in dk": slip("wrong-operand", k=lambda *a: scores(*a) @ a[0]),
        "weights not transposed in dv": slip(
            "wrong-operand", v=lambda q, k, v, dy: weights(q, k) @ dy
        ),
        "dk and dv exchanged": slip(
            "swapped", k=part(attention_rule, 2), v=part(attention_rule, 1)
        ),
        "k for q in dk": slip("wrong-operand", k=lambda *a: scores(*a).T @ a[1]),
        "last query lost in dk": slip("some-examples", k=lambda *a: scores(*a)[:-1].T @ a[0][:-1]),
        "last row of dq lost": slip(
            "some-elements", "some-examples", q=lambda *a: attention_rule(*a)[0].at[-1].set(0)
        ),
    },
    {
        "row sums of the output": same(
            q=lambda q, k, v, dy: (
                (
                    weights(q, k)
                    * (dy @ v.T - (dy * attention(q, k, v)).sum(1, keepdims=True))
                    / D**0.5
                )
                @ k
            )
        ),
        "scaled at the end": same(k=lambda *a: (scores(*a) * D**0.5).T @ a[0] * D**-0.5),
        "query by query": same(
            v=lambda q, k, v, dy: sum(jnp.outer(weights(q, k)[t], dy[t]) for t in range(T))
        ),
    },
)

FUNCTIONS = [CROSS_ENTROPY, SOFTMAX, LAYER_NORM, BATCH_NORM, RMS_NORM, ATTENTION]
