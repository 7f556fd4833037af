"""What a backward pass has in its hands before it sums over examples, and what can be read from it.

The gradient of a parameter is in practice a sum of simple terms, one for each example (and
position in it). A leaf layer states those terms, its *factors*. `grad` sums them; the other
readings answer other questions, and make the gradient of an example only where that is cheaper.
"""

from jnn.factors.kinds import (
    Affine,
    Answer,
    Factor,
    Outer,
    Scatter,
    Several,
    Stacked,
    Unfolded,
    grad,
    is_factor,
    is_stated,
    over_slices,
    together,
    within,
)
from jnn.factors.readings import (
    Kron,
    answers,
    block,
    dot,
    each,
    gram,
    keep,
    kron,
    scale,
    second_moment,
    sqnorm,
    total,
)

__all__ = [
    "Affine",
    "Answer",
    "Factor",
    "Kron",
    "Outer",
    "Scatter",
    "Several",
    "Stacked",
    "Unfolded",
    "answers",
    "block",
    "dot",
    "each",
    "grad",
    "gram",
    "is_factor",
    "is_stated",
    "keep",
    "kron",
    "over_slices",
    "scale",
    "second_moment",
    "sqnorm",
    "together",
    "total",
    "within",
]
