"""Pictures of results, by matplotlib (`pip install 'jnn[run]'`)."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

__all__ = ["check_new", "decision_boundary", "images", "learning_curves", "lines", "save"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jnn.training import Progress


def learning_curves(history: Sequence["Progress"], title: str = "") -> "Figure":
    """Loss, and accuracy where there is one, by epoch, for training and validation."""
    scored = history[-1].accuracy is not None
    figure, axes = _figure(1 + scored)
    epochs = [record.epoch for record in history]
    validated = [(record.epoch, record.validation) for record in history if record.validation]
    for ax, quantity in zip(axes, ("loss", "accuracy"), strict=False):
        ax.plot(
            epochs, [getattr(record, quantity) for record in history], label="training", marker="."
        )
        if validated:
            values = [getattr(evaluation, quantity) for _, evaluation in validated]
            ax.plot([epoch for epoch, _ in validated], values, label="validation", marker=".")
        ax.set(xlabel="epoch", ylabel=quantity)
        ax.legend(frameon=False)
    axes[0].set(yscale="log")
    figure.suptitle(title)
    return figure


def decision_boundary(
    predict: Callable[[np.ndarray], Any], x: np.ndarray, y: np.ndarray, title: str = ""
) -> "Figure":
    """What a classifier of points in the plane decides everywhere, and the points it was given.

    `predict` takes points (m, 2) and returns scores (m, k) or classes (m,).
    """
    figure, (ax,) = _figure(1)
    low, high = x.min(axis=0) - 0.1, x.max(axis=0) + 0.1
    grid = np.stack(np.meshgrid(*(np.linspace(low[i], high[i], 300) for i in (0, 1))), axis=-1)
    decided = np.asarray(predict(grid.reshape(-1, 2).astype(np.float32)))
    classes = decided.argmax(axis=-1) if decided.ndim == 2 else decided
    style = {"cmap": "viridis", "vmin": 0, "vmax": y.max()}
    ax.pcolormesh(grid[..., 0], grid[..., 1], classes.reshape(grid.shape[:2]), alpha=0.35, **style)
    ax.scatter(x[:, 0], x[:, 1], c=y, s=14, edgecolors="white", linewidths=0.4, **style)
    ax.set(aspect="equal", title=title)
    return figure


def lines(curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> "Figure":
    """Named curves over 1, 2, 3, ... on a logarithmic scale, as for losses by epoch."""
    figure, (ax,) = _figure(1)
    from matplotlib.ticker import MaxNLocator

    for name, values in curves.items():
        ax.plot(range(1, len(values) + 1), values, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return figure


def images(
    pictures: np.ndarray,
    titles: Sequence[str],
    columns: int,
    signed: Sequence[bool],
    caption: str = "",
) -> "Figure":
    """Small images (m, height, width) in rows; a signed one runs from blue over white to red."""
    rows = -(-len(pictures) // columns)
    figure = _new_figure(figsize=(1.2 * columns, 1.4 * rows), layout="constrained")
    figure.suptitle(caption, fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid:
        ax.axis("off")
    for ax, picture, title, is_signed in zip(grid, pictures, titles, signed, strict=False):
        most = abs(picture).max()
        ax.imshow(
            picture, cmap="RdBu_r" if is_signed else "gray_r", vmin=-most * is_signed, vmax=most
        )
        ax.set_title(title, fontsize=9)
    return figure


def check_new(path: str | os.PathLike[str]) -> None:
    """Raises where `save` would (ValueError, OSError, ImportError), before the work to be drawn."""
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is not overwritten; choose another name")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path} must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it first")
    _new_figure()
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


def _figure(panels: int) -> tuple["Figure", list["Axes"]]:
    figure = _new_figure(figsize=(5 * panels, 4), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _new_figure(**options: Any) -> "Figure":
    try:
        # Not pyplot: a figure of its own changes no global state and opens no window.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'jnn[run]'") from error
    return Figure(**options)
