"""What a person sees in a terminal of a run as it goes."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from jnn.training import Progress


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
            print(record, file=sys.stderr, flush=True)
        yield record


def _live(records: Iterable["Progress"], console: "Console") -> Iterator["Progress"]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(20), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console) as line:
        task = line.add_task("compiling", total=None)
        validation = None
        for record in records:
            validation = record.validation or validation
            text = str(record._replace(validation=validation))
            line.update(task, description=text, completed=record.step, total=record.steps)
            yield record


def show(doing: str) -> AbstractContextManager[object]:
    """Shows on a terminal what is being done, for as long as the `with` block lasts.

    Elsewhere, or where rich is not installed, nothing is shown.
    """
    try:
        from rich.console import Console
    except ImportError:
        return nullcontext()
    console = Console(stderr=True)
    return console.status(doing) if console.is_terminal else nullcontext()
