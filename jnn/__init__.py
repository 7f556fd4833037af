"""Neural networks as pure functions, with backward passes that are written out and checked."""

from jnn import (
    data,
    factors,
    gradcheck,
    initializers,
    optimizers,
    penalties,
    plots,
    schedules,
    training,
)
from jnn.compose import Serial
from jnn.gradients import as_function, autodiff, backprop, lift
from jnn.layer import Eval, Layer, LayerError, Train
from jnn.layers import BatchNorm, Dense, Dropout, Flatten, LeakyReLU, ReLU, Sigmoid, Tanh
from jnn.layers.activations import Elementwise
from jnn.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from jnn.penalties import L1, L2, ElasticNet
from jnn.report import summary
from jnn.training import Diverged, evaluate, fit, run

__all__ = [
    "L1",
    "L2",
    "BatchNorm",
    "Dense",
    "Diverged",
    "Dropout",
    "ElasticNet",
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
    "penalties",
    "plots",
    "run",
    "schedules",
    "summary",
    "training",
]
