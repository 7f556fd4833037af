"""Clipping is exact where it does nothing, and meets zeros, infinities and overflow with reason."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.optimizers import clip_norm, clip_value


def clip(optimizer, grads):
    return optimizer.update(grads, optimizer.init(grads), grads)


def pairs(a, b, dtype=jnp.float32):
    return {"a": jnp.array(a, dtype), "b": jnp.array(b, dtype)}


def test_the_norm_is_that_of_all_parameters_together(x64):
    rng = np.random.default_rng(0)
    grads = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(4), "s": np.array(0.3)}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    clipped, state = clip(clip_norm(0.1), jax.tree.map(jnp.asarray, grads))
    assert float(state.norm) == pytest.approx(norm, rel=1e-14)
    expected = jax.tree.map(lambda g: g * (0.1 / norm), grads)
    chex.assert_trees_all_close(clipped, expected, rtol=1e-14)


def test_what_is_short_enough_stays_to_the_bit():
    grads = pairs([0.3, -1e-30], [0.4])
    clipped, state = clip(clip_norm(0.5001), grads)
    chex.assert_trees_all_equal(clipped, grads)
    assert float(state.norm) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_zero_stays_zero(dtype):
    clipped, state = clip(clip_norm(1.0), pairs([0.0, 0.0], [-0.0], dtype))
    chex.assert_trees_all_equal(clipped, pairs([0.0, 0.0], [-0.0], dtype))
    assert float(state.norm) == 0


@pytest.mark.parametrize("size", [3e-30, 3e30])
def test_squares_that_leave_float32_do_no_harm(size):
    clipped, state = clip(clip_norm(size / 3), pairs([3 * size], [4 * size]))
    assert float(state.norm) == pytest.approx(5 * size, rel=1e-6)
    assert float(clipped["a"][0]) == pytest.approx(0.6 * size / 3, rel=1e-6)


def test_a_norm_beyond_float32_is_reported_as_infinite_and_clipped_all_the_same():
    clipped, state = clip(clip_norm(1.0), pairs([3e38], [3e38]))
    assert float(state.norm) == np.inf
    assert float(clipped["a"][0]) == float(clipped["b"][0]) == pytest.approx(0.5**0.5)


def test_float16_is_measured_in_float32():
    clipped, state = clip(clip_norm(1.0), pairs([3e4] * 9, [4e4] * 9, jnp.float16))
    assert state.norm.dtype == jnp.float32
    assert float(state.norm) == pytest.approx(15e4, rel=1e-3)
    assert float(clipped["a"][0]) == pytest.approx(0.2, rel=1e-3)


def test_infinities_share_the_limit_and_leave_nothing_to_the_rest():
    clipped, state = clip(clip_norm(2.0), pairs([np.inf, 5.0], [-np.inf]))
    assert float(state.norm) == np.inf
    np.testing.assert_allclose(clipped["a"], [2**0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [-(2**0.5)], rtol=1e-6)


def test_nan_is_never_hidden():
    clipped, state = clip(clip_norm(1.0), pairs([np.nan, 5.0], [0.0]))
    assert all(jnp.isnan(leaf).all() for leaf in (*clipped.values(), state.norm))
    clipped, _ = clip(clip_value(1.0), pairs([np.nan], [np.inf]))
    assert jnp.isnan(clipped["a"]).all()
    assert float(clipped["b"][0]) == 1


def test_no_parameters_have_no_norm():
    assert float(clip(clip_norm(1.0), {})[1].norm) == 0


def test_a_gradient_wider_than_its_parameter_keeps_the_state_as_it_was(x64):
    optimizer = clip_norm(1.0)
    state = optimizer.init({"w": jnp.ones(2, jnp.float32)})
    clipped, after = optimizer.update({"w": jnp.ones(2, jnp.float64)}, state, {})
    assert (clipped["w"].dtype, after.norm.dtype) == (jnp.float64, state.norm.dtype)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), "1", True])
@pytest.mark.parametrize("piece", [clip_value, clip_norm])
def test_a_bad_limit_is_refused_by_name(piece, limit):
    with pytest.raises(ValueError, match=r"^limit is "):
        piece(limit)
