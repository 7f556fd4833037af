"""What a backward pass has in its hands before it sums over examples.

The gradient of a parameter is in practice a sum of simple terms, one for each example (and
position in it). A leaf layer states those terms, its *factors*, and `grad` sums them.
"""

from typing import NamedTuple

import jax

from jnn.precision import matmul


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


Factor = Outer | Affine


def is_factor(node: object) -> bool:
    """Whether `node` is one factor rather than a tree of them."""
    return isinstance(node, Outer | Affine)


def grad(factor: Factor) -> jax.Array:
    """The gradient: the factor summed over examples and positions.

    >>> import jax.numpy as jnp
    >>> grad(Outer(a=jnp.ones((5, 2)), d=jnp.ones((5, 3)))).tolist()
    [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]
    >>> grad(Affine(h=None, d=jnp.ones((5, 3)))).tolist()
    [5.0, 5.0, 5.0]
    """
    d = factor.d.reshape(-1, factor.d.shape[-1])
    if isinstance(factor, Outer):
        return matmul(factor.a.reshape(-1, factor.a.shape[-1]).T, d)
    return (d if factor.h is None else d * factor.h.reshape(d.shape)).sum(axis=0)
