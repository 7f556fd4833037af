"""Rows of linear layers between named axes."""

from row import Row, sums

import jnn

LAYERS = {
    "einsum to heads": (jnn.Einsum("...d,dhk->...hk", (2, 3)), (2, 3, 4)),
    "einsum in another order": (jnn.Einsum("nabc,cads->nsbd", (2, 1), bias=False), (2, 3, 2, 3)),
}
ROWS = [Row(name, layer, shape, rounding=sums(layer)) for name, (layer, shape) in LAYERS.items()]
