"""How large arrays are, though their squares leave the range of floats."""

from typing import Any

import numpy as np


def root_mean_square(a: Any) -> float:
    """The root of the mean square, in float64; 0 of nothing."""
    a = np.asarray(a, np.float64)
    unit = _unit(a)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.square(a / unit).mean()) * unit) if a.size else 0.0


def typical(a: Any) -> float:
    """The root mean square, or 1 where it is 0 or not finite."""
    size = root_mean_square(a)
    return size if np.isfinite(size) and size > 0 else 1.0


def deviation(a: Any) -> np.ndarray:
    """The standard deviation along the first axis."""
    a = np.asarray(a, np.float64)
    unit = _unit(a)
    return np.std(a / unit, axis=0) * unit


def _unit(a: np.ndarray) -> float:
    """The power of 2 below the greatest finite number, or 1."""
    greatest = np.max(abs(a), initial=0.0, where=np.isfinite(a))
    return float(2.0 ** np.floor(np.log2(greatest))) if greatest > 0 else 1.0
