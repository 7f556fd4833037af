"""Parameters that stay as they are."""

from typing import Any

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.masks import Where, mask
from jnn.optimizers.descent import merge, part
from jnn.optimizers.protocol import Optimizer, by_value, pair, update_with


@by_value
def freeze(optimizer: Any, where: Where) -> Optimizer:
    """`optimizer`, but for the parameters that `where` chooses, which stay as they are.

        x <- x      where chosen: a pattern over dotted paths or a function (see `jnn.masks`)

    The optimizer within is shown None in their place: it holds no moments for them, they do not
    count in a norm, and as nothing reads their gradients, jit computes none. What stands around
    `freeze` in a chain sees them again; put the chain inside, `freeze(chain(...), "dense1.*")`.
    State is no parameter: the running moments of a frozen BatchNorm still follow the data.
    The update takes the keyword `value`, the loss, and passes it on where it is taken.

    State: that of `optimizer`.
    Raises ValueError where `optimizer` is no pair of functions or `where` fits nothing.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import freeze, momentum
    >>> optimizer = freeze(momentum(0.5), "dense1.*")
    >>> params = {"dense1": {"w": jnp.ones((2, 2))}, "dense2": {"w": jnp.ones((2, 1))}}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> bool((updates["dense1"]["w"] == 0).all()), state.velocity["dense1"]
    (True, {'w': None})
    """
    inner = pair("freeze", optimizer)

    def init(params: Params) -> Any:
        return inner.init(part(mask(params, where), params, False))

    def update(
        grads: Params, state: Any, params: Params, *, value: Any = None
    ) -> tuple[Params, Any]:
        frozen = mask(params, where)
        moving = (part(frozen, tree, False) for tree in (grads, params))
        updates, state = update_with(inner, next(moving), state, next(moving), value)
        # -0, for x + -0 is x to the bit where x is -0 as well.
        still = jax.tree.map(lambda p: jnp.full_like(p, -0.0), params)
        return merge(frozen, still, updates), state

    return Optimizer(init, update)
