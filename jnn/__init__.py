"""Neural networks as pure functions, with backward passes that are written out and checked."""

from jnn import (
    data,
    factors,
    gradcheck,
    initializers,
    optimizers,
    plots,
    preprocessing,
    schedules,
    training,
)
from jnn.compose import Serial
from jnn.gradients import as_function, autodiff, backprop, lift
from jnn.layer import Eval, Layer, LayerError, Train
from jnn.layers import Dense, Flatten, LeakyReLU, ReLU, Sigmoid, Tanh
from jnn.layers.activations import Elementwise
from jnn.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from jnn.report import summary
from jnn.training import Diverged, evaluate, fit, run

__all__ = [
    "Dense",
    "Diverged",
    "Elementwise",
    "Eval",
    "Flatten",
    "Layer",
    "LayerError",
    "LeakyReLU",
    "Loss",
    "ReLU",
    "Serial",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Tanh",
    "Train",
    "as_function",
    "autodiff",
    "backprop",
    "data",
    "evaluate",
    "factors",
    "fit",
    "gradcheck",
    "initializers",
    "lift",
    "optimizers",
    "plots",
    "preprocessing",
    "run",
    "schedules",
    "summary",
    "training",
]
