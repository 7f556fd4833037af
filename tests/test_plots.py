"""Pictures are written whole or not at all, and nothing is overwritten."""

import sys

import numpy as np
import pytest

from jnn import plots
from jnn.search import log_uniform
from jnn.training import Evaluation, Progress

HISTORY = [
    Progress(10 * e, 30, float(e), 1 / e, 1 - 0.5 / e, 1e3, Evaluation(2 / e, 0.5, 8), None)
    for e in (1, 2, 3)
]


def drawn(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_learning_curves_show_loss_and_accuracy_of_training_and_validation():
    loss, accuracy = plots.learning_curves(HISTORY).axes
    assert drawn(loss) == {"training": [1, 1 / 2, 1 / 3], "validation": [2, 1, 2 / 3]}
    assert drawn(accuracy) == {"training": [0.5, 0.75, 1 - 0.5 / 3], "validation": [0.5] * 3}


def test_the_gap_leaves_out_the_penalty():
    history = [record._replace(penalty=record.loss / 2) for record in HISTORY]
    assert drawn(plots.learning_curves(history).axes[0])["training"] == [1 / 2, 1 / 4, 1 / 6]
    with pytest.raises(ValueError, match="history is Progress; give a list"):
        plots.learning_curves(HISTORY[0])


def test_learning_curves_leave_out_what_was_not_measured():
    history = [record._replace(accuracy=None, validation=None) for record in HISTORY]
    (loss,) = plots.learning_curves(history).axes
    assert set(drawn(loss)) == {"training"}


def test_the_decision_boundary_colours_the_plane_by_what_is_decided():
    x = np.array([[-1.0, 0.0], [1.0, 0.0]])
    figure = plots.decision_boundary(lambda p: (p[:, 0] > 0).astype(int), x, np.array([0, 1]))
    (ax,) = figure.axes
    mesh = ax.collections[0].get_array().reshape(300, 300)
    assert (mesh[:, :149] == 0).all() and (mesh[:, 151:] == 1).all()


def test_signed_images_are_centred_on_zero():
    figure = plots.images(np.array([[[1.0, -2.0]], [[1.0, 3.0]]]), "ab", 2, [True, False])
    limits = [ax.get_images()[0].get_clim() for ax in figure.axes]
    assert limits == [(-2, 2), (0, 3)]


def test_a_saved_picture_is_whole_and_never_overwrites(tmp_path):
    path = tmp_path / "curves.png"
    plots.save(plots.learning_curves(HISTORY), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="not overwritten"):
        plots.save(plots.learning_curves(HISTORY), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_fails_leaves_nothing_behind(tmp_path):
    figure = plots.learning_curves(HISTORY)
    figure.axes[0].set_title("$unfinished {formula$")
    with pytest.raises(ValueError, match="unfinished"):
        plots.save(figure, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_beforehand(tmp_path):
    for name, message in (("a.jpeg2", "must end in"), ("no/folder.png", "no folder")):
        with pytest.raises((ValueError, OSError), match=message):
            plots.check_new(tmp_path / name)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'jnn\[run\]'"):
        plots.learning_curves(HISTORY)


def test_learning_curves_shade_and_state_the_gap():
    loss, accuracy = plots.learning_curves(HISTORY).axes
    texts = [ax.get_legend().get_texts()[-1].get_text() for ax in (loss, accuracy)]
    assert texts == ["gap 0.333", "gap 33.3 points"]
    (shade,) = accuracy.collections
    assert shade.get_datalim(accuracy.transData).bounds == (1, 0.5, 2, 1 - 0.5 / 3 - 0.5)


def test_a_loss_that_reaches_zero_is_still_on_the_axis():
    assert plots.lines({"hinge": [1.0, 0.0]}, "epoch", "loss").axes[0].get_yscale() == "linear"
    assert plots.lines({"cross": [1.0, 0.1]}, "epoch", "loss").axes[0].get_yscale() == "log"


def test_histograms_share_x_and_count_what_they_do_not_draw():
    layers = {
        "dense1": np.array([[-2.0, 1.0], [1.0, 4.0]]),
        "relu1": np.array([0.0, 0.0, 2.0, np.nan]),
        "dead": np.zeros(3),
    }
    panels = plots.histograms(layers).axes
    assert [ax.get_title(loc="left").split("\n") for ax in panels] == [
        ["dense1", "mean 1, spread 2.1"],
        ["relu1", "mean 0.67, spread 0.94", "67% zero", "1 not finite"],
        ["dead", "mean 0, spread 0", "100% zero"],
    ]
    assert {ax.get_xlim() for ax in panels} == {(-2, 4)}
    heights = panels[0].patches[0].get_data().values
    assert heights.max() == 1 and np.count_nonzero(heights) == 3


def test_histograms_of_magnitudes_have_room_for_every_scale():
    panels = plots.histograms({"a": np.array([1.0, -10.0]), "b": np.array([1e-6])}, magnitudes=True)
    assert {ax.get_xlim() for ax in panels.axes} == {(-6, 1)}


def test_update_ratios_are_drawn_by_layer_beside_the_rule_of_thumb():
    (ax,) = plots.update_ratios([0, 50, 100], {"dense1": [1e-2, 0, 1e-4], "dense2": [1, 2, 3]}).axes
    curves = drawn(ax)
    np.testing.assert_equal(curves["dense1"], [1e-2, np.nan, 1e-4])
    assert curves["dense2"] == [1, 2, 3] and curves["usual: 0.001"] == [1e-3, 1e-3]
    assert ax.get_yscale() == "log"


def test_each_unit_of_weights_is_scaled_to_its_own_largest():
    w = np.stack([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [10.0, 5.0, 0.0, 0.0]], axis=1)
    (ax,) = plots.weights_as_images(w, (2, 2), columns=2).axes
    image = ax.get_images()[0]
    tiles = image.get_array().filled(np.nan)
    assert image.get_clim() == (-1, 1) and tiles.shape == (5, 5)
    np.testing.assert_equal(tiles[:2, :2], [[0.5, -1], [0.25, 0]])
    np.testing.assert_equal(tiles[:2, 3:], np.zeros((2, 2)))
    np.testing.assert_equal(tiles[3:, :2], [[1, 0.5], [0, 0]])
    assert np.isnan(tiles[2]).all() and np.isnan(tiles[3:, 3:]).all()


def test_weights_of_colour_images_are_about_mid_grey():
    (ax,) = plots.weights_as_images(np.array([[-1.0], [0.0], [1.0]]), (1, 1, 3)).axes
    np.testing.assert_equal(ax.get_images()[0].get_array(), [[[0, 0.5, 1]]])


def test_confusion_counts_and_shows_the_worst_mistakes_first():
    scores = np.array([[5.0, 0, 0], [1, 0, 3], [9, 0, 0], [0, 0, 1], [2, 0, 1]])
    x = np.arange(5.0)[:, None, None, None] * np.ones((1, 2, 2, 1))
    figure = plots.confusion([0, 0, 1, 2, 2], scores, "abc", x, worst=2)
    matrix, *worst = figure.axes
    cells = {
        (int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in matrix.texts
    }
    assert cells == {(0, 0): "1", (0, 2): "1", (1, 0): "1", (2, 0): "1", (2, 2): "1"}
    colours = matrix.get_images()[0].get_array().filled(np.nan)
    assert np.isnan(np.diag(colours)).all() and colours[1, 0] == 1
    assert [ax.get_title() for ax in worst] == ["b as a", "a as c"]
    assert worst[0].get_images()[0].get_array().max() == 2


def test_without_scores_the_commonest_confusion_is_the_worst():
    x = np.ones((4, 2, 2))
    _, *worst = plots.confusion([0, 0, 1, 1], np.array([1, 0, 0, 0]), 2, x).axes
    assert [ax.get_title() for ax in worst if ax.get_title()] == ["1 as 0", "1 as 0", "0 as 1"]


def test_without_mistakes_there_are_none_to_show():
    figure = plots.confusion([0, 1], np.array([0, 1]), 2, np.ones((2, 2, 2)))
    assert figure.axes[0].get_title() == "2 of 2 right (100.00%)"
    assert figure.subfigs[1].get_suptitle() == "no mistakes"


def test_the_finder_leaves_divergence_out_and_marks_its_suggestion():
    rates, losses = [1e-3, 1e-2, 1e-1, 1], [2.0, 1.0, 500.0, np.nan]
    (ax,) = plots.learning_rates(rates, losses, 0.005).axes
    assert ax.get_ylim() == (0.9, 2.6) and ax.get_xscale() == "log"
    assert ax.texts[0].get_text() == "beyond: diverged"
    assert list(drawn(ax)["suggested: 0.005"]) == [0, 1]


def test_a_search_marks_a_best_trial_on_the_border_and_trials_that_diverged():
    lr, seeds = np.geomspace(1e-4, 1, 9), np.arange(9)
    score = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.5, np.nan, 0.2, 0.1])
    inside, _, plane, _ = plots.search({"lr": lr, "seed": seeds}, score).axes
    assert inside.get_title() == "best 0.9 at 0.01"
    assert (inside.get_xscale(), plane.get_xscale(), plane.get_yscale()) == ("log", "log", "linear")
    assert [len(c.get_offsets()) for c in inside.collections] == [8, 1, 1]
    (low,) = plots.search({"lr": lr}, score, lowest=True).axes
    assert low.get_title() == "best 0.1 at 0.0001, the border: widen" and low.patches
    assert len(plots.search({"a": lr, "b": lr, "c": lr}, score).axes) == 3
    wide = {"lr": log_uniform(1e-6, 1)}
    (low,) = plots.search({"lr": lr}, score, lowest=True, space=wide).axes
    assert low.get_title() == "best 0.1 at 0.0001"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.learning_curves([]), "history is empty"),
        (lambda: plots.lines({}, "x", "y"), "curves is {}; it must be a dict of at least one"),
        (lambda: plots.lines({"a": []}, "x", "y"), r"curves\['a'\] has shape \(0,\)"),
        (lambda: plots.histograms({"a": np.zeros(0)}), r"layers \['a'\] hold no numbers"),
        (lambda: plots.update_ratios([1, 2], {"a": [1]}), "has 1 numbers and steps 2"),
        (lambda: plots.weights_as_images(np.ones((5, 2)), (2, 2)), r"w is \(5, 2\) and shape"),
        (lambda: plots.weights_as_images(np.ones((8, 2)), (2, 2, 2)), "1 or 3 channels"),
        (lambda: plots.confusion([0, 1], [0], 2), r"targets is \(2,\), predictions \(1,\)"),
        (lambda: plots.confusion([0, 2], [0, 1], 2), "targets holds int64 from 0 to 2"),
        (lambda: plots.confusion([0], [0], 2, np.ones((1, 4))), r"x is \(1, 4\); it must be \(1"),
        (lambda: plots.learning_rates([0, 1], [1, 1]), "rates runs from 0 to 1; it must be above"),
        (lambda: plots.learning_rates([1, 2], [np.nan] * 2), "no finite number"),
        (lambda: plots.search({"lr": [1]}, [np.nan]), "no finite number"),
        (lambda: plots.search({"lr": [np.nan]}, [1]), r"points \['lr'\] are not finite"),
        (lambda: plots.images(np.ones((2, 4)), [], 1, []), r"pictures is \(2, 4\)"),
        (lambda: plots.images(np.ones((1, 2, 2)), [], 1, []), "1 pictures have 0 titles"),
        (lambda: plots.decision_boundary(len, np.ones((2, 3)), np.ones(2)), r"x is \(2, 3\)"),
        (lambda: plots.figure(0), "at least one"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_every_picture_draws_without_a_warning(tmp_path):
    trials = {"lr": np.geomspace(1e-3, 1, 5), "l2": np.geomspace(1e-6, 1e-3, 5)}
    for i, figure in enumerate(
        [
            plots.histograms({"a": np.zeros(4), "b": np.arange(4.0)}, "title", magnitudes=True),
            plots.update_ratios([0], {"dense1": [0.0]}),
            plots.confusion([0], [1], 2, np.zeros((1, 4, 4, 3))),
            plots.confusion(np.arange(30), np.arange(30), 30),
            plots.learning_rates([1e-3, 1], [2.0, 2.0]),
            plots.search(trials, [1, np.nan, 1, 1, 1]),
        ]
    ):
        plots.save(figure, tmp_path / f"{i}.png")
