import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.layer import LayerError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def begun(layer, x):
    """Parameters none of which is 0."""
    params, _ = layer.init(jax.random.key(0), x)
    return jax.tree.map(lambda p: normal(*p.shape, seed=p.size).astype(p.dtype), params)


def forward(layer, params, x):
    return layer.forward(params, x, jnn.Eval())[0]


def written_out(params, x, z, heads, kv_heads, mask=None):
    """The formula, one example, head and position at a time."""
    q, k, v = (
        a @ params[name]["w"] + params[name].get("b", 0)
        for name, a in (("q", x), ("k", z), ("v", z))
    )
    d = q.shape[-1] // heads
    o = np.zeros(q.shape)
    for i, h, t in np.ndindex(len(x), heads, x.shape[1]):
        shared = h // (heads // kv_heads)
        mine, theirs = slice(h * d, h * d + d), slice(shared * d, shared * d + d)
        may = [s for s in range(z.shape[1]) if mask is None or mask[i, h, t, s]]
        if may:
            weights = np.exp(k[i, may, theirs] @ q[i, t, mine] / math.sqrt(d))
            o[i, t, mine] = weights @ v[i, may, theirs] / weights.sum()
    return jnp.asarray(o @ params["o"]["w"] + params["o"].get("b", 0))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_its_formula(kv_heads, x64):
    layer, x = jnn.Attention(4, kv_heads=kv_heads, dim=3), normal(2, 5, 8)
    params = begun(layer, x)
    assert_agree(forward(layer, params, x), written_out(params, x, x, 4, kv_heads), 1e-14)


def test_cross_attention_is_its_formula(x64):
    layer, x, z = jnn.CrossAttention(2), normal(2, 3, 4), normal(2, 5, 6, seed=1)
    mask = normal(2, 2, 3, 5) > 0
    params = begun(layer, (x, z))
    want = written_out(params, x, z, 2, 2, mask)
    assert_agree(forward(layer, params, (x, z, mask)), want, 1e-14)


def test_causal_is_a_mask_and_no_position_looks_ahead(x64):
    layer, x = jnn.Attention(2, causal=True), normal(2, 5, 4)
    params, tril = begun(layer, x), np.tril(np.ones((1, 5, 5), bool))
    y = forward(layer, params, x)
    assert_agree(y, forward(jnn.Attention(2), params, (x, tril)))
    later = x.copy()
    later[:, 3:] += 1
    assert_agree(y[:, :3], forward(layer, params, later)[:, :3])


def test_padding_is_as_if_it_were_not_there(x64):
    layer, x = jnn.Attention(2, causal=True, rotary=100.0), normal(2, 5, 4)
    params = begun(layer, x)
    mask = np.arange(5) < np.array([[3], [5]])
    y, cache = layer.forward(params, (x, mask), jnn.Eval())
    assert_agree(y[:1, :3], forward(layer, params, x[:1, :3]), 1e-14)
    dy = normal(*y.shape) * mask[..., None]
    _, (dx, none) = layer.backward(params, cache, dy)
    assert none is None and (dx[0, 3:] == 0).all()


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 3, 3), (1, 3, 3), (2, 1, 3), (1, 2, 3, 3)])
def test_a_mask_of_any_rank_is_the_full_one(shape, x64):
    layer, x = jnn.Attention(2), normal(2, 3, 4)
    params, mask = begun(layer, x), normal(*shape, seed=3) > -0.5
    between = {2: mask[:, None, None], 3: mask[:, None] if mask.ndim == 3 else None, 4: mask}
    full = np.broadcast_to(between[mask.ndim], (2, 2, 3, 3))
    assert_agree(forward(layer, params, (x, mask)), forward(layer, params, (x, full)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_may_look_nowhere_gets_zeros_and_hands_nothing_back(dtype):
    layer, x = jnn.Attention(2), jnp.asarray(normal(2, 3, 4), dtype)
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), begun(layer, x))
    mask = jnp.array([[True, False, True], [False, False, False]])
    y, cache = layer.forward(params, (x, mask), jnn.Eval())
    assert_agree(y[1], jnp.broadcast_to(params["o"]["b"], (3, 4)))
    grads, (dx, _) = layer.backward(params, cache, jnp.ones_like(y))
    assert (dx[1] == 0).all()
    assert all(np.isfinite(np.float32(g)).all() for g in jax.tree.leaves((grads, dx)))


def test_large_scores_are_no_matter():
    layer, x = jnn.Attention(1, bias=False), jnp.asarray(normal(1, 3, 4), jnp.float32)
    params = jax.tree.map(lambda p: jnp.asarray(1e4 * p, jnp.float32), begun(layer, x))
    y, cache = layer.forward(params, x, jnn.Eval())
    assert np.isfinite(y).all() and (cache["p"].sum(-1) == 1).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(layer.backward(params, cache, y)))


def test_rotary_is_the_layer_on_queries_and_keys(x64):
    layer, x = jnn.Attention(2, rotary=100.0), normal(2, 5, 8)
    _, cache = layer.forward(begun(layer, x), x, jnn.Eval())
    plain = jnn.Attention(2)
    _, unturned = plain.forward(begun(layer, x) | {"k": begun(plain, x)["k"]}, x, jnn.Eval())
    turned, _ = jnn.Rotary(100).forward({}, jnp.swapaxes(unturned["q"], 1, 2), jnn.Eval())
    assert_agree(cache["q"], jnp.swapaxes(turned, 1, 2))


def test_dropout_drops_attention_and_keeps_its_mean():
    layer, x = jnn.Attention(1, dropout=0.5), jnp.ones((1, 64, 2))
    _, cache = layer.forward(begun(layer, x), x, jnn.Train(jax.random.key(1)))
    assert 0.45 < cache["drop"]["mask"].mean() < 0.55
    assert jnn.Attention(1).forward(begun(layer, x), x, jnn.Eval())[1]["drop"] is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rotary", [None, 10.0])
def test_only_keys_that_are_turned_have_a_bias(bias, rotary):
    layer = jnn.Attention(2, bias=bias, rotary=rotary)
    params = begun(layer, jnp.ones((1, 2, 4)))
    biased = "".join(name for name in "qkvo" if "b" in params[name])
    assert biased == {(True, None): "qvo", (True, 10.0): "qkvo"}.get((bias, rotary), "")


def test_a_head_sharing_keys_has_smaller_matrices():
    layer = jnn.Attention(8, kv_heads=2, dim=4)
    params = begun(layer, jnp.ones((1, 2, 6)))
    shapes = {name: p["w"].shape for name, p in params.items()}
    assert shapes == {"q": (6, 32), "k": (6, 8), "v": (6, 8), "o": (32, 6)}


X, MASK = jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool)


@pytest.mark.parametrize(
    "make, x, message",
    [
        (lambda: jnn.Attention(0), X, "heads is 0; it must be a positive integer"),
        (lambda: jnn.Attention(2, dim=0), X, "dim is 0; it must be a positive integer"),
        (lambda: jnn.Attention(4, kv_heads=3), X, "kv_heads is 3; it must divide the 4 heads"),
        (lambda: jnn.Attention(2, dropout=1), X, "rate is 1; it must be a number in [0, 1)"),
        (lambda: jnn.Attention(2, rotary=0), X, "rotary is 0; it must be a positive finite"),
        (lambda: jnn.Attention(2, weight=1), X, "weight is 1; it must be an initializer"),
        (lambda: jnn.Attention(3), X, "must be a multiple of heads=3, or"),
        (lambda: jnn.Attention(4, rotary=9.0), X, "a head has 1 channels; rotary turns pairs"),
        (lambda: jnn.Attention(2), X[0], "each must be (n, t, c)"),
        (lambda: jnn.Attention(2), (X, MASK, MASK), "x is a tuple of 3; it must be an array, or"),
        (lambda: jnn.Attention(2), (X, MASK.astype(int)), "it must be booleans, True where"),
        (lambda: jnn.Attention(2), (X, None), "x holds None; leave the mask out"),
        (lambda: jnn.Attention(2), (X, MASK[:, :2]), "it must be (2, 3) for what may be looked at"),
        (lambda: jnn.Attention(2), (X, MASK[0]), "(2, 2, 3, 3) by each head"),
        (lambda: jnn.CrossAttention(2), X, "it must be a tuple (x, z) or (x, z, mask)"),
        (lambda: jnn.CrossAttention(2), (X, X[:1]), "and two have the same n and dtype"),
    ],
)
def test_what_makes_no_sense_is_refused(make, x, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        layer = make()
        layer.init(jax.random.key(0), x)


def test_parameters_of_another_layer_are_refused():
    layer = jnn.Attention(2)
    params = begun(layer, X)
    with pytest.raises(LayerError, match="it must hold"):
        forward(layer, params["q"], X)
    with pytest.raises(LayerError, match=r"^q = Attention\(2\): w is .* of shape \(6, 6\)"):
        forward(layer, params, jnp.ones((2, 3, 6)))
