"""Initial values have the mean, the spread, the form and the dtype that they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn import initializers
from jnn.initializers import (
    fans,
    glorot_normal,
    glorot_truncated,
    glorot_uniform,
    grouped,
    he_normal,
    he_truncated,
    he_uniform,
    lecun_normal,
    lecun_truncated,
    lecun_uniform,
    matrix,
    normal,
    orthogonal,
    sparse,
    zeros,
)

VARIANCES = {
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}
SCALED = [
    he_normal,
    he_uniform,
    he_truncated,
    glorot_normal,
    glorot_uniform,
    glorot_truncated,
    lecun_normal,
    lecun_uniform,
    lecun_truncated,
]
VALUES = [
    normal(0.01),
    orthogonal(2.0),
    sparse(2, std=0.5),
    matrix(he_normal),
    grouped(he_normal, 2),
]

# The even moments of a standard normal cut off at two standard deviations, by parts.
TAIL = 2 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
CUT_2 = 1 - 2 * TAIL
CUT_4 = 3 * CUT_2 - 8 * TAIL
# Of each form with unit variance: the fourth moment and the largest value.
FORMS = {
    "normal": (3, math.inf),
    "uniform": (9 / 5, math.sqrt(3)),
    "truncated": (CUT_4 / CUT_2**2, 2 / math.sqrt(CUT_2)),
}


def named(initializer):
    """For the ids of tests, which an address would make different in every process."""
    return getattr(initializer, "__name__", str(initializer))


def draw(initializer, shape, seed=0, dtype=jnp.float32):
    return initializer(jax.random.key(seed), shape, dtype)


@pytest.mark.parametrize("initializer", SCALED)
@pytest.mark.parametrize(
    ("shape", "fan_in", "fan_out"), [((300, 200), 300, 200), ((3, 5, 20, 200), 300, 3000)]
)
def test_the_spread_and_the_form_are_those_of_the_formula(initializer, shape, fan_in, fan_out):
    rule, form = initializer.__name__.split("_")
    fourth, limit = FORMS[form]
    w = np.asarray(draw(initializer, shape), np.float64)
    z = w / np.sqrt(VARIANCES[rule](fan_in, fan_out))  # of unit variance, if all is right
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt((fourth - 1) / z.size)
    assert abs((z**4).mean() - fourth) < 5 * np.sqrt(96 / z.size)  # 96 is that of a normal z^4
    if form != "normal":
        assert 0.98 * limit < abs(z).max() <= limit * (1 + 1e-6)


@pytest.mark.parametrize(("initializer", "gain"), [(he_normal, 2), (lecun_normal, 1)])
def test_normal_draws_are_those_of_jax_scaled(initializer, gain):
    want = math.sqrt(gain / 7) * jax.random.normal(jax.random.key(3), (7, 4))
    np.testing.assert_array_equal(draw(initializer, (7, 4), 3), want)


def test_zeros_are_zeros():
    assert draw(zeros, (2, 3)).tolist() == [[0.0] * 3] * 2


def test_a_given_spread_does_not_depend_on_the_fans():
    for shape in ((300, 200), (3, 5, 20, 200)):
        z = np.asarray(draw(normal(0.01), shape), np.float64) / 0.01
        assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)


@pytest.mark.parametrize("initializer", [*SCALED, *VALUES, zeros], ids=named)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_the_dtype_is_the_one_asked_for(initializer, dtype, x64):
    made = jax.eval_shape(lambda key: initializer(key, (4, 6), dtype), jax.random.key(0))
    assert (made.shape, made.dtype, made.weak_type) == ((4, 6), dtype, False)


@pytest.mark.parametrize("initializer", [he_normal, lecun_uniform, glorot_truncated, *VALUES])
def test_low_precision_is_float32_rounded_once(initializer):
    low, wide = draw(initializer, (4, 6), dtype=jnp.bfloat16), draw(initializer, (4, 6))
    np.testing.assert_array_equal(low, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((7, 4), (7, 4)),
        ((5, 7, 4), (35, 20)),
        ((3, 3, 16, 32), (144, 288)),
        ((0, 4), (1, 4)),  # no weights at all, and nothing to divide by zero for
    ],
)
def test_fans(shape, want):
    assert fans(shape) == want


@pytest.mark.parametrize("initializer", [*SCALED, orthogonal(), sparse(1)])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_shape_without_fans_is_refused(initializer, shape):
    with pytest.raises(ValueError, match=r"shape is .* weights have at least two axes"):
        draw(initializer, shape)


@pytest.mark.parametrize("initializer", [he_normal, lecun_uniform, he_truncated, orthogonal()])
def test_integers_are_refused(initializer):
    with pytest.raises(ValueError, match="dtype is int32; weights must be floating-point"):
        initializer(jax.random.key(0), (3, 2), jnp.int32)


@pytest.mark.parametrize("weight", [glorot_normal, orthogonal()])
@pytest.mark.parametrize(("inputs", "flat"), [(1, (4, 6)), (2, (8, 3))])
def test_matrix_draws_the_matrix_that_attention_multiplies_by(weight, inputs, flat):
    got = draw(matrix(weight, inputs), (4, 2, 3))
    np.testing.assert_array_equal(got, draw(weight, flat).reshape(4, 2, 3))


@pytest.mark.parametrize(
    ("weight", "shape"),
    [(glorot_normal, (3, 3, 2, 8)), (glorot_normal, (3, 3, 1, 4)), (orthogonal(), (3, 3, 1, 4))],
    ids=["grouped", "depthwise", "orthogonal"],
)
def test_grouped_draws_every_group_as_a_convolution_of_its_own(weight, shape):
    got = draw(grouped(weight, 4), shape)
    one = (*shape[:-1], shape[-1] // 4)
    want = [weight(key, one, jnp.float32) for key in jax.random.split(jax.random.key(0), 4)]
    np.testing.assert_allclose(got, np.concatenate(want, axis=-1), rtol=1e-6, atol=1e-6)


def test_one_group_is_no_group():
    shape = (2, 2, 6)
    np.testing.assert_array_equal(draw(grouped(he_normal, 1), shape), draw(he_normal, shape))


@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (2, 2, 3, 5)])
def test_orthogonal_matrices_are_orthogonal(x64, shape):
    w = np.asarray(orthogonal(1.5)(jax.random.key(0), shape, jnp.float64)).reshape(-1, shape[-1])
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=1e-14)


def test_orthogonal_matrices_are_uniform():
    """Entries have mean 0 and variance 1/n; the signs of a bare QR make the first one negative."""
    keys = jax.random.split(jax.random.key(0), 500)
    w = np.asarray(jax.vmap(lambda key: orthogonal()(key, (3, 3), jnp.float32))(keys))
    assert (abs(w.mean(axis=0)) < 5 / np.sqrt(3 * len(w))).all()


def test_sparse_weights_come_from_a_few_inputs_chosen_evenly():
    into, out, inputs = 40, 3000, 5
    w = np.asarray(draw(sparse(inputs, std=0.1), (into, out)), float)
    assert ((w != 0).sum(axis=0) == inputs).all()
    share = inputs / into
    chosen = (w != 0).sum(axis=1)  # binomial
    assert (abs(chosen - out * share) < 5 * np.sqrt(out * share * (1 - share))).all()
    z = w[w != 0] / 0.1
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)


def test_sparse_may_take_all_inputs_but_no_more():
    assert (draw(sparse(4), (4, 6)) != 0).all()
    with pytest.raises(ValueError, match=r"sparse\(inputs=7\).* see 6 inputs.*at least 7"):
        draw(sparse(7), (3, 2, 4))


@pytest.mark.parametrize("initializer", VALUES, ids=str)
def test_initializers_are_values_that_print_as_they_are_written(initializer):
    twin = eval(repr(initializer), vars(initializers))
    assert twin is not initializer
    assert twin == initializer and hash(twin) == hash(initializer)
    layer, names = jnn.Dense(4, initializer), vars(jnn) | vars(initializers)
    assert layer == jnn.Dense(4, twin) == eval(repr(layer), names)
    assert layer != jnn.Dense(4, normal(0.5))


@pytest.mark.parametrize("initializer", VALUES, ids=str)
def test_a_key_is_used_once_and_jit_changes_nothing(initializer):
    jitted = jax.jit(lambda key: initializer(key, (4, 6), jnp.float32))(jax.random.key(0))
    np.testing.assert_allclose(jitted, draw(initializer, (4, 6)), rtol=1e-5, atol=1e-6)


def test_numpy_options_do_not_decide_the_dtype(x64):
    assert normal(np.float64(0.5))(jax.random.key(0), (2, 2), jnp.float32).dtype == jnp.float32
    assert normal(np.float64(0.5)) == normal(0.5)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, "1", None, True])
def test_bad_numbers_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"normal: std is .* finite number of at least 0"):
        normal(bad)
    with pytest.raises(ValueError, match=r"orthogonal: gain is .* finite number of at least 0"):
        orthogonal(bad)
    with pytest.raises(ValueError, match=r"sparse: std is .* finite number of at least 0"):
        sparse(3, bad)


@pytest.mark.parametrize("bad", [0, -1, 1.0, "1", None, True])
def test_bad_counts_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"sparse: inputs is .* positive integer"):
        sparse(bad)
    with pytest.raises(ValueError, match=r"matrix: inputs is .* positive integer"):
        matrix(he_normal, bad)
    with pytest.raises(ValueError, match=r"grouped: groups is .* positive integer"):
        grouped(he_normal, bad)


def test_shapes_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match=r"matrix\(he_normal, inputs=2\): shape is \(3, 2\)"):
        draw(matrix(he_normal, 2), (3, 2))
    with pytest.raises(ValueError, match=r"grouped\(he_normal, 4\).* must divide into 4 groups"):
        draw(grouped(he_normal, 4), (3, 3, 2, 6))
