"""Evaluation: exact means over a whole data set, in evaluation mode."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.data.checking import Pair, checked, transformed, whole
from jnn.layer import Eval, Layer, Params, State
from jnn.losses import Loss


class Evaluation(NamedTuple):
    """The mean over a whole data set; accuracy is None where the loss does not define it."""

    loss: float
    accuracy: float | None
    examples: int

    def __str__(self) -> str:
        score = "" if self.accuracy is None else f"  accuracy {self.accuracy:7.2%}"
        return f"loss {self.loss:.4f}{score}"


def evaluate(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: tuple[Any, Any],
    *,
    transform: Any = None,
    batch_size: int = 500,
) -> Evaluation:
    """The exact mean of loss and accuracy over any number of examples, in evaluation mode.

    The last batch is filled up and what fills it weighs nothing, so the result does not depend on
    `batch_size` but for rounding. Accuracy is NaN where a prediction is not finite. `transform` is
    applied to x first, as in `run`. Raises ValueError as `run` does.

    >>> import jnn
    >>> net, loss = jnn.Serial(jnn.Dense(2)), jnn.SoftmaxCrossEntropy()
    >>> x, y = jnp.ones((7, 3)), jnp.zeros(7, int)
    >>> params, state = net.init(jax.random.key(0), x)
    >>> evaluate(net, loss, jax.tree.map(jnp.zeros_like, params), state, (x, y)).accuracy
    1.0
    """
    batch_size = whole("batch_size", batch_size)
    arrays = checked("data", net, loss, data, transform)
    return evaluation(net, loss, params, state, arrays, transform, batch_size)


def evaluation(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: Pair,
    transform: Any,
    batch: int = 500,
) -> Evaluation:
    """`evaluate` on data that are checked and on the device already."""
    n = len(data[1])
    value, correct = jax.device_get(
        _means(net, loss, params, state, data, transform, min(batch, n))
    )
    return Evaluation(float(value), float(correct) if scores(loss) else None, n)


def scores(loss: Loss) -> bool:
    """Whether the loss tells right answers from wrong ones."""
    return type(loss).correct is not Loss.correct


def means(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: Pair,
    transform: Any,
    batch: int,
) -> tuple[jax.Array, jax.Array]:
    """The mean of the loss and of what is right over a data set, batch by batch."""
    n = len(data[1])

    def add(i: jax.Array, sums: jax.Array) -> jax.Array:
        position = i * batch + jnp.arange(batch, dtype=jnp.int32)
        xs, ys = jax.tree.map(lambda v: v[jnp.minimum(position, n - 1)], data)
        prediction, _ = net.forward(params, transformed(transform, xs), Eval(state))
        values, _ = loss.each().forward(prediction, ys)
        found = (values, loss.weight(ys), loss.correct(prediction, ys), loss.counted(ys))
        present = position < n
        return sums + jnp.stack(
            [jnp.where(present, 1 if v is None else v, 0).sum(dtype=float) for v in found]
        )

    batches = jnp.int32(-(-n // batch))
    sums = jax.lax.fori_loop(jnp.int32(0), batches, add, jnp.zeros(4, float))
    return sums[0] / sums[1], sums[2] / sums[3]


_means = jax.jit(means, static_argnums=(0, 1, 6))
