"""Decay goes through the gradient, and no column of weights outgrows its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.optimizers import apply_updates, chain, decay, max_norm, momentum, sgd


def test_decay_is_the_gradient_of_half_the_squares_of_the_weights(x64):
    rng = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(rng.standard_normal((3, 2))),
        "b": jnp.asarray(rng.standard_normal(2)),
    }
    grads = jax.tree.map(jnp.cos, params)
    penalty = jax.grad(lambda p: 0.3 / 2 * (p["w"] ** 2).sum())(params)
    got, state = decay(0.3).update(grads, (), params)
    assert state == ()
    for name in params:
        np.testing.assert_allclose(got[name], grads[name] + penalty[name], rtol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("shape", [(300, 4), (3, 3, 5, 4)])
def test_no_column_is_longer_than_the_limit_but_for_rounding(dtype, shape):
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.standard_normal(shape), dtype)}
    optimizer = max_norm(2.0)
    updates = {"w": jnp.asarray(rng.standard_normal(shape) * [0.1, 1, 3, 9], dtype)}
    updates, _ = optimizer.update(updates, optimizer.init(params), params)
    x, u = (
        np.asarray(tree["w"], np.float64).reshape(-1, 4)
        for tree in (apply_updates(params, updates), updates)
    )
    # The update and the sum are rounded, each number by half an ulp of itself, and the norm is a
    # sum of squares in float32.
    unit = float(jnp.finfo(dtype).eps) / 2
    error = unit * np.linalg.norm(np.abs(u) + np.abs(x), axis=0) + len(x) * 2.0**-24
    norms = np.linalg.norm(x, axis=0)
    assert (norms <= 2 + error).all()
    assert (norms >= 2 - error).all()  # all were longer, and were not cut further


def test_columns_within_the_limit_keep_their_update_to_the_bit():
    params = {"w": jnp.array([[0.1, 3.0], [0.2, 4.0]]), "b": jnp.array([9.0, 9.0])}
    given = {"w": jnp.array([[0.3, 0.0], [1e-9, 0.0]]), "b": jnp.array([1.0, 1.0])}
    updates, _ = max_norm(2.0).update(given, (), params)
    assert (updates["w"][:, 0] == given["w"][:, 0]).all()
    assert (updates["b"] == given["b"]).all()  # biases have no limit
    np.testing.assert_allclose(
        apply_updates(params, updates)["w"][:, 1], np.array([1.2, 1.6], "f4"), rtol=1e-6
    )


def test_a_unit_whose_weights_are_zero_is_left_alone():
    zero = {"w": jnp.zeros((3, 2))}
    updates, _ = max_norm(1.0).update(zero, (), zero)
    assert (updates["w"] == 0).all()


def test_after_training_every_unit_is_within_the_limit():
    x = np.random.default_rng(2).standard_normal((32, 5)).astype("f4")
    fitted = jnn.fit(
        jnn.Serial(jnn.Dense(4), jnn.ReLU(), jnn.Dense(3)),
        jnn.SoftmaxCrossEntropy(),
        chain(decay(1e-3), momentum(0.5), max_norm(0.5)),
        (x, np.arange(32) % 3),
        key=jax.random.key(0),
        epochs=5,
        batch_size=8,
        progress=False,
    )
    norms = [jnp.linalg.norm(p["w"], axis=0) for p in fitted.params.values()]
    assert max(float(n.max()) for n in norms) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), None])
def test_a_bad_rate_is_refused_by_name(rate):
    with pytest.raises(ValueError, match=r"^rate is "):
        decay(rate)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf")])
def test_a_bad_limit_is_refused_by_name(limit):
    with pytest.raises(ValueError, match=r"^limit is "):
        max_norm(limit)


def test_a_pattern_that_fits_nothing_is_refused():
    optimizer, params = chain(decay(0.1, "dense9.*"), sgd(0.1)), {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="fits none of the parameters"):
        optimizer.update(params, optimizer.init(params), params)
