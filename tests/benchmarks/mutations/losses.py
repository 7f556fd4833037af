"""Losses, likelihoods, distances and contrasts. Written once the checker's hypotheses stood."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

N, C = 11, 7
Z, T = normal("scores", N, C), normal("truth", N, C)
LABELS = np.array([1, 5, 0, 3, 3, 6, 2, 4, 0, 5, 1], np.int32)
SMOOTH = 0.2


def smooth_targets(y, dtype, smooth=SMOOTH):
    return (1 - smooth) * jax.nn.one_hot(y, C, dtype=dtype) + smooth / C


def smoothed(z, y):
    return -(smooth_targets(y, z.dtype) * jax.nn.log_softmax(z)).sum(1).mean()


def smoothed_rule(z, y, dy, n=N, targets=smooth_targets, softmax=jax.nn.softmax):
    return (softmax(z) - targets(y, z.dtype)) * dy / n, None


SMOOTHED = Function(
    "cross-entropy with label smoothing",
    smoothed,
    smoothed_rule,
    {"z": Z, "y": LABELS},
    {
        "smoothing forgotten": slip(
            "wrong-operand",
            "local-derivative",
            "edge",
            z=part(smoothed_rule, 0, targets=partial(smooth_targets, smooth=0.0)),
        ),
        "not a mean": slip("scale", words="11", z=part(smoothed_rule, 0, n=1)),
        "a mean over classes too": slip("scale", words="1/7", z=part(smoothed_rule, 0, n=N * C)),
        "targets forgotten": slip(
            "edge", "missing-term", z=part(smoothed_rule, 0, targets=lambda y, dtype: 0)
        ),
        "exp for softmax": slip(
            "local-derivative", "edge", "wrong-operand", z=part(smoothed_rule, 0, softmax=jnp.exp)
        ),
    },
    {"in two steps": same(z=lambda z, y, dy: smoothed_rule(z, y, dy / N, n=1)[0])},
    known={"smooth": SMOOTH},
)


def logistic(z, t, w):
    return (w * (jax.nn.softplus(z) - z * t)).mean()


def logistic_rule(z, t, w, dy, sigmoid=jax.nn.sigmoid, size=N * C, weigh=lambda w: w):
    d = dy / size
    return d * weigh(w) * (sigmoid(z) - t), -d * w * z, d * (jax.nn.softplus(z) - z * t)


LOGISTIC = Function(
    "weighted logistic loss",
    logistic,
    logistic_rule,
    {"z": Z, "t": np.abs(np.sin(T)), "w": 1 + T**2},
    {
        "weights forgotten in dz": slip(
            "wrong-operand", "local-derivative", z=part(logistic_rule, 0, weigh=jnp.ones_like)
        ),
        "z for its sigmoid": slip(
            "wrong-operand", "local-derivative", z=part(logistic_rule, 0, sigmoid=lambda z: z)
        ),
        "sigmoid of -z": slip(
            "local-derivative",
            "wrong-operand",
            z=part(logistic_rule, 0, sigmoid=lambda z: jax.nn.sigmoid(-z)),
        ),
        "no gradient of t": slip("zero", t=lambda z, t, w, dy: jnp.zeros_like(t)),
        "dt without its minus": slip("sign", t=lambda *a: -logistic_rule(*a)[1]),
        "divided by the batch": slip("scale", words="7", z=part(logistic_rule, 0, size=N)),
        "dw of the first term": slip(
            "edge",
            "missing-term",
            w=lambda z, t, w, dy: dy / z.size * jax.nn.softplus(z),
        ),
    },
    {
        "by logits of both signs": same(
            z=part(logistic_rule, 0, sigmoid=lambda z: 1 - jax.nn.sigmoid(-z))
        )
    },
)


def cosine(a, b):
    size = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
    return (a * b).sum(1) / size


def cosine_part(a, b, dy, keep=1.0, power=2, other=1.0):
    """The gradient of the first of the two."""
    m, n = (jnp.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    c = (a * b).sum(1, keepdims=True) / (m * n)
    return dy[:, None] * (b / (m * n**other) - keep * c * a / m**power)


COSINE = Function(
    "cosine of two rows",
    cosine,
    lambda a, b, dy: (cosine_part(a, b, dy), cosine_part(b, a, dy)),
    {"a": Z, "b": T},
    {
        "change of the length forgotten": slip(
            "edge", "missing-term", a=partial(cosine_part, keep=0.0)
        ),
        "length for its square": slip(
            "local-derivative", "wrong-operand", "edge", a=partial(cosine_part, power=1)
        ),
        "length of b forgotten": slip(
            "local-derivative",
            "wrong-operand",
            "edge",
            a=lambda a, b, dy: cosine_part(a, b, dy) * jnp.linalg.norm(b, axis=1, keepdims=True),
        ),
        "da and db exchanged": slip(
            "swapped",
            a=lambda a, b, dy: cosine_part(b, a, dy),
            b=lambda a, b, dy: cosine_part(a, b, dy),
        ),
        "change of the length added": slip(
            "edge", "missing-term", a=partial(cosine_part, keep=-1.0)
        ),
    },
    {
        "by rows of length 1": same(
            a=lambda a, b, dy: (
                (u := a / (m := jnp.linalg.norm(a, axis=1, keepdims=True))),
                (w := dy[:, None] * b / jnp.linalg.norm(b, axis=1, keepdims=True)),
                (w - u * (w * u).sum(1, keepdims=True)) / m,
            )[-1]
        )
    },
)

TAU = 0.3


def contrast(a, b):
    return -jnp.diag(jax.nn.log_softmax(a @ b.T / TAU)).mean()


def contrast_rule(a, b, dy, tau=TAU, n=N, axis=1, positive=1, softmax=1, turn=True):
    p = softmax * jax.nn.softmax(a @ b.T / TAU, axis) - positive * jnp.eye(N, dtype=a.dtype)
    d = p * dy / (tau * n)
    return d @ b, (d.T if turn else d) @ a


CONTRAST = Function(
    "contrastive loss",
    contrast,
    contrast_rule,
    {"a": normal("views", N, 3), "b": normal("other views", N, 3)},
    {
        "temperature forgotten": slip("scale", words="tau", a=part(contrast_rule, 0, tau=1.0)),
        "not a mean": slip("scale", words="11", b=part(contrast_rule, 1, n=1)),
        "negatives only": slip("edge", "missing-term", backward=partial(contrast_rule, positive=0)),
        "positives only": slip("edge", "missing-term", backward=partial(contrast_rule, softmax=0)),
        "softmax over the other axis": slip(
            "wrong-operand", "local-derivative", backward=partial(contrast_rule, axis=0)
        ),
        "scores not transposed in db": slip("wrong-operand", b=part(contrast_rule, 1, turn=False)),
    },
    {"db by einsum": same(b=lambda a, b, dy: jax.vjp(contrast, a, b)[1](dy)[1])},
    known={"tau": TAU},
)


def triplet(a, p, n):
    gap = jnp.square(a - p).sum(1) - jnp.square(a - n).sum(1) + 0.5
    return jnp.maximum(gap, 0).mean()


def triplet_rule(a, p, n, dy, mask=True, two=2.0, pair=1, far=1):
    gap = jnp.square(a - p).sum(1) - jnp.square(a - n).sum(1) + 0.5
    d = (two * dy / N * ((gap > 0) if mask else (gap == gap)))[:, None]
    return d * (pair * (a - p) - far * (a - n)), -d * (a - p), d * (a - n)


TRIPLET = Function(
    "triplet loss",
    triplet,
    triplet_rule,
    {"a": Z, "p": Z + 0.7 * T, "n": normal("others", N, C)},
    {
        "margin forgotten": slip(
            "other-branch",
            "some-elements",
            "some-examples",
            backward=partial(triplet_rule, mask=False),
        ),
        "dp without its minus": slip("sign", p=lambda *a: -triplet_rule(*a)[1]),
        "2 forgotten": slip("scale", words="0.5", n=part(triplet_rule, 2, two=1.0)),
        "far ones forgotten in da": slip("edge", "missing-term", a=part(triplet_rule, 0, far=0)),
        "da of far ones added": slip("edge", "missing-term", a=part(triplet_rule, 0, far=-1)),
        "dn forgotten": slip("zero", n=lambda a, p, n, dy: jnp.zeros_like(n)),
    },
    {"da as minus the others": same(a=lambda *args: -sum(triplet_rule(*args)[1:]))},
)


def gaussian(x, m, s):
    return ((x - m) ** 2 * jnp.exp(-s) + s).mean() / 2


def gaussian_rule(x, m, s, dy, inverse=lambda s: jnp.exp(-s), one=1.0, half=0.5):
    d, off = dy / x.size, x - m
    return d * off * inverse(s), -d * off * inverse(s), half * d * (one - off**2 * jnp.exp(-s))


GAUSSIAN = Function(
    "Gaussian likelihood",
    gaussian,
    gaussian_rule,
    {"x": Z, "m": T, "s": 0.3 * normal("log variance", N, C)},
    {
        "variance forgotten in dm": slip(
            "local-derivative",
            "wrong-operand",
            "edge",
            m=part(gaussian_rule, 1, inverse=jnp.ones_like),
        ),
        "deviation for variance": slip(
            "local-derivative",
            "wrong-operand",
            x=part(gaussian_rule, 0, inverse=lambda s: jnp.exp(-s / 2)),
        ),
        "log forgotten in ds": slip("edge", "missing-term", s=part(gaussian_rule, 2, one=0.0)),
        "half forgotten": slip("scale", words="2", s=part(gaussian_rule, 2, half=1.0)),
        "dx like dm": slip("sign", x=part(gaussian_rule, 1)),
        "variance for its inverse": slip(
            "local-derivative", "wrong-operand", m=part(gaussian_rule, 1, inverse=jnp.exp)
        ),
    },
    {"by the variance": same(m=part(gaussian_rule, 1, inverse=lambda s: 1 / jnp.exp(s)))},
)


def poisson(z, t):
    return (jnp.exp(z) - t * z).sum(1).mean()


POISSON = Function(
    "Poisson likelihood",
    poisson,
    lambda z, t, dy: ((jnp.exp(z) - t) * dy / N, -z * dy / N),
    {"z": Z, "t": np.abs(T)},
    {
        "exp forgotten": slip(
            "local-derivative", "wrong-operand", z=lambda z, t, dy: (z - t) * dy / N
        ),
        "counts forgotten": slip("edge", "missing-term", z=lambda z, t, dy: jnp.exp(z) * dy / N),
        "divided by all": slip(
            "scale", words="1/7", z=lambda z, t, dy: (jnp.exp(z) - t) * dy / z.size
        ),
        "dt deaf to dy": slip("ignores-cotangent", t=lambda z, t, dy: -z / N),
    },
    {"by subtraction": same(z=lambda z, t, dy: jnp.exp(z) * (dy / N) - t * (dy / N))},
)


def distances(x, y):
    return jnp.square(x[:, None] - y).sum(-1)


def distances_rule(x, y, dy, cross=1.0, own=1.0, two=2.0):
    return (
        two * (own * x * dy.sum(1, keepdims=True) - cross * dy @ y),
        two * (y * dy.sum(0)[:, None] - dy.T @ x),
    )


DISTANCES = Function(
    "squared distances of all pairs",
    distances,
    distances_rule,
    {"x": normal("points", 7, 3), "y": normal("centres", 5, 3)},
    {
        "product forgotten": slip("edge", "missing-term", x=part(distances_rule, 0, cross=0.0)),
        "square of x forgotten": slip("edge", "missing-term", x=part(distances_rule, 0, own=0.0)),
        "2 forgotten": slip("scale", words="0.5", y=part(distances_rule, 1, two=1.0)),
        "dy with the wrong sign": slip("sign", y=lambda *a: -distances_rule(*a)[1]),
        "last centre lost in dx": slip(
            "some-examples",
            "some-elements",
            "missing-term",
            x=lambda x, y, dy: distances_rule(x, y[:-1], dy[:, :-1])[0],
        ),
    },
    {"pair by pair": same(x=lambda x, y, dy: 2 * ((x[:, None] - y) * dy[..., None]).sum(1))},
)

FUNCTIONS = [SMOOTHED, LOGISTIC, COSINE, CONTRAST, TRIPLET, GAUSSIAN, POISSON, DISTANCES]
