"""How close is close: the comparison of two trees of arrays."""

from typing import Any

import jax
import numpy as np


def assert_agree(got: Any, want: Any, tolerance: float = 0) -> None:
    """Equal structures, shapes and dtypes, and every leaf as `distance` says.

    An elementwise relative tolerance would ask for digits that a sum which nearly cancels has not.
    """
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        name = jax.tree_util.keystr(path)
        assert (g.shape, g.dtype) == (w.shape, w.dtype), name
        assert distance(g, w) <= tolerance, f"{name} is off by {distance(g, w):.1e}"


def distance(got: Any, want: Any) -> float:
    """The largest difference, relative to the largest number of `want`; NaN if there is one."""
    got, want = (np.asarray(v, np.float64) for v in (got, want))
    difference, size = (np.abs(v).max(initial=0) for v in (got - want, want))
    return float(difference / size) if difference else 0.0
