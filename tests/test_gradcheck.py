"""The check before training: right networks pass, wrong ones fail by the name of the parameter."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.gradcheck import check_network, slope
from jnn.gradcheck.network import ERROR_BARS

X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)
ACTIVATIONS = [jnn.Sigmoid(), jnn.Tanh(), jnn.ReLU(), jnn.LeakyReLU(0.1)]


def check(*middle, loss=None, y=Y, x=X, seed=0):
    net = jnn.Serial(jnn.Dense(7), *middle, jnn.Dense(3))
    init_key, mode_key, check_key = jax.random.split(jax.random.key(seed), 3)
    params, _ = net.init(init_key, x)
    loss = loss or jnn.SoftmaxCrossEntropy()
    return check_network(net, loss, params, x, y, jnn.Train(mode_key), key=check_key)


@pytest.mark.slow
def test_a_slope_is_as_near_as_its_error_bar_says(x64):
    # 200 functions: sums of waves of many lengths, whose derivative at 0 is known.
    keys = jax.random.split(jax.random.key(0), 200)

    def one(key):
        a, w, phase = jax.random.normal(key, (3, 6))
        w = jnp.exp(2 * w)  # from slow to fast
        return slope(lambda t: (a * jnp.sin(w * t + phase)).sum()), (a * w * jnp.cos(phase)).sum()

    (value, error), truth = jax.vmap(one)(keys)
    assert (jnp.abs(value - truth) <= ERROR_BARS * error).all()
    assert (error <= 1e-7 * jnp.maximum(jnp.abs(truth), 1)).all()


@pytest.mark.parametrize("kink", [0.3, 0.01, -1e-4])
def test_a_kink_beside_the_point_does_no_harm(x64, kink):
    value, error = slope(lambda t: jnp.where(t > kink, 5 * (t - kink), 0) + jnp.sin(3 * t))
    truth = 3 + 5 * (kink < 0)
    assert abs(value - truth) <= ERROR_BARS * error
    assert error < 1e-6


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_right_gradients_pass(activation):
    report = check(activation)
    assert report, str(report)
    assert "gradients right: all 6 agree" in str(report)
    assert max(leaf.autodiff for leaf in report.leaves) < 1e-14
    assert max(leaf.differences for leaf in report.leaves) < 1e-8


@pytest.mark.parametrize(
    ("loss", "y"),
    [(jnn.SquaredError(), X[:, :3]), (jnn.SigmoidCrossEntropy(), (X[:, :3] > 0).astype("f4"))],
    ids=["squared", "sigmoid"],
)
def test_every_loss_passes(loss, y):
    assert check(jnn.Tanh(), loss=loss, y=y)


def test_an_input_of_zeros_that_puts_relus_on_their_kink_is_no_false_alarm():
    assert check(jnn.ReLU(), x=np.zeros_like(X))


@dataclass(frozen=True)
class Scaled(jnn.Dense):
    """Its weight gradient is one percent too large."""

    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads | {"w": 1.01 * grads["w"]}, dx


@dataclass(frozen=True)
class FirstOnly(jnn.Dense):
    """Its bias gradient is that of the first example."""

    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads | {"b": dy[0]}, dx


@dataclass(frozen=True)
class NotANumber(jnn.Dense):
    """Its bias gradient is NaN."""

    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads | {"b": grads["b"] * jnp.nan}, dx


class HalfSlope(jnn.Tanh):
    """Its derivative is half of what it should be."""

    def df(self, kept, dy):
        return super().df(kept, dy) / 2


class WrongForward(jnn.Elementwise):
    """Both hand-written passes and jax.grad agree here: the forward stops a gradient."""

    keeps = "x"

    def f(self, x):
        return jax.lax.stop_gradient(x) * x

    def df(self, kept, dy):
        return kept * dy


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        (Scaled(4), "['scaled1']['w']"),
        (FirstOnly(4), "['firstonly1']['b']"),
        (NotANumber(4), "['notanumber1']['b']"),
    ],
    ids=["scaled", "first example only", "nan"],
)
def test_a_wrong_parameter_gradient_is_named_and_no_other(layer, path):
    report = check(layer)
    assert not report
    assert [leaf.path for leaf in report.leaves if not leaf] == [path]
    assert f"{path} " in str(report)
    assert "gradients WRONG in 1 of 8" in str(report)


def test_a_wrong_derivative_spoils_everything_before_it_and_nothing_after():
    report = check(HalfSlope())
    wrong = {leaf.path for leaf in report.leaves if not leaf}
    assert wrong == {"['dense1']['b']", "['dense1']['w']", "x"}
    assert all(leaf.autodiff == pytest.approx(0.5) for leaf in report.leaves if not leaf)


def test_a_wrong_dx_is_found_where_no_parameter_is_spoiled_by_it():
    net = jnn.Serial(HalfSlope(), jnn.Dense(3))
    params, _ = net.init(jax.random.key(0), X)
    loss, mode = jnn.SoftmaxCrossEntropy(), jnn.Eval()
    report = check_network(net, loss, params, X, Y, mode, key=jax.random.key(1))
    assert [leaf.path for leaf in report.leaves if not leaf] == ["x"]


def test_finite_differences_catch_what_jax_grad_is_wrong_about_too():
    report = check(WrongForward())
    first = next(leaf for leaf in report.leaves if leaf.path == "['dense1']['w']")
    assert first.autodiff < 1e-14
    assert not first


def test_x64_is_off_again_and_nothing_is_left_in_float64():
    check(jnn.Tanh())
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


@dataclass(frozen=True)
class Standard(jnn.Layer):
    """Batch normalisation without state: it takes away any bias before it."""

    def forward(self, params, x, mode):
        centred = x - x.mean(axis=0)
        rstd = jax.lax.rsqrt(jnp.square(centred).mean(axis=0) + 1e-5)
        return centred * rstd, (centred * rstd, rstd)

    def pull(self, params, cache, dy):
        y, rstd = cache
        return rstd * (dy - dy.mean(axis=0) - y * (dy * y).mean(axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_zero_in_truth_is_no_false_alarm(seed):
    net = jnn.Serial(jnn.Dense(8), Standard(), jnn.ReLU(), jnn.Dense(3))
    x, y = np.random.default_rng(seed).standard_normal((8, 4)), np.arange(8) % 3
    params, _ = net.init(jax.random.key(seed), x.astype(np.float32))
    mode = jnn.Train(jax.random.key(1))
    loss = jnn.SoftmaxCrossEntropy()
    assert check_network(net, loss, params, x, y, mode, key=jax.random.key(2))


@dataclass(frozen=True)
class Stopped(jnn.Layer):
    """Wrong, but jax.grad of its forward is wrong in the same way."""

    def forward(self, params, x, mode):
        return x * jax.lax.stop_gradient(jax.nn.sigmoid(x)), x

    def pull(self, params, x, dy):
        return dy * jax.nn.sigmoid(x)


@pytest.mark.parametrize("scale", [1, 1e6])
def test_large_targets_do_not_blind_the_finite_differences(scale):
    net = jnn.Serial(jnn.Dense(8), Stopped(), jnn.Dense(3))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4)), scale * rng.standard_normal((8, 3))
    params, _ = net.init(jax.random.key(0), x.astype(np.float32))
    assert not check_network(
        net, jnn.SquaredError(), params, x, y, jnn.Eval(), key=jax.random.key(2)
    )


@dataclass(frozen=True)
class Slipped(jnn.Elementwise):
    """y = x^3 with a derivative of 2 x^2."""

    keeps = "x"

    def f(self, x):
        return x**3

    def df(self, kept, dy):
        return 2 * kept**2 * dy


def test_the_layer_is_named_that_is_wrong_by_itself():
    net = jnn.Serial(
        jnn.Dense(4), Slipped(), jnn.Repeat(jnn.Serial(jnn.Dense(4), Slipped()), 2), jnn.Dense(3)
    )
    x, y = np.random.default_rng(0).standard_normal((4, 5)), np.arange(4) % 3
    params, _ = net.init(jax.random.key(0), x.astype(np.float32))
    check = check_network(
        net, jnn.SoftmaxCrossEntropy(), params, x, y, jnn.Eval(), key=jax.random.key(1)
    )
    assert check.faulty == ("slipped1 = Slipped()", "repeat1.slipped1 = Slipped()")
    assert str(check).splitlines()[-1].startswith("wrong by itself: slipped1 = Slipped(), repeat1")
