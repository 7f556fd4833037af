"""Hard activations: their straight pieces, and every kink."""

import jax.numpy as jnp
import numpy as np
import pytest
from slopes import forward, slope_by_autodiff, slope_by_hand

from jnn import HardSigmoid, HardSwish, HardTanh, ReLU6

GRID = np.linspace(-9, 9, 1201)
ROUNDING = 2 * 2.0**-52  # of a number about 1

# layer -> (y, dy/dx)
FORMULAS = {
    ReLU6(): (lambda x: np.clip(x, 0, 6), lambda x: (x > 0) & (x < 6)),
    HardTanh(): (lambda x: np.clip(x, -1, 1), lambda x: abs(x) < 1),
    HardSigmoid(): (lambda x: np.clip((x + 3) / 6, 0, 1), lambda x: (abs(x) < 3) / 6),
    HardSwish(): (
        lambda x: x * np.clip((x + 3) / 6, 0, 1),
        lambda x: np.select([x <= -3, x >= 3], [0, 1], x / 3 + 0.5),
    ),
}
over_all = pytest.mark.parametrize("layer", FORMULAS, ids=repr)
over_dtypes = pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
# layer -> (the two kinks, the derivative there)
KINKS = {
    ReLU6(): ((0, 6), (0, 0)),
    HardTanh(): ((-1, 1), (0, 0)),
    HardSigmoid(): ((-3, 3), (0, 0)),
    HardSwish(): ((-3, 3), (0, 1)),
}


@over_all
def test_values_and_slopes_are_those_of_the_formula(layer, x64):
    y, dy_dx = (f(GRID) for f in FORMULAS[layer])
    np.testing.assert_allclose(forward(layer, GRID), y, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(slope_by_hand(layer, GRID), dy_dx, rtol=ROUNDING, atol=ROUNDING)


@over_dtypes
@over_all
def test_at_the_kinks_the_slope_is_that_of_outside_for_both_gradients(layer, dtype, x64):
    kinks, slopes = KINKS[layer]
    x = jnp.array(kinks, dtype)
    np.testing.assert_array_equal(slope_by_hand(layer, x), np.array(slopes, dtype))
    np.testing.assert_array_equal(slope_by_autodiff(layer, x), np.array(slopes, dtype))


@over_dtypes
@over_all
def test_the_neighbours_of_the_kinks_are_within(layer, dtype, x64):
    # y is what tells, so it must not have been rounded to the end of its range.
    limits = jnp.finfo(dtype)
    ends = np.array(KINKS[layer][0], jnp.dtype(dtype))
    within = np.nextafter(np.nextafter(ends, ends[::-1]), ends[::-1])
    within = np.where(ends == 0, limits.smallest_normal, within)
    got, want = slope_by_hand(layer, within), FORMULAS[layer][1](np.float64(within))
    np.testing.assert_allclose(np.float64(got), want, rtol=2 * float(limits.eps))


@over_dtypes
@over_all
def test_both_far_ends_are_straight_and_finite(layer, dtype, x64):
    for far in (1e4, np.inf):
        x = jnp.array([-far, far], dtype)
        last = float(x[1]) if layer == HardSwish() else FORMULAS[layer][0](far)
        want = np.array([FORMULAS[layer][0](-1e4), last], dtype)
        np.testing.assert_array_equal(forward(layer, x), want)
        slopes = np.array([0, layer == HardSwish()], dtype)
        np.testing.assert_array_equal(slope_by_hand(layer, x), slopes)
        np.testing.assert_array_equal(slope_by_autodiff(layer, x), slopes)


@over_all
def test_nan_in_gives_nan_out(layer):
    y = forward(layer, jnp.array([np.nan, 1.0]))
    np.testing.assert_array_equal(np.isnan(y), [True, False])
    y, cache = layer.forward({}, jnp.array([0.5]), None)
    assert np.isnan(layer.backward({}, cache, jnp.full_like(y, jnp.nan))[1])
