"""Losses of labels: far ends, kinks, smoothing, weights, labels ignored and out of range."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from loss_table import FLOAT64, ONE, auto, by_hand, hand, like, normal, random

from jnn import LayerError, MulticlassHinge, SoftmaxCrossEntropy

over_gradients = pytest.mark.parametrize("gradient", [hand, auto], ids=["hand", "vjp"])
over_kinds = pytest.mark.parametrize("kind", [SoftmaxCrossEntropy, MulticlassHinge])


@partial(jax.jit, static_argnums=0)
def correct(loss, prediction, target):
    return loss.correct(prediction, target)


# Values


@pytest.mark.parametrize("classes", [2, 10])
def test_a_guess_costs_the_log_of_the_number_of_classes(classes):
    logits = np.zeros((4, classes), np.float32)
    value, _ = hand(SoftmaxCrossEntropy(), logits, np.zeros(4, int), ONE)
    np.testing.assert_allclose(value, np.log(classes), rtol=1e-6)
    smoothed, _ = hand(SoftmaxCrossEntropy(0.1), logits, np.zeros(4, int), ONE)
    np.testing.assert_allclose(smoothed, np.log(classes), rtol=1e-6)


@over_gradients
def test_softmax_is_finite_and_right_for_extreme_logits(gradient):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-np.inf, 0, 0]], np.float32)
    labels, dvalue = np.array([0, 1, 2]), np.ones(3, np.float32)
    value, ds = gradient(SoftmaxCrossEntropy().each(), logits, labels, dvalue)
    np.testing.assert_allclose(value, [0, 2e4, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(ds, [[0, 0, 0], [1, -1, 0], [0, 0.5, -0.5]], rtol=1e-6)


def test_a_shift_of_all_logits_costs_no_digits():
    logits, labels = random.integers(-4, 5, (4, 3)).astype(np.float32), np.array([0, 1, 2, 0])
    far = logits + np.float32(2**14)
    assert_agree(*(hand(SoftmaxCrossEntropy(), s, labels, ONE) for s in (far, logits)))


def test_ruling_out_the_right_class_costs_infinitely_much():
    logits = np.array([[-np.inf, 0]], np.float32)
    assert hand(SoftmaxCrossEntropy(), logits, np.array([0]), ONE)[0] == np.inf


def test_smoothing_makes_a_ruled_out_class_infinitely_dear():
    logits = np.array([[-np.inf, 0]], np.float32)
    value, ds = hand(SoftmaxCrossEntropy(0.5), logits, np.array([1]), ONE)
    assert value == np.inf
    np.testing.assert_allclose(ds, [[-0.25, 0.25]])


def test_no_prediction_beats_the_smoothed_aim(x64):
    # There the cost is the entropy of the aim, and its slope is 0.
    aim = 0.8 * np.eye(4)[[1]] + 0.2 / 4
    value, ds = hand(SoftmaxCrossEntropy(0.2), np.log(aim), np.array([1]), np.float64(1))
    np.testing.assert_allclose(value, -(aim * np.log(aim)).sum(), rtol=FLOAT64)
    np.testing.assert_allclose(ds, np.zeros((1, 4)), atol=FLOAT64)


@pytest.mark.parametrize("classes", [2, 10])
def test_equal_scores_cost_a_margin_for_each_wrong_class(classes):
    scores = np.zeros((4, classes), np.float32)
    labels = np.arange(4) % classes
    assert hand(MulticlassHinge(), scores, labels, ONE)[0] == classes - 1
    assert hand(MulticlassHinge(0.5), scores, labels, ONE)[0] == (classes - 1) / 2


def test_the_hinge_is_that_of_the_lectures():
    # The cat, the car and the frog of CS231n, lecture 3.
    scores = np.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]], np.float32)
    values, ds = hand(MulticlassHinge().each(), scores, np.arange(3), np.ones(3, np.float32))
    np.testing.assert_allclose(values, [2.9, 0, 12.9], rtol=1e-6)
    np.testing.assert_array_equal(ds, [[-1, 1, 0], [0, 0, 0], [1, 1, -2]])


@over_gradients
def test_at_the_kink_of_the_hinge_the_slope_is_zero(gradient):
    # Class 1 keeps the margin exactly, class 2 misses it.
    scores, label = np.array([[3, 2, 2.5]], np.float32), np.array([0])
    value, ds = gradient(MulticlassHinge(), scores, label, ONE)
    assert value == 0.5
    np.testing.assert_array_equal(ds, [[-1, 0, 1]])


@over_gradients
def test_the_hinge_is_finite_and_right_for_extreme_scores(gradient):
    scores = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [-np.inf, 0, 0]], np.float32)
    labels, dvalue = np.array([0, 1, 2]), np.ones(3, np.float32)
    values, ds = gradient(MulticlassHinge().each(), scores, labels, dvalue)
    np.testing.assert_array_equal(values, [0, 30002, 1])
    np.testing.assert_array_equal(ds, [[0, 0, 0], [1, -2, 1], [0, 1, -1]])


# Weights and ignored labels

SCORES = normal((6, 3)).astype(np.float32)
LABELS = np.array([0, 2, -1, 1, -1, 0])
WEIGHTS = (1, 0.5, 3)


@over_kinds
def test_what_is_ignored_might_as_well_not_be_there(kind):
    kept = LABELS >= 0
    value, ds = hand(kind(weights=WEIGHTS, ignore=-1), SCORES, LABELS, ONE)
    want, want_ds = hand(kind(weights=WEIGHTS), SCORES[kept], LABELS[kept], ONE)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(ds[kept], want_ds, rtol=1e-6)
    np.testing.assert_array_equal(ds[~kept], np.zeros((2, 3)))


@over_gradients
@over_kinds
def test_what_is_ignored_or_weighs_nothing_may_even_be_nan(kind, gradient):
    loss = kind(weights=(1, 0.5, 0), ignore=-1)
    nothing = (LABELS == -1) | (LABELS == 2)
    spoilt = np.where(nothing[:, None], np.float32(np.nan), SCORES)
    assert_agree(gradient(loss, spoilt, LABELS, ONE), hand(loss, SCORES, LABELS, ONE), 1e-6)


@over_gradients
@pytest.mark.parametrize("labels", [[-1, -1], [1, 1], [-1, 1]])
@over_kinds
def test_where_nothing_counts_value_and_gradient_are_zero(kind, labels, gradient):
    loss = kind(weights=(1, 0, 1), ignore=-1)
    value, ds = gradient(loss, SCORES[:2], np.array(labels), ONE)
    assert value == 0
    np.testing.assert_array_equal(ds, np.zeros((2, 3)))
    np.testing.assert_array_equal(loss.weight(np.array(labels)), [0, 0])


@over_kinds
def test_equal_weights_change_nothing(kind):
    labels = np.abs(LABELS)
    for weights in ((1, 1, 1), (5, 5, 5)):
        got = hand(kind(weights=weights), SCORES, labels, ONE)
        assert_agree(got, hand(kind(), SCORES, labels, ONE), 1e-6)


@partial(jax.jit, static_argnums=0)
def sums(loss, scores, labels):
    """Of a batch: what the mean of the losses and of the right answers are the quotients of."""
    values, _ = loss.each().forward(scores, labels)
    summed = values, loss.weight(labels), loss.correct(scores, labels), loss.counted(labels)
    return jnp.stack([v.sum(dtype=float) for v in summed])


@over_kinds
def test_the_mean_over_batches_is_that_of_all_however_they_are_cut(kind, x64):
    scores, labels = normal((6, 2, 3)), np.stack([LABELS, LABELS[::-1]], axis=1)
    loss = kind(weights=WEIGHTS, ignore=-1)
    kept = labels >= 0
    mean, _ = hand(loss, scores, labels, np.float64(1))
    accuracy = (scores.argmax(-1) == labels)[kept].mean()
    for batch in (1, 4):
        cuts = [slice(i, i + batch) for i in range(0, 6, batch)]
        value, weight, right, counted = sum(sums(loss, scores[c], labels[c]) for c in cuts)
        np.testing.assert_allclose(value / weight, mean, rtol=FLOAT64)
        np.testing.assert_allclose(right / counted, accuracy, rtol=1e-6)


def test_without_weights_nothing_is_weighed():
    loss = SoftmaxCrossEntropy(smoothing=0.1)
    assert loss.weight(LABELS) is loss.counted(LABELS) is None
    _, (cache, _) = loss.forward(SCORES, np.abs(LABELS))
    assert loss.total(cache) is None
    assert SoftmaxCrossEntropy(weights=WEIGHTS).counted(LABELS) is None


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
def test_an_ignored_label_that_the_dtype_cannot_hold_is_nowhere(dtype):
    labels = np.array([0, 1, 2], dtype)
    want = hand(SoftmaxCrossEntropy(), SCORES[:3], labels.astype(int), ONE)
    for ignore in (-1000, 10**12):
        got = hand(SoftmaxCrossEntropy(ignore=ignore), SCORES[:3], labels, ONE)
        assert_agree(got, want, 1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_byte_of_255_can_be_ignored(dtype):
    labels = np.array([0, 255, 1], dtype)
    loss = SoftmaxCrossEntropy(ignore=255)
    np.testing.assert_array_equal(loss.weight(labels), [1, 0, 1])
    loss.check_values(like((3, 3)), labels)


@over_kinds
def test_a_class_may_be_ignored(kind):
    loss = kind(ignore=0)
    loss.check_values(like((6, 3)), np.abs(LABELS))
    value, _ = hand(loss, SCORES, np.abs(LABELS), ONE)
    want, _ = hand(kind(weights=(0, 1, 1)), SCORES, np.abs(LABELS), ONE)
    np.testing.assert_allclose(value, want, rtol=1e-6)


@over_gradients
@over_kinds
def test_ignoring_one_label_excuses_no_other(kind, gradient):
    loss = kind(weights=WEIGHTS, ignore=-1)
    values, ds = gradient(loss.each(), SCORES[:3], np.array([3, -1, -2]), np.ones(3, np.float32))
    np.testing.assert_array_equal(np.isnan(values), [True, False, True])
    np.testing.assert_array_equal(ds, np.zeros((3, 3)))
    with pytest.raises(LayerError, match=r"2 of 3 labels lie outside 0..2, the first being 3"):
        loss.check_values(like((3, 3)), np.array([3, -1, -2]))


@pytest.mark.parametrize("labels", [[-1, -1], [-1, 1]])
def test_data_of_which_nothing_counts_are_refused(labels):
    with pytest.raises(LayerError, match="none of the 2 labels counts"):
        SoftmaxCrossEntropy(weights=(1, 0), ignore=-1).check_values(like((2, 2)), np.array(labels))


def test_labels_ignored_do_not_count_as_answers():
    scores = np.array([[1, 0], [1, 0], [np.nan, 0], [1, 0]], np.float32)
    loss, labels = SoftmaxCrossEntropy(ignore=-1), np.array([0, 1, -1, -1])
    np.testing.assert_array_equal(correct(loss, scores, labels), [1, 0, 0, 0])
    np.testing.assert_array_equal(loss.counted(labels), [1, 1, 0, 0])
    np.testing.assert_array_equal(correct(loss, scores[None, :2], labels[None, ::2]), [0.5])
    np.testing.assert_array_equal(loss.counted(labels[None, ::2]), [0.5])


def test_weights_must_be_as_many_as_classes():
    with pytest.raises(LayerError, match=r"there are 2 weights; .* one for each of the 3 classes"):
        SoftmaxCrossEntropy(weights=(1, 2)).forward(like((4, 3)), like((4,), "int32"))


@pytest.mark.parametrize(
    "weights", [(), (0, 0), (-1, 2), (np.nan, 1), (np.inf, 1), "ab", 3, ("1", "2"), ((1, 2),)]
)
def test_bad_weights_are_refused(weights):
    with pytest.raises(LayerError, match=r"weights is .*; it must be a tuple of finite numbers"):
        SoftmaxCrossEntropy(weights=weights)


@pytest.mark.parametrize("weights", [[1, 2], np.array([1, 2]), np.float32([1, 2])])
def test_weights_of_any_number_type_are_plain_numbers(weights):
    loss = MulticlassHinge(weights=weights)
    assert loss == MulticlassHinge(weights=(1.0, 2.0)) and hash(loss)
    assert repr(loss) == "MulticlassHinge(weights=(1.0, 2.0))"


@pytest.mark.parametrize("ignore", [1.0, "255", True, (1,)])
def test_a_bad_label_to_ignore_is_refused(ignore):
    with pytest.raises(LayerError, match=r"ignore is .*; it must be a label"):
        SoftmaxCrossEntropy(ignore=ignore)


@pytest.mark.parametrize("smoothing", [-0.1, 1, np.nan, "0.1", None])
def test_a_bad_smoothing_is_refused(smoothing):
    with pytest.raises(LayerError, match=r"smoothing is .*; it must be a number in \[0, 1\)"):
        SoftmaxCrossEntropy(smoothing)


@pytest.mark.parametrize("margin", [0, -1.0, np.inf, np.nan, "1", None])
def test_a_bad_margin_is_refused(margin):
    with pytest.raises(LayerError, match=r"margin is .*; it must be a finite number above 0"):
        MulticlassHinge(margin)


# Labels that are none


@pytest.mark.parametrize("shape", [(), (4,)])
def test_logits_of_a_softmax_have_a_last_axis_of_classes(shape):
    with pytest.raises(LayerError, match=r"it must be logits \(n, ..., k\)"):
        SoftmaxCrossEntropy().forward(like(shape), like(shape, "int32"))


NO_LABELS = {
    "floats": (like((4,)), r"labels.astype\('int32'\)"),
    "truths": (like((4,), "bool"), r"labels.astype\('int32'\)"),
    "one-hot": (like((4, 3)), r"labels.argmax\(axis=-1\)"),
    "one-hot truths": (like((4, 3), "bool"), r"labels.argmax\(axis=-1\)"),
    "one-hot integers": (like((4, 3), "int32"), r"labels.argmax\(axis=-1\)"),
}


@pytest.mark.parametrize("labels, mend", NO_LABELS.values(), ids=NO_LABELS)
def test_labels_that_are_no_class_numbers_are_refused_with_the_mend(labels, mend):
    with pytest.raises(LayerError, match=mend):
        SoftmaxCrossEntropy().forward(like((4, 3)), labels)


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


# Accuracy


def test_an_answer_is_right_where_the_largest_logit_is():
    logits = np.array([[1, 3, 2], [5, 5, 0], [0, 0, 1]], np.float32)
    labels = np.array([1, 1, 2])
    np.testing.assert_array_equal(correct(SoftmaxCrossEntropy(), logits, labels), [1, 0, 1])
    positions = correct(SoftmaxCrossEntropy(), logits[None], labels[None])
    np.testing.assert_allclose(positions, [2 / 3], rtol=1e-6)


def test_accuracy_can_be_counted_in_float64_programs(x64):
    right = correct(SoftmaxCrossEntropy(), np.eye(2), np.array([0, 0], np.int32))
    np.testing.assert_array_equal(right, [1, 0])
