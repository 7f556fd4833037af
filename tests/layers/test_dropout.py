"""Dropout: both forms of the lectures, the statistics of its masks, and what it refuses."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn import Dropout, Eval, LayerError, Serial, Train

# One draw of every statistic is tested at 5 standard deviations: right code would fail one seed in
# 1.7 million, and the seeds are fixed.
SIGMAS = 5
# A whole number of 1/256, drawn by bytes; others by 16 bits; those next to 0 and to 1.
RATES = [0.5, 0.25, 0.3, 0.1, 0.9, 1 / 256, 0.001]
over_rates = pytest.mark.parametrize("rate", RATES)
over_few_rates = pytest.mark.parametrize("rate", [0.5, 0.3])
over_forms = pytest.mark.parametrize("inverted", [True, False])


def key(seed=0):
    return jax.random.key(seed)


@partial(jax.jit, static_argnums=0)
def passes(layer, x, dy, mode):
    """(y, mask, dx)"""
    y, cache = layer.forward({}, x, mode)
    return y, cache["mask"], layer.pull({}, cache, dy)


@partial(jax.jit, static_argnums=(0, 1))
def drawn(rate, shape, key):
    """The mask of a training pass, as booleans."""
    return Dropout(rate).forward({}, jnp.ones(shape), Train(key))[1]["mask"]


def mask(rate=0.5, shape=(1000, 101), seed=0):
    return np.asarray(drawn(rate, shape, key(seed)))


def quantised(rate):
    """The rate that is drawn, by 1/256 where it is a multiple of it, else by 1/65536."""
    return round(65536 * rate) / 65536


def assert_independent(a, b, rate):
    """Two masks of that rate agree as often as chance says, within 5 standard deviations.

    Each product of centred entries has mean 0 and standard deviation rate (1 - rate) where they are
    independent.
    """
    product = ((a - (1 - rate)) * (b - (1 - rate))).sum()
    assert abs(product) < SIGMAS * rate * (1 - rate) * np.sqrt(a.size)


@over_forms
@over_few_rates
def test_training_scales_what_the_mask_keeps(rate, inverted, x64):
    x, dy = np.random.default_rng(0).standard_normal((2, 500, 300))
    y, mask, dx = passes(Dropout(rate, inverted), x, dy, Train(key()))
    kept = 1 - quantised(rate)
    factor = 1 / kept if inverted else 1
    np.testing.assert_allclose(y, np.where(mask, factor * x, 0), rtol=1e-15)
    np.testing.assert_allclose(dx, np.where(mask, factor * dy, 0), rtol=1e-15)
    # An entry of the mask has variance kept (1 - kept).
    spread = factor * np.sqrt(kept * (1 - kept) * np.square(x).sum())
    assert abs(y.sum() - kept * factor * x.sum()) < SIGMAS * spread


@over_forms
@over_few_rates
def test_evaluation_is_the_mean_of_training(rate, inverted, x64):
    x, dy = np.random.default_rng(0).standard_normal((2, 500, 300))
    y, mask, dx = passes(Dropout(rate, inverted), x, dy, Eval())
    factor = 1 if inverted else 1 - quantised(rate)
    assert mask.all()
    np.testing.assert_allclose(y, factor * x, rtol=1e-15)
    np.testing.assert_allclose(dx, factor * dy, rtol=1e-15)


def test_inverted_evaluation_is_x_itself():
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    np.testing.assert_array_equal(Dropout(0.3).forward({}, x, Eval())[0], x)


@pytest.mark.parametrize("rate", [0, 0.0, 1e-6])
def test_a_rate_of_nothing_is_the_identity(rate):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    y, cache = Dropout(rate).forward({}, x, Train(None))  # a key is not even looked at
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(Dropout(rate).pull({}, cache, x), x)


def test_a_rate_next_to_1_keeps_one_in_65536():
    y, cache = Dropout(1 - 1e-9).forward({}, np.ones((64, 4), np.float32), Train(key()))
    assert np.isfinite(y).all() and cache["factor"] == 65536


def test_what_is_dropped_is_gone_even_if_it_is_not_a_number():
    x = np.full((64, 4), np.nan, np.float32)
    y, cache = Dropout().forward({}, x, Train(key()))
    np.testing.assert_array_equal(np.isnan(y), cache["mask"])


def test_in_bfloat16_the_mean_is_kept_though_the_factor_cannot_be_written():
    # 1 / 0.9 in bfloat16 is 1.1094, 1.5e-3 too small for every number; here each is rounded alone.
    x = np.linspace(1, 2, 128, endpoint=False).astype(jnp.bfloat16)
    y, mask, _ = passes(Dropout(0.1), x, x, Train(key()))
    want = (np.float64(x) / (1 - quantised(0.1))).astype(jnp.bfloat16)
    np.testing.assert_array_equal(y, np.where(mask, want, 0).astype(jnp.bfloat16))


# The statistics of masks


@over_rates
def test_the_fraction_dropped_is_the_rate(rate):
    dropped = ~mask(rate)
    expected = quantised(rate)
    deviation = np.sqrt(expected * (1 - expected) / dropped.size)
    assert abs(dropped.mean() - expected) < SIGMAS * deviation
    # In each quarter too: they come from different bits of the same words.
    for quarter in np.array_split(dropped, 4):
        assert abs(quarter.mean() - expected) < SIGMAS * 2 * deviation


@over_few_rates
def test_neighbours_are_independent(rate):
    drawn = mask(rate)
    for a, b in ((drawn[1:], drawn[:-1]), (drawn[:, 1:], drawn[:, :-1])):
        assert_independent(a, b, quantised(rate))


@pytest.mark.parametrize("rate, slices", [(0.5, 4), (0.3, 2)])
def test_masks_out_of_one_word_are_independent(rate, slices):
    parts = np.split(mask(rate), slices)
    for i in range(slices):
        for j in range(i):
            assert_independent(parts[i], parts[j], quantised(rate))


def test_every_example_of_a_batch_has_a_mask_of_its_own():
    masks = mask(0.5, (50, 64))
    assert len(np.unique(masks, axis=0)) == 50


@pytest.mark.parametrize("shape", [(1, 40), (2, 40), (3, 40), (5,), (7, 3, 2), (4, 0), (0, 4)])
@over_few_rates
def test_any_number_of_examples_will_do(rate, shape):
    assert jax.eval_shape(partial(drawn, rate, shape), key()).shape == shape


# Keys


def test_one_key_draws_one_mask_and_another_another():
    np.testing.assert_array_equal(mask(seed=0), mask(seed=0))
    assert_independent(mask(seed=0), mask(seed=1), 0.5)


def test_layers_and_steps_draw_independently():
    net = Serial(Dropout(), Dropout())
    x = np.ones((1000, 100), np.float32)

    @jax.jit
    def masks(key):
        _, cache = net.forward({}, x, Train(key))
        return [cache[name]["mask"] for name in ("dropout1", "dropout2")]

    steps = [masks(jax.random.fold_in(key(), step)) for step in range(2)]
    drawn = [np.asarray(m) for step in steps for m in step]
    for i in range(4):
        for j in range(i):
            assert_independent(drawn[i], drawn[j], 0.5)


def test_vmap_over_keys_draws_what_each_key_would():
    keys = jax.random.split(key(), 3)
    got = np.asarray(jax.vmap(partial(drawn, 0.3, (9, 7)))(jax.random.clone(keys)))
    np.testing.assert_array_equal(got, [drawn(0.3, (9, 7), k) for k in keys])
    assert len(np.unique(got.reshape(3, -1), axis=0)) == 3


def test_the_mask_costs_a_quarter_or_half_of_a_word_for_each_number():
    for rate, words in ((0.5, 25), (0.3, 50)):
        program = str(jax.make_jaxpr(partial(drawn, rate, (100, 6)))(key()))
        assert re.search(rf"u32\[{words},6\] = random_bits", program)


# What it refuses


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 2, float("nan"), float("inf"), "0.5", None, True])
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(LayerError, match=r"rate is .*; it must be a number in \[0, 1\)"):
        Dropout(rate)


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5)])
def test_a_numpy_number_is_a_plain_one(rate):
    assert repr(Dropout(rate)) == "Dropout()" and hash(Dropout(rate)) == hash(Dropout())
    assert Dropout(rate).forward({}, np.ones(2, jnp.bfloat16), Train(key()))[0].dtype == "bfloat16"


def test_a_number_without_axes_is_refused():
    with pytest.raises(LayerError, match=r"Dropout\(\): x has no axes"):
        Dropout().forward({}, np.float32(1), Train(key()))
