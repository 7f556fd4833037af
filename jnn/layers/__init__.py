"""The leaves: one file for each family of layers that contain maths."""

from jnn.layers.activations import LeakyReLU, ReLU, Sigmoid, Tanh
from jnn.layers.dense import Dense
from jnn.layers.dropout import Dropout
from jnn.layers.normalization import BatchNorm
from jnn.layers.reshaping import Flatten

__all__ = ["BatchNorm", "Dense", "Dropout", "Flatten", "LeakyReLU", "ReLU", "Sigmoid", "Tanh"]
