"""The sheet that every picture is drawn on, and how it gets to disk."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by colour-blind readers too, and in grey.
COLOURS = ("#2f6690", "#e08e45", "#4c9f70", "#b5485d", "#8367a8", "#8a7f72", "#4fb0c6")
WARNING = "#b5485d"
INK = "#444444"


def figure(
    columns: int = 1, rows: int = 1, title: str = "", size: tuple[float, float] = (5.0, 4.0)
) -> tuple["Figure", list["Axes"]]:
    """An empty figure of rows x columns panels in the style of all others, and its axes in order.

    `size` is that of one panel, in inches. It changes no setting of matplotlib and opens no window.
    Raises ValueError where there is no panel, ImportError without matplotlib.

    >>> sheet, (left, right) = figure(2, title="two panels")
    >>> len(sheet.axes)
    2
    """
    if columns < 1 or rows < 1:
        raise ValueError(f"figure: {rows} x {columns} panels; it must have at least one")
    sheet = new_figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(sheet.subplots(rows, columns, squeeze=False).ravel())
    for ax in axes:
        ax.set_prop_cycle(color=COLOURS)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#999999")
        ax.tick_params(which="both", color="#999999", labelcolor=INK, labelsize=9)
        ax.xaxis.label.set_color(INK)
        ax.yaxis.label.set_color(INK)
    if title:
        sheet.suptitle(title, fontsize=11)
    return sheet, axes


def new_figure(**options: Any) -> "Figure":
    """A bare figure; says what to install where there is no matplotlib."""
    try:
        # Not pyplot: a figure of its own changes no global state and opens no window.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'jnn[run]'") from error
    return Figure(**options)


def check_new(path: str | os.PathLike[str]) -> None:
    """Raises where `save` would (ValueError, OSError, ImportError), before the work to be drawn."""
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not overwritten; choose another name")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path} must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it first")
    new_figure()
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def save(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure, whole or not at all. Raises FileExistsError rather than overwrite."""
    path = Path(path)
    check_new(path)
    half = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        figure.savefig(half, dpi=150)
        os.link(half, path)  # unlike a rename, refuses to replace what came in between
    finally:
        half.unlink(missing_ok=True)
