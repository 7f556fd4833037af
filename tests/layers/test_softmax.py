"""Softmax and its logarithm: the whole Jacobian, extreme inputs, and axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn import LayerError, LogSoftmax, Softmax

X = np.array([[0.5, -1.0, 2.0], [3.0, 3.0, -4.0]])
FLOAT64 = 1e-14
over_both = pytest.mark.parametrize("layer", [Softmax(), LogSoftmax()], ids=repr)


def forward(layer, x):
    return layer.forward({}, x, None)[0]


def probabilities(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@jax.jit
def jacobians(x):
    """Of both layers at one vector, row by row: dx for each dy that is one-hot."""

    def rows(layer):
        _, cache = layer.forward({}, x, None)
        return jax.vmap(lambda dy: layer.backward({}, cache, dy)[1])(jnp.eye(len(x)))

    return rows(Softmax()), rows(LogSoftmax())


def test_values_are_those_of_the_formula(x64):
    np.testing.assert_allclose(forward(Softmax(), X), probabilities(X), rtol=FLOAT64)
    np.testing.assert_allclose(forward(LogSoftmax(), X), np.log(probabilities(X)), rtol=FLOAT64)


def test_the_backward_is_the_whole_jacobian(x64):
    p = probabilities(X[0])
    softmax, log_softmax = jacobians(X[0])
    np.testing.assert_allclose(softmax, np.diag(p) - np.outer(p, p), rtol=0, atol=FLOAT64)
    np.testing.assert_allclose(log_softmax, np.eye(3) - p, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("kind", [Softmax, LogSoftmax])
def test_any_axis_is_the_last_one_moved(kind, axis, x64):
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
    y, cache = kind(axis).forward({}, x, None)
    moved, moved_cache = kind().forward({}, np.moveaxis(x, axis, -1), None)
    np.testing.assert_allclose(y, np.moveaxis(moved, -1, axis), rtol=FLOAT64)
    _, dx = kind(axis).backward({}, cache, dy)
    _, moved_dx = kind().backward({}, moved_cache, np.moveaxis(dy, axis, -1))
    np.testing.assert_allclose(dx, np.moveaxis(moved_dx, -1, axis), rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_extreme_inputs_stay_finite_and_exact(dtype, x64):
    x = jnp.array([[1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [-np.inf, 0, 0]], dtype)
    half, third = np.log(1 / 2), np.log(1 / 3)
    far = half - 2 * float(x[0, 0])
    want = np.array([[half, half, far], [third] * 3, [-np.inf, half, half]])
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(forward(LogSoftmax(), x)), want, rtol=eps)
    want = np.array([[0.5, 0.5, 0], [1 / 3] * 3, [0, 0.5, 0.5]])
    np.testing.assert_allclose(np.float64(forward(Softmax(), x)), want, rtol=eps)
    for layer in (Softmax(), LogSoftmax()):
        y, cache = layer.forward({}, x, None)
        assert np.isfinite(np.float64(layer.backward({}, cache, jnp.ones_like(y))[1])).all()


@over_both
def test_a_shift_of_all_inputs_changes_nothing(layer):
    x = np.array([[1, -2, 3]], np.float32)
    np.testing.assert_array_equal(forward(layer, x), forward(layer, x + np.float32(2**14)))


@over_both
def test_nan_spoils_its_own_row_only(layer):
    y = forward(layer, jnp.array([[np.nan, 0.0], [1.0, 2.0]]))
    np.testing.assert_array_equal(np.isnan(y), [[True, True], [False, False]])


@over_both
@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_nothing_along_the_axis_is_refused(layer, shape):
    with pytest.raises(LayerError, match="it must hold a number or more along axis -1"):
        forward(layer, jnp.ones(shape))


def test_an_axis_that_x_has_not_is_refused():
    with pytest.raises(LayerError, match=r"float32 \(2, 3\); .* along axis 2"):
        forward(Softmax(2), jnp.ones((2, 3)))


@pytest.mark.parametrize("axis", [1.0, "1", None, True, (0, 1)])
def test_a_bad_axis_is_refused(axis):
    with pytest.raises(LayerError, match=r"axis is .*; it must be an integer"):
        Softmax(axis)
