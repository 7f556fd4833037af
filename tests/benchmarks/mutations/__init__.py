"""Functions with hand-written backward passes, and what people get wrong in them.

`LAST` was written after `FIRST`, from what goes wrong in practice, and before any of it had been
shown to the checker; it is reported apart.
"""

from . import cells, curves, dense, large, moves, norms

FIRST = dense.FUNCTIONS + norms.FUNCTIONS + large.FUNCTIONS
LAST = moves.FUNCTIONS + curves.FUNCTIONS + cells.FUNCTIONS
