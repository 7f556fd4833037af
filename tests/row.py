"""What a row of the table of layers is, and the example that every test of it works on."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from jnn.layer import Layer, Params, State

# The unit roundoff of float32, in which low-precision sums are accumulated.
FLOAT32 = 2.0**-24

# (params, x, dy, y, u) -> how far (y, grads, dx) may be from the truth in a dtype of unit
# roundoff u, all in float64, all to first order in u.
Rounding = Callable[
    [Params, np.ndarray, np.ndarray, np.ndarray, float],
    tuple[np.ndarray, Params, np.ndarray],
]


class Below(NamedTuple):
    """Stands for an array of integers in [0, limit), such as tokens; a limit of 2 for a mask."""

    limit: int
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        return jnp.dtype(bool if self.limit == 2 else jnp.int32)


class Row(NamedTuple):
    """A layer and an input to show it by."""

    name: str
    layer: Layer
    # Of x, an array of floating-point numbers; or the entries of x, where it is a tuple.
    shape: tuple[int, ...] | Below | tuple[Any, ...]
    two_modes: bool = False  # whether evaluation is another function than training
    # None where the arithmetic is not jnn's own: a combinator has none, a lifted function is yours.
    rounding: Rounding | None = None
    # A lifted function keeps what jax.vjp keeps, parameters included, and only it can print itself.
    lifted: bool = False


def rearranged(params, x, dy, y, u):
    """Nothing is computed."""
    return np.zeros_like(y), {}, np.zeros_like(x)


def sums(layer: Layer) -> Rounding:
    """Every number is a sum in float32, rounded once; what is summed are the terms of the layer
    itself for magnitudes."""

    def rounding(params, x, dy, y, u):
        sizes = jax.tree.map(lambda v: jnp.asarray(np.abs(v)), (params, x, dy))
        size_y, cache = layer.forward(*sizes[:2], jnn.Eval())
        size_grads, size_dx = layer.backward(sizes[0], cache, sizes[2])
        grads, dx = layer.backward(params, layer.forward(params, x, jnn.Eval())[1], jnp.asarray(dy))
        # No sum has more terms than there are numbers.
        terms = max(x.size, dy.size)

        def once(total, size):
            return u * np.abs(total) + (1 + u) * (terms + 2) * FLOAT32 * np.asarray(size)

        return once(y, size_y), jax.tree.map(once, grads, size_grads), once(dx, size_dx)

    return rounding


def form(row: Row, dtype: Any) -> Any:
    """x as shapes and dtypes, an entry that holds integers as Below."""

    def formed(shape: Any) -> Any:
        if isinstance(shape, Below):
            return shape
        if all(isinstance(n, int) for n in shape):
            return jax.ShapeDtypeStruct(shape, dtype)
        return tuple(map(formed, shape))

    return formed(row.shape)


class Example(NamedTuple):
    """What the functions of a layer take, as numpy arrays."""

    params: Params
    state: State
    x: Any
    dy: Any


@cache
def example(row: Row, dtype: Any) -> Example:
    """Gaussian numbers for a row, and a state that has seen them.

    No parameter is left at zero, and dy is not ones: the sum over a softmax or over centred numbers
    does not depend on x at all, so that any backward would do.
    """
    random = np.random.default_rng(0)

    def normal(like: Any) -> np.ndarray:
        if isinstance(like, Below):
            return random.integers(like.limit, size=like.shape).astype(like.dtype)
        return random.standard_normal(like.shape).astype(like.dtype)

    def begin(key: jax.Array, x: Any) -> tuple[Params, State, jax.Array]:
        params, state = row.layer.init(key, x)
        return params, state, row.layer.forward(params, x, jnn.Eval(state))[0]

    key = jax.random.key(0)
    x = jax.tree.map(normal, form(row, dtype), is_leaf=lambda v: isinstance(v, Below))
    params, state, y = jax.eval_shape(begin, key, x)
    # An embedding, which is shown integers, does not know of this dtype.
    params, dy = jax.tree.map(lambda v: normal(v).astype(dtype), (params, y))
    return Example(params, _observed(row.layer, key, params, x) if state else {}, x, dy)


@partial(jax.jit, static_argnums=0)
def _observed(layer: Layer, key: jax.Array, params: Params, x: jax.Array) -> State:
    _, state = layer.init(key, x)
    return layer.observe(state, layer.forward(params, x, jnn.Train(jax.random.fold_in(key, 1)))[1])
