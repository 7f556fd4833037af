"""What pictures ask of the arrays they are given."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def vector(name: str, values: Any, length: int | None = None, of: str = "") -> np.ndarray:
    """`values` as floats of shape (m,), refused where they are none, or not `length` of them."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; it must be (m,) with m at least 1")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} has {len(array)} numbers and {of} {length}; they must pair up")
    return array


def by_name(name: str, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """`arrays`, refused where it is no dict or an empty one."""
    if not isinstance(arrays, Mapping) or not arrays:
        raise ValueError(
            f"{name} is {arrays!r:.80}; it must be a dict of at least one named array, "
            "such as {'dense1': ...}"
        )
    return arrays


def all_positive(name: str, values: np.ndarray) -> np.ndarray:
    """`values`, refused where a logarithmic axis could not show one."""
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"{name} runs from {values.min():g} to {values.max():g}; it must be above 0"
        )
    return values
