"""Pictures of results, by matplotlib (`pip install 'jnn[run]'`).

Every function takes plain arrays and returns a figure, which `save` writes; nothing is shown and no
setting of matplotlib is changed. Own drawings go on the axes of a `figure()`, or of any of these.
"""

from jnn.plots.curves import (
    learning_curves,
    learning_rates,
    lines,
    noise_scales,
    update_ratios,
)
from jnn.plots.distributions import histograms, search
from jnn.plots.figures import check_new, figure, save
from jnn.plots.pictures import confusion, decision_boundary, images, weights_as_images

__all__ = [
    "check_new",
    "confusion",
    "decision_boundary",
    "figure",
    "histograms",
    "images",
    "learning_curves",
    "learning_rates",
    "lines",
    "noise_scales",
    "save",
    "search",
    "update_ratios",
    "weights_as_images",
]
