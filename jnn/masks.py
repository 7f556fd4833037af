"""Which parameters: chosen by name or by what they are, for penalties, decay and freezing."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import jax

from jnn.layer import Params, Tree

# A pattern, several, or a function (path, array) -> bool; the path of params["a"]["w"] is "a.w".
Where = str | tuple[str, ...] | Callable[[str, Any], bool]


def weights(path: str, leaf: Any) -> bool:
    """What a penalty is meant for: arrays of rank 2 or more, but for biases, scales and slopes.

    The rank alone would not tell them where layers are stacked, and a bias has an axis for depth.
    """
    return leaf.ndim >= 2 and path.rpartition(".")[2] not in ("b", "scale", "shift", "slope")


def mask(params: Params, where: Where) -> Tree:
    """A tree like `params` of True where `where` chooses and False elsewhere, fixed under jit.

    `where` is a pattern over dotted paths in the manner of the shell, such as "dense1.*", a tuple
    of such patterns, or a function (path, array) -> bool, such as `weights`.
    Raises ValueError where it is none of these, or a pattern fits no parameter.

    >>> import jax.numpy as jnp
    >>> params = {"dense1": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, "scale": jnp.ones(3)}
    >>> mask(params, weights)
    {'dense1': {'b': False, 'w': True}, 'scale': False}
    >>> mask(params, ("dense1.b", "sc*"))
    {'dense1': {'b': True, 'w': False}, 'scale': True}
    """
    if callable(where):
        return jax.tree.map_with_path(lambda path, leaf: bool(where(_dotted(path), leaf)), params)
    patterns = (where,) if isinstance(where, str) else where
    if not isinstance(patterns, tuple) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(
            f"where is {where!r}; it must be a pattern such as 'dense1.*', a tuple of patterns, "
            "or a function (path, array) -> bool such as jnn.masks.weights"
        )
    paths = [_dotted(path) for path, _ in jax.tree.leaves_with_path(params)]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            inner = any(path.startswith(f"{pattern}.") for path in paths)
            mend = f"; for all of {pattern} it is '{pattern}.*'" if inner else ""
            raise ValueError(
                f"where is {pattern!r}, which fits none of the parameters {paths}{mend}"
            )
    return mask(params, lambda path, _: any(fnmatchcase(path, p) for p in patterns))


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
