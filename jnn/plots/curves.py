"""Curves: what a number did while training went on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jnn.plots.checks import all_positive, by_name, vector
from jnn.plots.figures import COLOURS, INK, WARNING, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jnn.training import Progress

USUAL_RATIO = 1e-3  # the lectures' rule of thumb for updates against weights
MANY = 40  # points of a curve beyond which markers would run together


def learning_curves(history: Sequence["Progress"], title: str = "") -> "Figure":
    """Loss, and accuracy where there is one, by epoch, with the gap to validation shaded.

    `history` holds the records of `jnn.run` or `jnn.fit`. The legends give the gap at the last
    validation. Training is the mean over an epoch whose weights still change, validation is
    measured at its end: early on the gap may be negative. Both are drawn without the penalty.
    Raises ValueError where `history` is empty or no list of records.

    >>> from jnn.training import Evaluation, Progress
    >>> end = Evaluation(0.5, 0.8, 100)
    >>> sheet = learning_curves([Progress(9, 9, 1.0, 0.4, 0.9, 1e3, end, None)])
    >>> [text.get_text() for text in sheet.axes[1].get_legend().get_texts()]
    ['training', 'validation', 'gap 10.0 points']
    """
    if not history or not all(hasattr(record, "validation") for record in history):
        raise ValueError(
            f"learning_curves: history is {'empty' if not history else type(history).__name__}; "
            "give a list of the records of jnn.run, or the history of jnn.fit"
        )
    scored = history[-1].accuracy is not None
    sheet, axes = figure(1 + scored, title=title)
    for ax, quantity in zip(axes, ("loss", "accuracy"), strict=False):
        train = [getattr(r, quantity) - r.penalty * (quantity == "loss") for r in history]
        ax.plot([r.epoch for r in history], train, label="training", **_marks(history))
        judged = [
            (r.epoch, value, getattr(r.validation, quantity))
            for r, value in zip(history, train, strict=True)
            if r.validation
        ]
        if judged:
            epochs, train, held_out = zip(*judged, strict=True)
            ax.plot(epochs, held_out, label="validation", **_marks(judged))
            gap = held_out[-1] - train[-1]
            text = f"gap {-100 * gap:.1f} points" if quantity == "accuracy" else f"gap {gap:.3g}"
            ax.fill_between(epochs, train, held_out, color=COLOURS[1], alpha=0.15, lw=0, label=text)
        ax.set(xlabel="epoch", ylabel=quantity)
        ax.legend(frameon=False)
    _log_if_positive(axes[0])
    return sheet


def lines(
    curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, title: str = ""
) -> "Figure":
    """Named curves over 1, 2, 3, ... on a logarithmic scale, as for losses by epoch.

    Raises ValueError where there is no curve, or one is not (m,).

    >>> len(lines({"relu": [1.0, 0.5], "tanh": [1.0, 0.7, 0.6]}, "epoch", "loss").axes[0].lines)
    2
    """
    from matplotlib.ticker import MaxNLocator

    sheet, (ax,) = figure(title=title)
    for name, values in by_name("curves", curves).items():
        ax.plot(range(1, len(values) + 1), vector(f"curves[{name!r}]", values), label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    _log_if_positive(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return sheet


def update_ratios(steps: Any, ratios: Mapping[str, Any], title: str = "") -> "Figure":
    """Norm of the update over norm of the weights, layer by layer, beside the usual 1e-3.

    Shapes: steps (m,); ratios {path: (m,)}, drawn from first layer (dark) to last (light). Zeros
    and what is not finite leave a gap in the line, for a logarithmic axis has no room for them.
    Raises ValueError where there is none, or lengths differ.

    >>> sheet = update_ratios([0, 50], {"dense1": [1e-2, 1e-3], "dense2": [3e-3, 2e-3]})
    >>> [line.get_label() for line in sheet.axes[0].lines]
    ['dense1', 'dense2', 'usual: 0.001']
    """
    sheet, (ax,) = figure(title=title, size=(6.5, 4))
    _by_layer(ax, steps, "ratios", ratios)
    ax.axhline(USUAL_RATIO, color=WARNING, ls="--", lw=1, label=f"usual: {USUAL_RATIO:g}")
    ax.set(xlabel="step", ylabel="|update| / |weights|", yscale="log")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return sheet


def noise_scales(steps: Any, scales: Mapping[str, Any], title: str = "") -> "Figure":
    """The batch at which a layer's gradient is half noise, as `diagnostics.noise_scales` tells it.

    Shapes: steps (m,); scales {path: (m,)}, drawn from first layer (dark) to last (light), and that
    of the network, "all", as a broad line. Where noise is all that is seen there is a gap.
    Raises ValueError where there is none, or lengths differ.

    >>> sheet = noise_scales([0, 50], {"dense1": [9.0, 30.0], "all": [8.0, 40.0]})
    >>> [line.get_label() for line in sheet.axes[0].lines]
    ['dense1', 'all']
    """
    sheet, (ax,) = figure(title=title, size=(6.5, 4))
    layers = {path: values for path, values in scales.items() if path != "all"}
    at = _by_layer(ax, steps, "scales", layers)
    if "all" in scales:
        whole = vector("scales['all']", scales["all"], len(at), "steps")
        ax.plot(at, whole, color=INK, lw=3, label="all")
    ax.set(xlabel="step", ylabel="batch of as much signal as noise", yscale="log")
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return sheet


def learning_rates(
    rates: Any, losses: Any, suggestion: float | None = None, title: str = ""
) -> "Figure":
    """A learning-rate finder's run: the loss at each rate, and the rate that it suggests.

    Shapes: rates (m,) above 0, losses (m,). The axis ends a little above the first loss, where a
    run that diverges leaves the picture; losses that are not finite are not drawn.
    Raises ValueError where lengths differ, a rate or `suggestion` is not above 0, or no loss is
    finite.

    >>> sheet = learning_rates([1e-3, 1e-2, 1e-1], [2.3, 1.0, float("inf")], suggestion=3e-3)
    >>> sheet.axes[0].get_legend().get_texts()[0].get_text()
    'suggested: 0.003'
    """
    rate = all_positive("rates", vector("rates", rates))
    loss = vector("losses", losses, len(rate), "rates")
    finite = np.isfinite(loss)
    if not finite.any():
        raise ValueError("losses holds no finite number; begin the search at a smaller rate")
    sheet, (ax,) = figure(title=title, size=(6, 4))
    ax.plot(rate[finite], loss[finite])
    low, first = loss[finite].min(), loss[finite][0]
    room = (first - low) or abs(first) or 1.0
    top = min(loss[finite].max(), first + 0.5 * room)
    ax.set(xlabel="learning rate", ylabel="loss", xscale="log")
    ax.set(xlim=(rate.min(), rate.max()), ylim=(low - 0.1 * room, top + 0.1 * room))
    if suggestion is not None:
        (at,) = all_positive("suggestion", vector("suggestion", [suggestion]))
        ax.axvline(at, color=WARNING, ls="--", lw=1, label=f"suggested: {at:.3g}")
        ax.legend(frameon=False)
    if top < loss[finite].max() or not finite.all():
        ax.text(
            1, 1, "beyond: diverged", transform=ax.transAxes, ha="right", va="bottom", color=INK
        )
    return sheet


def _by_layer(ax: "Axes", steps: Any, name: str, values: Mapping[str, Any]) -> np.ndarray:
    """Draws a line for each layer, and returns the steps."""
    from matplotlib import colormaps

    at = vector("steps", steps)
    depth = np.linspace(0.05, 0.85, len(by_name(name, values)))
    for (path, given), colour in zip(values.items(), colormaps["viridis"](depth), strict=True):
        numbers = vector(f"{name}[{path!r}]", given, len(at), "steps")
        shown = np.where(np.isfinite(numbers) & (numbers > 0), numbers, np.nan)
        ax.plot(at, shown, color=colour, label=path, **_marks(at))
    return at


def _marks(points: Any) -> dict[str, Any]:
    return {"marker": "." if len(points) <= MANY else None}


def _log_if_positive(ax: "Axes") -> None:
    # A loss may reach 0, as a hinge does, and a logarithmic axis would lose it.
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    if (values[np.isfinite(values)] > 0).all():
        ax.set(yscale="log")
