"""Functions with hand-written backward passes, and what people get wrong in them.

`LAST` was written after `FIRST`, from what goes wrong in practice, when the checker's hypotheses
stood and before any of it had been shown to the checker. `UNSEEN` was written by another hand,
without reading the checker or running it. Both are reported apart.
"""

from . import (
    blocks,
    cells,
    curves,
    dense,
    kernels,
    large,
    layers,
    losses,
    moves,
    norms,
    objectives,
    sequences,
    shapes,
)

FIRST = [
    function for part in (dense, norms, large, moves, curves, cells) for function in part.FUNCTIONS
]
LAST = [function for part in (losses, blocks, sequences) for function in part.FUNCTIONS]
UNSEEN = [function for part in (objectives, layers, kernels, shapes) for function in part.FUNCTIONS]
