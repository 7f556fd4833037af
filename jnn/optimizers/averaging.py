"""The average of the parameters along the way."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.optimizers.adaptive import weight
from jnn.optimizers.descent import each, fixed, following
from jnn.optimizers.protocol import Optimizer, apply_updates, by_value, pair, update_with
from jnn.precision import accumulator


class AverageState(NamedTuple):
    """What `average` remembers: the state of the optimizer within, the step, and the average.

    `average` is a tree like the parameters, in float32 at least.
    """

    inner: Any
    step: jax.Array
    average: Params


@by_value
def average(optimizer: Any, decay: float = 0.999) -> Optimizer:
    """`optimizer`, and an average of the parameters after each of its updates, fading as it ages.

        a <- a + (x - a) (1 - decay) / (1 - decay^t)        t = 1 at the first update

    This is the exponential moving average with its bias corrected: the average after one update is
    x itself, the first few weigh alike, and the initial parameters, which it holds until then,
    weigh nothing. `state.average` is ready to evaluate, in float32 at least; where the network
    wants bfloat16, `jax.tree.map(lambda a, p: a.astype(p.dtype), state.average, params)`.
    It goes around everything that changes the update: `average(chain(...))`.
    The update takes the keyword `value`, the loss, and passes it on where it is taken.

    State: `AverageState`, of copies: it never shares an array with the parameters.
    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the
    correction by Kingma & Ba 2015.
    Raises ValueError where `optimizer` is no pair of functions or `decay` is not in [0, 1).

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import apply_updates, average, sgd
    >>> optimizer, params = average(sgd(1.0), decay=0.5), {"w": jnp.zeros(1)}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):  # w is -1, then -2; their weights are 1/3 and 2/3
    ...     updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    ...     params = apply_updates(params, updates)
    >>> round(state.average["w"].item(), 6)
    -1.666667
    """
    inner = pair("average", optimizer)
    decay = fixed("decay", decay, below=1)

    def init(params: Params) -> AverageState:
        def copy(p: jax.Array) -> jax.Array:
            return jnp.array(p, accumulator(p.dtype), copy=True)  # or donating both would fail

        return AverageState(
            inner.init(params), jnp.zeros((), jnp.int32), jax.tree.map(copy, params)
        )

    def blend(step: jax.Array, a: jax.Array, x: jax.Array) -> jax.Array:
        share = weight(decay, jnp.ones_like(step)) / weight(decay, step + 1)
        return a + (x - a) * share

    def update(
        grads: Params, state: AverageState, params: Params, *, value: Any = None
    ) -> tuple[Params, AverageState]:
        updates, after = update_with(inner, grads, state.inner, params, value)
        moved = apply_updates(params, updates)
        mean = each(blend, (state.step,), state.average, moved)
        return updates, AverageState(after, following(state.step), mean)

    return Optimizer(init, update)
