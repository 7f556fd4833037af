"""Layers that keep state or draw numbers, for the tests of what carries them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jnn.layer import Layer, Train, check_cotangent


@dataclass(frozen=True)
class Centre(Layer):
    """Subtracts the mean over the batch in training, the running mean in evaluation.

    The cache says which of the two it was by a number, so that its structure is always the same.
    """

    keep: float = 0.75

    def init(self, key, x):
        return {}, {"mean": jnp.zeros(x.shape[1:], x.dtype)}

    def forward(self, params, x, mode):
        batch = x.mean(axis=0)
        training = isinstance(mode, Train)
        mean = batch if training else mode.state["mean"]
        return x - mean, {"batch": batch, "training": jnp.full((), training, x.dtype)}

    def pull(self, params, cache, dy):
        return dy - cache["training"] * dy.mean(axis=0)

    def observe(self, state, cache):
        return {"mean": self.keep * state["mean"] + (1 - self.keep) * cache["batch"]}


@dataclass(frozen=True)
class Noise(Layer):
    """Multiplies by numbers drawn from [0, 2) in training, and by 1 in evaluation."""

    def forward(self, params, x, mode):
        if isinstance(mode, Train):
            factor = jax.random.uniform(mode.key, x.shape, x.dtype, 0, 2)
        else:
            factor = jnp.ones_like(x)
        return factor * x, factor

    def pull(self, params, cache, dy):
        check_cotangent(self, dy, cache)
        return cache * dy
