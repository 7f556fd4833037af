"""Gradients cut to size: pieces of a chain that stand before the optimizer."""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.optimizers.descent import TINY, each, number, widest
from jnn.optimizers.protocol import Optimizer, by_value


class ClipNormState(NamedTuple):
    """What `clip_norm` reports: the norm of the last gradient before it was clipped, float ().

    0 before the first; float32, or float64 where a gradient is.
    """

    norm: jax.Array


@by_value
def clip_value(limit: float) -> Optimizer:
    """Every number of the gradient cut to [-limit, limit].

        dx <- min(max(dx, -limit), limit)

    An infinite one becomes the limit; NaN stays NaN, so that a run that diverges is seen to.

    State: none, ().
    Source: Mikolov 2012, "Statistical language models based on neural networks".
    Raises ValueError where `limit` is not positive or not finite.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import clip_value
    >>> clip_value(1.0).update({"w": jnp.array([-3.0, 0.5])}, (), None)[0]["w"].tolist()
    [-1.0, 0.5]
    """
    number("limit", limit, least=TINY)

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        del params
        return each(lambda limit, dx: jnp.clip(dx, -limit, limit), (limit,), grads), state

    return Optimizer(lambda params: (), update)


@by_value
def clip_norm(limit: float) -> Optimizer:
    """The gradient of all parameters together, shortened to the length `limit` where it is longer.

        dx <- dx min(1, limit / |dx|)       |dx| over all parameters, in float32 at least

    Within the limit it stays as it is, bit for bit; zero stays zero. The squares of numbers that
    are large or small leave the range of floats no more than the numbers themselves. An infinite
    number outweighs all that are finite: these become 0, and those share the limit. NaN makes all
    of it NaN, so that a run that diverges is seen to.

    State: `ClipNormState`, whose `norm` is the length before clipping.
    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks".
    Raises ValueError where `limit` is not positive or not finite.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import clip_norm
    >>> optimizer, params = clip_norm(1.0), {"w": jnp.zeros(1), "b": jnp.zeros(1)}
    >>> dx, state = optimizer.update({"w": jnp.array([3.0]), "b": jnp.array([4.0])},
    ...                              optimizer.init(params), params)
    >>> round(dx["w"].item(), 6), round(dx["b"].item(), 6), state.norm.item()
    (0.6, 0.8, 5.0)
    """
    number("limit", limit, least=TINY)

    def init(params: Params) -> ClipNormState:
        return ClipNormState(jnp.zeros((), widest(*jax.tree.leaves(params))))

    def update(grads: Params, state: ClipNormState, params: Params) -> tuple[Params, ClipNormState]:
        del params
        leaves, form = jax.tree.flatten(grads)
        wide = widest(*leaves)
        full = [dx.astype(wide) for dx in leaves]
        # Measured by the greatest number, so that no square leaves the range of floats.
        greatest = reduce(jnp.maximum, (jnp.abs(dx).max(initial=0) for dx in full), wide.type(0))
        parts = [_over(greatest, dx) for dx in full]
        length = jnp.sqrt(sum((part * part).sum() for part in parts))
        length = jnp.maximum(length, 1)  # it is, but where all is 0
        norm, most = greatest * length, jnp.asarray(limit).astype(wide)
        clipped = (
            jnp.where(norm <= most, dx, part * (most / length))
            for dx, part in zip(full, parts, strict=True)
        )
        updates = [c.astype(dx.dtype) for c, dx in zip(clipped, leaves, strict=True)]
        return form.unflatten(updates), ClipNormState(norm.astype(state.norm.dtype))

    return Optimizer(init, update)


def _over(greatest: jax.Array, dx: jax.Array) -> jax.Array:
    """dx / greatest, where inf / inf is 1 and 0 / 0 is 0."""
    infinite = jnp.where(jnp.isinf(dx), jnp.sign(dx), 0)
    return jnp.where(jnp.isinf(greatest), infinite, dx / jnp.where(greatest == 0, 1, greatest))
