"""Activations: golden values, kinks, both far ends, and what is not a number."""

import jax.numpy as jnp
import numpy as np
import pytest
from slopes import forward, slope_by_autodiff, slope_by_hand

from jnn import (
    ELU,
    SELU,
    Elementwise,
    HardSigmoid,
    HardTanh,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Tanh,
)
from jnn.layer import LayerError

GRID = np.concatenate([np.linspace(-30, 30, 1201), np.geomspace(1e-300, 1, 301)])
# XLA's exp and tanh are good to 4 ulps of float64.
ROUNDING = 4 * 2.0**-52

ALPHA = 1.6732632423543772  # of the SELU

# layer -> (y, dy/dx) in numpy; the derivatives of sigmoid and tanh in forms that do not cancel.
FORMULAS = {
    Sigmoid(): (
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2,
    ),
    Tanh(): (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    ReLU(): (lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1, 0)),
    LeakyReLU(): (lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1, 0.01)),
    LeakyReLU(0.3): (lambda x: np.where(x > 0, x, 0.3 * x), lambda x: np.where(x > 0, 1, 0.3)),
    ELU(): (
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
    ELU(0.3): (
        lambda x: np.where(x > 0, x, 0.3 * np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1, 0.3 * np.exp(np.minimum(x, 0))),
    ),
    SELU(): (
        lambda x: 1.0507009873554805 * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: 1.0507009873554805 * np.where(x > 0, 1, ALPHA * np.exp(np.minimum(x, 0))),
    ),
    Softplus(): (
        lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
        lambda x: 1 / (1 + np.exp(-x)),
    ),
}
over_all = pytest.mark.parametrize("layer", FORMULAS, ids=repr)
over_dtypes = pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])


@over_all
def test_values_are_those_of_the_formula(layer, x64):
    want = FORMULAS[layer][0](GRID)
    np.testing.assert_allclose(forward(layer, GRID), want, rtol=ROUNDING)


@over_all
def test_slopes_are_those_of_the_formula(layer, x64):
    # (1 - y) (1 + y) and y (1 - y) carry the rounding of a y about 1, at most twice.
    want = FORMULAS[layer][1](GRID)
    slope = slope_by_hand(layer, GRID)
    np.testing.assert_allclose(slope, want, rtol=2 * ROUNDING, atol=2 * ROUNDING)


def test_a_slope_of_zero_makes_a_leaky_relu_a_relu():
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    np.testing.assert_array_equal(forward(LeakyReLU(0), x), forward(ReLU(), x))
    np.testing.assert_array_equal(slope_by_hand(LeakyReLU(0), x), slope_by_hand(ReLU(), x))


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize(
    "layer, slope",
    [
        (ReLU(), 0),
        (LeakyReLU(), 0.01),
        (LeakyReLU(0.3), 0.3),
        (ELU(), 1),
        (ELU(0.3), 0.3),
        (SELU(), 1.0507009873554805 * ALPHA),
    ],
)
def test_at_the_kink_the_slope_is_that_of_the_left_for_both_gradients(layer, slope, zero):
    x = jnp.array([zero])
    assert slope_by_hand(layer, x) == slope_by_autodiff(layer, x) == jnp.float32(slope)


def test_tanh_is_the_scaled_sigmoid_of_the_lectures(x64):
    scaled = 2 * forward(Sigmoid(), 2 * GRID) - 1
    # The right-hand side cancels at 0, so its rounding is that of numbers about 1.
    np.testing.assert_allclose(forward(Tanh(), GRID), scaled, rtol=0, atol=2 * ROUNDING)


def test_the_sigmoid_is_symmetric_about_a_half(x64):
    total = forward(Sigmoid(), GRID) + forward(Sigmoid(), -GRID)
    np.testing.assert_allclose(total, 1, rtol=ROUNDING)


@over_dtypes
@pytest.mark.parametrize("layer, ends", [(Sigmoid(), (0, 1)), (Tanh(), (-1, 1))])
def test_both_far_ends_are_flat_and_finite(layer, ends, dtype, x64):
    for far in (1e4, np.inf):
        x = jnp.array([-far, far], dtype)
        np.testing.assert_array_equal(forward(layer, x), np.array(ends, dtype))
        np.testing.assert_array_equal(slope_by_hand(layer, x), np.zeros(2, dtype))
        np.testing.assert_array_equal(slope_by_autodiff(layer, x), np.zeros(2, dtype))


@over_dtypes
@pytest.mark.parametrize("layer", [ELU(), ELU(0.3), SELU()], ids=repr)
def test_the_left_end_of_an_elu_is_flat_and_its_right_end_straight(layer, dtype, x64):
    low, right = (SELU.low, SELU.scale) if layer == SELU() else (layer.alpha, 1)
    for far in (1e4, np.inf):
        x = jnp.array([-far, far], dtype)
        want = np.array([-low, right * float(x[1])], dtype)
        np.testing.assert_array_equal(forward(layer, x), want)
        for slope in (slope_by_hand, slope_by_autodiff):
            np.testing.assert_array_equal(slope(layer, x), np.array([0, right], dtype))


@over_dtypes
def test_both_far_ends_of_the_softplus_are_straight(dtype, x64):
    for far in (1e4, np.inf):
        x = jnp.array([-far, far], dtype)
        np.testing.assert_array_equal(forward(Softplus(), x), np.array([0, float(x[1])], dtype))
        for slope in (slope_by_hand, slope_by_autodiff):
            np.testing.assert_array_equal(slope(Softplus(), x), np.array([0, 1], dtype))


def test_a_selu_keeps_mean_and_variance(x64):
    # The integral over a standard normal input, by the midpoint rule, of y and y^2.
    x = np.arange(-10, 10, 1e-3) + 5e-4
    y = np.float64(forward(SELU(), x))
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * 1e-3
    np.testing.assert_allclose([(y * density).sum(), (y**2 * density).sum()], [0, 1], atol=1e-6)


def test_an_elu_of_alpha_zero_is_a_relu():
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    np.testing.assert_array_equal(forward(ELU(0), x), forward(ReLU(), x))
    np.testing.assert_array_equal(slope_by_hand(ELU(0), x), slope_by_hand(ReLU(), x))


@pytest.mark.parametrize("layer", [Sigmoid(), Tanh(), HardSigmoid(), HardTanh()], ids=repr)
def test_what_squashes_says_between_which_bounds(layer):
    np.testing.assert_array_equal(forward(layer, jnp.array([-1e4, 1e4])), layer.bounds)


def test_what_does_not_squash_has_no_bounds():
    assert ReLU().bounds is ELU().bounds is None


@over_dtypes
def test_the_tail_of_the_sigmoid_dies_out_without_a_jump(dtype, x64):
    # y = e^x to first order: the intermediate e^-x must not overflow where y is still a number.
    x = np.linspace(-17, 0, 400).astype(dtype)
    want = 1 / (1 + np.exp(-np.float64(x)))
    limits = jnp.finfo(dtype)
    allowed = 3 * float(limits.eps) * want + float(limits.smallest_subnormal)
    assert (np.abs(np.float64(forward(Sigmoid(), x)) - want) <= allowed).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_numbers_keep_their_digits(dtype, x64):
    x = np.array([1e-8, -1e-8, 1e-30, 0.0], dtype)
    np.testing.assert_allclose(forward(Tanh(), x), x, rtol=jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        forward(Sigmoid(), x), 0.5 + np.float64(x) / 4, rtol=jnp.finfo(dtype).eps
    )
    np.testing.assert_allclose(
        forward(ELU(), x), np.where(x > 0, x, np.expm1(x)), rtol=jnp.finfo(dtype).eps
    )


@over_all
def test_nan_in_gives_nan_out(layer):
    y = forward(layer, jnp.array([np.nan, 1.0]))
    np.testing.assert_array_equal(np.isnan(y), [True, False])


@over_all
def test_a_nan_cotangent_is_passed_on(layer):
    y, cache = layer.forward({}, jnp.array([1.0]), None)
    assert np.isnan(layer.backward({}, cache, jnp.full_like(y, jnp.nan))[1])


@pytest.mark.parametrize("slope", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_a_bad_slope_is_refused(slope):
    with pytest.raises(LayerError, match=r"slope is .*; it must be a finite number of at least 0"):
        LeakyReLU(slope)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_a_bad_alpha_is_refused(alpha):
    with pytest.raises(LayerError, match=r"alpha is .*; it must be a finite number of at least 0"):
        ELU(alpha)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), 1])
@pytest.mark.parametrize("kind", [LeakyReLU, ELU])
def test_a_number_of_any_type_is_a_plain_number(kind, number):
    layer = kind(number)
    assert eval(repr(layer), {kind.__name__: kind}) == layer
    assert forward(layer, np.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_an_activation_without_formulas_says_which_to_define():
    with pytest.raises(NotImplementedError, match=r"Elementwise must define f\(x\)"):
        forward(Elementwise(), jnp.ones(1))
    with pytest.raises(NotImplementedError, match=r"Elementwise must define df\(kept, dy\)"):
        Elementwise().backward({}, jnp.ones(1), jnp.ones(1))
