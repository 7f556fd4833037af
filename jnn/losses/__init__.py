"""Losses: what a prediction costs, and how that cost changes with the prediction."""

from jnn.losses.base import Cost, Loss, show_first
from jnn.losses.classes import Labelled, MulticlassHinge, SoftmaxCrossEntropy
from jnn.losses.distances import Huber, SigmoidCrossEntropy, SquaredError

__all__ = [
    "Cost",
    "Huber",
    "Labelled",
    "Loss",
    "MulticlassHinge",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "show_first",
]
