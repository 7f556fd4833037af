"""Functions of single elements, branches, sums of exponentials and of squares."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, same, slip

X = normal("x", 11, 7)


def curve(name, f, slope, bugs, rewrites=(), x=X):
    """A function of each element and its slope."""

    def times(s):
        return lambda x, dy: dy * s(x)

    return Function(
        name,
        f,
        lambda x, dy: (dy * slope(x),),
        {"x": x},
        {bug: slip(*causes, x=times(s)) for bug, (causes, s) in bugs.items()},
        {rewrite: same(x=times(s)) for rewrite, s in dict(rewrites).items()},
    )


def density(x):
    return jnp.exp(-(x**2) / 2) / (2 * np.pi) ** 0.5


def half(x):
    return jax.scipy.special.erfc(-x / 2**0.5) / 2


def gelu_by_tanh(x):
    return jax.vmap(jax.vmap(jax.grad(partial(jax.nn.gelu, approximate=True))))(x)


LOCAL = ("local-derivative",)
GELU = curve(
    "GELU",
    partial(jax.nn.gelu, approximate=False),
    lambda x: half(x) + x * density(x),
    {
        "slope of the tanh formula": (LOCAL, gelu_by_tanh),
        "x times the density forgotten": (("local-derivative", "edge", "missing-term"), half),
        "density not normalised": (
            ("local-derivative", "edge"),
            lambda x: half(x) + x * jnp.exp(-(x**2) / 2),
        ),
        "0 beyond 2": (
            ("some-elements", "local-derivative"),
            lambda x: jnp.where(abs(x) < 2, half(x) + x * density(x), 0),
        ),
    },
    {"by autodiff": jax.vmap(jax.vmap(jax.grad(partial(jax.nn.gelu, approximate=False))))},
)

SOFTPLUS = curve(
    "softplus",
    jax.nn.softplus,
    jax.nn.sigmoid,
    {
        "sigmoid of -x": (LOCAL, lambda x: jax.nn.sigmoid(-x)),
        "y for the slope": (LOCAL, lambda x: jax.nn.softplus(x) / 2),
    },
    {"by exp": lambda x: 1 - jnp.exp(-jax.nn.softplus(x))},
)

LEAKY = curve(
    "leaky ReLU",
    lambda x: jnp.where(x > 0, x, 0.1 * x),
    lambda x: jnp.where(x > 0, 1, 0.1),
    {
        "0 below 0": (("some-elements", "edge", "missing-term"), lambda x: jnp.where(x > 0, 1, 0)),
        "0.11 below 0": (("some-elements", "edge"), lambda x: jnp.where(x > 0, 1, 0.11)),
        "sides exchanged": (
            ("local-derivative", "wrong-operand"),
            lambda x: jnp.where(x < 0, 1, 0.1),
        ),
        "1 everywhere": (("other-branch", "some-elements"), jnp.ones_like),
    },
    {"1 at 0": lambda x: jnp.where(x >= 0, 1, 0.1), "by sign": lambda x: 0.55 + 0.45 * jnp.sign(x)},
)

ELU = curve(
    "ELU",
    jax.nn.elu,
    lambda x: jnp.where(x > 0, 1, jnp.exp(jnp.minimum(x, 0))),
    {
        "y for y + 1": (
            ("local-derivative", "some-elements", "missing-term"),
            lambda x: jnp.where(x > 0, 1, jax.nn.elu(x)),
        ),
        "x for y": (
            ("local-derivative", "some-elements", "wrong-operand"),
            lambda x: jnp.where(x > 0, 1, x + 1),
        ),
    },
    {"y + 1": lambda x: jnp.where(x > 0, 1, jax.nn.elu(x) + 1)},
)


def huber(x):
    return jnp.where(abs(x) < 0.5, x**2, abs(x) - 0.25)


HUBER = curve(
    "Huber loss, d = 0.5",
    huber,
    lambda x: jnp.where(abs(x) < 0.5, 2 * x, jnp.sign(x)),
    {
        "quadratic everywhere": (("other-branch", "some-elements"), lambda x: 2 * x),
        "sign forgotten": (
            ("some-elements", "local-derivative"),
            lambda x: jnp.where(abs(x) < 0.5, 2 * x, 1),
        ),
        "d of 1": (
            ("some-elements",),
            lambda x: jnp.where(abs(x) < 1, 2 * x, jnp.sign(x)),
        ),
    },
    {"by clip": lambda x: jnp.clip(2 * x, -1, 1)},
)


def either(x, s):
    return jax.lax.cond(s > 0, jnp.sin, lambda x: x**2, x)


EITHER = Function(
    "one of two branches",
    either,
    lambda x, s, dy: (dy * jnp.where(s > 0, jnp.cos(x), 2 * x), None),
    {"x": X, "s": np.int32(1)},
    {
        "the other branch's": slip("other-branch", x=lambda x, s, dy: dy * 2 * x),
        "minus in the branch taken": slip(
            "sign", x=lambda x, s, dy: dy * jnp.where(s > 0, -jnp.cos(x), 2 * x)
        ),
    },
    {"by cond": same(x=lambda x, s, dy: jax.lax.cond(s > 0, jnp.cos, lambda x: 2 * x, x) * dy)},
)

LOGSUMEXP = Function(
    "logsumexp",
    partial(jax.nn.logsumexp, axis=1),
    lambda x, dy: (dy[:, None] * jax.nn.softmax(x),),
    {"x": X},
    {
        "not normalised": slip(
            "local-derivative", "edge", x=lambda x, dy: dy[:, None] * jnp.exp(x)
        ),
        "normalised over the batch": slip(
            "wrong-operand", "local-derivative", x=lambda x, dy: dy[:, None] * jax.nn.softmax(x, 0)
        ),
        "of the greatest only": slip(
            "local-derivative",
            "wrong-operand",
            x=lambda x, dy: dy[:, None] * jax.nn.one_hot(x.argmax(1), 7, dtype=x.dtype),
        ),
        "not shifted": slip(
            "nonfinite",
            args={"x": 400 * X},
            x=lambda x, dy: dy[:, None] * jnp.exp(x) / jnp.exp(x).sum(1, keepdims=True),
        ),
    },
    {
        "by its own value": same(
            x=lambda x, dy: dy[:, None] * jnp.exp(x - jax.nn.logsumexp(x, 1, keepdims=True))
        )
    },
)


def squares(x, t):
    return jnp.square(x - t).mean()


SQUARES = Function(
    "mean squared error",
    squares,
    lambda x, t, dy: ((d := 2 * (x - t) / x.size * dy), -d),
    {"x": X, "t": normal("targets", 11, 7)},
    {
        "2 forgotten": slip("scale", words="0.5", x=lambda x, t, dy: (x - t) / x.size * dy),
        "divided by the batch only": slip(
            "scale", words="7", x=lambda x, t, dy: 2 * (x - t) / 11 * dy
        ),
        "dt like dx": slip("sign", t=lambda x, t, dy: 2 * (x - t) / x.size * dy),
        "dt forgotten": slip("zero", t=lambda x, t, dy: jnp.zeros_like(t)),
        "slope of the absolute error": slip(
            "local-derivative",
            x=lambda x, t, dy: jnp.sign(x - t) / x.size * dy,
        ),
    },
    {"by mean": same(x=lambda x, t, dy: jax.grad(lambda x: dy * squares(x, t))(x))},
)

FUNCTIONS = [GELU, SOFTPLUS, LEAKY, ELU, HUBER, EITHER, LOGSUMEXP, SQUARES]
