"""Many numbers at once: spreads by layer, and the trials of a search."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jnn.plots.checks import by_name, vector
from jnn.plots.figures import COLOURS, INK, WARNING, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 5  # histograms in a row
EDGE = 0.05  # of the range searched, in its own scale: nearer to an end is on the border


def histograms(
    layers: Mapping[str, Any], title: str = "", magnitudes: bool = False, bins: int = 60
) -> "Figure":
    """How activations or cotangents are spread in each layer: small histograms on one x axis.

    Each is as high as its own fullest bin, and above it stand mean and spread (standard deviation)
    of all its finite numbers. Exact zeros, such as of a ReLU, are not drawn but counted, and so is
    what is not finite. With `magnitudes` it is log10 |x|, for gradients that differ by orders of
    magnitude from layer to layer.

    Shapes: layers {path: array of any shape}.
    Raises ValueError where there is no layer, or an array holds nothing.

    >>> sheet = histograms({"dense1": np.array([-1.0, 1.0]), "relu1": np.array([0.0, 1.0])})
    >>> sheet.axes[1].get_title(loc="left")
    'relu1\\nmean 0.5, spread 0.5\\n50% zero'
    """
    values = {
        path: np.asarray(array, float).ravel() for path, array in by_name("layers", layers).items()
    }
    if empty := [path for path, array in values.items() if not array.size]:
        raise ValueError(f"layers {empty} hold no numbers; leave them out")
    drawn = {path: array[np.isfinite(array) & (array != 0)] for path, array in values.items()}
    if magnitudes:
        drawn = {path: np.log10(abs(array)) for path, array in drawn.items()}
    everything = np.concatenate(list(drawn.values()))
    ends = (everything.min(), everything.max()) if everything.size else (-1.0, 1.0)

    columns = min(ACROSS, len(values))
    rows = -(-len(values) // columns)
    sheet, axes = figure(columns, rows, title, size=(2.4, 2.0))
    edges = np.histogram_bin_edges([], bins, ends)
    for ax, (path, array) in zip(axes, values.items(), strict=False):
        counts, _ = np.histogram(drawn[path], edges)
        ax.stairs(counts / max(1, counts.max()), edges, fill=True, color=COLOURS[0])
        ax.set_title(f"{path}\n{_described(array)}", fontsize=8, color=INK, loc="left")
        ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.05), yticks=[])
        ax.spines["left"].set_visible(False)
    for ax in axes[len(values) :]:
        ax.axis("off")
    if magnitudes:
        sheet.supxlabel("log10 |x|", fontsize=9, color=INK)
    return sheet


def search(
    points: Mapping[str, Any],
    scores: Any,
    title: str = "",
    lowest: bool = False,
    space: Mapping[str, Any] | None = None,
) -> "Figure":
    """The trials of a hyper-parameter search: each parameter against the score, the best marked.

    Two parameters are drawn against each other as well, coloured by score. A parameter that is
    positive, spans a factor of 10 and lies more evenly in its logarithm gets a logarithmic axis.
    Where the best lies within 5% of an end of its range in `space`, that of the Sweep, or else of
    what was tried, that end is shaded and the panel says so: the truth may lie beyond.
    Trials without a finite score (diverged) are crosses.

    Shapes: points {name: (m,)}, scores (m,), the higher the better unless `lowest`.
    Raises ValueError where there is no parameter, lengths differ, a parameter is not finite, or no
    score is.

    >>> sheet = search({"lr": [1e-3, 1e-2, 1e-1]}, [0.3, 0.8, 0.9])
    >>> sheet.axes[0].get_title()
    'best 0.9 at 0.1, the border: widen'
    """
    score = vector("scores", scores)
    tried = {
        name: vector(f"points[{name!r}]", values, len(score), "scores")
        for name, values in by_name("points", points).items()
    }
    if bad := [name for name, values in tried.items() if not np.isfinite(values).all()]:
        raise ValueError(f"points {bad} are not finite; every trial needs its parameters")
    finite = np.isfinite(score)
    if not finite.any():
        raise ValueError("scores holds no finite number; there is nothing to compare")
    best = int((np.nanargmin if lowest else np.nanargmax)(np.where(finite, score, np.nan)))

    sheet, axes = figure(len(tried) + (len(tried) == 2), title=title, size=(4.4, 3.8))
    low, high = score[finite].min(), score[finite].max()
    for ax, (name, values) in zip(axes, tried.items(), strict=False):
        ax.scatter(values[finite], score[finite], s=16, color=COLOURS[0], alpha=0.7, lw=0)
        floor = high if lowest else low
        ax.scatter(
            values[~finite], np.full((~finite).sum(), floor), marker="x", s=18, color="#999999"
        )
        _star(ax, values[best], score[best])
        _scale(ax, name, values, "x")
        text = f"best {score[best]:.4g} at {values[best]:.3g}"
        ends = (values.min(), values.max())
        if space is not None:
            ends = (space[name].low, space[name].high)
        if end := _border(values, best, ends):
            _shade(ax, values, end)
            text += ", the border: widen"
        ax.set_title(text, fontsize=9, color=WARNING if end else INK)
    axes[0].set(ylabel="score")
    if len(tried) == 2:
        (a, x), (b, y) = tried.items()
        ax = axes[-1]
        dots = ax.scatter(x[finite], y[finite], c=score[finite], s=28, cmap="viridis", lw=0)
        ax.scatter(x[~finite], y[~finite], marker="x", s=18, color="#999999")
        _star(ax, x[best], y[best])
        _scale(ax, a, x, "x")
        _scale(ax, b, y, "y")
        bar = sheet.colorbar(dots, ax=ax, label="score")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return sheet


def _described(array: np.ndarray) -> str:
    finite = array[np.isfinite(array)]
    text = (
        f"mean {finite.mean():.2g}, spread {finite.std():.2g}" if finite.size else "nothing finite"
    )
    lines = [text]
    if zeros := (finite == 0).mean() if finite.size else 0:
        lines.append(f"{zeros:.0%} zero")
    if lost := len(array) - len(finite):
        lines.append(f"{lost:,} not finite")
    return "\n".join(lines)


def _logarithmic(values: np.ndarray) -> bool:
    """Whether trials lie more evenly in their logarithm, as those drawn log-uniformly do."""
    if values.min() <= 0 or values.max() < 10 * values.min():
        return False
    return _skew(np.log(values)) < _skew(values)


def _skew(values: np.ndarray) -> float:
    return abs((values.mean() - values.min()) / np.ptp(values) - 0.5)


def _border(values: np.ndarray, best: int, ends: tuple[float, float]) -> str:
    """Which end of the range the best trial lies at, "low", "high" or "" for neither."""
    place = np.log if _logarithmic(values) else np.asarray
    low, high = map(place, ends)
    if low == high:
        return ""
    fraction = (place(values[best]) - low) / (high - low)
    return "low" if fraction <= EDGE else "high" if fraction >= 1 - EDGE else ""


def _shade(ax: "Axes", values: np.ndarray, end: str) -> None:
    left, right = ax.get_xlim()
    span = (left, values.min()) if end == "low" else (values.max(), right)
    ax.axvspan(*span, color=WARNING, alpha=0.15, lw=0)
    ax.set(xlim=(left, right))


def _scale(ax: "Axes", name: str, values: np.ndarray, axis: str) -> None:
    scale = "log" if _logarithmic(values) else "linear"
    ax.set(**{f"{axis}label": name, f"{axis}scale": scale})


def _star(ax: "Axes", x: float, y: float) -> None:
    ax.scatter([x], [y], marker="*", s=130, color=COLOURS[1], edgecolors="white", zorder=3)
