"""Gradient descent, plain and with momentum."""

from typing import NamedTuple

import jax

from jnn.layer import Params
from jnn.optimizers.descent import descent, schedule
from jnn.optimizers.protocol import Optimizer, Schedule, by_value


class SGDState(NamedTuple):
    """What `sgd` remembers: steps taken, int32 (), and the learning rate of the last, float ()."""

    step: jax.Array
    lr: jax.Array


class MomentumState(NamedTuple):
    """What `momentum` and `nesterov` remember: as SGDState, and the velocity, like the parameters.

    Like them but in float32 at least.
    """

    step: jax.Array
    lr: jax.Array
    velocity: Params


@by_value
def sgd(lr: float | Schedule) -> Optimizer:
    """Steps straight down the gradient.

        x <- x - lr dx

    `lr` is a number or a schedule of the step, which is 0 at the first update.
    Raises ValueError where `lr` is neither, or is negative or not finite.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import apply_updates, sgd
    >>> optimizer = sgd(0.5)
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([1.0, 1.0])}, state, params)
    >>> apply_updates(params, updates)["w"].tolist(), int(state.step)
    ([0.5, 1.5], 1)
    """
    return descent(SGDState, lambda _, lr, dx: (-lr * dx,), lr)


@by_value
def momentum(lr: float | Schedule, mu: float | Schedule = 0.9) -> Optimizer:
    """Steps with a velocity that the gradient accelerates and friction slows, as in the lectures.

        v <- mu v - lr dx
        x <- x + v

    The velocity starts at zero. Libraries that write v <- mu v + dx, x <- x - lr v take the same
    steps while lr is constant; where it changes, theirs rescales the whole velocity at once.
    `lr` and `mu` are numbers or schedules of the step, which is 0 at the first update.
    Source: Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum".

    Raises ValueError where `lr` is negative or not finite, or `mu` is not in [0, 1).

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import momentum
    >>> optimizer = momentum(0.5, mu=0.5)
    >>> params = {"w": jnp.zeros(1)}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    >>> state.velocity["w"].tolist()
    [-0.75]
    """

    def rule(_, lr, mu, dx, v):
        v = mu * v - lr * dx
        return v, v

    return descent(MomentumState, rule, lr, schedule("mu", mu, below=1))


@by_value
def nesterov(lr: float | Schedule, mu: float | Schedule = 0.9) -> Optimizer:
    """Momentum whose gradient is taken where the velocity leads, in the form of the lectures.

        u <- v
        v <- mu v - lr dx
        x <- x - mu u + (1 + mu) v

    Here x is the point looked ahead to, at which the gradient is taken, so that training runs as
    with any other optimizer. Where mu follows a schedule, its value at this step serves for both.
    `lr` and `mu` are numbers or schedules of the step, which is 0 at the first update.
    Source: Nesterov 1983; Bengio et al. 2012, "Advances in optimizing recurrent networks".

    Raises ValueError where `lr` is negative or not finite, or `mu` is not in [0, 1).

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import nesterov
    >>> optimizer = nesterov(0.5, mu=0.5)
    >>> params = {"w": jnp.zeros(1)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    >>> updates["w"].tolist(), state.velocity["w"].tolist()
    ([-0.75], [-0.5])
    """

    def rule(_, lr, mu, dx, v):
        u, v = v, mu * v - lr * dx
        return -mu * u + (1 + mu) * v, v

    return descent(MomentumState, rule, lr, schedule("mu", mu, below=1))
