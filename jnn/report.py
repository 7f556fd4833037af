"""What a person sees in a terminal of a run as it goes."""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from jnn.training import Progress


def describe(record: "Progress") -> str:
    """A record in one line.

    >>> from jnn.training import Progress
    >>> describe(Progress(90, 450, 2.0, 0.25, 0.9312, 51234.0, None, None))
    'epoch 2/10  loss 0.2500  accuracy  93.12%  51,234 examples/s'
    """
    epochs = round(record.epoch * record.steps / record.step)
    tenths = math.floor(10 * record.epoch) / 10  # 1.96 epochs are not yet 2
    done = f"{record.epoch:.0f}" if record.epoch.is_integer() else f"{tenths:.1f}"
    loss = f"{record.loss:.4f}" if record.loss < 1e4 else f"{record.loss:.2e}"
    parts = [f"epoch {done}/{epochs}", f"loss {loss}"]
    if record.accuracy is not None:
        parts.append(f"accuracy {record.accuracy:7.2%}")
    if record.validation is not None:
        parts.append(f"validation loss {record.validation.loss:.4f}")
        if record.validation.accuracy is not None:
            parts.append(f"accuracy {record.validation.accuracy:7.2%}")
    parts.append(f"{record.examples_per_second:,.0f} examples/s")
    return "  ".join(parts)


def follow(records: Iterable["Progress"]) -> Iterator["Progress"]:
    """The same records, shown on stderr as they pass: one live line on a terminal.

    Elsewhere (a file, CI), or where rich is not installed, a line for each epoch.
    """
    try:
        from rich.console import Console
    except ImportError:
        return _each_epoch(records)
    console = Console(stderr=True)
    return _live(records, console) if console.is_terminal else _each_epoch(records)


def _each_epoch(records: Iterable["Progress"]) -> Iterator["Progress"]:
    for record in records:
        if record.epoch.is_integer():
            print(describe(record), file=sys.stderr, flush=True)
        yield record


def _live(records: Iterable["Progress"], console: "Console") -> Iterator["Progress"]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(20), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console) as line:
        task = line.add_task("compiling", total=None)
        validation = None
        for record in records:
            validation = record.validation or validation
            text = describe(record._replace(validation=validation))
            line.update(task, description=text, completed=record.step, total=record.steps)
            yield record


def show(doing: str) -> AbstractContextManager[object]:
    """Shows on a terminal what is being done, for as long as the `with` block lasts. Needs rich."""
    from rich.console import Console

    return Console(stderr=True).status(doing)
