"""Parameters in one precision, arithmetic in another."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jnn.compose.base import Wrapper, is_floating
from jnn.factors import is_stated
from jnn.layer import Cache, Mode, Params, State, Tree, check_cotangent, fail, form, formed, moving


@dataclass(frozen=True)
class MixedPrecision(Wrapper):
    """A layer that computes in one dtype, with parameters kept in another.

        forward    y = f(x) with params and x cast to `compute`, cast to `output`
        backward   dx and gradients of f for dy cast to `compute`; dx is cast to the dtype of x,
                   every gradient to that of its parameter

    With the defaults, an optimizer sees float32 parameters and gradients, a loss float32
    predictions, and all between them takes half the memory. Sums are taken in float32 all the
    same: that of products by jnn's layers themselves, that of gradients by the optimizer. Of
    bfloat16 no number overflows that is one in float32; float16 wants the loss scaled.

    Where a dtype is None, that of what is given is left as it is. State keeps its dtype: running
    moments are in float32 or wider. Integers pass as they are.

    Shapes: those of the layer.
    Cache: the layer's own, in `compute`, and the forms of x and y, as arrays of no bytes. Not the
    cast parameters, which are cast again.
    Source: Micikevicius et al. 2018, "Mixed precision training".

    Raises LayerError, a ValueError, where a dtype is none of floating-point numbers, or dy is not
    like y.

    >>> import jnn
    >>> net = MixedPrecision(jnn.Serial(jnn.Dense(3), jnn.Tanh()))
    >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> y, cache = net.forward(params, jnp.ones((4, 2)), jnn.Eval(state))
    >>> params["dense1"]["w"].dtype, y.dtype, cache["cache"]["tanh1"].dtype
    (dtype('float32'), dtype('float32'), dtype(bfloat16))
    """

    compute: str | None = "bfloat16"
    params: str | None = "float32"
    output: str | None = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("compute", "params", "output"):
            given = getattr(self, name)
            try:
                dtype = None if given is None else jnp.dtype(given)
            except TypeError:
                dtype = jnp.dtype(bool)
            if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
                fail(self, f"{name} is {given!r}; it must be a dtype of floats such as 'bfloat16'")
            object.__setattr__(self, name, dtype and dtype.name)

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        params, state = super().init(key, jax.tree.map(lambda v: _form_as(v, self.params), x))
        # An embedding, which is shown integers, does not know of it.
        return _cast(params, self.params), state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        x = jax.tree.map(jnp.asarray, x)
        given, inner = (_cast(v, self.compute) for v in (x, params))
        y, cache = super().forward(inner, given, mode)
        kept = {"cache": cache, "x": jax.tree.map(form, x), "y": jax.tree.map(form, y)}
        return _cast(y, self.output), kept

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        y = jax.tree.map(lambda kept: _form_as(formed(kept), self.output), cache["y"])
        dy = moving(dy)
        check_cotangent(self, dy, moving(y))
        dy = _like(dy, cache["y"])
        grads, dx = super().backward(_cast(params, self.compute), cache["cache"], dy)
        return _like(grads, params), _like(dx, cache["x"])

    def observe(self, state: State, cache: Cache) -> State:
        return self.layer.observe(state, cache["cache"])

    def observed(self, cache: Cache) -> Cache:
        return {"cache": self.layer.observed(cache["cache"])}


def _cast(tree: Tree, dtype: str | None) -> Tree:
    def cast(v: Any) -> Any:
        return v if dtype is None or not is_floating(v) else v.astype(dtype)

    return jax.tree.map(cast, tree)


def _like(tree: Tree, pattern: Tree) -> Tree:
    """In the dtypes of the pattern; None, where there is no cotangent, stays, and factors do."""

    def stays(v: Any) -> bool:
        return v is None or is_stated(v)

    def cast(v: Any, like: Any) -> Any:
        return v if stays(v) else v.astype(like.dtype)

    return jax.tree.map(cast, tree, pattern, is_leaf=stays)


def _form_as(v: Any, dtype: str | None) -> jax.ShapeDtypeStruct:
    kept = v.dtype if dtype is None or not is_floating(v) else jnp.dtype(dtype)
    return jax.ShapeDtypeStruct(v.shape, kept)
