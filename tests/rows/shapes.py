"""Rows of layers that rearrange, choose and join."""

import numpy as np
from row import FLOAT32, Below, Row, rearranged

import jnn


def product(params, x, dy, y, u):
    """Multiplied in float32, rounded once."""
    a, b, c = x
    relative = u + 4 * FLOAT32
    others = (b * c, a * c, a * b)
    return relative * np.abs(y), {}, tuple(relative * np.abs(dy * v) for v in others)


def added(params, x, dy, y, u):
    size = sum(map(np.abs, x))
    return u * np.abs(y) + 4 * FLOAT32 * size, {}, tuple(np.zeros_like(v) for v in x)


def chosen(params, x, dy, y, u):
    return np.zeros_like(y), {}, (np.zeros_like(x[0]), None)


def picked(params, x, dy, y, u):
    return np.zeros_like(y), {}, (np.zeros_like(x[0]), (np.zeros_like(x[1][0]), None))


JOINED = jnn.Branch(jnn.Dense(2), jnn.Serial(jnn.Dense(3), jnn.Tanh()), join=jnn.Concatenate())

BESIDE = jnn.Branch(jnn.Identity(), jnn.Dense(3), join=jnn.Sum())

ROWS = [
    Row("identity beside a layer", BESIDE, (2, 3)),
    Row("reshape", jnn.Reshape((2, -1)), (3, 4, 2), rounding=rearranged),
    Row("transpose", jnn.Transpose((3, 1, 2)), (2, 3, 4, 2), rounding=rearranged),
    Row("pad", jnn.Pad(((1, 0), (2, 1)), 0.5), (2, 3, 2), rounding=rearranged),
    Row("last", jnn.Last(), (2, 3, 4), rounding=rearranged),
    Row("last of ragged", jnn.Last(), ((4, 3, 2), Below(2, (4, 3))), rounding=chosen),
    Row("item", jnn.Item((1, 0)), ((2, 3), ((4, 2), Below(2, (2, 2)))), rounding=picked),
    Row("sum", jnn.Sum(), ((2, 3), (2, 3), (2, 3)), rounding=added),
    Row("product", jnn.Product(), ((2, 3), (2, 3), (2, 3)), rounding=product),
    Row("concatenate over branches", JOINED, (2, 5)),
]
