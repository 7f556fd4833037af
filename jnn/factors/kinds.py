"""The kinds of factors, and their sum, the gradient."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.convolutions import Window, swapped, weigh
from jnn.precision import accumulator, matmul, widened


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Several:
    """The gradient of a parameter that is used in several places: the sum of their factors."""

    terms: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stacked:
    """The gradient of parameters that are stacked: one factor, its arrays stacked likewise."""

    factor: Any


Factor = Outer | Affine | Scatter | Unfolded | Several | Stacked


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Answer:
    """What was read of one parameter's factor, by several readings."""

    values: tuple[Any, ...]


def is_stated(node: object) -> bool:
    """Whether `node` stands for one parameter in a tree of factors, or of what was read of them."""
    return isinstance(node, Factor | Answer)


def is_factor(node: object) -> bool:
    """Whether `node` is one factor rather than a tree of them."""
    return isinstance(node, Factor)


def together(factors: Any) -> Any:
    """The factor of a parameter that has all of these."""
    if len(factors) == 1:
        return factors[0]
    lists = (f.terms if isinstance(f, Several) else (f,) for f in factors)
    terms = tuple(term for several in lists for term in several)
    stacked = [term.factor for term in terms if isinstance(term, Stacked)]
    if not stacked:
        return Several(terms)
    if len(stacked) < len(terms):
        raise ValueError("parameters of a Repeat are shared with some that are not stacked")
    return Stacked(together(stacked))


def over_slices(factor: Any, axis: int) -> Any:
    """The factor of a parameter that all slices of an input share, from theirs, stacked first.

    Slices along `axis` of the input are so many more positions; along axis 0 they are the examples.
    """

    def moved(v: jax.Array) -> jax.Array:
        return v if axis == 0 else jnp.moveaxis(v, 0, 1)

    match factor:
        case Outer() | Affine() | Scatter():
            return jax.tree.map(moved, factor)
        case Several(terms):
            return together([over_slices(term, axis) for term in terms])
        case Stacked(inner):
            swapped = jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), inner)
            return Stacked(jax.vmap(lambda f: over_slices(f, axis))(swapped))
        case _ if axis == 0:
            raise ValueError("a convolution mapped over the examples has no factors by example")
        case _:
            count = len(jax.tree.leaves(factor)[0])
            return Several(tuple(jax.tree.map(lambda v, i=i: v[i], factor) for i in range(count)))


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
    match factor:
        case Stacked(inner):
            return jax.vmap(grad)(inner)
        case Several(terms):
            grads = [grad(term) for term in terms]
            dtype = jnp.result_type(*grads)
            return jnp.stack(list(map(widened, grads))).sum(axis=0).astype(dtype)
        case Unfolded(x, d, window, transposed):
            dw = weigh(x, d, window).astype(d.dtype)
            return swapped(dw, window.groups) if transposed else dw
        case Outer(a, d):
            return matmul(_rows(a).T, _rows(d))
        case Affine(h, d):
            terms = widened(_rows(d)) if h is None else widened(_rows(d)) * widened(_rows(h))
            return terms.sum(axis=0).astype(d.dtype)
        case Scatter(ids, d, rows):
            table = jnp.zeros((rows, d.shape[-1]), accumulator(d.dtype))
            ids = within(ids.reshape(-1), rows)
            return table.at[ids].add(widened(_rows(d)), mode="drop").astype(d.dtype)


def _rows(v: jax.Array) -> jax.Array:
    """Examples and positions as one axis."""
    return v.reshape(-1, v.shape[-1])


def within(ids: jax.Array, rows: int) -> jax.Array:
    """`ids`, with `rows` for those that are no row of a table: JAX would count -1 from its end."""
    # In a signed type that holds `rows`; unsigned numbers too large for it become negative.
    ids = ids.astype(jnp.int64 if ids.dtype.itemsize == 8 else jnp.int32)
    return jnp.where((ids < 0) | (ids >= rows), rows, ids)
