"""What is named by an edit of the exact gradient, or by what it must not depend on or mix."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.gradcheck import check_gradients
from jnn.gradcheck.primal import Perturbed, evaluated

X = jax.random.normal(jax.random.key(0), (11, 7))
W = jax.random.normal(jax.random.key(1), (7, 5))
GAIN = 1 + jax.random.uniform(jax.random.key(2), (7,))
SQUARE = jax.random.normal(jax.random.key(3), (5, 5))
MASK = X.T.reshape(11, 7) > 0
EPS = 1e-2


def ruled(forward, backward):
    """A function with a backward(*args, dy) of its own."""
    f = jax.custom_vjp(forward)
    f.defvjp(lambda *args: (forward(*args), args), lambda args, dy: backward(*args, dy))
    return f


def norm(x, gain):
    return x * jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + EPS) * gain


def norm_rule(eps=EPS, gain=lambda g: g):
    def backward(x, g, dy):
        r = jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + eps)
        d = dy * gain(g)
        return r * (d - x * r**2 * (d * x).mean(1, keepdims=True)), (dy * norm(x, 1)).sum(0)

    return ruled(norm, backward)


def softmax_rule(axis):
    def backward(x, dy):
        y = jax.nn.softmax(x)
        return (y * (dy - (dy * y).sum(axis, keepdims=True)),)

    return ruled(lambda x: jax.nn.softmax(x), backward)


def hidden(slope, activation=jnp.tanh):
    def backward(x, w, dy):
        inner = dy * slope(x @ w)
        return inner @ w.T, x.T @ inner

    return ruled(lambda x, w: activation(x @ w), backward)


def scores(dk):
    def weights(q, k):
        return jax.nn.softmax(q @ k.T)

    def backward(q, k, dy):
        p = weights(q, k)
        ds = p * (dy - (dy * p).sum(1, keepdims=True))
        return ds @ k, dk(ds, q)

    return ruled(weights, backward)


WRONG = {
    "epsilon": (
        norm_rule(eps=0),
        (X, GAIN),
        "missing-term",
        "the term 0.01 of `add` is missing",
    ),
    "gain twice": (norm_rule(gain=jnp.square), (X, GAIN), "local-derivative", "args[1] is squared"),
    "slope of another tensor": (
        hidden(lambda h: 1 - h**2),
        (X, W),
        "local-derivative",
        "that of `tanh` is taken for 1 - x^2, where it is 1 - y^2",
    ),
    "slope at the output": (
        hidden(lambda h: jax.nn.sigmoid(jax.nn.softplus(h)), jax.nn.softplus),
        (X, W),
        "local-derivative",
        "that of `softplus` is taken at its output",
    ),
    "slope of a function forgotten": (
        hidden(jnp.ones_like, jax.nn.softplus),
        (X, W),
        "local-derivative",
        "that of `softplus` is missing",
    ),
    "another value kept": (
        hidden(
            lambda h: jnp.cos(jnp.sin(h)) * jnp.exp(jnp.sin(jnp.sin(h))),
            lambda h: jnp.exp(jnp.sin(h)),
        ),
        (X, W),
        "wrong-operand",
        "of `jnp.sin(h)` stands for",
    ),
    "weights exchanged": (
        ruled(
            lambda x, u, w: jnp.sin(x @ u) * (x @ w),
            lambda x, u, w, dy: (
                (dy * jnp.cos(x @ u) * (x @ w)) @ w.T + (dy * jnp.sin(x @ u)) @ u.T,
                x.T @ (dy * jnp.cos(x @ u) * (x @ w)),
                x.T @ (dy * jnp.sin(x @ u)),
            ),
        ),
        (X, W, np.cos(W)),
        "wrong-operand",
        "args[1] and args[2] are exchanged",
    ),
    "mask": (
        ruled(lambda x, m: jnp.where(m, x, 0), lambda x, m, dy: (jnp.where(m, 0, dy), None)),
        (X, MASK),
        "wrong-operand",
        "args[1] is taken for its opposite",
    ),
    "order": (
        ruled(lambda x, w: x @ w, lambda x, w, dy: (dy @ w.T, x[::-1].T @ dy)),
        (X, W),
        "wrong-operand",
        "args[0] is taken reversed along axis 0",
    ),
    "direction": (
        ruled(lambda x: jnp.cumsum(x, 0), lambda x, dy: (jnp.cumsum(dy, 0),)),
        (X,),
        "wrong-operand",
        "`cumsum` runs from the other end",
    ),
    "scores": (
        scores(lambda ds, q: ds @ q),
        (SQUARE, SQUARE[::-1]),
        "wrong-operand",
        "is taken transposed in `dot_general`",
    ),
    "axis": (
        softmax_rule(0),
        (X,),
        "wrong-operand",
        "the cotangent is summed along axis 0 where it must be along axis 1",
    ),
    "only one column": (
        ruled(lambda x, s: x * s, lambda x, s, dy: (dy * s, (dy * x)[:, :1])),
        (X, X[:, :1]),
        "some-examples",
        "of 7 places along axis 1 of the output only 0 counts",
    ),
    "other rows": (
        ruled(
            lambda x, u: x.at[jnp.array([7, 2])].set(u),
            lambda x, u, dy: (dy.at[jnp.array([7, 2])].set(0), dy[:2]),
        ),
        (X, X[:2]),
        "permutation",
        "it holds other elements of the cotangent",
    ),
    "factor": (
        ruled(
            lambda x: jax.nn.softmax(x),
            lambda x, dy: (dy - (dy * jax.nn.softmax(x)).sum(1, keepdims=True),),
        ),
        (X,),
        "local-derivative",
        "it is off by a factor of 1 / output 0",
    ),
    "bfloat16": (
        ruled(
            lambda x, w: x @ w,
            lambda x, w, dy: (
                dy @ w.T,
                (x.astype(jnp.bfloat16).T @ dy.astype(jnp.bfloat16)).astype(dy.dtype),
            ),
        ),
        (X, W),
        "precision",
        "by way of bfloat16",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_slip_is_named(name):
    f, args, cause, words = WRONG[name]
    findings = check_gradients(f, *args, regimes="given").findings
    assert {finding.cause for finding in findings} == {cause}
    assert all(words in finding.message for finding in findings)


def test_an_edit_is_found_with_its_line():
    (finding,) = check_gradients(norm_rule(eps=0), X, GAIN, regimes="given").findings
    path, line = finding.source.rsplit(":", 1)
    assert path == __file__
    assert "+ EPS) * gain" in Path(__file__).read_text().splitlines()[int(line) - 1]


@pytest.mark.slow
def test_one_of_several_that_tie_is_right_and_all_are_not():
    def greatest(choose):
        return ruled(lambda x: x.max(1), lambda x, dy: (choose(x) * dy[:, None],))

    def last(x):
        return jax.nn.one_hot(6 - x[:, ::-1].argmax(1), 7, dtype=x.dtype)

    tied = jnp.round(X)
    assert check_gradients(greatest(last), tied, regimes="given")
    every = greatest(lambda x: (x == x.max(1, keepdims=True)).astype(x.dtype))
    assert "outside of the slopes" in str(check_gradients(every, tied, regimes="given"))


def test_rounding_otherwise_shows_what_cancels():
    def off(f):
        with jax.enable_x64(True):
            x, walk = jnp.linspace(1.0, 2.0, 100), Perturbed(np.random.default_rng(0), 2.0**-53)
            return float(abs(evaluated(f, (x,), walk) - f(x)).max())

    assert off(lambda x: jnp.maximum(x, -x)) == 0
    assert 0 < off(lambda x: x * 3) < 1e-14 < off(lambda x: (x * 3 + 1e6) - 1e6) < 1e-8
