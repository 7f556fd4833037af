"""Dropout as an ensemble.

    python examples/dropout_is_an_ensemble.py [PICTURE]
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

COUNTS = (1, 2, 5, 10, 30, 100, 300)  # masks averaged
STEPS, BATCH = 1000, 32
loss = jnn.SoftmaxCrossEntropy()


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, 0, None))
def trained(net: jnn.Layer, key: jax.Array, batches: jax.Array, data: Any) -> jnn.layer.Params:
    """The parameters after momentum on `batches` (STEPS, BATCH)."""
    x, y = data
    keys = jax.random.split(key)
    params, _ = net.init(keys[0], x)
    gradient, descent = jnn.backprop(net, loss), jnn.optimizers.momentum(0.05)

    def step(carry: tuple, now: tuple) -> tuple[tuple, None]:
        (params, memory), (i, batch) = carry, now
        mode = jnn.Train(jax.random.fold_in(keys[1], i))
        _, grads = gradient(params, x[batch], y[batch], mode)
        updates, memory = descent.update(grads, memory, params)
        return (jnn.optimizers.apply_updates(params, updates), memory), None

    (params, _), _ = jax.lax.scan(step, (params, descent.init(params)), (jnp.arange(len(batches)), batches))
    return params


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, None))
def judged(net: jnn.Layer, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Test loss and errors: of the network at test time, then of the averages of COUNTS masks."""

    def thinned(key: jax.Array) -> jax.Array:
        return jax.nn.softmax(net.forward(params, x, jnn.Train(key))[0])

    keys = jax.random.split(jax.random.key(1), COUNTS[-1])
    sums = jnp.cumsum(jax.lax.map(thinned, keys), axis=0)
    whole = jax.nn.softmax(net.forward(params, x, jnn.Eval())[0])
    p = jnp.stack([whole, *(sums[m - 1] / m for m in COUNTS)])  # (1 + counts, n, 10)
    right = jnp.take_along_axis(p, y[None, :, None], axis=-1)[..., 0]
    return jnp.stack([-jnp.log(right).mean(-1), (p.argmax(-1) != y).mean(-1)])
