"""Optimizers in a row."""

from typing import Any

from jnn.layer import Params
from jnn.optimizers.protocol import Optimizer, by_value, pair, update_with


@by_value
def chain(*pieces: Any) -> Optimizer:
    """Pieces in a row, each of which is given the updates of the one before as its gradients.

        chain(clip_norm(1.0), decay(1e-4), momentum(0.1), max_norm(3.0))

    What works on gradients stands before the optimizer proper, what works on its steps after it.
    Any (init, update) pair is a piece. The update takes the keyword `value`, the loss, and passes
    it to those pieces that take one.

    State: a tuple of the states of the pieces, in order.
    Raises ValueError where a piece is no pair of functions.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import chain, clip_norm, sgd
    >>> optimizer, params = chain(clip_norm(1.0), sgd(0.5)), {"w": jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, state, params)
    >>> [round(u, 6) for u in updates["w"].tolist()], state[0].norm.item(), state[1].step.item()
    ([-0.3, -0.4], 5.0, 1)
    """
    pairs = tuple(pair("chain", piece) for piece in pieces)

    def init(params: Params) -> tuple[Any, ...]:
        return tuple(piece.init(params) for piece in pairs)

    def update(
        grads: Params, state: tuple[Any, ...], params: Params, *, value: Any = None
    ) -> tuple[Params, tuple[Any, ...]]:
        after = []
        for piece, mine in zip(pairs, state, strict=True):
            grads, mine = update_with(piece, grads, mine, params, value)
            after.append(mine)
        return grads, tuple(after)

    return Optimizer(init, update)
