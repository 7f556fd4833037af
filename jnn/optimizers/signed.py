"""Steps of one length for every parameter."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.masks import Where, weights
from jnn.optimizers.descent import descent, fixed
from jnn.optimizers.protocol import Optimizer, Schedule, by_value
from jnn.optimizers.shrinking import decoupled


class LionState(NamedTuple):
    """What `lion` remembers: step, lr, and the mean of the gradients, in float32 at least."""

    step: jax.Array
    lr: jax.Array
    mean: Params


@by_value
def lion(
    lr: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.99,
    decay: float | Schedule = 0.0,
    where: Where = weights,
) -> Optimizer:
    """The sign of a momentum, which needs one moment where Adam needs two.

        x <- x - lr (sign(b1 m + (1 - b1) dx) + decay x)
        m <- b2 m + (1 - b2) dx

    The sign of 0 is 0. Every step is lr long, so that a tenth of Adam's lr with ten times its decay
    is the place to begin. `where` chooses what decays (see `jnn.masks`).
    `lr` and `decay` are numbers or schedules of the step, which is 0 at the first update.
    State: `mean` is m.
    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms".

    Raises ValueError where `lr` or `decay` is negative or not finite, `b1` or `b2` is not in
    [0, 1), or `where` fits nothing.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import lion
    >>> optimizer, params = lion(0.5), {"w": jnp.zeros(3)}
    >>> grads = {"w": jnp.array([3.0, -0.01, 0.0])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["w"].tolist()
    [-0.5, 0.5, -0.0]
    """
    b1, b2 = fixed("b1", b1, below=1), fixed("b2", b2, below=1)

    def rule(_, lr, dx, m):
        return -lr * jnp.sign(b1 * m + (1 - b1) * dx), b2 * m + (1 - b2) * dx

    return decoupled(descent(LionState, rule, lr), decay, where)
