"""Losses: values, gradients, both far ends, and everything that must not pass in silence."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from loss_table import CASES, FLOAT32, FLOAT64, ONE, auto, by_hand, by_vjp, hand, like, normal

import jnn
from jnn import (
    Huber,
    LayerError,
    Loss,
    MulticlassHinge,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)

over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SAME_SHAPE = [SquaredError(), Huber(), SigmoidCrossEntropy()]  # of prediction and target
OF_LABELS = [SoftmaxCrossEntropy(), MulticlassHinge()]
over_losses = pytest.mark.parametrize("loss", SAME_SHAPE + OF_LABELS, ids=repr)
over_gradients = pytest.mark.parametrize("gradient", [hand, auto], ids=["hand", "vjp"])


# Values and gradients


@over_cases
def test_values_and_gradients_are_right(case, x64):
    each = case.formula(case.prediction, case.target)
    dvalues = normal(len(each))

    @jax.jit
    def gradients(prediction, dvalue, dvalues):
        forms = (case.loss, dvalue), (case.loss.each(), dvalues)
        return [
            [f(loss, prediction, case.target, d) for f in (by_hand, by_vjp)] for loss, d in forms
        ]

    with jax.numpy_rank_promotion("raise"):
        results = gradients(case.prediction, dvalues[0], dvalues)
    mean = each.sum() / case.weight(case.target).sum()
    for (got, by_autodiff), want in zip(results, (mean, each), strict=True):
        np.testing.assert_allclose(got[0], want, rtol=FLOAT64)
        assert_agree(got, by_autodiff, FLOAT64)


def test_squared_error_is_the_lectures_sum_without_a_half():
    p = np.array([[1, 2], [3, 5]], np.float32)
    value, dp = hand(SquaredError(), p, np.zeros_like(p), ONE)
    assert value == (1 + 4 + 9 + 25) / 2
    np.testing.assert_array_equal(dp, [[1, 2], [3, 5]])


def test_the_per_example_form_is_another_value_of_the_same_loss():
    loss = SquaredError()
    assert loss.each() == SquaredError(per_example=True) == loss.each().each() != loss
    assert hash(loss) == hash(SquaredError())


@over_losses
def test_the_repr_is_the_loss(loss):
    for form in (loss, loss.each()):
        assert eval(repr(form), vars(jnn)) == form


class AbsoluteError(Loss):
    def values(self, prediction, target):
        difference = prediction - target
        return jnp.abs(difference).sum(axis=-1), jnp.sign(difference)

    def pull(self, cache, dvalues):
        return cache * dvalues[..., None]


def test_a_new_loss_states_values_and_pull(x64):
    p, t = normal((2, 3, 4)), normal((2, 3, 4))
    for loss, dvalue in (
        (AbsoluteError(), np.float64(2)),
        (AbsoluteError().each(), normal(2)),
    ):
        got = hand(loss, p, t, dvalue)
        np.testing.assert_allclose(
            got[0], np.abs(p - t).sum(2).mean(1 if loss.per_example else None)
        )
        assert_agree(got, auto(loss, p, t, dvalue), FLOAT64)


def test_a_number_will_do_for_dvalue():
    loss = SquaredError()
    _, cache = loss.forward(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    assert_agree(loss.backward(cache, 2.0), loss.backward(cache, 2 * ONE))


# Precision


@over_cases
def test_low_precision_is_summed_in_float32_and_rounded_at_the_end(case, x64):
    dvalue = np.float32(0.7)
    floats = case.target.dtype == np.float64

    def low_and_exact(p, t):
        exact = p.astype(float), t.astype(float) if floats else t
        low = by_hand(case.loss, p, t, dvalue)
        return low, by_hand(case.loss, *exact, np.float64(dvalue))

    dtypes = jnp.bfloat16, jnp.float16
    examples = [
        (case.prediction.astype(d), case.target.astype(d if floats else int)) for d in dtypes
    ]
    results = jax.device_get(
        jax.jit(lambda pairs: [low_and_exact(*pair) for pair in pairs])(examples)
    )
    for dtype, ((value, dp), (want, want_dp)) in zip(dtypes, results, strict=True):
        assert (value.dtype, dp.dtype) == (jnp.float32, dtype)
        u = float(jnp.finfo(dtype).eps) / 2
        # A handful of float32 roundings of numbers as large as the largest term.
        float32 = 16 * FLOAT32 * (1 + np.abs(case.prediction).max() + want)
        # The difference of the squared error is rounded itself; probabilities are not.
        rounded = 2 * u * (1 + u) if isinstance(case.loss, SquaredError) else 0
        assert abs(np.float64(value) - want) <= rounded * want + float32
        allowed = (u + rounded) * np.abs(want_dp) + float32 * float(dvalue)
        assert (np.abs(np.float64(dp) - want_dp) <= allowed).all()


@pytest.mark.parametrize("target", ["bool", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("prediction", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("loss", SAME_SHAPE, ids=repr)
def test_the_prediction_alone_decides_the_dtype(loss, prediction, target, x64):
    wide = np.dtype("float64" if prediction == "float64" else "float32")
    given = like((2, 3), prediction), like((2, 3), target), like((), wide)
    value, dp = jax.eval_shape(partial(by_hand, loss), *given)
    assert (value.dtype, dp.dtype) == (wide, prediction)


def test_a_float16_gradient_that_fits_is_not_lost_on_the_way():
    p = np.full((4, 1), 4e4, np.float16)
    value, dp = hand(SquaredError(), p, np.zeros_like(p), ONE)
    np.testing.assert_allclose(value, 1.6e9, rtol=1e-6)
    np.testing.assert_array_equal(dp, np.full((4, 1), 2e4))


# Far ends


@over_gradients
def test_sigmoid_is_finite_and_right_for_extreme_logits(gradient):
    logits, target = np.array([[1e4, 1e4, -1e4, -1e4], [1, 0, 1, 0]], np.float32)
    value, ds = gradient(SigmoidCrossEntropy().each(), logits, target, np.ones(4, np.float32))
    np.testing.assert_array_equal(value, [0, 1e4, 1e4, 0])
    np.testing.assert_array_equal(ds, [0, 1, -1, 0])


@over_gradients
def test_huber_pulls_no_harder_than_delta(gradient):
    p = np.array([-1e30, -3, -2, 1, 2, 3, 1e30], np.float32)
    values, dp = gradient(Huber(2.0).each(), p, np.zeros_like(p), np.ones_like(p))
    np.testing.assert_allclose(values, [2e30, 4, 2, 0.5, 2, 4, 2e30], rtol=1e-6)
    np.testing.assert_array_equal(dp, [-2, -2, -2, 1, 2, 2, 2])


def test_a_wide_huber_is_half_a_squared_error():
    p, t = normal((2, 4, 3)).astype(np.float32)
    value, dp = hand(SquaredError(), p, t, ONE)
    half, half_dp = hand(Huber(100.0), p, t, ONE)
    np.testing.assert_allclose(half, value / 2, rtol=1e-6)
    np.testing.assert_allclose(half_dp, dp / 2, rtol=1e-6)


@pytest.mark.parametrize("delta", [0, -1.0, np.inf, np.nan, "1", None])
def test_a_bad_delta_is_refused(delta):
    with pytest.raises(LayerError, match=r"delta is .*; it must be a finite number above 0"):
        Huber(delta)


# Shapes and dtypes

MISMATCHES = [
    *((loss, p, t) for loss in SAME_SHAPE for p, t in [
        ((4,), (4, 1)),
        ((4, 1), (4,)),
        ((4, 1), (1, 4)),
        ((4, 3), (3,)),
        ((4, 3), (4, 1)),
        ((1, 3), (4, 3)),
        ((4,), ()),
        ((), ()),
    ]),
    *((loss, p, t) for loss in OF_LABELS for p, t in [
        ((4, 3), (4, 1)),
        ((4, 3), (1, 4)),
        ((4, 3), (1,)),
        ((4, 3), (3,)),
        ((4, 3), ()),
        ((4, 3), (4, 3)),
        ((2, 3, 4), (2,)),
        ((2, 3, 4), (3, 2)),
        ((2, 3, 4), (2, 4)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    "loss, p, t", MISMATCHES, ids=lambda v: type(v).__name__ if isinstance(v, Loss) else str(v)
)
def test_nothing_is_broadcast(loss, p, t):
    target = like(t, "int32" if loss in OF_LABELS else "float32")
    with pytest.raises(LayerError, match=re.escape(f"{p}")) as error:
        loss.forward(like(p), target)
    assert f"{t}" in str(error.value)


@over_losses
def test_no_examples_and_no_positions_are_refused(loss):
    labels = loss in OF_LABELS
    for shape in [(0, 3), (2, 0, 3)] if labels else [(0, 3)]:
        target = like(shape[:-1], "int32") if labels else like(shape)
        with pytest.raises(LayerError, match="it must hold an example or more"):
            loss.forward(like(shape), target)


@over_losses
def test_a_prediction_of_integers_is_refused(loss):
    target = like((4,), "int32") if loss in OF_LABELS else like((4, 3))
    with pytest.raises(LayerError, match="it must be floating point"):
        loss.forward(like((4, 3), "int32"), target)


@over_losses
def test_a_dvalue_unlike_the_value_is_refused(loss):
    target = like((2,), "int32") if loss in OF_LABELS else like((2, 3))
    for form, wrong in ((loss, (2,)), (loss, (1,)), (loss.each(), ()), (loss.each(), (1,))):
        with pytest.raises(LayerError, match="it must have the value's shape"):
            jax.eval_shape(partial(by_hand, form), like((2, 3)), target, like(wrong))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("loss", SAME_SHAPE, ids=repr)
def test_targets_that_are_not_finite_are_found_in_the_data(loss, bad):
    target = np.array([[0, 1], [bad, 0]])
    with pytest.raises(LayerError, match=re.escape(f"the target holds {bad} at index (1, 0)")):
        loss.check_values(like((2, 2)), target)


@pytest.mark.parametrize("target", [[-0.1, 0.5], [0, 1.1], [1, 2]])
def test_targets_that_are_no_probabilities_are_found_in_the_data(target):
    with pytest.raises(LayerError, match=r"they must lie in \[0, 1\]"):
        SigmoidCrossEntropy().check_values(like((2,)), np.array(target))


@over_losses
def test_check_values_checks_shapes_too(loss):
    target = np.zeros((4, 1), int if loss in OF_LABELS else float)
    with pytest.raises(LayerError, match=re.escape("(4, 1)")):
        loss.check_values(like((4, 3)), target)


# Accuracy


@partial(jax.jit, static_argnums=0)
def correct(loss, prediction, target):
    return loss.correct(prediction, target)


def test_a_yes_or_no_is_right_where_the_sign_is():
    logits = np.array([[2, -1], [0, 1]], np.float32)
    right = correct(SigmoidCrossEntropy(), logits, np.array([[1, 0], [1, 1]]))
    np.testing.assert_array_equal(right, [1, 0.5])


def test_a_distance_is_neither_right_nor_wrong():
    for loss in (SquaredError(), Huber()):
        assert loss.correct(np.ones(2), np.ones(2)) is None


def test_accuracy_is_nan_for_predictions_that_are_not_finite():
    bad = np.array([[np.nan, 0], [0, np.nan], [np.inf, 0], [0, 1]], np.float32)
    for loss in OF_LABELS:
        right = correct(loss, bad, np.array([0, 0, 0, 1]))
        np.testing.assert_array_equal(right, [np.nan, np.nan, np.nan, 1])
    right = correct(SigmoidCrossEntropy(), bad, np.zeros((4, 2), np.float32))
    np.testing.assert_array_equal(right, [np.nan, np.nan, np.nan, 0.5])


class Averaged(AbsoluteError):
    def values(self, prediction, target):
        values, cache = super().values(prediction, target)
        return values.mean(), cache


class Bare(AbsoluteError):
    def values(self, prediction, target):
        return super().values(prediction, target)[0]


@pytest.mark.parametrize(
    "loss, words",
    [
        (Averaged(), r"values returned float32 \(\); it must be one for each"),
        (Bare(), "must return"),
    ],
)
def test_a_loss_that_returns_no_value_for_each_example_is_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        loss.forward(jnp.ones((2, 3)), jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    "prediction, target, words",
    [
        ([1.0], jnp.zeros(1), "the prediction is a list"),
        (jnp.ones(1), np.ones(1, complex), "real numbers"),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused(prediction, target, words):
    with pytest.raises(ValueError, match=words):
        SquaredError().forward(prediction, target)
