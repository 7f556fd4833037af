import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.layer import LayerError


def begun(layer, x):
    return layer.init(jax.random.key(0), x)[0]


def test_an_embedding_is_a_look_up_and_its_gradient_adds_where_tokens_repeat(x64):
    w = np.random.default_rng(0).normal(size=(4, 3))
    tokens = jnp.array([[1, 1], [3, 1]])
    layer = jnn.Embedding(4, 3)
    y, cache = layer.forward({"w": w}, tokens, jnn.Eval())
    assert_agree(y, jnp.asarray(w[np.asarray(tokens)]))
    dy = np.random.default_rng(1).normal(size=y.shape)
    grads, dx = layer.backward({"w": w}, cache, dy)
    want = np.zeros((4, 3))
    want[1], want[3] = dy[0, 0] + dy[0, 1] + dy[1, 1], dy[1, 0]
    assert_agree(grads["w"], jnp.asarray(want), 1e-15)
    assert dx is None


@pytest.mark.parametrize("bad", [-1, 4, 2**31 - 1, -(2**31)])
def test_a_token_that_is_no_row_gives_nan_and_no_gradient(bad):
    layer, tokens = jnn.Embedding(4, 2), jnp.array([0, bad])
    params = {"w": jnp.ones((4, 2))}
    y, cache = layer.forward(params, tokens, jnn.Eval())
    assert np.isnan(y[1]).all() and not np.isnan(y[0]).any()
    grads, _ = layer.backward(params, cache, jnp.ones_like(y))
    assert grads["w"].tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32"])
def test_tokens_of_any_integer_type_will_do(dtype):
    layer = jnn.Embedding(100, 2)
    tokens = jnp.arange(100).astype(dtype)
    params = begun(layer, tokens)
    y, cache = layer.forward(params, tokens, jnn.Eval())
    assert_agree(y, params["w"])
    assert_agree(layer.backward(params, cache, y)[0]["w"], params["w"])


def test_a_vocabulary_larger_than_the_integer_type_will_do():
    layer, tokens = jnn.Embedding(300, 2), jnp.array([255, 0], jnp.uint8)
    params = begun(layer, tokens)
    y, cache = layer.forward(params, tokens, jnn.Eval())
    assert_agree(y, params["w"][jnp.array([255, 0])])
    assert not np.isnan(layer.backward(params, cache, y)[0]["w"]).any()


@pytest.mark.parametrize("x", [jnp.ones(3), jnp.ones(3, bool), [0, 1], None])
def test_tokens_that_are_no_integers_are_refused(x):
    with pytest.raises(LayerError, match=r"it must be an array of integers in \[0, 4\)"):
        begun(jnn.Embedding(4, 2), x)


def test_tied_embeddings_are_one_matrix_whose_gradients_add(x64):
    net = jnn.Serial(jnn.Embedding(5, 3), jnn.Tanh(), jnn.Unembed(5))
    tied = jnn.Shared(net, {"unembed1.w": "embedding1.w"})
    tokens = jnp.array([[0, 1], [4, 1]])
    params = begun(tied, tokens)
    assert jax.tree.map(jnp.shape, params) == {"embedding1": {"w": (5, 3)}}
    y, cache = tied.forward(params, tokens, jnn.Eval())
    dy = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    both = dict.fromkeys(("embedding1", "unembed1"), params["embedding1"])
    apart, _ = net.backward(both, net.forward(both, tokens, jnn.Eval())[1], dy)
    grads, _ = tied.backward(params, cache, dy)
    want = apart["embedding1"]["w"] + apart["unembed1"]["w"]
    assert_agree(grads["embedding1"]["w"], want, 1e-15)


def test_positions_broadcast_over_examples_and_use_the_first_rows():
    layer, x = jnn.Positions(4), jnp.zeros((2, 3, 2))
    params = begun(layer, x)
    y, cache = layer.forward(params, x, jnn.Eval())
    assert_agree(y[1], params["w"][:3])
    grads, _ = layer.backward(params, cache, jnp.ones_like(y))
    assert grads["w"].tolist() == [[2, 2], [2, 2], [2, 2], [0, 0]]


def test_rotary_products_depend_on_the_distance_alone(x64):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 6))
    q, k = (np.broadcast_to(v, (1, 5, 6)) for v in (q, k))
    (q, _), (k, _) = (jnn.Rotary(100).forward({}, v, jnn.Eval()) for v in (q, k))
    products = np.asarray(q[0] @ k[0].T)
    for distance in range(-3, 4):
        along = np.diagonal(products, distance)
        np.testing.assert_allclose(along, along[0], rtol=1e-12)


def test_rotary_turns_channel_i_with_channel_i_plus_half(x64):
    x = np.random.default_rng(0).normal(size=(1, 3, 6))
    y = np.asarray(jnn.Rotary(100).forward({}, x, jnn.Eval())[0])
    for t in range(3):
        for i in range(3):
            turn = np.exp(1j * t * 100 ** (-i / 3))
            want = (x[0, t, i] + 1j * x[0, t, i + 3]) * turn
            np.testing.assert_allclose([y[0, t, i], y[0, t, i + 3]], [want.real, want.imag])


@pytest.mark.parametrize(
    "make, x, message",
    [
        (lambda: jnn.Embedding(0, 2), None, "vocabulary is 0; it must be a positive integer"),
        (lambda: jnn.Embedding(2, 1.5), None, "features is 1.5; it must be a positive integer"),
        (lambda: jnn.Embedding(2, 2, "w"), None, "weight is 'w'; it must be an initializer"),
        (lambda: jnn.Unembed(True), None, "vocabulary is True; it must be a positive integer"),
        (lambda: jnn.Unembed(3), jnp.ones(()), r"it must be \(n, ..., features\)"),
        (lambda: jnn.Positions(-1), None, "limit is -1; it must be a positive integer"),
        (lambda: jnn.Positions(2), jnp.ones((1, 3, 4)), "with t at most limit=2: cut x"),
        (lambda: jnn.Positions(2), jnp.ones((3, 4)), r"it must be \(n, t, c\)"),
        (lambda: jnn.Rotary(0), None, "base is 0; it must be a positive finite number"),
        (lambda: jnn.Rotary(), jnp.ones((1, 2, 3)), "with an even c"),
        (lambda: jnn.Rotary(), jnp.ones((2, 4)), r"it must be \(n, t, ..., c\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, x, message):
    with pytest.raises(LayerError, match=message):
        layer = make()
        layer.forward(begun(layer, x), x, jnn.Eval())
