"""Noise and curvature against their definitions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from jax.flatten_util import ravel_pytree

import jnn
from jnn import curvature
from jnn.factors import grad, sqnorm

X = np.random.default_rng(0).standard_normal((5, 3))
Y = np.array([0, 1, 1, 0, 1])
NET = jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(2))
LOSS = jnn.SoftmaxCrossEntropy()


@pytest.fixture
def params(x64):
    return NET.init(jax.random.key(0), X)[0]


def hessian(f, params):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda v: f(unravel(v)))(flat)


def value(params):
    return LOSS.forward(NET.forward(params, X, jnn.Eval())[0], Y)[0]


def gauss_newton(params, share):
    """J^T B J by autodiff."""
    flat, unravel = ravel_pytree(params)

    def predict(v):
        return NET.forward(unravel(v), X, jnn.Eval())[0]

    j = jax.jacobian(predict)(flat).reshape(10, -1)
    z = predict(flat)
    b = jax.hessian(lambda z: LOSS.forward(z.reshape(5, 2), Y)[0])(z.ravel())
    return share * j.T @ b @ j


@pytest.mark.slow
def test_products_and_diagonals_are_those_of_the_matrices(params):
    flat, unravel = ravel_pytree(params)
    v = jnp.asarray(np.random.default_rng(1).standard_normal(len(flat)))
    args = NET, LOSS, params, X, Y, jnn.Eval()
    for product, matrix in (
        (curvature.hessian_product(*args), hessian(value, params)),
        (curvature.gauss_newton_product(*args), gauss_newton(params, 1)),
    ):
        assert_agree(jax.jit(product)(unravel(v)), unravel(matrix @ v), 1e-12)
    exact = jnp.diag(gauss_newton(params, 5))  # of the sum of the losses, not their mean
    assert_agree(curvature.gauss_newton_diagonal(*args), unravel(exact), 1e-12)


def test_the_diagonal_by_random_signs_is_right_on_average(params):
    times = curvature.hessian_product(NET, LOSS, params, X, Y, jnn.Eval())
    found = curvature.diagonal(times, params, jax.random.key(0), samples=2000)
    exact = jnp.diag(hessian(value, params))
    assert abs(ravel_pytree(found)[0] - exact).max() < 0.1 * abs(exact).max()


def test_noise_is_without_bias(x64):
    """Over many batches of two the means are the truth; a plain quotient would not be."""
    random = np.random.default_rng(0)
    mean, deviation = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    g = mean + deviation * random.standard_normal((40_000, 2, 2))
    found = jax.vmap(lambda g: curvature.noise_scale(g.sum(0), jnp.square(g).sum(1)))(g)
    assert abs(found.signal.mean() - 5) < 0.1 and abs(found.variance.mean() - 9.25) < 0.2


def test_noise_of_a_network_and_of_each_layer(params):
    prediction, cache = NET.forward(params, X, jnn.Eval())
    each = LOSS.each()
    _, kept = each.forward(prediction, Y)
    dy = each.backward(kept, jnp.ones(5))
    (grads, squares), _ = jnn.backward(NET, params, cache, dy, of=(grad, sqnorm))
    whole = curvature.noise_scale(grads, squares)
    parts = [curvature.noise_scale(grads[name], squares[name]) for name in grads]
    assert_agree(whole.signal, sum(part.signal for part in parts), 1e-12)
    assert whole.variance > 0 and whole.scale.shape == ()
    with pytest.raises(ValueError, match="of 1 example"):
        curvature.noise_scale(grads, jax.tree.map(lambda v: v[..., :1], squares))


def test_what_is_not_like_the_parameters_is_refused():
    net, loss, x = jnn.Serial(jnn.Dense(3)), jnn.SoftmaxCrossEntropy(), jnp.ones((4, 3))
    params, state = net.init(jax.random.key(0), x)
    for product in (curvature.hessian_product, curvature.gauss_newton_product):
        times = product(net, loss, params, x, jnp.zeros(4, int), jnn.Eval(state))
        with pytest.raises(ValueError, match="v is not like params"):
            times({"dense1": {"w": params["dense1"]["w"]}})
    with pytest.raises(ValueError, match="samples is 0"):
        curvature.diagonal(times, params, jax.random.key(0), samples=0)
