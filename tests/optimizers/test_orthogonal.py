"""Newton and Schulz's iteration keeps singular vectors and makes singular values about 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.optimizers import muon
from jnn.optimizers.orthogonal import orthogonal


def matrix(shape, values):
    """A matrix of these singular values, with its singular vectors."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in shape)
    return u * values @ v.T, u, v


@pytest.mark.parametrize("shape", [(4, 4), (9, 4), (4, 9)])
def test_singular_vectors_stay_and_values_become_about_one(x64, shape):
    x, u, v = matrix(shape, np.array([5.0, 1.0, 0.1, 0.01]))
    values = u.T @ np.asarray(orthogonal(jnp.asarray(x))) @ v
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-12)
    assert ((np.diag(values) >= 0.68) & (np.diag(values) <= 1.21)).all()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_size_of_a_matrix_does_not_matter(size):
    x = matrix((3, 5), np.array([2.0, 1.0, 0.5]))[0].astype("f4")
    np.testing.assert_allclose(orthogonal(size * x), orthogonal(x), rtol=1e-4, atol=1e-5)


def test_zero_stays_zero_and_one_row_becomes_a_unit():
    assert (orthogonal(jnp.zeros((2, 3))) == 0).all()
    row = orthogonal(jnp.array([[3.0, 4.0]]))
    assert 0.68 <= float(jnp.linalg.norm(row)) <= 1.21


def test_a_stack_is_as_many_matrices(x64):
    optimizer = muon(0.1, where="w")
    grads = {"w": jnp.asarray(np.random.default_rng(1).standard_normal((2, 3, 4)))}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    for i in range(2):
        one = {"w": grads["w"][i]}
        expected, _ = optimizer.update(one, optimizer.init(one), one)
        np.testing.assert_allclose(updates["w"][i], expected["w"], rtol=1e-12)


def test_what_is_no_matrix_is_refused():
    optimizer, params = muon(0.1, where="*"), {"b": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"muon: where chooses an array of shape \(3,\)"):
        optimizer.update(params, optimizer.init(params), params)


def test_by_default_stacks_and_biases_are_left_to_adam():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones((2, 3)), "stack": {"w": jnp.ones((2, 3, 4))}}
    state = jax.eval_shape(muon(0.1).init, params)
    assert [state.velocity[name] is None for name in ("w", "b")] == [False, True]
    assert state.velocity["stack"]["w"] is None
