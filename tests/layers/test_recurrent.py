import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.layer import LayerError

LAYERS = [jnn.RNN(3), jnn.GRU(3), jnn.LSTM(3)]
over_layers = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def begun(layer, x):
    """Parameters none of which is 0."""
    params, _ = layer.init(jax.random.key(0), x)
    return {name: normal(*p.shape, seed=i) for i, (name, p) in enumerate(params.items())}


def forward(layer, params, x):
    return layer.forward(params, x, jnn.Eval())[0]


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def by_steps(layer, params, x):
    """The textbook's loop for one sequence (t, in)."""
    p = {name: np.asarray(v) for name, v in params.items()}
    f = layer.features
    h, c, y = np.zeros(f), np.zeros(f), []
    for x_t in np.asarray(x):
        z, a = x_t @ p["w"] + p["b"], h @ p["u"]
        if isinstance(layer, jnn.RNN):
            h = np.tanh(z + a)
        elif isinstance(layer, jnn.GRU):
            r, s = sigmoid((z + a)[: 2 * f]).reshape(2, f)
            m = np.tanh(z[2 * f :] + r * (a[2 * f :] + p["c"]))
            h = (1 - s) * m + s * h
        else:
            i, g_f, g, o = (z + a).reshape(4, f)
            c = sigmoid(g_f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        y.append(h)
    return jnp.asarray(np.stack(y))


@over_layers
def test_the_loop_is_the_textbooks(layer, x64):
    x = normal(2, 5, 4)
    params = begun(layer, x)
    y = forward(layer, params, x)
    for i in range(2):
        assert_agree(y[i], by_steps(layer, params, x[i]), 1e-14)


@over_layers
@pytest.mark.parametrize("reverse", [False, True])
def test_ragged_sequences_are_as_if_each_were_alone(layer, reverse, x64):
    layer = type(layer)(3, reverse=reverse, final=True)
    x, lengths = normal(3, 5, 4), (5, 2, 0)
    params = begun(layer, x)
    mask = jnp.arange(5) < jnp.array(lengths)[:, None]
    y, last = forward(layer, params, (x, mask))
    for i, length in enumerate(lengths):
        alone, end = forward(layer, params, x[i : i + 1, :length])
        assert_agree(y[i : i + 1, :length], alone, 1e-14)
        assert (y[i, length:] == 0).all()
        assert_agree(jax.tree.map(lambda v, i=i: v[i : i + 1], last), end, 1e-14)


@over_layers
def test_what_padding_holds_is_never_looked_at(layer):
    x = normal(2, 4, 4)
    mask = jnp.array([[True, True, False, False], [True, True, True, True]])
    params = begun(layer, x)
    nan = jnp.where(mask[..., None], x, jnp.nan)
    y, cache = layer.forward(params, (nan, mask), jnn.Eval())
    grads, (dx, _) = layer.backward(params, cache, jnp.ones_like(y))
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, grads, dx)))
    assert (dx[0, 2:] == 0).all()


@over_layers
def test_backwards_is_forwards_over_the_flipped_sequence(layer, x64):
    x = normal(2, 5, 4)
    params = begun(layer, x)
    back = forward(type(layer)(3, reverse=True), params, x)
    assert_agree(back, forward(layer, params, x[:, ::-1])[:, ::-1], 1e-15)


@over_layers
def test_a_sequence_in_two_pieces_is_the_sequence(layer, x64):
    layer = type(layer)(3, final=True)
    x = normal(2, 7, 4)
    params = begun(layer, x)
    y, last = forward(layer, params, x)
    one, middle = forward(layer, params, x[:, :4])
    two, end = forward(layer, params, (x[:, 4:], None, middle))
    assert_agree(jnp.concatenate([one, two], axis=1), y, 1e-15)
    assert_agree(end, last, 1e-15)


@over_layers
def test_the_gradient_of_what_is_left_in_the_end_is_that_of_jax(layer, x64):
    layer = type(layer)(3, final=True)
    x, mask = normal(2, 4, 4), jnp.array([[True, True, False, False], [True] * 4])
    params = begun(layer, x)
    _, first = forward(layer, params, normal(2, 1, 4, seed=9))
    given = x, mask, first
    want_y, vjp = jax.vjp(lambda p, x, s: forward(layer, p, (x, mask, s)), params, x, first)
    dy = jax.tree.map(lambda v: normal(*v.shape, seed=v.size), want_y)
    y, cache = layer.forward(params, given, jnn.Eval())
    grads, (dx, none, dfirst) = layer.backward(params, cache, dy)
    assert none is None
    assert_agree((y, grads, dx, dfirst), (want_y, *vjp(dy)), 1e-13)


@over_layers
def test_the_program_does_not_grow_with_the_sequence(layer):
    def lines(t):
        x = jnp.ones((2, t, 4))
        params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)

        def both(params, x):
            y, cache = layer.forward(params, x, jnn.Eval())
            return layer.backward(params, cache, y)

        return len(str(jax.make_jaxpr(both)(params, x)).splitlines())

    assert lines(3) == lines(300)


@over_layers
def test_no_steps_leave_what_was_remembered(layer):
    layer = type(layer)(3, final=True)
    x = jnp.ones((2, 0, 4))
    params, _ = layer.init(jax.random.key(0), x)
    y, last = forward(layer, params, x)
    assert y.shape == (2, 0, 3) and all((v == 0).all() for v in jax.tree.leaves(last))


def test_both_directions_are_a_branch(x64):
    net = jnn.Branch(jnn.LSTM(3), jnn.LSTM(3, reverse=True))
    x = normal(2, 5, 4)
    params, state = net.init(jax.random.key(0), x)
    y, cache = net.forward(params, x, jnn.Eval(state))
    assert [v.shape for v in y] == [(2, 5, 3)] * 2
    assert net.backward(params, cache, y)[1].shape == x.shape


@pytest.mark.parametrize("kind, gates", [(jnn.RNN, 1), (jnn.GRU, 3), (jnn.LSTM, 4)])
def test_every_gate_is_drawn_with_fans_of_its_own(kind, gates):
    params, _ = kind(64).init(jax.random.key(0), jnp.ones((1, 2, 64)))
    for gate in jnp.split(params["u"], gates, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(64), atol=1e-5)
    variance = params["w"].var()
    assert abs(variance * 64 - 1) < 0.1  # 2 / (64 + 64)


X, MASK = jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool)
H = jnp.ones((2, 3))


@pytest.mark.parametrize(
    "make, x, message",
    [
        (lambda: jnn.RNN(0), X, "features is 0; it must be a positive integer"),
        (lambda: jnn.RNN(3, reverse="no"), X, "reverse is 'no'; it must be True or False"),
        (lambda: jnn.GRU(3, final=1), X, "final is 1; it must be True or False"),
        (lambda: jnn.GRU(3, weight=0), X, "weight is 0; it must be an initializer"),
        (lambda: jnn.LSTM(3, recurrent=1), X, "recurrent is 1; it must be an initializer"),
        (lambda: jnn.RNN(3), X[0], "it must be (n, t, in), t steps of n sequences"),
        (lambda: jnn.RNN(3), (X, MASK, H, H), "x is a tuple of 4; it must be an array, (x, mask)"),
        (lambda: jnn.RNN(3), (X, MASK[:1]), "mask is bool (1, 3); it must be booleans (2, 3)"),
        (lambda: jnn.RNN(3), (X, X[..., 0]), "mask is float32 (2, 3); it must be booleans"),
        (lambda: jnn.RNN(3), (X, None), "mask is a NoneType; it must be booleans (2, 3)"),
        (lambda: jnn.RNN(3), (X, None, None), "initial is not h, each float32 (2, 3)"),
        (lambda: jnn.GRU(3), (X, None, X), "initial is not h, each float32 (2, 3)"),
        (lambda: jnn.LSTM(3), (X, None, H), "initial is not h and c, each float32 (2, 3)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, x, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        make().init(jax.random.key(0), x)
