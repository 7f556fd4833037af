"""Losses: values, gradients, both far ends, and everything that must not pass in silence."""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn import LayerError, Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError

FLOAT64 = 1e-13  # some hundred roundings of 1.1e-16
FLOAT32 = 2.0**-24  # the unit roundoff of float32


def squared_error(p, t):
    return ((p - t) ** 2).reshape(len(p), -1).sum(1)


def sigmoid_cross_entropy(s, t):
    p = 1 / (1 + np.exp(-s))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p)).reshape(len(s), -1).sum(1)


def softmax_cross_entropy(s, labels):
    p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, labels[..., None], -1)
    return -np.log(chosen).reshape(len(s), -1).mean(1)


class Case(NamedTuple):
    loss: Loss
    formula: object  # one value for each example, as the lectures have it
    prediction: np.ndarray
    target: np.ndarray


random = np.random.default_rng(0)
normal, uniform = random.standard_normal, random.random
CASES = {
    "squared error": Case(SquaredError(), squared_error, normal((4, 3)), normal((4, 3))),
    "squared error of numbers": Case(SquaredError(), squared_error, normal(4), normal(4)),
    "squared error of images": Case(
        SquaredError(), squared_error, normal((2, 3, 2)), normal((2, 3, 2))
    ),
    "sigmoid": Case(
        SigmoidCrossEntropy(), sigmoid_cross_entropy, normal((4, 3)), random.integers(0, 2, (4, 3))
    ),
    "sigmoid of uncertain targets": Case(
        SigmoidCrossEntropy(), sigmoid_cross_entropy, normal(4), uniform(4)
    ),
    "softmax": Case(
        SoftmaxCrossEntropy(), softmax_cross_entropy, normal((4, 3)), np.array([2, 0, 0, 1])
    ),
    "softmax of one class": Case(
        SoftmaxCrossEntropy(), softmax_cross_entropy, normal((2, 1)), np.array([0, 0])
    ),
    "softmax over positions": Case(
        SoftmaxCrossEntropy(),
        softmax_cross_entropy,
        normal((2, 3, 4)),
        random.integers(0, 4, (2, 3)),
    ),
}
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
over_losses = pytest.mark.parametrize(
    "loss", [SquaredError(), SigmoidCrossEntropy(), SoftmaxCrossEntropy()], ids=repr
)


SAME_SHAPE = [SquaredError(), SigmoidCrossEntropy()]  # of prediction and target


def like(shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def by_hand(loss, prediction, target, dvalue):
    value, cache = loss.forward(prediction, target)
    return value, loss.backward(cache, dvalue)


def by_vjp(loss, prediction, target, dvalue):
    value, vjp = jax.vjp(lambda p: loss.forward(p, target)[0], prediction)
    return value, *vjp(dvalue)


hand, auto = (jax.jit(f, static_argnums=0) for f in (by_hand, by_vjp))
over_gradients = pytest.mark.parametrize("gradient", [hand, auto], ids=["hand", "vjp"])
ONE = np.float32(1)


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
    for (got, by_autodiff), want in zip(results, (each.mean(), each), strict=True):
        np.testing.assert_allclose(got[0], want, rtol=FLOAT64)
        assert_agree(got, by_autodiff, FLOAT64)


def test_squared_error_is_the_lectures_sum_without_a_half():
    p = np.array([[1, 2], [3, 5]], np.float32)
    value, dp = hand(SquaredError(), p, np.zeros_like(p), ONE)
    assert value == (1 + 4 + 9 + 25) / 2
    np.testing.assert_array_equal(dp, [[1, 2], [3, 5]])


@pytest.mark.parametrize("classes", [2, 10])
def test_a_guess_costs_the_log_of_the_number_of_classes(classes):
    logits = np.zeros((4, classes), np.float32)
    value, _ = hand(SoftmaxCrossEntropy(), logits, np.zeros(4, int), ONE)
    np.testing.assert_allclose(value, np.log(classes), rtol=1e-6)


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

    def values_shape(self, cache):
        return cache.shape[:-1]


def test_a_new_loss_states_values_pull_and_shape(x64):
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
    loss, cache = SquaredError(), jnp.ones((2, 3))
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
def test_softmax_is_finite_and_right_for_extreme_logits(gradient):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-np.inf, 0, 0]], np.float32)
    labels, dvalue = np.array([0, 1, 2]), np.ones(3, np.float32)
    value, ds = gradient(SoftmaxCrossEntropy().each(), logits, labels, dvalue)
    np.testing.assert_allclose(value, [0, 2e4, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(ds, [[0, 0, 0], [1, -1, 0], [0, 0.5, -0.5]], rtol=1e-6)


@over_gradients
def test_sigmoid_is_finite_and_right_for_extreme_logits(gradient):
    logits, target = np.array([[1e4, 1e4, -1e4, -1e4], [1, 0, 1, 0]], np.float32)
    value, ds = gradient(SigmoidCrossEntropy().each(), logits, target, np.ones(4, np.float32))
    np.testing.assert_array_equal(value, [0, 1e4, 1e4, 0])
    np.testing.assert_array_equal(ds, [0, 1, -1, 0])


def test_a_shift_of_all_logits_costs_no_digits():
    logits, labels = random.integers(-4, 5, (4, 3)).astype(np.float32), np.array([0, 1, 2, 0])
    far = logits + np.float32(2**14)
    assert_agree(*(hand(SoftmaxCrossEntropy(), s, labels, ONE) for s in (far, logits)))


def test_ruling_out_the_right_class_costs_infinitely_much():
    logits = np.array([[-np.inf, 0]], np.float32)
    assert hand(SoftmaxCrossEntropy(), logits, np.array([0]), ONE)[0] == np.inf


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
    *((SoftmaxCrossEntropy(), p, t) for p, t in [
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
    target = like(t, "int32" if loss == SoftmaxCrossEntropy() else "float32")
    with pytest.raises(LayerError, match=re.escape(f"{p}")) as error:
        loss.forward(like(p), target)
    assert f"{t}" in str(error.value)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_logits_of_a_softmax_have_a_last_axis_of_classes(shape):
    with pytest.raises(LayerError, match=r"it must be logits \(n, ..., k\)"):
        SoftmaxCrossEntropy().forward(like(shape), like(shape, "int32"))


@over_losses
def test_no_examples_and_no_positions_are_refused(loss):
    softmax = loss == SoftmaxCrossEntropy()
    for shape in [(0, 3), (2, 0, 3)] if softmax else [(0, 3)]:
        target = like(shape[:-1], "int32") if softmax else like(shape)
        with pytest.raises(LayerError, match="it must hold an example or more"):
            loss.forward(like(shape), target)


@over_losses
def test_a_prediction_of_integers_is_refused(loss):
    target = like((4,), "int32") if loss == SoftmaxCrossEntropy() else like((4, 3))
    with pytest.raises(LayerError, match="it must be floating point"):
        loss.forward(like((4, 3), "int32"), target)


LABELS = {
    "floats": (like((4,)), r"labels.astype\('int32'\)"),
    "truths": (like((4,), "bool"), r"labels.astype\('int32'\)"),
    "one-hot": (like((4, 3)), r"labels.argmax\(axis=-1\)"),
    "one-hot truths": (like((4, 3), "bool"), r"labels.argmax\(axis=-1\)"),
    "one-hot integers": (like((4, 3), "int32"), r"labels.argmax\(axis=-1\)"),
}


@pytest.mark.parametrize("labels, mend", LABELS.values(), ids=LABELS)
def test_labels_that_are_no_class_numbers_are_refused_with_the_mend(labels, mend):
    with pytest.raises(LayerError, match=mend):
        SoftmaxCrossEntropy().forward(like((4, 3)), labels)


@over_losses
def test_a_dvalue_unlike_the_value_is_refused(loss):
    target = like((2,), "int32") if loss == SoftmaxCrossEntropy() else like((2, 3))
    for form, wrong in ((loss, (2,)), (loss, (1,)), (loss.each(), ()), (loss.each(), (1,))):
        with pytest.raises(LayerError, match="it must have the value's shape"):
            jax.eval_shape(partial(by_hand, form), like((2, 3)), target, like(wrong))


# Labels out of range


@pytest.mark.parametrize("label", [3, -1, 255, -(2**31)])
@over_gradients
def test_under_jit_a_label_out_of_range_gives_nan_and_no_gradient(gradient, label):
    logits = normal((3, 3)).astype(np.float32)
    good, bad = np.array([1, 2, 0]), np.array([1, label, 0])
    loss = SoftmaxCrossEntropy()
    ones = np.ones(3, np.float32)
    values, ds = gradient(loss.each(), logits, bad, ones)
    want, want_ds = hand(loss.each(), logits, good, ones)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    np.testing.assert_array_equal(ds[1], np.zeros(3))
    np.testing.assert_array_equal(values[::2], want[::2])
    np.testing.assert_allclose(ds[::2], want_ds[::2], rtol=1e-6, atol=1e-7)
    assert np.isnan(gradient(loss, logits, bad, ONE)[0])


@pytest.mark.parametrize("classes", [128, 256, 300])
def test_labels_of_small_integer_dtypes_mean_the_same(classes):
    # 256 classes of bytes, for one, have labels uint8, which cannot hold the number 256 itself.
    loss = SoftmaxCrossEntropy()
    logits = normal((3, classes)).astype(np.float32)
    dtypes = ["int32", "int8", "uint8"]

    @jax.jit
    def everything(labels):
        return [(*by_hand(loss, logits, v, ONE), loss.correct(logits, v)) for v in labels]

    # Counted modulo 256 this guess would be the label.
    logits[1, min(7 + 256, classes - 1)] = 9
    want, *others = everything([np.array([0, 7, 127], dtype) for dtype in dtypes])
    assert want[2][1] == 0
    for got in others:
        assert_agree(got, want)


VALUES = {
    "one too many": ([0, 3], "1 of 2 labels lie outside 0..2, the first being 3 at index 1; mend"),
    "minus one": ([-1, 0], "1 of 2 labels lie outside 0..2, the first being -1 at index 0; mend"),
    "ignore": ([255, 255], "2 of 2 labels lie outside 0..2, the first being 255 at index 0; mend"),
    "from one": ([1, 2, 3], "3 at index 2; subtract 1 from labels that start at 1"),
}


@pytest.mark.parametrize("labels, message", VALUES.values(), ids=VALUES)
def test_labels_out_of_range_are_found_in_the_data_with_the_mend(labels, message):
    labels = np.array(labels)
    with pytest.raises(LayerError, match=re.escape(message)) as error:
        SoftmaxCrossEntropy().check_values(like((len(labels), 3)), labels)
    assert "or give the last layer more outputs" in str(error.value)


def test_labels_of_positions_are_found_by_both_indices():
    with pytest.raises(LayerError, match=re.escape("the first being 4 at index (1, 0)")):
        SoftmaxCrossEntropy().check_values(like((2, 2, 4)), np.array([[0, 1], [4, 3]]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_labels_at_both_ends_of_the_range_are_right(dtype):
    SoftmaxCrossEntropy().check_values(like((2, 128)), np.array([0, 127], dtype))


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
    target = np.zeros((4, 1), int if loss == SoftmaxCrossEntropy() else float)
    with pytest.raises(LayerError, match=re.escape("(4, 1)")):
        loss.check_values(like((4, 3)), target)


# Accuracy


@partial(jax.jit, static_argnums=0)
def correct(loss, prediction, target):
    return loss.correct(prediction, target)


def test_an_answer_is_right_where_the_largest_logit_is():
    logits = np.array([[1, 3, 2], [5, 5, 0], [0, 0, 1]], np.float32)
    labels = np.array([1, 1, 2])
    np.testing.assert_array_equal(correct(SoftmaxCrossEntropy(), logits, labels), [1, 0, 1])
    positions = correct(SoftmaxCrossEntropy(), logits[None], labels[None])
    np.testing.assert_allclose(positions, [2 / 3], rtol=1e-6)


def test_a_yes_or_no_is_right_where_the_sign_is():
    logits = np.array([[2, -1], [0, 1]], np.float32)
    right = correct(SigmoidCrossEntropy(), logits, np.array([[1, 0], [1, 1]]))
    np.testing.assert_array_equal(right, [1, 0.5])


def test_a_distance_is_neither_right_nor_wrong():
    assert SquaredError().correct(np.ones(2), np.ones(2)) is None


def test_accuracy_is_nan_for_predictions_that_are_not_finite():
    bad = np.array([[np.nan, 0], [0, np.nan], [np.inf, 0], [0, 1]], np.float32)
    right = correct(SoftmaxCrossEntropy(), bad, np.array([0, 0, 0, 1]))
    np.testing.assert_array_equal(right, [np.nan, np.nan, np.nan, 1])
    right = correct(SigmoidCrossEntropy(), bad, np.zeros((4, 2), np.float32))
    np.testing.assert_array_equal(right, [np.nan, np.nan, np.nan, 0.5])


def test_accuracy_can_be_counted_in_float64_programs(x64):
    right = correct(SoftmaxCrossEntropy(), np.eye(2), np.array([0, 0], np.int32))
    np.testing.assert_array_equal(right, [1, 0])
