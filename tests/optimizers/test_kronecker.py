"""K-FAC steps by its formula, whatever the kind of block; drawn targets have its curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.factors import Kron
from jnn.optimizers import kfac, kfac_gradient

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 4)), RNG.integers(0, 3, 6)
LOSS = jnn.SoftmaxCrossEntropy()


def first(net, x, y, loss=LOSS, **options):
    """The first step: (updates, state, gradients, curvature, params)."""
    optimizer = kfac(net, x, 0.5, **options)
    params, _ = net.init(jax.random.key(0), x)
    f = jax.jit(kfac_gradient(net, loss))
    _, (grads, found) = f(params, x, y, jnn.Train(jax.random.key(1)))
    updates, state = jax.jit(optimizer.update)((grads, found), optimizer.init(params), params)
    return updates, state, grads, found, params


def inverse(of, damping):
    """Of a block with its damping, as one matrix."""
    if not isinstance(of, Kron):
        return np.diag(1 / (np.ravel(of) + damping))
    a, d = (np.diag(v) if np.ndim(v) == 1 else np.asarray(v) for v in of)
    pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(d) / len(d)))
    a = a + pi * damping**0.5 * np.eye(len(a))
    d = d + damping**0.5 / pi * np.eye(len(d))
    return np.linalg.inv(np.kron(a, d))


@pytest.mark.parametrize("trust", [1e-4, 1e6])
@pytest.mark.parametrize(
    "net, x",
    [
        (jnn.Serial(jnn.Dense(5), jnn.Tanh(), jnn.Dense(3)), X),
        (jnn.Serial(jnn.Conv(3, 2), jnn.GlobalAvgPool()), RNG.standard_normal((6, 4, 4, 2))),
        (jnn.Serial(jnn.Embedding(5, 3), jnn.Last()), RNG.integers(0, 5, (6, 2))),
    ],
    ids=["dense", "convolution", "table"],
)
def test_a_step_is_the_inverse_of_the_block_times_the_gradient(net, x, trust, x64):
    x = jnp.asarray(x)
    updates, _, grads, found, _ = first(net, x, Y, damping=0.1, trust=trust)
    blocks = jax.tree.leaves(found, is_leaf=lambda v: isinstance(v, Kron))
    pairs = list(zip(blocks, jax.tree.leaves(grads), strict=True))
    natural = [(inverse(block, 0.1) @ np.ravel(g)).reshape(g.shape) for block, g in pairs]
    along = sum(np.vdot(n, g) for n, (_, g) in zip(natural, pairs, strict=True))
    c = min(1.0, np.sqrt(trust / (0.25 * along)))
    assert (c < 1) == (trust < 1)
    assert_agree(jax.tree.leaves(updates), [-0.5 * c * n for n in natural], 1e-10)


@pytest.mark.slow
def test_copies_have_blocks_of_their_own_and_shared_parameters_a_diagonal():
    block = jnn.Serial(jnn.Dense(4), jnn.Tanh())
    shared = jnn.Shared(
        jnn.Serial(("a", jnn.Dense(4)), jnn.Tanh(), ("b", jnn.Dense(4))), {"b": "a"}
    )
    net = jnn.Serial(jnn.Repeat(block, 2), ("shared", shared), jnn.Dense(3))
    x = jnp.asarray(X, jnp.float32)
    updates, state, _, _, params = first(net, x, Y)
    assert [v.shape for v in state.curvature["repeat1"]["dense1"]["w"]] == [(2, 4, 4), (2, 4, 4)]
    assert state.curvature["shared"]["a"]["w"].shape == (4, 4)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    assert all(jnp.isfinite(v).all() for v in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    "loss, bend",
    [
        (jnn.SquaredError(), lambda p: 2 * np.eye(3)),
        (jnn.SigmoidCrossEntropy(), lambda p: np.diag(1 / (2 + np.exp(p) + np.exp(-p)))),
        (LOSS, lambda p: np.diag(s := np.exp(p) / np.exp(p).sum()) - np.outer(s, s)),
    ],
    ids=["squared error", "sigmoid", "softmax"],
)
def test_slopes_of_drawn_targets_have_the_losss_own_curvature(loss, bend, x64):
    n, p = 100_000, np.array([0.5, -1.0, 0.2])
    prediction = jnp.broadcast_to(p, (n, 3))
    target = loss.draw(jax.random.key(0), prediction)
    _, kept = loss.each().forward(prediction, target)
    d = loss.each().backward(kept, jnp.ones(n))
    np.testing.assert_allclose(d.T @ d / n, bend(p), rtol=0, atol=0.03)
    np.testing.assert_allclose(d.mean(0), 0, rtol=0, atol=0.03)


def test_of_a_mean_over_positions_the_curvature_is_the_mean_of_theirs(x64):
    net = jnn.Serial(jnn.Dense(3))
    x = jnp.asarray(RNG.standard_normal((2, 5, 4)))
    y = jnp.asarray(RNG.integers(0, 3, (2, 5)))
    rows = x.reshape(10, 4), y.reshape(10)
    key = jax.random.key(1)
    params, _ = net.init(jax.random.key(0), x)
    _, (_, found) = kfac_gradient(net, LOSS)(params, x, y, jnn.Train(key))
    _, (_, other) = kfac_gradient(net, LOSS)(params, *rows, jnn.Train(key))
    assert_agree(found["dense1"]["w"], other["dense1"]["w"], 1e-12)


def test_a_run_takes_it():
    net = jnn.Serial(jnn.Dense(8), jnn.BatchNorm(), jnn.Tanh(), jnn.Dense(3))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((96, 4)).astype(np.float32)
    y = (x @ rng.standard_normal((4, 3))).argmax(1).astype(np.int32)
    options = {"key": jax.random.key(0), "epochs": 20, "batch_size": 32, "progress": False}
    optimizer = kfac(net, x, 0.3)
    assert optimizer == kfac(net, x[:3], 0.3)
    options |= {"gradient": kfac_gradient, "penalty": jnn.L2(1e-4)}
    history = jnn.fit(net, LOSS, optimizer, (x, y), **options).history
    assert history[-1].loss < 0.3 * history[0].loss


def test_what_it_cannot_take_is_refused():
    net = jnn.Dense(3)
    x = jnp.asarray(X, jnp.float32)
    params, _ = net.init(jax.random.key(0), x)
    optimizer = kfac(net, x, 0.1)
    with pytest.raises(ValueError, match="must be the pair that kfac_gradient returns"):
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(ValueError, match="mode is Eval"):
        kfac_gradient(net, LOSS)(params, x, Y, jnn.Eval())
    with pytest.raises(ValueError, match="no distribution that targets could be drawn from"):
        hinge = jnn.MulticlassHinge()
        kfac_gradient(net, hinge)(params, x, Y, jnn.Train(jax.random.key(0)))
    for name, value in (("damping", 0.0), ("every", 0), ("rho", 1.0), ("trust", -1.0)):
        with pytest.raises(ValueError, match=f"{name} is"):
            kfac(net, x, 0.1, **{name: value})
