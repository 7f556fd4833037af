"""Pictures made of small images: weights, mistakes, maps of the plane."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jnn.plots.figures import INK, figure, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGIBLE = 20  # classes up to which every cell of a confusion matrix has room for its count


def decision_boundary(
    predict: Callable[[np.ndarray], Any], x: np.ndarray, y: np.ndarray, title: str = ""
) -> "Figure":
    """What a classifier of points in the plane decides everywhere, and the points it was given.

    `predict` takes points (m, 2) and returns scores (m, k) or classes (m,).
    Shapes: x (n, 2), y (n,) classes from 0. Raises ValueError where they are not, or empty.

    >>> x, y = np.array([[-1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    >>> sheet = decision_boundary(lambda p: (p[:, 0] > 0).astype(int), x, y, "left or right")
    >>> sheet.axes[0].get_title()
    'left or right'
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or x.shape[1] != 2 or y.shape != x.shape[:1] or not len(x):
        raise ValueError(f"x is {x.shape} and y {y.shape}; they must be (n, 2) and (n,), n above 0")
    sheet, (ax,) = figure()
    low, high = x.min(axis=0) - 0.1, x.max(axis=0) + 0.1
    grid = np.stack(np.meshgrid(*(np.linspace(low[i], high[i], 300) for i in (0, 1))), axis=-1)
    decided = np.asarray(predict(grid.reshape(-1, 2).astype(np.float32)))
    classes = decided.argmax(axis=-1) if decided.ndim == 2 else decided
    style = {"cmap": "viridis", "vmin": 0, "vmax": y.max()}
    ax.pcolormesh(grid[..., 0], grid[..., 1], classes.reshape(grid.shape[:2]), alpha=0.35, **style)
    ax.scatter(x[:, 0], x[:, 1], c=y, s=14, edgecolors="white", linewidths=0.4, **style)
    ax.set(aspect="equal", title=title)
    return sheet


def images(
    pictures: np.ndarray,
    titles: Sequence[str],
    columns: int,
    signed: Sequence[bool],
    caption: str = "",
) -> "Figure":
    """Small images (m, height, width) in rows; a signed one runs from blue over white to red.

    Raises ValueError where there is no image, or not a title and a sign for each.

    >>> len(images(np.ones((3, 8, 8)), ["a", "b", "c"], 2, [False] * 3).axes)
    4
    """
    if np.ndim(pictures) != 3 or not len(pictures) or columns < 1:
        raise ValueError(
            f"pictures is {np.shape(pictures)} and columns {columns}; they must be "
            "(m, height, width) and a whole number, both above 0"
        )
    if not len(pictures) == len(titles) == len(signed):
        raise ValueError(
            f"{len(pictures)} pictures have {len(titles)} titles and {len(signed)} signs; "
            "each needs one of both"
        )
    rows = -(-len(pictures) // columns)
    sheet = new_figure(figsize=(1.2 * columns, 1.4 * rows), layout="constrained")
    sheet.suptitle(caption, fontsize=10)
    grid = sheet.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid:
        ax.axis("off")
    for ax, picture, title, is_signed in zip(grid, pictures, titles, signed, strict=False):
        _draw(ax, picture, is_signed)
        ax.set_title(title, fontsize=9)
    return sheet


def weights_as_images(
    w: Any, shape: tuple[int, ...], title: str = "", columns: int | None = None
) -> "Figure":
    """The weights of each unit of a first layer as the image that excites it most, side by side.

    Each is scaled to its own largest weight, symmetric about 0: red for and blue against, or, where
    `shape` has three channels, colours about a mid grey.

    Shapes: w (in, units); shape (height, width), (height, width, 1) or (height, width, 3), whose
    product is `in`. Raises ValueError where they are not.

    >>> sheet = weights_as_images(np.ones((64, 10)), (8, 8))
    >>> sheet.axes[0].get_images()[0].get_array().shape  # 2 rows of 5, a pixel between
    (17, 44)
    """
    w, shape = np.asarray(w, float), tuple(shape)
    if w.ndim != 2 or not w.size or w.shape[0] != np.prod(shape):
        raise ValueError(
            f"w is {w.shape} and shape {shape}; w must be (in, units) and in their product, "
            f"{np.prod(shape):g}"
        )
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            f"shape is {shape}; it must be (height, width) and 1 or 3 channels or none"
        )
    height, width, colour = *shape[:2], shape[2:] == (3,)
    units, channels = w.shape[1], shape[2:] if colour else ()
    columns = columns or _columns(units)
    rows = -(-units // columns)
    most = abs(w).max(axis=0)
    tiles = (w / np.where(most > 0, most, 1)).T.reshape(units, height, width, *channels)
    sheet_shape = (rows * (height + 1) - 1, columns * (width + 1) - 1)
    mosaic = np.full((*sheet_shape, *channels), 1.0 if colour else np.nan)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = (1 + tile) / 2 if colour else tile
    scale = min(1.0, 10 / (0.8 * columns))
    sheet = new_figure(
        figsize=(0.8 * scale * columns + 0.2, 0.8 * scale * rows * height / width + 0.4),
        layout="constrained",
    )
    sheet.suptitle(title, fontsize=10)
    ax = sheet.subplots()
    ax.axis("off")
    ax.imshow(mosaic, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    return sheet


def confusion(
    targets: Any,
    predictions: Any,
    classes: int | Sequence[str],
    x: Any = None,
    worst: int = 12,
    title: str = "",
) -> "Figure":
    """How often each class was taken for each other, and the worst mistakes as images.

    Rows are what it was, columns what it was taken for. What is right stands in grey on the
    diagonal; colour is for mistakes alone. The worst are those whose wrong score exceeds the right
    one by most; where only classes are given, the first of the commonest confusions.

    Shapes: targets (n,) classes from 0; predictions (n, k) scores or (n,) classes; `classes` k or
    k names; x (n, height, width), with or without channels (1 or 3).
    Raises ValueError where shapes do not fit, there is no example, or a class is out of range.

    >>> sheet = confusion([0, 1, 1], np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), ["cat", "dog"])
    >>> sheet.axes[0].get_title()
    '2 of 3 right (66.67%)'
    """
    names = [
        str(c) for c in (range(int(classes)) if isinstance(classes, int | np.integer) else classes)
    ]
    truth, given = np.asarray(targets), np.asarray(predictions)
    k, n = len(names), len(truth) if truth.ndim else 0
    if truth.shape != (n,) or not n or given.shape not in ((n,), (n, k)):
        raise ValueError(
            f"targets is {truth.shape}, predictions {given.shape} and there are {k} classes; they "
            f"must be (n,) and (n, {k}) scores or (n,) classes, n above 0"
        )
    said = given.argmax(axis=1) if given.ndim == 2 else given
    for name, labels in (("targets", truth), ("predictions", said)):
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= k:
            raise ValueError(
                f"{name} holds {labels.dtype} from {labels.min()} to {labels.max()}; "
                f"classes are integers from 0 to {k - 1}"
            )
    counts = np.zeros((k, k), int)
    np.add.at(counts, (truth, said), 1)
    wrong = np.flatnonzero(truth != said)
    if given.ndim == 2:
        badness = given[wrong, said[wrong]] - given[wrong, truth[wrong]]
    else:
        badness = counts[truth[wrong], said[wrong]]
    shown = wrong[np.argsort(-badness.astype(float), kind="stable")][:worst]
    pictures = None if x is None else _as_pictures(np.asarray(x), n)[shown]

    sheet = new_figure(figsize=(4.8 + 4.2 * (pictures is not None), 4.6), layout="constrained")
    sheet.suptitle(title, fontsize=11)
    if pictures is None:
        _matrix(sheet.subplots(), counts, names)
    else:
        left, right = sheet.subfigures(1, 2, width_ratios=(4.8, 4.2), squeeze=False)[0]
        _matrix(left.subplots(), counts, names)
        right.suptitle(
            "the worst mistakes" if len(shown) else "no mistakes", fontsize=10, color=INK
        )
        across = max(1, int(np.ceil(np.sqrt(len(shown)))))
        rows = max(1, -(-len(shown) // across))
        axes = right.subplots(rows, across, squeeze=False).ravel()
        for ax in axes:
            ax.axis("off")
        for ax, picture, i in zip(axes, pictures, shown, strict=False):
            _draw(ax, picture, signed=False)
            ax.set_title(f"{names[truth[i]]} as {names[said[i]]}", fontsize=9, color=INK)
    return sheet


def _columns(units: int) -> int:
    """Tiles in a row: a sheet somewhat wider than high, and few places left empty."""

    def cost(columns: int) -> float:
        empty = -(-units // columns) * columns - units
        return abs(np.log(columns**2 / (1.6 * units))) + 3 * empty / units

    return min(range(1, units + 1), key=cost)


def _matrix(ax: "Axes", counts: np.ndarray, names: Sequence[str]) -> None:
    k, right = len(names), int(np.trace(counts))
    mistakes = np.where(np.eye(k, dtype=bool), 0, counts)
    most = max(1, mistakes.max())
    ax.imshow(
        np.where(mistakes, mistakes, np.nan), cmap="Oranges", vmin=-0.3 * most, vmax=1.3 * most
    )
    if k <= LEGIBLE:
        size = 9 if k <= 12 else 6
        for i, j in np.argwhere(counts):
            ink = "#aaaaaa" if i == j else "white" if counts[i, j] > 0.8 * most else "black"
            ax.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=size, color=ink)
        ax.set(xticks=range(k), yticks=range(k))
        ax.set_xticklabels(names, rotation=90 if max(map(len, names)) > 3 else 0)
        ax.set_yticklabels(names)
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(1, k) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, k) - 0.5, minor=True)
    ax.grid(which="minor", color="#eeeeee", lw=0.8)
    ax.tick_params(which="both", length=0, labelsize=9, labelcolor=INK)
    ax.set_xlabel("taken for", color=INK)
    ax.set_ylabel("was", color=INK)
    total = counts.sum()
    ax.set_title(f"{right} of {total} right ({right / total:.2%})", fontsize=10, color=INK)


def _as_pictures(x: np.ndarray, n: int) -> np.ndarray:
    if len(x) != n or x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)):
        raise ValueError(
            f"x is {x.shape}; it must be ({n}, height, width), with 1 or 3 channels or none"
        )
    return x[..., 0] if x.shape[3:] == (1,) else x


def _draw(ax: "Axes", picture: np.ndarray, signed: bool) -> None:
    most = abs(picture).max()
    if picture.ndim == 3:
        ax.imshow(np.clip(picture / (most or 1), 0, 1))
    else:
        ax.imshow(picture, cmap="RdBu_r" if signed else "gray_r", vmin=-most * signed, vmax=most)
