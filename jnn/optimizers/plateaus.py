"""Smaller steps where the loss has stopped falling."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.optimizers.descent import TINY, each, fixed, following, whole
from jnn.optimizers.protocol import Optimizer, by_value, pair, update_with


class PlateauState(NamedTuple):
    """What `reduce_on_plateau` remembers."""

    inner: Any  # the state of the optimizer within
    scale: jax.Array  # what its updates are multiplied by, () float
    best: jax.Array  # the least mean loss of a window, () float, inf before there is one
    total: jax.Array  # the losses of the current window summed, () float
    seen: jax.Array  # how many they are, () int32
    waited: jax.Array  # windows since the best or the last reduction, () int32


@by_value
def reduce_on_plateau(
    optimizer: Any,
    factor: float = 0.1,
    patience: int = 10,
    window: int = 100,
    threshold: float = 1e-4,
    floor: float = 0.0,
) -> Optimizer:
    """`optimizer`, with updates scaled down each time that the training loss stops falling.

        loss  = the mean of `value` over `window` updates
        scale <- max(floor, factor scale)   where, `patience` windows in a row,
                                            not loss < best - threshold |best|
        u     <- scale u

    The scale is 1 to begin with, a reduction holds from the update that completes the window, and
    the count of windows then begins anew; the best is kept. A window with a loss that is not a
    number has not improved. The update takes the loss as the keyword `value`, from inside the
    compiled step, and so needs nobody who watches; one batch's loss is noisy, hence the window. An
    epoch's steps are a good window. The moments and the lr of the state within know nothing of it.

    State: `PlateauState`; `scale` is the current one.
    Source: PyTorch's ReduceLROnPlateau, in the step as optax has it.
    Raises ValueError where `factor` is not in (0, 1), `threshold` or `floor` is not in [0, 1),
    `patience` or `window` is no positive whole number, or an update is not given `value`.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import reduce_on_plateau, sgd
    >>> optimizer = reduce_on_plateau(sgd(1.0), factor=0.5, patience=2, window=1)
    >>> params, dx = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    >>> state, moves = optimizer.init(params), []
    >>> for loss in (3.0, 2.0, 2.0, 2.0, 1.0):
    ...     updates, state = optimizer.update(dx, state, params, value=jnp.array(loss))
    ...     moves.append(updates["w"].item())
    >>> moves
    [-1.0, -1.0, -1.0, -0.5, -0.5]
    """
    inner = pair("reduce_on_plateau", optimizer)
    factor = fixed("factor", factor, least=TINY, below=1)
    threshold, floor = fixed("threshold", threshold, below=1), fixed("floor", floor, below=1)
    patience, window = whole("patience", patience), whole("window", window)

    def init(params: Params) -> PlateauState:
        return PlateauState(
            inner=inner.init(params),
            scale=jnp.ones((), float),
            best=jnp.full((), math.inf, float),
            total=jnp.zeros((), float),
            seen=jnp.zeros((), jnp.int32),
            waited=jnp.zeros((), jnp.int32),
        )

    def watch(state: PlateauState, value: Any) -> PlateauState:
        _, scale, best, total, seen, waited = state
        total, seen = total + jnp.asarray(value).astype(total.dtype), seen + 1
        full, loss = seen == window, total / window
        # inf - inf would be NaN, and nothing better than that.
        margin = jnp.where(jnp.isinf(best), 0, threshold * jnp.abs(best))
        better = full & (loss < best - margin)
        waited = jnp.where(better, 0, jnp.where(full, following(waited), waited))
        reduce = waited == patience
        return PlateauState(
            inner=state.inner,
            scale=jnp.where(reduce, jnp.maximum(scale * factor, floor), scale),
            best=jnp.where(better, loss, best),
            total=jnp.where(full, 0, total),
            seen=jnp.where(full, 0, seen),
            waited=jnp.where(reduce, 0, waited),
        )

    def update(
        grads: Params, state: PlateauState, params: Params, *, value: Any = None
    ) -> tuple[Params, PlateauState]:
        if value is None:
            raise ValueError(
                "reduce_on_plateau: value is None; it must be the loss: "
                "update(grads, state, params, value=loss)"
            )
        state = watch(state, value)
        updates, after = update_with(inner, grads, state.inner, params, value)
        updates = each(lambda scale, u: scale * u, (state.scale,), updates)
        return updates, state._replace(inner=after)

    return Optimizer(init, update)
