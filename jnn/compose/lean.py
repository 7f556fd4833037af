"""A layer of whose forward pass nothing is kept but its cache."""

from dataclasses import dataclass
from typing import Any

import jax

from jnn.compose.base import Wrapper, is_floating
from jnn.layer import Cache, Params


@dataclass(frozen=True)
class Lean(Wrapper):
    """A layer of whose forward pass nothing is kept but its cache.

        forward    y = f(x)
        backward   dx and gradients of f, from the cache behind `jax.lax.optimization_barrier`

    What a backward pass computes again from its cache, such as the erf of a GELU, XLA finds to have
    been computed in the forward pass, and where both are one program it keeps that: several arrays
    for one. Behind the barrier it does not find it. For a few more operations on each number much
    less is held, and moved, so that it is often faster too, on CPUs above all. Around a whole
    network it acts on all of its layers; in `rewrite` it is a policy, {jnn.GELU: jnn.Lean}. Within
    a `Repeat` there is nothing to gain: its two loops are apart, and share the cache alone.

    Shapes, params, state and cache are the layer's own.

    >>> import jnn
    >>> from jax import numpy as jnp
    >>> net = Lean(jnn.Serial(jnn.Dense(4), jnn.GELU()))
    >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> list(params)
    ['dense1']
    """

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        # Flags are known when this is traced, and must stay so.
        leaves, tree = jax.tree.flatten(cache)
        kept = jax.lax.optimization_barrier([v for v in leaves if is_floating(v)])
        left = iter(kept)
        behind = [next(left) if is_floating(v) else v for v in leaves]
        return super().backward(params, jax.tree.unflatten(tree, behind), dy)
