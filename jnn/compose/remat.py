"""A layer that forgets what it computed, and computes it again."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jnn.compose.base import Wrapper
from jnn.layer import Cache, Eval, Layer, Mode, Params, State, Train, Tree, known


@dataclass(frozen=True)
class Remat(Wrapper):
    """A layer whose cache is dropped, and made again by a second forward pass when needed.

        forward    y = f(x)
        backward   forward once more from x, then dx and gradients of f

    It costs a forward pass and saves the memory of all that lies between x and y. The second pass
    waits for dy behind `jax.lax.optimization_barrier`, without which XLA would find that it was
    computed already, and keep it. On CPU it finds that all the same, as with `jax.checkpoint`, but
    not within the loop of a `Repeat`. It draws the same random numbers, from the same key.

    Under `jnn.autodiff` nothing is hand-written and so nothing is dropped; `jax.checkpoint` is for
    that.

    Shapes, params and state are the layer's own.
    Cache: x; the key and the state, in their absence one that says nothing, and which mode it was;
    and what `observe` reads. Where the mode is not known when the backward pass is traced (its
    cache went into that program as an argument), the program holds both.
    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".

    >>> import jnn
    >>> block = jnn.Serial(jnn.Dense(64), jnn.Tanh(), jnn.Dense(4))
    >>> params, state = Remat(block).init(jax.random.key(0), jnp.ones((1, 4)))
    >>> y, cache = Remat(block).forward(params, jnp.ones((2, 4)), jnn.Eval(state))
    >>> cache["x"].shape, sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    ((2, 4), 41)
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        y, cache = super().forward(params, x, mode)
        training = isinstance(mode, Train)
        state = mode.state if jax.tree.leaves(mode.state) else _blank_state(self.layer, x)
        kept = {
            "x": jax.tree.map(jnp.asarray, x),
            # Drawn from a second time, and meant to be.
            "key": _typed(jax.random.clone(mode.key)) if training else jax.random.key(0),
            "state": state,
            "training": known(training),
            "observed": self.layer.observed(cache),
        }
        return y, kept

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        training = cache["training"]
        # As numbers, for a cache may be pulled back more than once, with the same random numbers.
        bits, impl = jax.random.key_data(cache["key"]), jax.random.key_impl(cache["key"])
        given = params, {"x": cache["x"], "bits": bits, "state": cache["state"]}, dy

        def again(train: bool) -> tuple[Params, Any]:
            # dy too, so that the second pass cannot begin before it is needed.
            params, kept, dy = jax.lax.optimization_barrier(given)
            key = jax.random.wrap_key_data(kept["bits"], impl=impl)
            mode = Train(key, kept["state"]) if train else Eval(kept["state"])
            _, inner = self.layer.forward(params, kept["x"], mode)
            return super(Remat, self).backward(params, inner, dy)

        if isinstance(training, Tracer):
            return jax.lax.cond(training, lambda: again(True), lambda: again(False))
        return again(bool(training))

    def observe(self, state: State, cache: Cache) -> State:
        return self.layer.observe(state, cache["observed"])

    def observed(self, cache: Cache) -> Cache:
        return {"observed": cache["observed"]}


def _typed(key: jax.Array) -> jax.Array:
    """The key, of JAX's older kind too, as one of the newer."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if typed else jax.random.wrap_key_data(key)


def _blank_state(layer: Layer, x: Any) -> State:
    """A state of the right form, for a training pass that was given none."""
    leaves, tree = jax.tree.flatten(x)
    forms = tuple(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in leaves)
    return jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), _state_form(layer, tree, forms))


@lru_cache(maxsize=256)
def _state_form(layer: Layer, tree: Any, forms: tuple[jax.ShapeDtypeStruct, ...]) -> Tree:
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(layer.init, key, tree.unflatten(forms))[1]
