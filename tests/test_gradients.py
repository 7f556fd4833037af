"""backprop and autodiff are one gradient, and as_function brings it into anyone's JAX code."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from table import ones, wave
from toys import Centre, Noise

import jnn
from jnn import Dense, Eval, Flatten, LeakyReLU, ReLU, Serial, Sigmoid, Tanh, Train
from jnn.gradients import as_function, autodiff, backprop, lift
from jnn.layer import LayerError

ULP = 2.0**-23  # of float32, at 1


def train(seed: int = 1) -> Train:
    return Train(jax.random.key(seed))


# The two gradients of random networks


def random_network(random):
    """A network, a loss, and the shapes of x and y."""

    def choose(*options):
        return options[random.integers(len(options))]

    loss = choose(jnn.SquaredError(), jnn.SigmoidCrossEntropy(), jnn.SoftmaxCrossEntropy())
    n, outputs = (int(v) for v in random.integers((1, 2), (6, 5)))
    head, axes = choose(([], (5,)), ([], (3, 4)), ([Flatten()], (2, 3, 1)))
    hidden = []
    for _ in range(random.integers(0, 4)):
        hidden.append(Dense(int(random.integers(1, 7)), bias=bool(random.integers(4))))
        hidden.append(choose(Sigmoid(), Tanh(), ReLU(), LeakyReLU(), LeakyReLU(0.3)))
    inner = [Serial(*hidden)] if random.integers(2) else hidden
    y_shape = (n, outputs) if head else (n, *axes[:-1], outputs)
    return Serial(*head, *inner, Dense(outputs)), loss, (n, *axes), y_shape


def random_numbers(random, net, loss, x_shape, y_shape):
    """Parameters and a batch in float32."""
    x = random.standard_normal(x_shape, np.float32)
    params, _ = jax.eval_shape(partial(net.init, x=x), jax.random.key(0))
    params = jax.tree.map(lambda p: random.standard_normal(p.shape, np.float32), params)
    if isinstance(loss, jnn.SoftmaxCrossEntropy):
        return params, x, random.integers(0, y_shape[-1], y_shape[:-1])
    if isinstance(loss, jnn.SigmoidCrossEntropy):
        return params, x, random.integers(0, 2, y_shape)
    return params, x, random.standard_normal(y_shape, np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def both_gradients_in_both_precisions(net, loss, params, x, y):
    def both(params, x, y):
        return [gradient(net, loss)(params, x, y, Eval())[1] for gradient in (backprop, autodiff)]

    def wide(v):
        return v.astype(float) if jnp.issubdtype(v.dtype, jnp.floating) else v

    return both(params, x, y), both(*jax.tree.map(wide, (params, x, y)))


@pytest.mark.parametrize("seed", range(13))
def test_backprop_and_autodiff_agree_on_random_networks(seed, x64):
    random = np.random.default_rng(seed)
    net, loss, *shapes = random_network(random)
    for _ in range(4):  # numbers for one compiled function: 52 networks in all
        numbers = random_numbers(random, net, loss, *shapes)
        (hand, auto), (hand64, auto64) = jax.device_get(
            both_gradients_in_both_precisions(net, loss, *numbers)
        )
        assert_agree(hand64, auto64, 1e-12)
        # In float32 both only round, each in its own order: the hand-written one may be twice as
        # far from the truth as autodiff, and some ulps farther where that is right by luck.
        for h, a, exact in zip(*map(jax.tree.leaves, (hand, auto, hand64)), strict=True):
            assert h.dtype == a.dtype == np.float32
            error, other = (np.linalg.norm(v - exact) for v in (h, a))
            assert error <= 2 * other + 8 * ULP * np.linalg.norm(exact)


def test_both_gradients_have_one_signature():
    net, loss = Serial(Dense(3, bias=False), Centre(), Noise()), jnn.SquaredError()
    x, y = np.ones((4, 2), np.float32), np.ones((4, 3), np.float32)
    params, state = jax.eval_shape(partial(net.init, x=x), jax.random.key(0))
    for mode in (train(), Eval(state)):
        hand, auto = (
            jax.eval_shape(gradient(net, loss), params, x, y, mode)
            for gradient in (backprop, autodiff)
        )
        assert hand == auto
        (value, cache), grads = hand
        assert value.shape == ()
        assert jax.tree.structure(grads) == jax.tree.structure(params)
        assert jax.eval_shape(net.observe, state, cache) == state


@pytest.mark.parametrize("gradient", [backprop, autodiff])
def test_a_loss_for_each_example_has_no_one_gradient_and_is_refused(gradient):
    with pytest.raises(LayerError, match="a value for each example"):
        gradient(Serial(Dense(3)), jnn.SquaredError(per_example=True))


# as_function

# As many numbers out as in, so that it can be iterated.
NET = Serial(Dense(2), Tanh(), Centre(), Noise())
STATE = {"centre1": {"mean": np.array([0.1, -0.2])}}
over_modes = pytest.mark.parametrize("mode_of", [train, lambda: Eval(STATE)], ids=["train", "eval"])


def iterated(f):
    def apply(params, x, mode):
        return jax.lax.scan(lambda h, _: (f(params, h, mode), None), x, length=3)[0]

    return apply


TRANSFORMATIONS = {
    "jit": jax.jit,
    "vmap": lambda f: (
        lambda params, x, mode: jax.vmap(f, (None, 0, None))(params, jnp.stack([x, 2 * x]), mode)
    ),
    "scan and remat": lambda f: iterated(jax.checkpoint(f)),
}


def numbers():
    random = np.random.default_rng(0)
    normal = random.standard_normal
    params = {"dense1": {"w": normal((2, 2)), "b": normal(2)}}
    return params, normal((4, 2)), normal((4, 2))


def plain(params, x, mode):
    """The function that autodiff differentiates."""
    return NET.forward(params, x, mode)[0]


@over_modes
@pytest.mark.parametrize("transform", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
def test_the_gradient_of_as_function_is_that_of_the_forward_pass(transform, mode_of, x64):
    params, x, dy = numbers()

    @jax.jit
    def gradients(params, x, mode):
        return [
            jax.value_and_grad(lambda p, x, f=f: (dy * transform(f)(p, x, mode)).sum(), (0, 1))(
                params, x
            )
            for f in (as_function(NET), plain)
        ]

    got, want = gradients(params, x, mode_of())
    assert_agree(got, want, 1e-13)


@over_modes
def test_the_hessian_of_as_function_is_that_of_the_forward_pass(mode_of, x64):
    params, x, dy = numbers()

    @jax.jit
    def hessians(params, mode):
        return [
            jax.hessian(lambda params, f=f: (dy * f(params, x, mode) ** 2).sum())(params)
            for f in (as_function(NET), plain)
        ]

    got, want = hessians(params, mode_of())
    assert_agree(got, want, 1e-12)


# lift


def test_a_lifted_function_trains_among_other_layers(x64):
    net = Serial(Dense(3), ("wave", lift(ones, wave)), Dense(2))
    random = np.random.default_rng(0)
    x, y = random.standard_normal((4, 2)), random.standard_normal((4, 2))
    params, _ = jax.eval_shape(partial(net.init, x=x), jax.random.key(0))
    params = jax.tree.map(lambda p: random.standard_normal(p.shape), params)
    assert params["wave"]["scale"].shape == (3,)

    @jax.jit
    def both(params):
        return [f(net, jnn.SquaredError())(params, x, y, Eval())[1] for f in (backprop, autodiff)]

    assert_agree(*both(params), 1e-13)


def test_a_function_without_parameters_adds_none():
    net = Serial(Dense(3), lift(lambda key, x: {}, lambda params, x: jnp.sin(x)))
    x = np.ones((4, 2), np.float32)
    params, state = jax.eval_shape(partial(net.init, x=x), jax.random.key(0))
    assert (params.keys(), state) == ({"dense1"}, {})


def test_a_lifted_init_is_given_arrays_where_only_shapes_are_known():
    def init(key, x):
        return {"scale": np.asarray(x).mean() + jnp.ones(x.shape[-1], x.dtype)}

    net = Serial(Dense(3), ("wave", lift(init, wave)))
    assert net.init(jax.random.key(0), jnp.ones((1, 2)))[0]["wave"]["scale"].tolist() == [1.0] * 3


def test_lifted_layers_are_equal_where_their_functions_are():
    assert lift(ones, wave) == lift(ones, wave) != lift(ones, lambda params, x: x)
    assert repr(lift(ones, wave)) == "lift(ones, wave)"


# Wrong backward passes


class ForgetsBias(Dense):
    def factors(self, params, cache, dy):
        return {"w": super().factors(params, cache, dy)["w"]}


class ForgetsSum(Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads | {"b": dy}, dx


class Narrows(Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads | {"w": grads["w"].astype(jnp.bfloat16)}, dx


class Invents(Dense):
    def backward(self, params, cache, dy):
        grads, dx = super().backward(params, cache, dy)
        return grads | {"scale": dy}, dx


WRONG = {
    "a forgotten parameter": (ForgetsBias(3), "missing: ['deep']['leaf']['b']"),
    "a forgotten sum": (
        ForgetsSum(3),
        "['deep']['leaf']['b'] is float32 (1, 3) where float32 (3,) belongs",
    ),
    "another dtype": (
        Narrows(3),
        "['deep']['leaf']['w'] is bfloat16 (2, 3) where float32 (2, 3) belongs",
    ),
    "an unknown parameter": (Invents(3), "not belonging: ['deep']['leaf']['scale']"),
}


@pytest.mark.parametrize("leaf, message", WRONG.values(), ids=WRONG)
def test_gradients_that_are_not_like_params_are_refused_by_name(leaf, message):
    net = Serial(Tanh(), ("deep", Serial(("leaf", leaf))))
    # A single example: a forgotten sum over it would be broadcast without a trace.
    x, y = jnp.ones((1, 2)), jnp.ones((1, 3))
    params = {"deep": {"leaf": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}}
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(backprop(net, jnn.SquaredError()), params, x, y, Eval())
    function = as_function(net)
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(jax.grad(lambda params: function(params, x, Eval()).sum()), params)


def test_an_error_inside_a_gradient_still_names_the_layer():
    net = Serial(Tanh(), ("deep", Serial(("leaf", Dense(3)))))
    params = {"deep": {"leaf": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}}
    for gradient in (backprop, autodiff):
        with pytest.raises(LayerError, match=r"^deep\.leaf = Dense\(3\): "):
            gradient(net, jnn.SquaredError())(params, jnp.ones((4, 7)), jnp.ones((4, 3)), Eval())
