"""Arithmetic that keeps its digits: low-precision numbers are accumulated in float32."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def accumulator(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which numbers of `dtype` are summed: float32, or float64 for float64.

    >>> accumulator(jnp.bfloat16)
    dtype('float32')
    """
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


def widened(v: jax.Array) -> jax.Array:
    """`v` in the dtype in which its numbers are summed.

    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return v.astype(accumulator(v.dtype))


def wide_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` in float32 or wider, for more to be added before it is rounded.

    >>> wide_matmul(jnp.ones((2, 300), jnp.bfloat16), jnp.ones((300, 1), jnp.bfloat16)).dtype
    dtype('float32')
    """
    return jnp.matmul(a, b, preferred_element_type=accumulator(a.dtype))


def matmul(a: jax.Array, b: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`a @ b + bias`, accumulated in float32 or wider and rounded once to the dtype of `a`.

    >>> matmul(jnp.ones((2, 300), jnp.bfloat16), jnp.ones((300, 1), jnp.bfloat16)).dtype
    dtype(bfloat16)
    """
    y = wide_matmul(a, b)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)
    return y.astype(a.dtype)
