"""The table of all layers. A new layer is tested by adding a row."""

import math

import jax.numpy as jnp
import numpy as np
from row import FLOAT32, Row, rearranged
from rows import attention, convolution, embedding, example_norms, projection, recurrent, shapes
from toys import Centre, Noise

import jnn


def dense(params, x, dy, y, u):
    """Every number is a sum in float32, rounded once: u of it, and 2^-24 of each term per term."""
    w, b = params["w"], params.get("b")
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])

    def once(total, magnitudes, terms):
        return u * np.abs(total) + (1 + u) * terms * FLOAT32 * magnitudes

    into, out = w.shape
    bias = 0 if b is None else np.abs(b)
    grads = {"w": once(rows.T @ drows, np.abs(rows).T @ np.abs(drows), len(rows))}
    if b is not None:
        grads["b"] = once(drows.sum(0), np.abs(drows).sum(0), len(rows))
    return (
        once(y, np.abs(x) @ np.abs(w) + bias, into + 1),
        grads,
        once(dy @ w.T, np.abs(dy) @ np.abs(w).T, out),
    )


def leaky(slope):
    """Slope and product are rounded, where there is a product."""

    def rounding(params, x, dy, y, u):
        scaled = 2 * u * (1 + u) * slope * (x <= 0)
        return scaled * np.abs(x), {}, scaled * np.abs(dy)

    return rounding


def sigmoid(params, x, dy, y, u):
    """Rounded are, in y, e^-x, 1 + e^-x and the quotient; in dx, 1 - y and two products."""
    error = 3 * u * (1 + 4 * u) * y
    slope = np.abs(1 - 2 * y) * error + error**2 + 3 * u * (1 + 4 * u) * y * (1 - y)
    return error, {}, np.abs(dy) * slope


def tanh(params, x, dy, y, u):
    """Rounded are float32's tanh, good to 4 ulps, and in dx 1 - y, 1 + y and two products."""
    error = (u + 8 * FLOAT32) * np.abs(y)
    slope = 2 * np.abs(y) * error + error**2 + 4 * u * (1 + 4 * u) * (1 - y**2)
    return error, {}, np.abs(dy) * slope


def batch_norm(eps):
    """Rows are n examples and positions; all is in float32 but for the last rounding."""

    def rounding(params, x, dy, y, u):
        scale, shift = params["scale"], params["shift"]
        rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        n, shifted = len(rows), rows - rows[0]
        centred = shifted - shifted.mean(0)
        var = (centred**2).mean(0)
        rstd = 1 / np.sqrt(var + eps)
        xhat = centred * rstd
        # Of x - origin, the mean of it and their difference; then of the variance: its terms are
        # twice as wrong as what is squared, their sum adds n roundings.
        centring = (n + 4) * FLOAT32 * np.abs(shifted).max(0)
        variance = 2 * np.abs(centred).mean(0) * centring + (n + 3) * FLOAT32 * var
        # The reciprocal root halves it and is good to 4 ulps, then there is the product.
        standardising = rstd * centring + np.abs(xhat) * (variance * rstd**2 / 2 + 10 * FLOAT32)
        dscale, dshift = (drows * xhat).sum(0), drows.sum(0)
        off_scale = np.abs(drows * xhat).sum(0) * (n + 2) * FLOAT32 + (
            np.abs(drows) * standardising
        ).sum(0)
        off_shift = np.abs(drows).sum(0) * (n + 1) * FLOAT32
        slope = np.abs(scale) * rstd
        terms = np.abs(drows) + (np.abs(dshift) + np.abs(xhat * dscale)) / n
        bracket = np.abs(drows - (dshift + xhat * dscale) / n)
        off = (off_shift + np.abs(xhat) * off_scale + standardising * np.abs(dscale)) / n
        dx = slope * bracket
        off_dx = slope * (off + 5 * FLOAT32 * terms) + dx * (variance * rstd**2 / 2 + 12 * FLOAT32)
        off_y = np.abs(scale) * standardising + 3 * FLOAT32 * (np.abs(scale * xhat) + np.abs(shift))
        return (
            u * np.abs(y) + (1 + u) * off_y.reshape(y.shape),
            {
                "scale": u * np.abs(dscale) + (1 + u) * off_scale,
                "shift": u * np.abs(dshift) + (1 + u) * off_shift,
            },
            (u * dx + (1 + u) * off_dx).reshape(x.shape),
        )


def once(slope):
    """Both are computed in float32, dx with this slope, and rounded once."""

    def rounding(params, x, dy, y, u):
        dx = np.abs(dy * slope(x))
        # A handful of float32 roundings of numbers as large as x and the parts of the slope.
        noise = 32 * FLOAT32 * (1 + np.abs(x))
        return u * np.abs(y) + noise, {}, u * dx + noise * np.abs(dy)

    return rounding


def dropout(factor):
    """The factor and the product are rounded to float32, then once to the dtype."""

    def rounding(params, x, dy, y, u):
        relative = u + 2 * FLOAT32 * (1 + u)
        return relative * np.abs(y), {}, relative * factor * np.abs(dy)

    return rounding


def phi(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def gelu_slope(x):
    return (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2 + x * phi(x)


def tanh_gelu_slope(x):
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t**2) / 2 * c * (1 + 3 * 0.044715 * x**2)


def silu_slope(x):
    s = 1 / (1 + np.exp(-x))
    return s * (1 + x * (1 - s))


def hard_swish_slope(x):
    return np.select([x <= -3, x >= 3], [0, 1], x / 3 + 0.5)


def softplus(params, x, dy, y, u):
    """As `once`, but that dx = (1 - exp(-y)) dy knows only the rounded y."""
    error, _, rounded = once(lambda x: 1 / (1 + np.exp(-x)))(params, x, dy, y, u)
    return error, {}, rounded + (1 + u) * error * np.exp(-y) * np.abs(dy)


def elu(alpha, scale=1):
    """Rounded are y, once; in dx the scale or alpha, the sum of y and alpha, and the product."""

    def rounding(params, x, dy, y, u):
        error = u * np.abs(y) + 8 * FLOAT32 * (1 + np.abs(y))
        left = error + u * alpha + 2 * u * (1 + u) * (y + alpha)
        right = 2 * u * scale if scale != 1 else 0
        return error, {}, np.abs(dy) * np.where(x <= 0, left, right)

    return rounding


def softmax(axis):
    """y is rounded once and kept; dx is computed from that in float32 and rounded once."""

    def rounding(params, x, dy, y, u):
        error = u * y + 16 * FLOAT32
        centred = dy - (y * dy).sum(axis, keepdims=True)
        from_y = error * np.abs(centred) + y * (error * np.abs(dy)).sum(axis, keepdims=True)
        noise = 16 * FLOAT32 * np.abs(dy).max()
        return error, {}, (1 + u) * from_y + u * np.abs(y * centred) + noise

    return rounding


def log_softmax(axis):
    """y is rounded once and kept; dx is computed from that in float32 and rounded once."""

    def rounding(params, x, dy, y, u):
        error = u * np.abs(y) + 16 * FLOAT32 * (1 + np.abs(x).max())
        total = np.exp(y) * dy.sum(axis, keepdims=True)
        from_y = (1 + u) * np.expm1(error) * np.abs(total)
        noise = 16 * FLOAT32 * np.abs(dy).sum(axis, keepdims=True)
        return error, {}, from_y + u * np.abs(dy - total) + noise

    return rounding


def prelu(params, x, dy, y, u):
    """Rounded are the products, where there are any, and the sum of those, taken in float32."""
    products = (np.minimum(x, 0) * dy).reshape(-1, x.shape[-1])
    total, size = products.sum(0), np.abs(products).sum(0)
    if params["slope"].shape == (1,):
        total, size = total.sum(keepdims=True), size.sum(keepdims=True)
    terms = products.size // total.size
    slope = u * np.abs(total) + (1 + u) * (u + terms * FLOAT32) * size
    dx = u * np.abs(params["slope"] * dy)
    return u * np.abs(y) * (x <= 0), {"slope": slope}, dx * (x <= 0)


def ones(key, x):
    return {"scale": jnp.ones(x.shape[-1], x.dtype)}


def wave(params, x):
    return jnp.sin(params["scale"] * x)


MLP = jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(3))
NESTED = jnn.Serial(jnn.Flatten(), jnn.Serial(jnn.Dense(4), jnn.Sigmoid()), ("head", jnn.Dense(2)))
# No bias before Centre, which would take it away again: its gradient would be nothing but rounding.
TOYS = jnn.Serial(jnn.Dense(4, bias=False), Centre(), Noise(), jnn.Dense(2))
RANDOM = jnn.Serial(jnn.Dense(5, bias=False), Centre(), Noise(), jnn.Tanh())
PROJECTED = jnn.Residual(jnn.Dense(3), jnn.Tanh(), projection=jnn.Dense(3, bias=False))


SIAMESE = jnn.Shared(
    jnn.Serial(jnn.Branch(("a", MLP), ("b", MLP), join=jnn.Sum()), jnn.Tanh()),
    {"branch1.b": "branch1.a"},
)
LIFTED = jnn.lift(ones, wave)

ROWS = [
    Row("dense", jnn.Dense(3), (4, 5), rounding=dense),
    Row("dense over positions", jnn.Dense(4), (2, 3, 5), rounding=dense),
    Row("dense without bias", jnn.Dense(3, bias=False), (4, 5), rounding=dense),
    Row("dense, a long sum", jnn.Dense(2, jnn.initializers.lecun_normal), (3, 300), rounding=dense),
    Row("dense, one of everything", jnn.Dense(1), (1, 1), rounding=dense),
    Row("sigmoid", jnn.Sigmoid(), (4, 5), rounding=sigmoid),
    Row("tanh", jnn.Tanh(), (2, 3, 4), rounding=tanh),
    Row("relu", jnn.ReLU(), (4, 5), rounding=rearranged),
    Row("leaky relu", jnn.LeakyReLU(), (4, 5), rounding=leaky(0.01)),
    Row("leaky relu, another slope", jnn.LeakyReLU(0.3), (4, 5), rounding=leaky(0.3)),
    Row("batch norm", jnn.BatchNorm(), (4, 5), two_modes=True, rounding=batch_norm(1e-5)),
    Row(
        "batch norm over positions",
        jnn.BatchNorm(momentum=0.5, eps=0.1),
        (2, 3, 2, 5),
        two_modes=True,
        rounding=batch_norm(0.1),
    ),
    # In Serial, which hands out keys of its own: a leaf uses its key up, and most tests want the
    # same numbers twice.
    Row("dropout", jnn.Serial(jnn.Dropout()), (5, 4), True, dropout(2)),
    Row("dropout, 16 bits", jnn.Serial(jnn.Dropout(0.2)), (3, 7), True, dropout(1.25)),
    Row(
        "dropout, plain", jnn.Serial(jnn.Dropout(0.75, inverted=False)), (3, 2, 4), True, dropout(1)
    ),
    Row("dropout of nothing", jnn.Dropout(0), (4, 5), rounding=rearranged),
    Row("elu", jnn.ELU(), (4, 5), rounding=elu(1)),
    Row("elu, another alpha", jnn.ELU(0.3), (4, 5), rounding=elu(0.3)),
    Row("selu", jnn.SELU(), (4, 5), rounding=elu(jnn.SELU.low, jnn.SELU.scale)),
    Row("softplus", jnn.Softplus(), (4, 5), rounding=softplus),
    Row("gelu", jnn.GELU(), (4, 5), rounding=once(gelu_slope)),
    Row("gelu by tanh", jnn.GELU(approximate=True), (4, 5), rounding=once(tanh_gelu_slope)),
    Row("silu", jnn.SiLU(), (4, 5), rounding=once(silu_slope)),
    Row("relu6", jnn.ReLU6(), (4, 5), rounding=rearranged),
    Row("hard tanh", jnn.HardTanh(), (4, 5), rounding=rearranged),
    Row("hard sigmoid", jnn.HardSigmoid(), (4, 5), rounding=once(lambda x: (abs(x) < 3) / 6)),
    Row("hard swish", jnn.HardSwish(), (4, 5), rounding=once(hard_swish_slope)),
    Row("softmax", jnn.Softmax(), (4, 5), rounding=softmax(-1)),
    Row("softmax over another axis", jnn.Softmax(1), (2, 3, 4), rounding=softmax(1)),
    Row("log softmax", jnn.LogSoftmax(), (4, 5), rounding=log_softmax(-1)),
    Row("log softmax over another axis", jnn.LogSoftmax(-2), (2, 3, 4), rounding=log_softmax(-2)),
    Row("maxout", jnn.Maxout(), (4, 6), rounding=rearranged),
    Row("maxout of three pieces", jnn.Maxout(3), (2, 3, 6), rounding=rearranged),
    Row("prelu", jnn.PReLU(), (2, 3, 4), rounding=prelu),
    Row("prelu, one slope", jnn.PReLU(shared=True), (4, 5), rounding=prelu),
    Row("flatten", jnn.Flatten(), (3, 2, 4, 1), rounding=rearranged),
    Row("flatten of numbers", jnn.Flatten(), (3,), rounding=rearranged),
    Row("serial", MLP, (4, 5)),
    Row("serial in serial", NESTED, (3, 2, 2)),
    Row("serial of state and chance", TOYS, (4, 5), two_modes=True),
    Row("residual", jnn.Residual(jnn.Dense(5), jnn.Tanh()), (4, 5)),
    Row("residual with projection", PROJECTED, (4, 5)),
    Row("named", jnn.Named("head", jnn.Dense(3)), (4, 5)),
    Row("repeat", jnn.Repeat(jnn.Serial(jnn.Dense(5), jnn.Tanh()), 3), (4, 5)),
    Row("repeat of state and chance", jnn.Repeat(RANDOM, 2), (4, 5), two_modes=True),
    Row("remat", jnn.Remat(MLP), (4, 5)),
    Row("remat of state and chance", jnn.Remat(TOYS), (4, 5), two_modes=True),
    Row("lean", jnn.Lean(jnn.Serial(jnn.Dense(3), jnn.GELU(), jnn.Dense(2))), (4, 5)),
    Row("lean of state and chance", jnn.Lean(TOYS), (4, 5), two_modes=True),
    Row("shared", SIAMESE, (4, 5)),
    Row("mapped", jnn.Serial(jnn.Mapped(MLP), jnn.Dense(2)), (3, 2, 5)),
    *example_norms.ROWS,
    *embedding.ROWS,
    *attention.ROWS,
    *convolution.ROWS,
    *recurrent.ROWS,
    *shapes.ROWS,
    *projection.ROWS,
    Row("lift", LIFTED, (4, 5), lifted=True),
    Row("lift in serial", jnn.Serial(jnn.Dense(3), LIFTED, jnn.Dense(2)), (4, 5), lifted=True),
]
