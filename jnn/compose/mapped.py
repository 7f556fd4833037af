"""One layer for every slice of its input."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from jnn.compose.base import Wrapper
from jnn.factors import Stacked, is_factor, over_slices
from jnn.layer import (
    OWN,
    Cache,
    Eval,
    Mode,
    Params,
    State,
    Train,
    Tree,
    check_key,
    check_mode,
    fail,
    shape_of,
)
from jnn.precision import accumulator


@dataclass(frozen=True)
class Mapped(Wrapper):
    """A layer applied to every slice along an axis, with one set of parameters.

        forward    y_i = f(x_i)
        backward   dx_i = df(dy_i),   gradients are summed over the slices

    All slices are worked on at once, by `jax.vmap`. Random layers draw from a key of their own for
    every slice. Layers that keep state are refused: which of the slices would it be of?

    Shapes: x (..., slices, ...), y with its slices along the same axis, which y must have; of a
    tuple, every array. params, and gradients, are those of one slice.
    Cache: the layer's, stacked over the slices.

    Raises LayerError, a ValueError, where axis is no integer, x has no such axis or its arrays
    differ in slices, or the layer keeps state.

    >>> import jnn
    >>> net = Mapped(jnn.Serial(jnn.Flatten(), jnn.Dense(3)), axis=1)
    >>> frames = jnp.ones((2, 7, 4, 5))
    >>> params, state = net.init(jax.random.key(0), frames)
    >>> net.forward(params, frames, Eval(state))[0].shape
    (2, 7, 3)
    """

    axis: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.axis, Integral) or isinstance(self.axis, bool):
            fail(self, f"axis is {self.axis!r}; it must be an integer")
        object.__setattr__(self, "axis", int(self.axis))

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_key(key)
        slices = self._slices(x)
        params, state = super().init(key, jax.tree.map(self._slice_form, x))
        if jax.tree.leaves(state):
            fail(
                self,
                f"its layer keeps state, {sorted(state)}, and would have one for each slice; use a "
                "layer that takes all slices at once (most take any number of leading axes)",
            )

        def own(path: Any, v: jax.Array) -> jax.Array:
            return jnp.broadcast_to(v, (slices, *v.shape)) if _is_own(path) else v

        return jax.tree.map_with_path(own, params), state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        check_mode(self, mode)
        slices, forward = self._slices(x), super().forward

        def one(params: Params, x: Any, i: jax.Array) -> tuple[Any, Cache]:
            mine = Train(jax.random.fold_in(mode.key, i)) if isinstance(mode, Train) else Eval()
            y, cache = forward(params, x, mine)
            for v in jax.tree.leaves(y):
                self._check_axis("y of a slice", v, v.ndim + 1)
            return y, cache

        over = jax.vmap(one, (_axes(params), self.axis, 0), (self.axis, 0))
        return over(params, jax.tree.map(jnp.asarray, x), jnp.arange(slices))

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        slices = {v.shape[0] for v in jax.tree.leaves(cache)}
        for v in jax.tree.leaves(dy):
            self._check_axis("dy", v, v.ndim)
            if slices and v.shape[self.axis] not in slices:
                fail(self, f"dy is {shape_of(v)}; {max(slices)} slices lie along axis {self.axis}")
        over = jax.vmap(super().backward, (_axes(params), 0, self.axis), (0, self.axis))
        grads, dx = over(params, cache, dy)

        axis = range(max(v.ndim for v in jax.tree.leaves(dy)))[self.axis]

        def summed(path: Any, g: Any) -> Any:
            if is_factor(g):
                return Stacked(g) if _is_own(path) else over_slices(g, axis)
            return g if _is_own(path) else g.sum(0, dtype=accumulator(g.dtype)).astype(g.dtype)

        return jax.tree.map_with_path(summed, grads, is_leaf=is_factor), dx

    def _slices(self, x: Any) -> int:
        leaves = jax.tree.leaves(x)
        for v in leaves:
            self._check_axis("x", v, v.ndim)
        sizes = {v.shape[self.axis] for v in leaves}
        if len(sizes) != 1:
            fail(self, f"the arrays of x have {sorted(sizes)} slices along axis {self.axis}")
        return sizes.pop()

    def _check_axis(self, what: str, v: Any, ndim: int) -> None:
        if not -ndim <= self.axis < ndim:
            fail(self, f"{what} is {shape_of(v)}; there is no axis {self.axis} for the slices")

    def _slice_form(self, v: Any) -> jax.ShapeDtypeStruct:
        shape = list(v.shape)
        del shape[self.axis]
        return jax.ShapeDtypeStruct(tuple(shape), v.dtype)


def _axes(params: Params) -> Tree:
    return jax.tree.map_with_path(lambda path, _: 0 if _is_own(path) else None, params)


def _is_own(path: tuple[Any, ...]) -> bool:
    return any(getattr(key, "key", None) == OWN for key in path)
