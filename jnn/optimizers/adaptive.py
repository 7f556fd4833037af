"""Optimizers that give every parameter a step size of its own, from the squares of its gradients.

Wherever a quotient could be 0/0 stands an epsilon, which must be positive in float32.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.masks import Where, weights
from jnn.optimizers.descent import TINY, descent, fixed
from jnn.optimizers.protocol import Optimizer, Schedule, by_value
from jnn.optimizers.shrinking import decoupled


class SquareState(NamedTuple):
    """What `adagrad` and `rmsprop` remember: step, lr, and each gradient's square, summed or mean.

    `square` is a tree like the parameters, in float32 at least.
    """

    step: jax.Array
    lr: jax.Array
    square: Params


class AdadeltaState(NamedTuple):
    """What `adadelta` remembers: as SquareState, and the mean square of the changes."""

    step: jax.Array
    lr: jax.Array
    square: Params
    change: Params


class AdamState(NamedTuple):
    """What `adam` and `adamw` remember: as SquareState, and the mean of the gradients.

    Both means are as they are before their bias is corrected.
    """

    step: jax.Array
    lr: jax.Array
    mean: Params
    square: Params


@by_value
def adagrad(lr: float | Schedule, eps: float = 1e-8) -> Optimizer:
    """Steps that shrink where gradients have been large, for good, as in the lectures.

        s <- s + dx^2
        x <- x - lr dx / (sqrt s + eps)

    The sum s starts at zero; some libraries start at 0.1, or put eps inside the root.
    `lr` is a number or a schedule of the step, which is 0 at the first update.
    Source: Duchi et al. 2011, "Adaptive subgradient methods".

    Raises ValueError where `lr` is negative or not finite, or `eps` is not positive in float32.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import adagrad
    >>> optimizer = adagrad(0.5)
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, state = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params),
    ...                                   params)
    >>> updates["w"].tolist(), state.square["w"].tolist()
    ([-0.5, 0.5], [9.0, 16.0])
    """
    eps = fixed("eps", eps, least=TINY)

    def rule(_, lr, dx, s):
        s = s + dx * dx
        return -lr * dx / (jnp.sqrt(s) + eps), s

    return descent(SquareState, rule, lr)


@by_value
def rmsprop(lr: float | Schedule, rho: float = 0.9, eps: float = 1e-8) -> Optimizer:
    """Adagrad that forgets: the mean of the squares fades in place of their sum.

        s <- rho s + (1 - rho) dx^2
        x <- x - lr dx / (sqrt s + eps)

    The mean s starts at zero and its bias is not corrected, so that the first steps are
    1 / sqrt(1 - rho) times as long. `rho` is the lectures' decay_rate.
    `lr` is a number or a schedule of the step, which is 0 at the first update.
    Source: Tieleman & Hinton 2012, "Neural networks for machine learning", lecture 6e.

    Raises ValueError where `lr` is negative or not finite, `rho` is not in [0, 1), or `eps` is not
    positive in float32.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import rmsprop
    >>> optimizer = rmsprop(0.5, rho=0.75)
    >>> params = {"w": jnp.zeros(2)}
    >>> updates, state = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params),
    ...                                   params)
    >>> updates["w"].tolist(), state.square["w"].tolist()
    ([-1.0, 1.0], [2.25, 4.0])
    """
    rho, eps = fixed("rho", rho, below=1), fixed("eps", eps, least=TINY)

    def rule(_, lr, dx, s):
        s = rho * s + (1 - rho) * dx * dx
        return -lr * dx / (jnp.sqrt(s) + eps), s

    return descent(SquareState, rule, lr)


@by_value
def adadelta(lr: float | Schedule = 1.0, rho: float = 0.9, eps: float = 1e-6) -> Optimizer:
    """Steps in the units of the parameters: as long as the last ones, by the gradient's own size.

        s <- rho s + (1 - rho) dx^2
        d  = sqrt(u + eps) / sqrt(s + eps) dx
        u <- rho u + (1 - rho) d^2
        x <- x - lr d

    Both means start at zero, and eps, which is inside the roots here, sets the first step.
    `lr` is a number or a schedule of the step, which is 0 at the first update; 1 is the paper's.
    State: `square` is s and `change` is u.
    Source: Zeiler 2012, "ADADELTA: an adaptive learning rate method".

    Raises ValueError where `lr` is negative or not finite, `rho` is not in [0, 1), or `eps` is not
    positive in float32.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import adadelta
    >>> optimizer = adadelta(rho=0.75, eps=1.0)
    >>> params = {"w": jnp.zeros(1)}
    >>> updates, state = optimizer.update({"w": jnp.array([2.0])}, optimizer.init(params), params)
    >>> round(updates["w"].item(), 6), round(state.change["w"].item(), 6)  # 2 / sqrt 2, and 2 / 4
    (-1.414214, 0.5)
    """
    rho, eps = fixed("rho", rho, below=1), fixed("eps", eps, least=TINY)

    def rule(_, lr, dx, s, u):
        s = rho * s + (1 - rho) * dx * dx
        d = jnp.sqrt(u + eps) / jnp.sqrt(s + eps) * dx
        return -lr * d, s, rho * u + (1 - rho) * d * d

    return descent(AdadeltaState, rule, lr)


@by_value
def adam(
    lr: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    bias_correction: bool = True,
) -> Optimizer:
    """Momentum over RMSprop, both means corrected for having started at zero.

        m <- b1 m + (1 - b1) dx
        v <- b2 v + (1 - b2) dx^2
        x <- x - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)       t = 1 at the first update

    The lectures write it without the two corrections, which is `bias_correction=False`: the first
    steps are then (1 - b1) / sqrt(1 - b2) times as long, 3.2 by default. eps stands outside the
    root and after the correction, as in the paper's algorithm 1.
    `lr` is a number or a schedule of the step, which is 0 at the first update.
    State: `mean` is m and `square` is v.
    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization".

    Raises ValueError where `lr` is negative or not finite, `b1` or `b2` is not in [0, 1), or `eps`
    is not positive in float32.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import adam
    >>> params, grads = {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, -0.01])}
    >>> for correct in (True, False):
    ...     optimizer = adam(0.1, bias_correction=correct)
    ...     updates, state = optimizer.update(grads, optimizer.init(params), params)
    ...     print([round(u, 4) for u in updates["w"].tolist()])
    [-0.1, 0.1]
    [-0.3162, 0.3162]
    """
    b1, b2 = fixed("b1", b1, below=1), fixed("b2", b2, below=1)
    eps = fixed("eps", eps, least=TINY)

    def rule(t, lr, dx, m, v):
        m = b1 * m + (1 - b1) * dx
        v = b2 * v + (1 - b2) * dx * dx
        m_hat, v_hat = (m / weight(b1, t), v / weight(b2, t)) if bias_correction else (m, v)
        return -lr * m_hat / (jnp.sqrt(v_hat) + eps), m, v

    return descent(AdamState, rule, lr)


@by_value
def adamw(
    lr: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay: float | Schedule = 0.01,
    where: Where = weights,
) -> Optimizer:
    """Adam, and weights that decay beside it rather than through the gradient.

        x <- x - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay x)

    An L2 penalty within Adam decays those weights least whose gradients are large; this decays all
    alike. As in most libraries the decay is multiplied by lr, and so follows its schedule; the
    paper multiplies it by the schedule alone. `where` chooses what decays, by default weights but
    no biases and no scales of norms (see `jnn.masks`).
    `lr` and `decay` are numbers or schedules of the step, which is 0 at the first update.
    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization".

    Raises ValueError as `adam` does, or where `decay` is negative, or `where` fits nothing.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import adamw
    >>> params = {"w": jnp.ones((1, 1)), "b": jnp.ones(1)}
    >>> optimizer, grads = adamw(0.1, decay=0.5), {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(updates[name].item(), 4) for name in ("w", "b")]
    [-0.05, -0.0]
    """
    return decoupled(adam(lr, b1, b2, eps), decay, where)


def weight(b: float, t: jax.Array) -> jax.Array:
    """1 - b^t, without the digits that the subtraction would lose: 4 of 7 for b = 0.999, t = 1."""
    return -jnp.expm1(t * (math.log(b) if b else -math.inf))
