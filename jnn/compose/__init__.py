"""Combinators: layers made of layers, whose backward calls their children's in reverse."""

from jnn.compose.branches import Branch, Parallel, Residual
from jnn.compose.exchange import with_backward
from jnn.compose.frozen import Frozen
from jnn.compose.lean import Lean
from jnn.compose.mapped import Mapped
from jnn.compose.mixed import MixedPrecision
from jnn.compose.remat import Remat
from jnn.compose.repeat import Repeat
from jnn.compose.rewriting import rewrite
from jnn.compose.serial import Named, Serial
from jnn.compose.shared import Shared

__all__ = [
    "Branch",
    "Frozen",
    "Lean",
    "Mapped",
    "MixedPrecision",
    "Named",
    "Parallel",
    "Remat",
    "Repeat",
    "Residual",
    "Serial",
    "Shared",
    "rewrite",
    "with_backward",
]
