"""Taps see what passes through every leaf, and change nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jnn
from jnn.taps import tapped

NET = jnn.Serial(
    jnn.Dense(4), toys.Centre(), ("block", jnn.Serial(jnn.Tanh(), ("head", jnn.Dense(3))))
)
LOSS = jnn.SquaredError()
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 5)), RNG.standard_normal((6, 3))


def whole(seen):
    return seen.y, seen.dy, seen.grads


@pytest.mark.slow
def test_every_leaf_is_seen_with_its_output_cotangent_and_gradients(x64):
    params, _ = NET.init(jax.random.key(0), X)
    mode = jnn.Train(jax.random.key(1))
    got = jax.jit(tapped(NET, LOSS, whole))(params, X, Y, mode)
    assert sorted(got) == ["block.head", "block.tanh1", "centre1", "dense1"]

    def value(zeros):
        """The loss where something is added to the output of every leaf."""
        w = params["dense1"]["w"], params["block"]["head"]["w"]
        b = params["dense1"]["b"], params["block"]["head"]["b"]
        dense = X @ w[0] + b[0] + zeros[0]
        centre = dense - dense.mean(axis=0) + zeros[1]
        tanh = jnp.tanh(centre) + zeros[2]
        head = tanh @ w[1] + b[1] + zeros[3]
        return jnp.square(head - Y).sum() / len(X), (dense, centre, tanh, head)

    zeros = tuple(jnp.zeros((6, d)) for d in (4, 4, 4, 3))
    cotangents, outputs = jax.grad(value, has_aux=True)(zeros)
    _, grads = jnn.backprop(NET, LOSS)(params, X, Y, mode)
    for path, y, dy, g in zip(
        ("dense1", "centre1", "block.tanh1", "block.head"),
        outputs,
        cotangents,
        (grads["dense1"], {}, {}, grads["block"]["head"]),
        strict=True,
    ):
        # The gradient of a bias before a centring is 0 in truth, a few roundings in fact.
        chex.assert_trees_all_close(got[path], (y, dy, g), rtol=1e-12, atol=1e-15)


def test_a_lone_leaf_is_a_network(x64):
    params, _ = jnn.Dense(3).init(jax.random.key(0), X)
    got = tapped(jnn.Dense(3), LOSS, whole)(params, X, Y, jnn.Eval())
    assert list(got) == [""] and got[""][0].shape == (6, 3)


def test_a_leaf_of_which_nothing_is_read_is_left_out(x64):
    params, _ = NET.init(jax.random.key(0), X)

    def read(seen):
        return {"size": jnp.abs(seen.y).max()} if isinstance(seen.layer, jnn.Dense) else {}

    got = tapped(NET, LOSS, read)(params, X, Y, jnn.Train(jax.random.key(1)))
    assert sorted(got) == ["block.head", "dense1"]
