"""The lines of a run."""

import io
import sys

from jnn.report import follow
from jnn.training import Evaluation, Progress

RECORDS = [
    Progress(5, 20, 0.5, 1.5, 0.25, 1000.0, None, None),
    Progress(10, 20, 1.0, 1.25, 0.5, 1000.0, Evaluation(1.0, 0.75, 8), None),
    Progress(20, 20, 2.0, 0.5, None, 1000.0, None, None),
]


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
