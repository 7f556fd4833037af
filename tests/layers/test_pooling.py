import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.layer import LayerError

NAN, INF = np.nan, np.inf
# Windows side by side, few places, and more than are added one after the other.
SIZES = [(2, None, "VALID"), (3, 2, "SAME"), (3, 1, 1), (4, 3, "SAME"), (4, 1, 1)]


def passes(layer, x, dy):
    y, cache = layer.forward({}, x, jnn.Eval())
    return y, layer.pull({}, cache, dy)


def along(*numbers):
    return jnp.array(numbers, jnp.float32).reshape(1, -1, 1)


@pytest.mark.parametrize("size, stride, padding", SIZES)
def test_max_pool_is_that_of_xla(size, stride, padding, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 3)))
    layer = jnn.MaxPool(size, stride, padding)

    def pooled(x):
        stride = layer.stride or layer.size
        pads = ((0, 0), (1, 1), (1, 1), (0, 0)) if padding == 1 else padding
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), pads
        )

    want, vjp = jax.vjp(pooled, x)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=want.shape))
    assert_agree(passes(layer, x, dy), (want, *vjp(dy)), 1e-15)


@pytest.mark.parametrize("size, stride, padding", SIZES)
def test_avg_pool_is_the_mean_of_what_is_in_x(size, stride, padding, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5, 3)))
    layer = jnn.AvgPool(size, stride, padding)

    def pooled(x):
        stride = layer.stride or layer.size
        pads = ((0, 0), (1, 1), (1, 1), (0, 0)) if padding == 1 else padding
        window = (1, size, size, 1), (1, stride, stride, 1), pads
        total, count = (
            jax.lax.reduce_window(v, 0.0, jax.lax.add, *window) for v in (x, jnp.ones_like(x))
        )
        return total / count

    want, vjp = jax.vjp(pooled, x)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=want.shape))
    assert_agree(passes(layer, x, dy), (want, *vjp(dy)), 1e-14)


@pytest.mark.parametrize(
    "numbers, y, dx",
    [
        ((5, 5, 2, 1), (5, 2), (1, 0, 1, 0)),
        ((NAN, 9, 2, NAN), (NAN, NAN), (1, 0, 0, 1)),
        ((NAN, NAN, -INF, -INF), (NAN, -INF), (1, 0, 1, 0)),
        ((-0.0, 0.0, 0.0, -0.0), (0, 0), (1, 0, 1, 0)),
        ((1, 2, 3), (2,), (0, 1, 0)),
    ],
)
def test_the_first_of_ties_wins_a_nan_is_kept_and_a_rest_is_dropped(numbers, y, dx):
    found = passes(jnn.MaxPool(), along(*numbers), jnp.ones((1, len(y), 1)))
    np.testing.assert_array_equal(found[0].ravel(), y)
    np.testing.assert_array_equal(found[1].ravel(), dx)


def test_padding_never_wins_not_even_over_the_least_number():
    x = along(-INF, -INF, -3)
    y, dx = passes(jnn.MaxPool(3, 1, 1), x, jnp.ones((1, 3, 1)))
    assert y.ravel().tolist() == [-INF, -3, -3]
    assert dx.ravel().tolist() == [1, 0, 2]


def test_a_number_that_wins_in_several_windows_is_handed_all_of_it():
    _, dx = passes(jnn.MaxPool(3, 1), along(1, 2, 9, 3, 4), along(1, 10, 100))
    assert dx.ravel().tolist() == [0, 0, 111, 0, 0]


@pytest.mark.parametrize("size, dtype", [(2, "uint8"), (16, "uint8"), (17, "uint16")])
def test_the_cache_is_a_byte_for_each_output_as_long_as_that_will_do(size, dtype):
    x = jax.ShapeDtypeStruct((1, 34, 34, 2), jnp.float32)
    layer = jnn.MaxPool(size)
    y, cache = jax.eval_shape(lambda x: layer.forward({}, x, jnn.Eval()), x)
    assert {name: v.size * v.dtype.itemsize for name, v in cache.items()} == {
        "won": y.size * np.dtype(dtype).itemsize,
        "x": 0,
    }


def test_global_avg_pool_is_the_mean_over_positions(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5)))
    y, dx = passes(jnn.GlobalAvgPool(), x, jnp.ones((2, 5)))
    assert_agree(y, x.mean((1, 2)), 1e-15)
    assert_agree(dx, jnp.full_like(x, 1 / 12), 1e-15)


@pytest.mark.parametrize(
    "make, shape, message",
    [
        (lambda: jnn.MaxPool(0), (1, 4, 1), "size is 0; it must be a positive integer, or"),
        (lambda: jnn.AvgPool(2, (1, 0)), (1, 4, 1), "stride is (1, 0); it must be a positive"),
        (lambda: jnn.MaxPool(2, padding="ALL"), (1, 4, 1), "padding is 'ALL'; it must be 'SAME'"),
        (lambda: jnn.MaxPool(2, padding=2), (1, 4, 1), "it must be less than the window of 2"),
        (lambda: jnn.MaxPool(5), (1, 4, 9, 1), "reaches over (5, 5) does not fit into it"),
        (lambda: jnn.AvgPool((2, 2)), (1, 4, 1), "x has 1 spatial axes: give one entry for each"),
        (lambda: jnn.MaxPool(), (4, 4), "it must be (n, ..., c) with channels last"),
        (lambda: jnn.GlobalAvgPool(), (2, 0, 3), "it must be (n, ..., c), with positions between"),
    ],
)
def test_what_makes_no_sense_is_refused(make, shape, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        make().forward({}, jnp.ones(shape), jnn.Eval())
