"""Neural networks as pure functions, with backward passes that are written out and checked."""

from jnn import (
    data,
    diagnostics,
    factors,
    gradcheck,
    initializers,
    masks,
    optimizers,
    penalties,
    plots,
    preprocessing,
    schedules,
    search,
    taps,
    training,
)
from jnn.compose import Serial
from jnn.evaluation import evaluate
from jnn.gradients import as_function, autodiff, backprop, lift
from jnn.layer import Eval, Layer, LayerError, Train
from jnn.layers import BatchNorm, Dense, Dropout, Flatten, LeakyReLU, ReLU, Sigmoid, Tanh
from jnn.layers.activations import Elementwise
from jnn.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredError
from jnn.penalties import L1, L2, ElasticNet
from jnn.report import summary
from jnn.sanity import sanity
from jnn.search import ensemble, find_learning_rate, sweep
from jnn.training import Diverged, fit, run

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
    "diagnostics",
    "ensemble",
    "evaluate",
    "factors",
    "find_learning_rate",
    "fit",
    "gradcheck",
    "initializers",
    "lift",
    "masks",
    "optimizers",
    "penalties",
    "plots",
    "preprocessing",
    "run",
    "sanity",
    "schedules",
    "search",
    "summary",
    "sweep",
    "taps",
    "training",
]
