"""What every leaf of a network is given as it runs, so that each can be checked by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from jnn.compose.remat import Remat
from jnn.compose.rewriting import stacking, uses
from jnn.layer import Layer, Mode, Params, below


@partial(
    jax.tree_util.register_dataclass, meta_fields=["path"], data_fields=["params", "x", "mode"]
)
@dataclass(frozen=True)
class Met:
    """What a leaf was given, in a cache, in which loops and vmap stack it."""

    path: str
    params: Params
    x: Any
    mode: Mode


def met(
    net: Layer, params: Params, x: Any, mode: Mode
) -> Iterator[tuple[str, Layer, tuple[int, ...], Met]]:
    """(path, leaf, index, what it was given) of every leaf, in the order in which they act.

    One in a `Repeat` comes once for each depth, with its index; of one in a `Mapped` it is what the
    first slice gave it.
    """
    _, cache = _recording(net).forward(params, x, mode)
    found = jax.tree.leaves(cache, is_leaf=lambda v: isinstance(v, Met))
    given = {v.path: v for v in found if isinstance(v, Met) and jax.tree.leaves(v.x)}
    axes = stacking(net)
    for path, leaf, index in uses(net):
        depths = iter(index)
        at = tuple(next(depths) if axis == "n" else 0 for axis in axes[path])
        yield path, leaf, index, jax.tree.map(lambda v, at=at: v[at], given[path])


@dataclass(frozen=True)
class _Recorder(Layer):
    """A leaf that remembers what it was given."""

    layer: Layer
    path: str

    def init(self, key: jax.Array, x: Any) -> Any:
        return self.layer.init(key, x)

    def forward(self, params: Params, x: Any, mode: Mode) -> Any:
        y, cache = self.layer.forward(params, x, mode)
        return y, (Met(self.path, params, x, mode), cache)

    def observed(self, cache: Any) -> Any:
        return self.layer.observed(cache[1])


def _recording(layer: Layer, path: tuple[str, ...] = ()) -> Layer:
    if not layer.children:
        return _Recorder(layer, ".".join(path))
    recording = layer.map(lambda name, child: _recording(child, below(path, name)))
    # Which would drop what was remembered.
    return recording.layer if isinstance(recording, Remat) else recording
