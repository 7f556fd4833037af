"""Layers that training does not change."""

from dataclasses import dataclass
from typing import Any

import jax

from jnn.compose.base import Wrapper
from jnn.layer import Cache, Eval, Mode, Params, State, Train, check_mode


@dataclass(frozen=True)
class Frozen(Wrapper):
    """A layer that evaluates in training too, and whose state stays as it is.

        forward    y = f(x) as in evaluation, in both modes
        backward   dx and gradients of that f

    A frozen BatchNorm standardises by its running moments, as fine-tuning on small batches wants;
    a frozen Dropout does nothing. Params and state are the layer's own, so that a trained network
    is frozen by `rewrite(net, {BatchNorm: Frozen})` and goes on with the params and state it has.
    The parameters are still trained: `jnn.optimizers.freeze` is for those.

    It is the one layer that reads the state in training, which `jnn.run` and `jnn.fit` hand to it;
    a loop of your own says Train(key, state).

    Shapes and cache are the layer's own.
    Raises LayerError, a ValueError, where training hands it no state and the layer needs one.

    >>> import jax.numpy as jnp, jnn
    >>> layer, x = Frozen(jnn.BatchNorm()), jnp.array([[1.0], [3.0]])
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> y, cache = layer.forward(params, x, Train(jax.random.key(1), state))
    >>> y.round(0).tolist(), layer.observe(state, cache) is state
    ([[1.0], [3.0]], True)
    """

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        check_mode(self, mode)
        try:
            return super().forward(params, x, Eval(mode.state))
        except Exception as error:
            if isinstance(mode, Train) and not jax.tree.leaves(mode.state):
                error.add_note("a frozen layer reads its state in training: Train(key, state)")
            raise

    def observe(self, state: State, cache: Cache) -> State:
        del cache
        return state

    def observed(self, cache: Cache) -> Cache:
        del cache
