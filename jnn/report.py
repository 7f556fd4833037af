"""What a person sees in a terminal: the network as a table, and a run as it goes."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jnn.layer import Cache, Eval, Layer, Mode, Params
from jnn.tables import table

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


class Row(NamedTuple):
    """One leaf layer in a `summary`."""

    path: str
    layer: Layer
    shape: tuple[int, ...]  # of the output, for one example
    parameters: int
    cache_bytes: int  # for one example, not counting arrays that an earlier layer keeps already


class Summary(tuple[Row, ...]):
    """The rows of a `summary`; as a string, a table with totals."""

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "cache bytes an example")
        rows = [
            (
                row.path,
                repr(row.layer),
                "x".join(str(d) for d in row.shape),
                f"{row.parameters:,}",
                f"{row.cache_bytes:,}",
            )
            for row in self
        ]
        size, kept = sum(row.parameters for row in self), sum(row.cache_bytes for row in self)
        return table(head, rows, ("total", "", "", f"{size:,}", f"{kept:,}"), left=2)


def summary(net: Layer, x: Any) -> Summary:
    """The leaves of a network as they meet an example like x[0]: shapes, parameters, cache bytes.

    Nothing is computed: shapes are traced. Where two layers keep the same array, as a ReLU its
    output and the Dense after it its input, it is counted once, with the first.

    >>> import jax.numpy as jnp, jnn
    >>> print(summary(jnn.Serial(jnn.Dense(16), jnn.ReLU(), jnn.Dense(3)), jnp.ones((1, 4))))
    layer   kind       output  parameters  cache bytes an example
    -------------------------------------------------------------
    dense1  Dense(16)      16          80                      16
    relu1   ReLU()         16           0                      64
    dense2  Dense(3)        3          51                       0
    -------------------------------------------------------------
    total                             131                      80
    """
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise ValueError(
            f"summary: x is a {type(x).__name__}; give examples (n, ...), or one's shape "
            "as a jax.ShapeDtypeStruct"
        )
    rows: list[Row] = []
    seen: list[Any] = []  # the arrays themselves: an id may be used again once they are gone

    def record(path: str, layer: Layer, params: Params, y: Any, cache: Cache) -> None:
        new = [leaf for leaf in jax.tree.leaves(cache) if not any(leaf is s for s in seen)]
        seen.extend(new)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        rows.append(Row(path, layer, y.shape[1:], size, sum(leaf.nbytes for leaf in new)))

    example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)

    def trace(key: jax.Array, x: jax.Array) -> jax.Array:
        params, state = net.init(key, x)
        return _recording(net, (), record).forward(params, x, Eval(state))[0]

    jax.eval_shape(trace, jax.eval_shape(jax.random.key, 0), example)
    return Summary(rows)


@dataclass(frozen=True)
class _Recorder(Layer):
    """A leaf that tells what passes through it."""

    path: str
    layer: Layer
    record: Callable[[str, Layer, Params, Any, Cache], None]

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        y, cache = self.layer.forward(params, x, mode)
        self.record(self.path, self.layer, params, y, cache)
        return y, cache


def _recording(layer: Layer, path: tuple[str, ...], record: Callable[..., None]) -> Layer:
    """The network with every leaf replaced by one that calls `record`."""
    if not layer.children:
        return _Recorder(".".join(path) or "net", layer, record)
    return layer.map(lambda name, child: _recording(child, (*path, name), record))
