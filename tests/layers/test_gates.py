"""Smooth gates: golden values, slopes, and both far ends."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from slopes import forward, slope_by_autodiff, slope_by_hand

from jnn import GELU, LayerError, SiLU

GRID = np.linspace(-30, 30, 1201)
ROUNDING = 4 * 2.0**-52  # XLA's exp and erfc are good to 4 ulps of float64
C = np.sqrt(2 / np.pi)


def normal_cdf(x):
    return np.vectorize(math.erfc)(-x / np.sqrt(2)) / 2


def normal_density(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def bend(x):
    return C * (x + 0.044715 * x**3)


# layer -> (y, dy/dx); in forms that do not cancel, unlike 1 + erf and 1 + tanh.
FORMULAS = {
    SiLU(): (
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
    ),
    GELU(): (
        lambda x: x * normal_cdf(x),
        lambda x: normal_cdf(x) + x * normal_density(x),
    ),
    GELU(approximate=True): (
        lambda x: x * sigmoid(2 * bend(x)),
        lambda x: (
            sigmoid(2 * bend(x))
            + x * C * (1 + 3 * 0.044715 * x**2) / 2 / np.cosh(np.minimum(abs(bend(x)), 300)) ** 2
        ),
    ),
}
over_all = pytest.mark.parametrize("layer", FORMULAS, ids=repr)


@over_all
def test_values_are_those_of_the_formula(layer, x64):
    # The rounding of x^2 (of x^3 by tanh) is an absolute one in the exponent.
    y, want = forward(layer, GRID), FORMULAS[layer][0](GRID)
    exponent = 2 * abs(bend(GRID)) if layer == GELU(approximate=True) else GRID**2
    # Below the smallest normal number there are no digits to compare.
    assert (abs(y - want) <= ROUNDING * (1 + exponent) * abs(want) + 1e-300).all()


@over_all
def test_slopes_are_those_of_the_formula(layer, x64):
    # x g' carries, x times as large, the rounding of a gate about 1.
    slope, want = slope_by_hand(layer, GRID), FORMULAS[layer][1](GRID)
    assert (abs(slope - want) <= 2 * ROUNDING * (1 + abs(GRID))).all()


def test_the_tanh_form_is_near_the_exact_one_and_is_a_tanh(x64):
    x = np.linspace(-8, 8, 2001)
    by_tanh = forward(GELU(approximate=True), x)
    np.testing.assert_allclose(by_tanh, x / 2 * (1 + np.tanh(bend(x))), rtol=0, atol=1e-14)
    assert 4e-4 < abs(by_tanh - forward(GELU(), x)).max() < 5e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@over_all
def test_both_far_ends_are_straight_and_finite(layer, dtype, x64):
    for far in (60, 1e3, 1e4, float(jnp.finfo(dtype).max), np.inf):
        x = jnp.array([-far, far], dtype)
        # At 60 on the left float64 still has digits below those of 1.
        tiny = 1e-20 if far == 60 else 0
        want = [0, float(x[1])]
        np.testing.assert_allclose(np.float64(forward(layer, x)), want, rtol=0, atol=tiny)
        for slope in (slope_by_hand, slope_by_autodiff)[: 1 + (far < np.inf)]:
            np.testing.assert_allclose(np.float64(slope(layer, x)), [0, 1], rtol=0, atol=tiny)


@over_all
def test_nan_in_gives_nan_out(layer):
    x = jnp.array([np.nan, 1.0])
    for v in (forward(layer, x), slope_by_hand(layer, x)):
        np.testing.assert_array_equal(np.isnan(v), [True, False])


@pytest.mark.parametrize("approximate", ["tanh", "none", 1, None])
def test_a_gelu_is_exact_or_not(approximate):
    with pytest.raises(LayerError, match=r"approximate is .*; it must be True for the tanh form"):
        GELU(approximate)
