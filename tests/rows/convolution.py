"""Rows of convolutions and pooling."""

import numpy as np
from row import FLOAT32, Row, rearranged, sums

import jnn


def overlapping(params, x, dy, y, u):
    """What a number hands back to several windows is added in float32 and rounded once."""
    return np.zeros_like(y), {}, np.full_like(x, (u + 4 * FLOAT32) * 4 * np.abs(dy).max())


LAYERS = {
    "convolution": (jnn.Conv(3), (2, 4, 3, 2)),
    "convolution, unfolded, strided, dilated, in groups": (
        jnn.Conv(4, (3, 2), stride=2, dilation=(1, 2), padding=1, groups=2, form="unfolded"),
        (2, 5, 4, 2),
    ),
    "convolution, depthwise over time": (
        jnn.Conv(3, 2, padding=((1, 0),), groups=3, bias=False),
        (3, 5, 3),
    ),
    "transposed convolution": (jnn.ConvTranspose(2, 3, stride=2, groups=2), (2, 2, 3, 4)),
}
ROWS = [Row(name, layer, shape, rounding=sums(layer)) for name, (layer, shape) in LAYERS.items()]
ROWS += [
    Row("max pool", jnn.MaxPool(), (2, 5, 4, 3), rounding=rearranged),
    Row("max pool, overlapping", jnn.MaxPool(3, 2, "SAME"), (2, 4, 5, 2), rounding=overlapping),
    Row("average pool", jnn.AvgPool(2, 1, 1), (2, 3, 2), rounding=sums(jnn.AvgPool(2, 1, 1))),
    Row(
        "average pool, side by side",
        jnn.AvgPool((2, 1)),
        (2, 5, 2, 3),
        rounding=sums(jnn.AvgPool((2, 1))),
    ),
    Row(
        "global average pool", jnn.GlobalAvgPool(), (2, 3, 2, 4), rounding=sums(jnn.GlobalAvgPool())
    ),
]
