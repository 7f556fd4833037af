"""Cells of recurrent networks, transforms, solves and other linear algebra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

T, IN, H = 5, 2, 3


def gates(x, h, w):
    i, f, g, o = jnp.split(jnp.concatenate([x, h]) @ w, 4)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def lstm_steps(x, w, h, c):
    def step(carry, x):
        h, c = carry
        i, f, g, o = gates(x, h, w)
        new = f * c + i * g
        return (o * jnp.tanh(new), new), (o * jnp.tanh(new), h, c)

    return jax.lax.scan(step, (h, c), x)[1]


def lstm(x, w, h, c):
    return lstm_steps(x, w, h, c)[0]


def lstm_rule(x, w, h, c, dy, time=1.0, cell=1.0, forget=True, sum_w=True, tanh=True):
    _, hs, cs = lstm_steps(x, w, h, c)

    def back(carry, kept):
        dh, dc, dw = carry
        x, h, c, dy = kept
        i, f, g, o = gates(x, h, w)
        y = jnp.tanh(f * c + i * g)
        dh = dh + dy
        dc = dc + dh * o * (1 - y**2 if tanh else 1)
        di, df = dc * g * i * (1 - i), dc * c * f * (1 - f)
        da = jnp.concatenate([di, df, dc * i * (1 - g**2), dh * y * o * (1 - o)])
        new = jnp.outer(jnp.concatenate([x, h]), da)
        dxh = w @ da
        before = time * dxh[IN:], cell * dc * (f if forget else 1), dw + new if sum_w else new
        return before, dxh[:IN]

    first = jnp.zeros_like(h), jnp.zeros_like(c), jnp.zeros_like(w)
    (dh, dc, dw), dx = jax.lax.scan(back, first, (x, hs, cs, dy), reverse=True)
    return dx, dw, dh, dc


def lstm_slip(*causes, words="", **options):
    return slip(*causes, words=words, backward=partial(lstm_rule, **options))


LSTM = Function(
    "LSTM over five steps",
    lstm,
    lstm_rule,
    {
        "x": normal("sequence", T, IN),
        "w": normal("gates", IN + H, 4 * H),
        "h": normal("h", H),
        "c": normal("c", H),
    },
    {
        "dh not carried": lstm_slip("edge", "missing-term", "zero", time=0.0),
        "dc not carried": lstm_slip("edge", "missing-term", "zero", cell=0.0),
        "f forgotten in dc": lstm_slip("local-derivative", "wrong-operand", "edge", forget=False),
        "slope of the last tanh forgotten": lstm_slip("local-derivative", tanh=False),
        "dw of the first step only": slip(
            "edge", "missing-term", "some-examples", w=part(lstm_rule, 1, sum_w=False)
        ),
        "columns of i and f exchanged in dw": slip(
            "permutation",
            "some-elements",
            w=lambda *a: lstm_rule(*a)[1][:, np.r_[H : 2 * H, :H, 2 * H : 4 * H]],
        ),
        "no gradient of the first h": slip("zero", h=lambda x, w, h, c, dy: jnp.zeros_like(h)),
        "dh and dc exchanged": slip("swapped", h=part(lstm_rule, 3), c=part(lstm_rule, 2)),
    },
    {
        "by autodiff": same(backward=lambda *a: jax.vjp(lstm, *a[:-1])[1](a[-1])),
        "last step only": same(wrap=lambda f: lambda *a: f(*a)[-1]),
    },
)


def gru(x, h, w, u):
    return gru_parts(x, h, w, u)[0]


def gru_parts(x, h, w, u):
    (xr, xz, xn), (hr, hz, hn) = jnp.split(x @ w, 3, 1), jnp.split(h @ u, 3, 1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (1 - z) * n + z * h, r, z, n, hn


def gru_rule(x, h, w, u, dy, reset=1.0, through=1.0, old=1.0, gate=True, both=True):
    _, r, z, n, hn = gru_parts(x, h, w, u)
    dn = dy * (1 - z) * (1 - n**2)
    dz = dy * (old * h - n) * z * (1 - z)
    dr = reset * dn * hn * r * (1 - r)
    a, b = jnp.concatenate([dr, dz, dn], 1), jnp.concatenate([dr, dz, dn * r if gate else dn], 1)
    return a @ w.T, through * dy * z + b @ u.T, x.T @ a, h.T @ (b if both else a)


GRU = Function(
    "GRU step",
    gru,
    gru_rule,
    {
        "x": normal("inputs", T, IN),
        "h": normal("hidden", T, H),
        "w": normal("w of x", IN, 3 * H),
        "u": normal("u of h", H, 3 * H),
    },
    {
        "path through the reset gate forgotten": slip(
            "edge", "missing-term", "some-elements", backward=partial(gru_rule, reset=0.0)
        ),
        "old state forgotten": slip("edge", "missing-term", h=part(gru_rule, 1, through=0.0)),
        "old state forgotten in dz": slip(
            "edge", "missing-term", "wrong-operand", backward=partial(gru_rule, old=0.0)
        ),
        "reset gate forgotten in dh": slip(
            "local-derivative", "wrong-operand", "edge", h=part(gru_rule, 1, gate=False)
        ),
        "reset gate forgotten in du": slip(
            "some-elements",
            "local-derivative",
            "wrong-operand",
            "edge",
            u=part(gru_rule, 3, both=False),
        ),
    },
    {"by autodiff": same(backward=lambda *a: jax.vjp(gru, *a[:-1])[1](a[-1]))},
)

X = normal("x", 11, 7)


def circular(x, k):
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(k), 7)


def correlated(a, b):
    return jnp.fft.irfft(a * jnp.conj(jnp.fft.rfft(b)), 7)


def circular_rule(x, k, dy):
    d = jnp.fft.rfft(dy)
    return correlated(d, k), correlated(d, x).sum(0)


CIRCULAR = Function(
    "circular convolution by FFT",
    circular,
    circular_rule,
    {"x": X, "k": normal("filter", 7)},
    {
        "conjugate forgotten": slip("wrong-operand", "edge", x=lambda x, k, dy: circular(dy, k)),
        "conjugate of dy": slip(
            "permutation",
            k=lambda x, k, dy: jnp.fft.irfft(jnp.conj(jnp.fft.rfft(dy)) * jnp.fft.rfft(x), 7).sum(
                0
            ),
        ),
        "multiplied by the length": slip(
            "scale", words="7", x=lambda x, k, dy: 7 * circular_rule(x, k, dy)[0]
        ),
        "dk a mean": slip(
            "scale", words="1/11", k=lambda x, k, dy: circular_rule(x, k, dy)[1] / 11
        ),
    },
    {"by rolling": same(x=lambda x, k, dy: sum(k[j] * jnp.roll(dy, -j, 1) for j in range(7)))},
)

SYSTEM = {"a": normal("a", 5, 5) + 4 * np.eye(5, dtype=np.float32), "b": normal("rhs", 5, 3)}


def solve_rule(a, b, dy):
    y, db = jnp.linalg.solve(a, b), jnp.linalg.solve(a.T, dy)
    return -db @ y.T, db


SOLVE = Function(
    "linear system",
    jnp.linalg.solve,
    solve_rule,
    SYSTEM,
    {
        "a not transposed": slip("wrong-operand", b=lambda a, b, dy: jnp.linalg.solve(a, dy)),
        "da without its minus": slip("sign", a=lambda *s: -solve_rule(*s)[0]),
        "da transposed": slip("transpose", a=lambda *s: solve_rule(*s)[0].T),
        "b for the solution": slip(
            "wrong-operand", a=lambda a, b, dy: -solve_rule(a, b, dy)[1] @ b.T
        ),
    },
    {"by the inverse": same(b=lambda a, b, dy: jnp.linalg.inv(a).T @ dy)},
)


def quadratic(x, a):
    return jnp.einsum("ni,ij,nj->n", x, a, x)


QUADRATIC = Function(
    "quadratic form",
    quadratic,
    lambda x, a, dy: (dy[:, None] * (x @ (a + a.T)), (dy[:, None] * x).T @ x),
    {"x": normal("points", 11, 5), "a": normal("form", 5, 5)},
    {
        "a taken for symmetric": slip(
            "wrong-operand", "edge", x=lambda x, a, dy: 2 * dy[:, None] * (x @ a)
        ),
        "2 forgotten": slip("edge", "missing-term", x=lambda x, a, dy: dy[:, None] * (x @ a.T)),
        "da twice": slip("scale", words="2", a=lambda x, a, dy: 2 * (dy[:, None] * x).T @ x),
        "dy forgotten in da": slip("ignores-cotangent", a=lambda x, a, dy: x.T @ x),
    },
    {"term by term": same(x=lambda x, a, dy: dy[:, None] * (x @ a) + dy[:, None] * (x @ a.T))},
)

ANGLES = np.outer(np.arange(11), [1.0, 0.3, 0.1])


def rotated(x, angles=ANGLES):
    c, s = (jnp.asarray(f(angles), x.dtype) for f in (np.cos, np.sin))
    a, b = x[:, :3], x[:, 3:]
    return jnp.concatenate([a * c - b * s, a * s + b * c], 1)


ROTATED = Function(
    "rotated pairs",
    rotated,
    lambda x, dy: (rotated(dy, -ANGLES),),
    {"x": normal("pairs", 11, 6)},
    {
        "rotated again": slip("edge", "wrong-operand", x=lambda x, dy: rotated(dy)),
        "not rotated": slip("wrong-operand", "local-derivative", "edge", x=lambda x, dy: dy),
        "positions off by one": slip(
            "wrong-operand", x=lambda x, dy: rotated(dy, -np.roll(ANGLES, 1, 0))
        ),
        "halves exchanged": slip(
            "permutation", x=lambda x, dy: jnp.roll(rotated(dy, -ANGLES), 3, 1)
        ),
    },
    {
        "by complex numbers": same(
            x=lambda x, dy: jnp.concatenate(
                [
                    (
                        turned := (dy[:, :3] + 1j * dy[:, 3:])
                        * jnp.exp(-1j * jnp.asarray(ANGLES, dy.dtype))
                    ).real,
                    turned.imag,
                ],
                1,
            )
        )
    },
)


def unit(x):
    return x / jnp.sqrt(jnp.square(x).sum(1, keepdims=True) + 0.01)


def unit_rule(x, dy, keep=1):
    y, size = unit(x), jnp.sqrt(jnp.square(x).sum(1, keepdims=True) + 0.01)
    return ((dy - keep * y * (dy * y).sum(1, keepdims=True)) / size,)


UNIT = Function(
    "rows of length 1",
    unit,
    unit_rule,
    {"x": X},
    {
        "change of the length forgotten": slip(
            "edge", "missing-term", x=part(unit_rule, 0, keep=0)
        ),
        "change of the length halved": slip("edge", "missing-term", x=part(unit_rule, 0, keep=0.5)),
    },
    {
        "by the cube": same(
            x=lambda x, dy: (
                unit_rule(x, dy, 0)[0]
                - x * (dy * x).sum(1)[:, None] / (jnp.square(x).sum(1) + 0.01)[:, None] ** 1.5
            )
        )
    },
)


FUNCTIONS = [LSTM, GRU, CIRCULAR, SOLVE, QUADRATIC, ROTATED, UNIT]
