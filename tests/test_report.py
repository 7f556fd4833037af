"""Tables and lines."""

import io
import sys

import jax
import jax.numpy as jnp
import pytest

import jnn
from jnn.report import follow, summary
from jnn.training import Evaluation, Progress

NET = jnn.Serial(
    jnn.Flatten(), ("body", jnn.Serial(jnn.Dense(6), jnn.ReLU())), jnn.Dense(3, bias=False)
)
RECORDS = [
    Progress(5, 20, 0.5, 1.5, 0.25, 1000.0, None, None),
    Progress(10, 20, 1.0, 1.25, 0.5, 1000.0, Evaluation(1.0, 0.75, 8), None),
    Progress(20, 20, 2.0, 0.5, None, 1000.0, None, None),
]


def test_summary_has_a_row_for_each_leaf_with_path_shape_parameters_and_cache():
    rows = summary(NET, jnp.ones((7, 2, 5)))
    assert [row.path for row in rows] == ["flatten1", "body.dense1", "body.relu1", "dense1"]
    assert [row.shape for row in rows] == [(10,), (6,), (6,), (3,)]
    assert [row.parameters for row in rows] == [0, 66, 0, 18]
    # Dense keeps its input, ReLU its output, which is the next Dense's input and counted once.
    assert [row.cache_bytes for row in rows] == [0, 40, 24, 0]


def test_summary_counts_what_init_makes():
    params, _ = NET.init(jax.random.key(0), jnp.ones((1, 2, 5)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(row.parameters for row in summary(NET, jnp.ones((1, 2, 5)))) == total


def test_the_table_fits_80_columns_and_has_totals():
    lines = str(summary(NET, jnp.ones((1, 2, 5)))).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["total", "84", "64"]


@pytest.mark.parametrize("x", [{"w": 1}, (1, 5)])
def test_a_summary_of_what_is_no_array_is_refused(x):
    with pytest.raises(ValueError, match="summary: x is a"):
        summary(NET, x)


def test_off_a_terminal_a_run_is_one_line_an_epoch(capsys):
    assert list(follow(RECORDS)) == RECORDS
    first, second = capsys.readouterr().err.splitlines()
    expected = "epoch 1/2|loss 1.2500|accuracy  50.00%|validation loss 1.0000|accuracy  75.00%"
    assert first == expected.replace("|", "  ") + "  1,000 examples/s"
    assert "accuracy" not in second


def test_on_a_terminal_it_is_one_live_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(follow(RECORDS)) == RECORDS
    assert "epoch 2/2" in screen.getvalue()
    assert "\x1b[2K" in screen.getvalue()  # lines are erased, not added


def test_without_rich_the_lines_remain(monkeypatch, capsys):
    for module in ("rich", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    assert list(follow(RECORDS)) == RECORDS
    assert capsys.readouterr().err.count("\n") == 2
