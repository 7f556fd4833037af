"""The leaves: one file for each family of layers that contain maths."""

from jnn.layers.activations import ELU, SELU, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from jnn.layers.attention import Attention, CrossAttention
from jnn.layers.convolution import Conv, ConvTranspose
from jnn.layers.dense import Dense
from jnn.layers.dropout import Dropout
from jnn.layers.embedding import Embedding, Positions, Rotary, Unembed
from jnn.layers.example_norms import GroupNorm, LayerNorm, RMSNorm
from jnn.layers.gates import GELU, SiLU
from jnn.layers.hard import HardSigmoid, HardSwish, HardTanh, ReLU6
from jnn.layers.head import CrossEntropyHead
from jnn.layers.joining import Concatenate, Product, Sum
from jnn.layers.normalization import BatchNorm
from jnn.layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from jnn.layers.projection import Einsum
from jnn.layers.recurrent import GRU, LSTM, RNN
from jnn.layers.reshaping import Flatten, Identity, Item, Last, Pad, Reshape, Transpose
from jnn.layers.softmax import LogSoftmax, Softmax
from jnn.layers.units import Maxout, PReLU

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "Attention",
    "AvgPool",
    "BatchNorm",
    "Concatenate",
    "Conv",
    "ConvTranspose",
    "CrossAttention",
    "CrossEntropyHead",
    "Dense",
    "Dropout",
    "Einsum",
    "Embedding",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "HardSigmoid",
    "HardSwish",
    "HardTanh",
    "Identity",
    "Item",
    "Last",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "MaxPool",
    "Maxout",
    "PReLU",
    "Pad",
    "Positions",
    "Product",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Reshape",
    "Rotary",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Sum",
    "Tanh",
    "Transpose",
    "Unembed",
]
