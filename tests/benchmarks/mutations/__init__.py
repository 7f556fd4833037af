"""Functions with hand-written backward passes, and what people get wrong in them.

`LAST` was written after the checker's hypotheses were frozen and without a look at what they say
to it; it is reported apart.
"""

from . import cells, curves, dense, large, moves, norms

FIRST = dense.FUNCTIONS + norms.FUNCTIONS + large.FUNCTIONS
LAST = moves.FUNCTIONS + curves.FUNCTIONS + cells.FUNCTIONS
