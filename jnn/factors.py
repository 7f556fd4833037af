"""What a backward pass has in its hands before it sums over examples.

The gradient of a parameter is in practice a sum of simple terms, one for each example (and
position in it). A leaf layer states those terms, its *factors*, and `grad` sums them.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jnn.convolutions import Window, swapped, weigh
from jnn.precision import accumulator, matmul


class Outer(NamedTuple):
    """The gradient of a matrix that maps `a` to the output whose cotangent is `d`.

        dw = sum over examples and positions of a (x) d

    Shapes: a (n, ..., in), d (n, ..., out), dw (in, out).
    """

    a: jax.Array
    d: jax.Array


class Affine(NamedTuple):
    """The gradient of a vector that multiplies `h`, the output having cotangent `d`.

        ds = sum over examples and positions of h d

    `h = None` stands for ones: the vector is then a bias. Shapes: h and d (n, ..., c), ds (c,).
    """

    h: jax.Array | None
    d: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=["ids", "d"], meta_fields=["rows"])
@dataclass(frozen=True)
class Scatter:
    """The gradient of a table of `rows` rows that were looked up by `ids`.

        dw[v] = sum over examples and positions of d where ids = v

    Ids that are no row of the table, negative ones among them, add nothing.
    Shapes: ids (n, ...) of integers, d (n, ..., c), dw (rows, c).
    """

    ids: jax.Array
    d: jax.Array
    rows: int


@partial(
    jax.tree_util.register_dataclass, data_fields=["x", "d"], meta_fields=["window", "transposed"]
)
@dataclass(frozen=True)
class Unfolded:
    """The gradient of a convolution's weights, x being what it was given.

        dw = sum over examples and positions of (what an output sees of x) (x) d

    Shapes: x (n, ..., in), d (n, ..., out), dw (kernel, in / groups, out). Of a transposed one x is
    the cotangent and d what the layer was given, and dw (kernel, out / groups, in) as it stands.
    """

    x: jax.Array
    d: jax.Array
    window: Window
    transposed: bool = False


Factor = Outer | Affine | Scatter | Unfolded


def is_factor(node: object) -> bool:
    """Whether `node` is one factor rather than a tree of them."""
    return isinstance(node, Factor)


def grad(factor: Factor) -> jax.Array:
    """The gradient: the factor summed over examples and positions.

    >>> import jax.numpy as jnp
    >>> grad(Outer(a=jnp.ones((5, 2)), d=jnp.ones((5, 3)))).tolist()
    [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]
    >>> grad(Affine(h=None, d=jnp.ones((5, 3)))).tolist()
    [5.0, 5.0, 5.0]
    >>> grad(Scatter(ids=jnp.array([0, 2, 2]), d=jnp.ones((3, 1)), rows=3)).tolist()
    [[1.0], [0.0], [2.0]]
    """
    factor = jax.tree.map(jnp.asarray, factor)
    if isinstance(factor, Unfolded):
        dw = weigh(factor.x, factor.d, factor.window).astype(factor.d.dtype)
        return swapped(dw, factor.window.groups) if factor.transposed else dw
    d = factor.d.reshape(-1, factor.d.shape[-1])
    if isinstance(factor, Outer):
        return matmul(factor.a.reshape(-1, factor.a.shape[-1]).T, d)
    wide = d.astype(accumulator(d.dtype))
    if isinstance(factor, Scatter):
        table = jnp.zeros((factor.rows, d.shape[-1]), wide.dtype)
        ids = within(factor.ids.reshape(-1), factor.rows)
        return table.at[ids].add(wide, mode="drop").astype(d.dtype)
    if factor.h is not None:
        wide = wide * factor.h.reshape(d.shape).astype(wide.dtype)
    return wide.sum(axis=0).astype(d.dtype)


def within(ids: jax.Array, rows: int) -> jax.Array:
    """`ids`, with `rows` for those that are no row of a table: JAX would count -1 from its end."""
    # In a signed type that holds `rows`; unsigned numbers too large for it become negative.
    ids = ids.astype(jnp.int64 if ids.dtype.itemsize == 8 else jnp.int32)
    return jnp.where((ids < 0) | (ids >= rows), rows, ids)
