"""Pictures are written whole or not at all, and nothing is overwritten."""

import sys

import numpy as np
import pytest

from jnn import plots
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
