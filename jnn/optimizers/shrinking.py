"""Weights that are kept small: by decay, or by a limit to their norm."""

from typing import Any

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.masks import Where, mask, weights
from jnn.optimizers.descent import TINY, each, merge, number, part, schedule
from jnn.optimizers.protocol import Optimizer, Schedule, by_value


@by_value
def decay(rate: float, where: Where = weights) -> Optimizer:
    """A piece of a chain that adds a decay to the gradient, as an L2 penalty rate/2 |x|^2 would.

        dx <- dx + rate x

    It stands before the optimizer: `chain(decay(1e-4), momentum(0.1))`. After it, with the sign of
    a gradient, it would make weights grow. Within adaptive optimizers a decay of the gradient is
    divided by its size; `adamw` has one beside it. `where` chooses what decays, by default weights
    but no biases and no scales of norms (see `jnn.masks`).

    State: none, ().
    Source: Krogh & Hertz 1991, "A simple weight decay can improve generalization".
    Raises ValueError where `rate` is negative or not finite, or `where` fits nothing.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import decay
    >>> params = {"w": jnp.full((1, 1), 4.0), "b": jnp.full(1, 4.0)}
    >>> dx, _ = decay(0.5).update({"w": jnp.ones((1, 1)), "b": jnp.ones(1)}, (), params)
    >>> dx["w"].item(), dx["b"].item()
    (3.0, 1.0)
    """
    number("rate", rate)

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        return _where(lambda rate, dx, x: dx + rate * x, (rate,), where, grads, params), state

    return Optimizer(lambda params: (), update)


@by_value
def max_norm(limit: float, where: Where = weights) -> Optimizer:
    """The last piece of a chain: no unit's incoming weights get longer than `limit`.

        x <- (x + u) min(1, limit / |x + u|)    for each column: the norm over all axes but the last

    for the update u that it is given. It returns the update that leads there, so that
    `apply_updates(params, updates)` holds to the limit but for rounding; columns within it keep u.
    A piece after it could lead beyond. `where` chooses what is limited, by default weights but no
    biases and no scales of norms (see `jnn.masks`).

    State: none, ().
    Source: Srebro & Shraibman 2005, "Rank, trace-norm and max-norm"; Srivastava et al. 2014,
    "Dropout: a simple way to prevent neural networks from overfitting", section 5.1.
    Raises ValueError where `limit` is not positive or not finite, or `where` fits nothing.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import apply_updates, max_norm
    >>> params = {"w": jnp.array([[0.0, 0.0], [4.0, 1.0]])}
    >>> updates, _ = max_norm(2.0).update({"w": jnp.array([[3.0, 0.0], [0.0, 0.5]])}, (), params)
    >>> [[round(v, 6) for v in row] for row in apply_updates(params, updates)["w"].tolist()]
    [[1.2, 0.0], [1.6, 1.5]]
    """
    number("limit", limit, least=TINY)

    def pull(limit: jax.Array, u: jax.Array, x: jax.Array) -> jax.Array:
        y = x + u
        norm = jnp.sqrt((y * y).sum(axis=tuple(range(y.ndim - 1)), keepdims=True))
        return jnp.where(norm > limit, y * (limit / norm) - x, u)

    def update(updates: Params, state: Any, params: Params) -> tuple[Params, Any]:
        return _where(pull, (limit,), where, updates, params), state

    return Optimizer(lambda params: (), update)


def decoupled(optimizer: Optimizer, decay: float | Schedule, where: Where) -> Optimizer:
    """`optimizer`, whose state has an lr, with weights that decay by lr * decay beside it."""
    rate = schedule("decay", decay)

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        updates, after = optimizer.update(grads, state, params)
        shrink = after.lr * rate(state.step)
        return _where(lambda c, u, x: u - c * x, (shrink,), where, updates, params), after

    return Optimizer(optimizer.init, update)


def _where(rule: Any, scalars: tuple[Any, ...], where: Where, updates: Params, params: Params):
    """rule(*scalars, u, x) for the parameters x that `where` chooses, and u elsewhere."""
    marks = mask(params, where)
    changed = each(rule, scalars, part(marks, updates), part(marks, params))
    return merge(marks, changed, updates)
