"""Products, sums and masks: dense layers, residual ones, tied weights, penalties, dropout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

N = 11
NEIGHBOURS = np.minimum(np.arange(N) ^ 1, N - 1)  # 1 0 3 2 ... 10
X, W, B = normal("x", N, 7), normal("w", 7, 5), normal("b", 5)
GIVEN = {"x": X, "w": W, "b": B}
SQUARE = {"x": normal("x", 5, 5), "w": normal("w", 5, 5), "b": normal("b", 5)}


def dense(x, w, b):
    return x @ w + b


def dense_rule(x, w, b, dy):
    return dy @ w.T, x.T @ dy, dy.sum(0)


def through(dtype):
    """dw by way of a narrower type."""
    return lambda x, w, b, dy: (x.T.astype(dtype) @ dy.astype(dtype)).astype(dy.dtype)


DENSE = Function(
    "dense",
    dense,
    dense_rule,
    GIVEN,
    {
        "dw twice": slip("scale", words="2", w=lambda x, w, b, dy: 2 * x.T @ dy),
        "dx 1% too large": slip("scale", words="1.01", x=lambda x, w, b, dy: 1.01 * dy @ w.T),
        "dw by 1e-9 too large": slip("scale", w=lambda x, w, b, dy: (1 + 1e-9) * x.T @ dy),
        "dw divided by the batch": slip("scale", words="1/11", w=lambda x, w, b, dy: x.T @ dy / N),
        "db a mean": slip("scale", words="1/11", b=lambda x, w, b, dy: dy.mean(0)),
        "db of the first example": slip("some-examples", b=lambda x, w, b, dy: dy[0]),
        "db but of the last": slip("some-examples", b=lambda x, w, b, dy: dy[:-1].sum(0)),
        "dw of every second": slip("some-examples", w=lambda x, w, b, dy: x[::2].T @ dy[::2]),
        "dw negated": slip("sign", w=lambda x, w, b, dy: -x.T @ dy),
        "db forgotten": slip("zero", b=lambda x, w, b, dy: jnp.zeros_like(b)),
        "last column of dw lost": slip(
            "some-elements", words="4", w=lambda x, w, b, dy: (x.T @ dy).at[:, -1].set(0)
        ),
        "one element doubled": slip(
            "some-elements", words="2 times", w=lambda x, w, b, dy: (x.T @ dy).at[2, 3].mul(2)
        ),
        "dw rolled": slip("permutation", w=lambda x, w, b, dy: jnp.roll(x.T @ dy, 1, 0)),
        "rows of dx exchanged": slip(
            "permutation", "some-elements", x=lambda x, w, b, dy: (dy @ w.T)[NEIGHBOURS]
        ),
        "x in reversed order": slip("wrong-operand", w=lambda x, w, b, dy: x[::-1].T @ dy),
        "deaf": slip("ignores-cotangent", x=lambda x, w, b, dy: jnp.ones_like(dy) @ w.T),
        "dy clipped": slip("nonlinear", x=lambda x, w, b, dy: jnp.clip(dy, -1, 1) @ w.T),
        "dy normalised": slip(
            "nonlinear", w=lambda x, w, b, dy: x.T @ (dy / (1 + jnp.linalg.norm(dy)))
        ),
        "decay in dw": slip(
            "constant-term", "extra-term", w=lambda x, w, b, dy: x.T @ dy + 0.01 * w
        ),
        "by way of float32": slip("precision", w=through(jnp.float32)),
        "by way of bfloat16": slip("precision", w=through(jnp.bfloat16)),
        "NaN": slip("nonfinite", w=lambda x, w, b, dy: (x.T @ dy).at[0, 0].set(jnp.nan)),
        "db not summed": slip("structure", b=lambda x, w, b, dy: dy),
        "dw of another shape": slip("structure", w=lambda x, w, b, dy: dy.T @ x),
        "forward off under differentiation": slip(
            "primal-mismatch", under=lambda x, w, b: 1.001 * dense(x, w, b)
        ),
    },
    {
        "dw example by example": same(
            w=lambda x, w, b, dy: jnp.einsum("ni,nj->nij", x, dy).sum(0),
        ),
        "db by a product": same(b=lambda x, w, b, dy: jnp.ones_like(dy[:, 0]) @ dy),
        "db in a loop": same(
            b=lambda x, w, b, dy: jax.lax.fori_loop(0, N, lambda i, s: s + dy[i], 0 * b)
        ),
        "in bfloat16": same(args={k: a.astype(jnp.bfloat16) for k, a in GIVEN.items()}),
        "in float16": same(args={k: a.astype(np.float16) for k, a in GIVEN.items()}),
    },
)

DENSE_SQUARE = Function(
    "dense, all square",
    dense,
    dense_rule,
    SQUARE,
    {
        "w not transposed in dx": slip("wrong-operand", x=lambda x, w, b, dy: dy @ w),
        "dw transposed": slip("transpose", w=lambda x, w, b, dy: dy.T @ x),
        "x not transposed in dw": slip("wrong-operand", w=lambda x, w, b, dy: x @ dy),
        "dx and dw exchanged": slip(
            "swapped", x=lambda x, w, b, dy: x.T @ dy, w=lambda x, w, b, dy: dy @ w.T
        ),
        "db summed over the other axis": slip("wrong-operand", b=lambda x, w, b, dy: dy.sum(1)),
        "b added to dx": slip("constant-term", "extra-term", x=lambda x, w, b, dy: dy @ w.T + b),
        "dy added to dx": slip("extra-term", x=lambda x, w, b, dy: dy @ w.T + dy),
        "dy for x in dw": slip("wrong-operand", "nonlinear", w=lambda x, w, b, dy: dy.T @ dy),
        "x for w in dx": slip("wrong-operand", x=lambda x, w, b, dy: dy @ x.T),
    },
    {
        "transposed twice": same(w=lambda x, w, b, dy: (dy.T @ x).T),
        "dx as a sum of columns": same(
            x=lambda x, w, b, dy: sum(dy[:, j, None] * w[:, j] for j in range(5))
        ),
    },
)


def mlp(x, w, u):
    h = x @ w
    return jnp.where(h > 0, h, 0) @ u


def heaviside(h):
    return (h > 0).astype(h.dtype)


def mlp_rule(x, w, u, dy, slope=heaviside, kept=jax.nn.relu):
    h = x @ w
    inner = dy @ u.T * slope(h)
    return inner @ w.T, x.T @ inner, kept(h).T @ dy


MLP = Function(
    "two layers",
    mlp,
    mlp_rule,
    {"x": X, "w": W, "u": normal("u", 5, 3)},
    {
        "ReLU forgotten": slip(
            "other-branch", backward=partial(mlp_rule, slope=jnp.ones_like, kept=lambda h: h)
        ),
        "ReLU's slope forgotten": slip(
            "other-branch",
            "local-derivative",
            x=part(mlp_rule, 0, slope=jnp.ones_like),
            w=part(mlp_rule, 1, slope=jnp.ones_like),
        ),
        "du from before the ReLU": slip(
            "wrong-operand", "other-branch", u=part(mlp_rule, 2, kept=lambda h: h)
        ),
    },
    {
        "slope of the ReLU's output": same(
            backward=partial(mlp_rule, slope=lambda h: heaviside(jax.nn.relu(h)))
        ),
        "a slope of 1 at 0": same(
            backward=partial(mlp_rule, slope=lambda h: (h >= 0).astype(h.dtype))
        ),
        "under jit": same(wrap=jax.jit),
    },
)


def residual(x, w):
    return x + jnp.tanh(x @ w)


def residual_rule(x, w, dy, skip=1, slope=lambda h: 1 - jnp.tanh(h) ** 2):
    inner = dy * slope(x @ w)
    return skip * dy + inner @ w.T, x.T @ inner


RESIDUAL = Function(
    "residual",
    residual,
    residual_rule,
    {"x": X, "w": normal("residual", 7, 7)},
    {
        "skip forgotten": slip("edge", "missing-term", x=part(residual_rule, 0, skip=0)),
        "skip twice": slip("edge", "extra-term", x=part(residual_rule, 0, skip=2)),
        "branch forgotten": slip("edge", x=lambda x, w, dy: dy),
        "tanh's slope forgotten": slip(
            "local-derivative", backward=partial(residual_rule, slope=jnp.ones_like)
        ),
        "tanh's slope of x": slip(
            "local-derivative",
            "wrong-operand",
            backward=partial(residual_rule, slope=lambda h: 1 - h**2),
        ),
        "w not transposed": slip(
            "wrong-operand", x=lambda x, w, dy: dy + (dy * (1 - jnp.tanh(x @ w) ** 2)) @ w
        ),
    },
    {
        "slope by cosh": same(
            backward=partial(residual_rule, slope=lambda h: 1 / jnp.cosh(h) ** 2)
        ),
        "under checkpoint": same(wrap=jax.checkpoint),
    },
)


def tied(x, w):
    return jnp.tanh(x @ w) @ w.T


def tied_rule(x, w, dy, first=1, second=1):
    h = jnp.tanh(x @ w)
    inner = dy @ w * (1 - h**2)
    return inner @ w.T, first * x.T @ inner + second * dy.T @ h


TIED = Function(
    "tied weights",
    tied,
    tied_rule,
    {"x": X, "w": W},
    {
        "only the first use": slip("edge", w=part(tied_rule, 1, second=0)),
        "only the second use": slip("edge", w=part(tied_rule, 1, first=0)),
        "mean of the uses": slip("scale", words="0.5", w=part(tied_rule, 1, first=0.5, second=0.5)),
    },
    {
        "uses in the other order": same(
            w=lambda x, w, dy: jnp.stack(
                [part(tied_rule, 1, first=0)(x, w, dy), part(tied_rule, 1, second=0)(x, w, dy)]
            ).sum(0)
        )
    },
)

DECAY = 0.02


def penalised(x, w, t):
    return jnp.square(x @ w - t).mean() + DECAY * jnp.square(w).sum()


def penalised_rule(x, w, t, dy, decay=2 * DECAY):
    off = 2 * (x @ w - t) / t.size * dy
    return off @ w.T, x.T @ off + dy * decay * w, -off


PENALISED = Function(
    "squared error and penalty",
    penalised,
    penalised_rule,
    {"x": X, "w": W, "t": normal("t", N, 5)},
    {
        "penalty halved": slip("edge", "missing-term", w=part(penalised_rule, 1, decay=DECAY)),
        "penalty forgotten": slip("edge", "missing-term", w=part(penalised_rule, 1, decay=0)),
        "penalty negated": slip(
            "edge", "missing-term", w=part(penalised_rule, 1, decay=-2 * DECAY)
        ),
        "penalty twice": slip("edge", "extra-term", w=part(penalised_rule, 1, decay=4 * DECAY)),
        "penalty deaf to dy": slip(
            "constant-term",
            w=lambda *a: part(penalised_rule, 1, decay=0)(*a) + 2 * DECAY * a[1],
        ),
        "no gradient of t": slip("zero", t=lambda x, w, t, dy: jnp.zeros_like(t)),
        "penalty of x too": slip(
            "extra-term", x=lambda *a: penalised_rule(*a)[0] + a[3] * 2 * DECAY * a[0]
        ),
    },
    {
        "penalty by autodiff": same(
            w=lambda x, w, t, dy: (
                part(penalised_rule, 1, decay=0)(x, w, t, dy)
                + dy * jax.grad(lambda w: DECAY * jnp.square(w).sum())(w)
            )
        )
    },
    known={"decay": DECAY},
)

RATE = 0.3
MASK = normal("mask", N, 7) > -0.5


def dropout(x, mask):
    return jnp.where(mask, x / (1 - RATE), 0)


def dropout_rule(x, mask, dy):
    return jnp.where(mask, dy / (1 - RATE), 0), None


DROPOUT = Function(
    "dropout",
    dropout,
    dropout_rule,
    {"x": X, "mask": MASK},
    {
        "not divided by 1 - rate": slip(
            "scale", words="1 - rate", x=lambda x, m, dy: jnp.where(m, dy, 0)
        ),
        "divided twice": slip(
            "scale", words="1/(1 - rate)", x=lambda x, m, dy: jnp.where(m, dy, 0) / (1 - RATE) ** 2
        ),
        "divided by the rate": slip("scale", x=lambda x, m, dy: jnp.where(m, dy, 0) / RATE),
        "mask forgotten": slip("other-branch", "some-elements", x=lambda x, m, dy: dy / (1 - RATE)),
        "mask inverted": slip("wrong-operand", x=lambda x, m, dy: jnp.where(m, 0, dy / (1 - RATE))),
        "another mask": slip(
            "wrong-operand",
            "some-elements",
            x=lambda x, m, dy: jnp.where(jnp.roll(m, 1, 0), dy / (1 - RATE), 0),
        ),
        "mask taken from the output": slip(
            "some-elements",
            "local-derivative",
            args={"x": np.maximum(X, 0)},
            x=lambda x, m, dy: jnp.where(dropout(x, m) != 0, dy / (1 - RATE), 0),
        ),
    },
    {
        "multiplied by the mask": same(x=lambda x, m, dy: dy * m.astype(dy.dtype) / (1 - RATE)),
        "divided first": same(x=lambda x, m, dy: jnp.where(m, 1 / (1 - RATE), 0) * dy),
    },
    known={"rate": RATE},
)


def bilinear(x, w, z):
    return ((x @ w) * z).sum(1)


def bilinear_rule(x, w, z, dy):
    d = dy[:, None]
    return d * (z @ w.T), x.T @ (d * z), d * (x @ w)


BILINEAR = Function(
    "bilinear form",
    bilinear,
    bilinear_rule,
    {"x": normal("x", N, 5), "w": normal("bilinear", 5, 5), "z": normal("z", N, 5)},
    {
        "w not transposed": slip("wrong-operand", x=lambda x, w, z, dy: dy[:, None] * (z @ w)),
        "dw transposed": slip("transpose", w=lambda x, w, z, dy: (dy[:, None] * z).T @ x),
        "z for x": slip("wrong-operand", z=lambda x, w, z, dy: dy[:, None] * (z @ w)),
        "dx and dz exchanged": slip(
            "swapped",
            x=lambda x, w, z, dy: dy[:, None] * (x @ w),
            z=lambda x, w, z, dy: dy[:, None] * (z @ w.T),
        ),
    },
    {
        "by einsum": same(w=lambda x, w, z, dy: jnp.einsum("n,ni,nj->ij", dy, x, z)),
        "reassociated": same(w=lambda x, w, z, dy: (dy[:, None] * x).T @ z),
    },
)


def gated(a, b):
    return a * jax.nn.sigmoid(b)


def gated_rule(a, b, dy):
    s = jax.nn.sigmoid(b)
    return dy * s, dy * a * s * (1 - s)


GATED = Function(
    "gated unit",
    gated,
    gated_rule,
    {"a": X, "b": normal("gate", N, 7)},
    {
        "b for its sigmoid": slip("wrong-operand", "local-derivative", a=lambda a, b, dy: dy * b),
        "slope of the gate forgotten": slip("local-derivative", b=lambda a, b, dy: dy * a),
        "1 - s forgotten": slip("local-derivative", b=lambda a, b, dy: dy * a * jax.nn.sigmoid(b)),
        "da and db exchanged": slip("swapped", backward=lambda *a: gated_rule(*a)[::-1]),
    },
    {
        "slope by the other sigmoid": same(
            b=lambda a, b, dy: dy * a * jax.nn.sigmoid(b) * jax.nn.sigmoid(-b)
        ),
        "under vmap": same(wrap=jax.vmap),
    },
)


def scaled(x, s):
    return x * s


SCALED = Function(
    "scale along an axis of length 1",
    scaled,
    lambda x, s, dy: (dy * s, (dy * x).sum(1, keepdims=True)),
    {"x": X, "s": normal("s", N, 1)},
    {
        "ds a mean": slip("scale", words="1/7", s=lambda x, s, dy: (dy * x).mean(1, keepdims=True)),
        "ds of the first column": slip(
            "some-examples", "missing-term", s=lambda x, s, dy: (dy * x)[:, :1]
        ),
        "ds squeezed": slip("structure", s=lambda x, s, dy: (dy * x).sum(1)),
        "x forgotten in ds": slip(
            "wrong-operand", "local-derivative", s=lambda x, s, dy: dy.sum(1, keepdims=True)
        ),
    },
    {"ds by a product": same(s=lambda x, s, dy: jnp.einsum("ni,ni->n", dy, x)[:, None])},
)

FUNCTIONS = [
    DENSE,
    DENSE_SQUARE,
    MLP,
    RESIDUAL,
    TIED,
    PENALISED,
    DROPOUT,
    BILINEAR,
    GATED,
    SCALED,
]
