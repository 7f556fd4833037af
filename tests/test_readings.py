"""What is read of factors is what vmap(grad) gives, for every leaf; or it is refused by name."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from row import Below, Row, example, form
from table import ROWS

import jnn
from jnn.factors import (
    Outer,
    dot,
    each,
    grad,
    gram,
    is_factor,
    keep,
    kron,
    scale,
    second_moment,
    sqnorm,
    total,
)

READINGS = (grad, each, sqnorm, second_moment, gram, keep)
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def has_parameters(row):
    x = jax.tree.map(
        lambda v: jnp.zeros(v.shape, v.dtype),
        form(row, np.float32),
        is_leaf=lambda v: isinstance(v, Below),
    )
    return bool(jax.eval_shape(lambda x: row.layer.init(jax.random.key(0), x)[0], x))


DEEP = jnn.Repeat(jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(4)), 3)
SHARED = (
    Row("loops that share", jnn.Shared(jnn.Serial(("a", DEEP), ("b", DEEP)), {"b": "a"}), (5, 4)),
    Row("a loop that shares", jnn.Shared(DEEP, {"dense2": "dense1"}), (5, 4)),
)
STATED = [
    row
    for row in (*ROWS, *SHARED)
    if not row.lifted and "mixed" not in row.name and has_parameters(row)
]


def by_example(net, params, x, dy, mode):
    """Every example's gradient by jax.grad, examples first."""

    def one(x, dy):
        batch = jax.tree.map(lambda v: v[None], x)

        def loss(params):
            y, _ = net.forward(params, batch, mode)
            pairs = zip(jax.tree.leaves(y), jax.tree.leaves(dy), strict=True)
            return sum(jnp.vdot(a[0], b) for a, b in pairs)

        return jax.grad(loss)(params)

    return jax.vmap(one)(x, dy)


def read(net, params, x, dy, mode, of):
    _, cache = net.forward(params, x, mode)
    return jnn.backward(net, params, cache, dy, of=of)[0]


@pytest.mark.slow
@pytest.mark.parametrize("row", STATED, ids=lambda row: row.name)
def test_every_cell_of_reading_and_leaf(row, x64):
    params, state, x, dy = example(row, np.float64)
    net, mode = row.layer, jnn.Eval(state)

    @jax.jit
    def both(params, x, dy):
        return read(net, params, x, dy, mode, READINGS), by_example(net, params, x, dy, mode)

    (sums, _, norms, squares, products, factors), exact = both(params, x, dy)
    n = len(jax.tree.leaves(exact)[0])
    flat = np.concatenate([np.reshape(g, (n, -1)) for g in jax.tree.leaves(exact)], axis=1)
    assert_agree(sums, jax.tree.map(lambda g: g.sum(0), exact), 1e-10)
    assert_agree(squares, jax.tree.map(lambda g: (g**2).sum(0), exact), 1e-10)
    assert_agree(total(norms), (flat**2).sum(1), 1e-10)
    stacked = [g.reshape(-1, n, n).sum(0) for g in jax.tree.leaves(products)]
    assert_agree(sum(stacked), flat @ flat.T, 1e-10)
    c = jnp.linspace(-1.0, 2.0, n)
    for f, v, g in zip(
        jax.tree.leaves(factors, is_leaf=is_factor),
        jax.tree.leaves(params),
        jax.tree.leaves(exact),
        strict=True,
    ):
        along = dot(f, v).reshape(-1, n).sum(0)
        assert_agree(along, np.reshape(g, (n, -1)) @ np.reshape(v, -1), 1e-10)
        assert_agree(grad(scale(f, c)), jnp.tensordot(c, g, 1), 1e-10)


def test_answers_come_from_one_traversal_and_dx_is_as_ever(x64):
    net = jnn.Serial(jnn.Dense(3), jnn.Tanh(), jnn.Dense(2))
    params, state = net.init(jax.random.key(0), X)
    y, cache = net.forward(params, X, jnn.Eval(state))
    expected = net.backward(params, cache, y)
    assert_agree(jnn.backward(net, params, cache, y), expected, 1e-15)
    (grads, norms), dx = jnn.backward(net, params, cache, y, of=(grad, sqnorm))
    assert_agree((grads, dx), expected, 1e-15)
    assert jax.tree.map(jnp.shape, norms)["dense1"] == {"b": (5,), "w": (5,)}


def test_the_curvature_of_one_example_is_the_product_of_its_factors(x64):
    net, x = jnn.Dense(3), X.astype(np.float64)
    params, _ = net.init(jax.random.key(0), x)
    for n in (1, 5):
        y, cache = net.forward(params, x[:n], jnn.Eval())
        (parts, factors), _ = jnn.backward(net, params, cache, y, of=(each, kron))
        flat = parts["w"].reshape(n, -1)
        a, d = factors["w"]
        product = jnp.kron(a, d)
        if n == 1:
            assert_agree(product, flat.T @ flat, 1e-12)
        assert product.shape == (12, 12)
        assert_agree(factors["b"], (parts["b"] ** 2).mean(0), 1e-12)


def test_the_curvature_of_one_window_is_the_product_of_its_factors(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 2)))
    net = jnn.Conv(4, (2, 3), padding="VALID")
    params, _ = net.init(jax.random.key(0), x)
    y, cache = net.forward(params, x, jnn.Eval())
    (parts, factors), _ = jnn.backward(net, params, cache, y, of=(each, kron))
    flat = parts["w"].reshape(1, -1)
    assert_agree(jnp.kron(*factors["w"]), flat.T @ flat, 1e-12)
    transposed = jnn.Serial(jnn.ConvTranspose(2))
    params, _ = transposed.init(jax.random.key(0), x)
    y, cache = transposed.forward(params, x, jnn.Eval())
    with pytest.raises(ValueError, match="Unfolded factor has no Kronecker form") as caught:
        jnn.backward(transposed, params, cache, y, of=kron)
    assert caught.value.__notes__ == ["of convtranspose1.w"]


@dataclass(frozen=True)
class Twice(jnn.Dense):
    """Another backward than Dense's, whose factors are not its own any more."""

    def forward(self, params, x, mode):
        y, cache = super().forward(params, x, mode)
        return 2 * y, cache

    def backward(self, params, cache, dy):
        return super().backward(params, cache, 2 * dy)


@pytest.mark.parametrize(
    "layer, message",
    [(Twice(4), "states only `backward`"), (jnn.Softmax(axis=0), "every example depend")],
)
def test_no_factors_are_read_that_are_not_the_layers_own(layer, message):
    net, x = jnn.Serial(jnn.Dense(4), layer), jnp.asarray(X)
    params, _ = net.init(jax.random.key(0), x)
    y, cache = net.forward(params, x, jnn.Eval())
    with pytest.raises(ValueError, match=message):
        jnn.backward(net, params, cache, y, of=sqnorm)


def test_other_rules_of_pulling_back_go_by_the_same_caches():
    net = jnn.Serial(jnn.Dense(4), jnn.ReLU(), jnn.Dense(2))
    params, _ = net.init(jax.random.key(0), X)
    y, cache = net.forward(params, X, jnn.Eval())

    def guided(layer, params, cache, dy):
        return layer.pull(params, cache, jnp.maximum(dy, 0))

    grads, dx = jnn.backward(net, params, cache, y, pull={jnn.ReLU: guided})
    exchanged = jnn.rewrite(net, {jnn.ReLU: lambda relu: jnn.with_backward(relu, pull=guided)})
    assert_agree((grads, dx), exchanged.backward(params, cache, y), 0)
    norms, same = jnn.backward(net, params, cache, y, of=sqnorm, pull={jnn.ReLU: guided})
    assert_agree(same, dx, 0)
    assert norms["dense1"]["w"].shape == (5,)


def test_what_has_no_answer_is_refused_by_name():
    x = jnp.asarray(X)
    normed = jnn.Serial(jnn.Dense(3), jnn.BatchNorm())
    params, state = normed.init(jax.random.key(0), x)

    def norms(net, params, mode):
        y, cache = net.forward(params, x, mode)
        return jnn.backward(net, params, cache, y, of=sqnorm)[0]

    train = jnn.Train(jax.random.key(0), state)
    with pytest.raises(ValueError, match=r"batchnorm1 = BatchNorm\(\): in training it makes every"):
        norms(normed, params, train)
    with pytest.raises(ValueError, match=r"batchnorm1 = BatchNorm\(\): in training it makes every"):
        jax.jit(partial(norms, normed))(params, train)
    frozen = jnn.rewrite(normed, {jnn.BatchNorm: jnn.Frozen})
    assert norms(frozen, params, train)["dense1"]["b"].shape == (5,)
    found = jax.jit(partial(norms, normed))(params, jnn.Eval(state))
    assert found["batchnorm1"]["scale"].shape == (5,)

    lifted = jnn.lift(lambda key, x: {"s": jnp.ones(4, x.dtype)}, lambda p, x: x * p["s"])
    params, _ = lifted.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="it states only `backward`"):
        norms(lifted, params, jnn.Eval())
    plain = jnn.Serial(jnn.lift(lambda key, x: {}, lambda p, x: jnp.sin(x)), jnn.Dense(2))
    params, _ = plain.init(jax.random.key(0), x)
    assert norms(plain, params, jnn.Eval())["dense1"]["w"].shape == (5,)
    with pytest.raises(ValueError, match="of is 3; it must be a reading"):
        jnn.backward(plain, params, {}, x, of=3)
    several = jnn.factors.Several((Outer(x, x), Outer(x, x)))
    with pytest.raises(ValueError, match="a Several factor has no Kronecker form"):
        kron(several)


def test_slices_along_the_first_axis_are_the_examples_however_it_is_counted():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3, 4)), jnp.float32)
    found = []
    for axis in (0, -3):
        net = jnn.Mapped(jnn.Dense(2), axis=axis)
        params, _ = net.init(jax.random.key(0), x)
        y, cache = net.forward(params, x, jnn.Eval())
        found.append(total(jnn.backward(net, params, cache, y, of=sqnorm)[0]))
    assert_agree(*found, 0)
    (only,), _ = jnn.backward(net, params, cache, y, of=(grad,))
    assert_agree(only, jnn.backward(net, params, cache, y)[0], 0)


@pytest.mark.parametrize("net, shape", [(jnn.Dense(3), (0, 2, 4)), (jnn.Embedding(7, 5), (0, 3))])
def test_of_no_examples_all_sums_are_zero(net, shape):
    dtype = jnp.int32 if isinstance(net, jnn.Embedding) else jnp.float32
    params, _ = net.init(jax.random.key(0), jax.ShapeDtypeStruct((2, *shape[1:]), dtype))
    y, cache = net.forward(params, jnp.zeros(shape, dtype), jnn.Eval())
    (sums, squares, norms), _ = jnn.backward(
        net, params, cache, y, of=(grad, second_moment, sqnorm)
    )
    assert_agree(squares, sums, 0)
    assert total(norms).shape == (0,)
