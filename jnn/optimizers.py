"""Optimizers: (init, update) pairs, the protocol that JAX users know.

    state          = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    params         = apply_updates(params, updates)

States are NamedTuples: the step, the learning rate and every moment can be read by name. Step
counters saturate instead of wrapping around. Arithmetic is done in float32 at least, and the
dtypes of parameters never change.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jnn.layer import Params, Tree, shape_of
from jnn.precision import accumulator

__all__ = [
    "MomentumState",
    "Optimizer",
    "SGDState",
    "Schedule",
    "apply_updates",
    "momentum",
    "sgd",
]

Schedule = Callable[[jax.Array], Any]  # the step, from 0 -> the value for that step


class Optimizer(NamedTuple):
    """A pair of pure functions; any pair with these signatures will do, from whichever library."""

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params], tuple[Params, Any]]


class SGDState(NamedTuple):
    """What `sgd` remembers: steps taken, int32 (), and the learning rate of the last, float ()."""

    step: jax.Array
    lr: jax.Array


class MomentumState(NamedTuple):
    """What `momentum` remembers: as SGDState, and the velocity, a tree like the parameters."""

    step: jax.Array
    lr: jax.Array
    velocity: Params


def sgd(lr: float | Schedule) -> Optimizer:
    """Steps straight down the gradient.

        x <- x - lr dx

    `lr` is a number or a schedule of the step, which is 0 at the first update.
    Raises ValueError where `lr` is neither, or is negative or not finite.

    >>> optimizer = sgd(0.5)
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([1.0, 1.0])}, state, params)
    >>> apply_updates(params, updates)["w"].tolist(), int(state.step)
    ([0.5, 1.5], 1)
    """
    schedule = _schedule(lr)

    def init(params: Params) -> SGDState:
        del params
        return SGDState(*_first(schedule))

    def update(grads: Params, state: SGDState, params: Params) -> tuple[Params, SGDState]:
        del params
        lr = schedule(state.step)
        return _map(lambda lr, g: -lr * g, lr, grads), SGDState(_next(state.step), lr)

    return Optimizer(init, update)


def momentum(lr: float | Schedule, mu: float = 0.9) -> Optimizer:
    """Steps with a velocity that the gradient accelerates and friction slows, as in the lectures.

        v <- mu v - lr dx
        x <- x + v

    The velocity starts at zero. Libraries that write v <- mu v + dx, x <- x - lr v take the same
    steps while lr is constant; where it changes, theirs rescales the whole velocity at once.
    `lr` is a number or a schedule of the step, which is 0 at the first update.
    Source: Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum".

    Raises ValueError where `lr` is negative or not finite, or `mu` is not in [0, 1).

    >>> optimizer = momentum(0.5, mu=0.5)
    >>> params = {"w": jnp.zeros(1)}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    >>> state.velocity["w"].tolist()
    [-0.75]
    """
    schedule = _schedule(lr)
    if not 0 <= mu < 1:
        raise ValueError(f"momentum: mu is {mu!r}; it must lie in [0, 1), 0.9 being usual")

    def init(params: Params) -> MomentumState:
        return MomentumState(*_first(schedule), jax.tree.map(jnp.zeros_like, params))

    def update(grads: Params, state: MomentumState, params: Params) -> tuple[Params, MomentumState]:
        del params
        lr = schedule(state.step)
        velocity = _map(lambda lr, g, v: mu * v - lr * g, lr, grads, state.velocity)
        return velocity, MomentumState(_next(state.step), lr, velocity)

    return Optimizer(init, update)


def apply_updates(params: Params, updates: Params) -> Params:
    """`params + updates`, leaf by leaf, in the dtypes of the parameters.

    Raises ValueError where the trees or a shape differ: nothing is broadcast.

    >>> apply_updates({"w": jnp.ones(2)}, {"w": jnp.array([0.5, -0.5])})["w"].tolist()
    [1.5, 0.5]
    """

    def add(p: jax.Array, u: jax.Array) -> jax.Array:
        if p.shape != u.shape:
            raise ValueError(
                f"apply_updates: an update is {shape_of(u)} and its parameter {shape_of(p)}; "
                "their shapes must be equal"
            )
        wide = accumulator(p.dtype)
        return (p.astype(wide) + u.astype(wide)).astype(p.dtype)

    return jax.tree.map(add, params, updates)


def _schedule(lr: float | Schedule) -> Callable[[jax.Array], jax.Array]:
    """`lr` as a function of the step that returns a float scalar, whatever it was given as."""
    if not callable(lr):
        if isinstance(lr, bool) or not isinstance(lr, Real | jax.Array) or jnp.ndim(lr):
            raise ValueError(f"lr is {lr!r}; it must be a number or a function of the step")
        if not isinstance(lr, Tracer) and not 0 <= lr < math.inf:
            raise ValueError(f"lr is {lr!r}; it must be finite and not negative")
    at = lr if callable(lr) else lambda step: lr
    return lambda step: jnp.asarray(at(step)).astype(float)


def _first(schedule: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
    step = jnp.zeros((), jnp.int32)
    return step, schedule(step)


def _next(step: jax.Array) -> jax.Array:
    last = jnp.iinfo(step.dtype).max
    return jnp.where(step == last, last, step + 1)


def _map(f: Callable[..., jax.Array], lr: jax.Array, grads: Tree, *rest: Tree) -> Tree:
    """f(lr, g, ...) leaf by leaf, computed in float32 at least, returned in the leaf's dtype."""

    def leaf(g: jax.Array, *others: jax.Array) -> jax.Array:
        wide = accumulator(g.dtype)
        return f(*(v.astype(wide) for v in (lr, g, *others))).astype(g.dtype)

    return jax.tree.map(leaf, grads, *rest)
