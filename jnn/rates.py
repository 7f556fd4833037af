"""The finder of learning rates."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jnn.data.checking import checked, whole
from jnn.layer import Layer
from jnn.losses import Loss
from jnn.optimizers import Optimizer
from jnn.search import BORDER, Range
from jnn.training import Diverged, run


class Rates(NamedTuple):
    """What `find_learning_rate` saw: rates and the loss at each, (steps,), and what it suggests."""

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float

    @property
    def warnings(self) -> list[str]:
        """What makes the suggestion a poor one, a sentence each."""
        words = []
        if self.suggestion < self.rates[0]:
            words.append(
                f"the loss only rose from the lowest rate on, {self.rates[0]:.1e}: lower low"
            )
        elif 10 * self.suggestion >= self.rates[-1] * (1 - BORDER):
            words.append(
                f"the loss still fell at the highest rate, {self.rates[-1]:.1e}: raise high"
            )
        return words

    def __str__(self) -> str:
        lines = [
            f"learning rate {self.suggestion:.1e}, a tenth of that at which the loss was least "
            f"({len(self.rates)} rates from {self.rates[0]:.1e} to {self.rates[-1]:.1e})"
        ]
        return "\n".join(lines + self.warnings)


def find_learning_rate(
    net: Layer,
    loss: Loss,
    make: Callable[[Any], Optimizer],
    data: tuple[Any, Any],
    *,
    key: jax.Array,
    batch_size: int,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 100,
    **options: Any,
) -> Rates:
    """A short run whose learning rate rises from `low` to `high`, to see where the loss rebels.

        rate(t) = low (high / low)^(t / (steps - 1))

    It ends early where the loss exceeds four times its least, or is no finite number. The
    suggestion is a tenth of the rate at which the smoothed loss was least: there the loss still
    falls fast, and the margin is for all that the short run did not see. `make(schedule)` returns
    the optimizer, as `jnn.optimizers.momentum` does; `options` are those of `run`.

    It is a run of its own, from parameters of its own; nothing of what follows can notice it.
    Source: Smith 2017, "Cyclical learning rates for training neural networks".

    >>> import jnn
    >>> train = jnn.data.digits().train
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(10))
    >>> found = find_learning_rate(net, jnn.SoftmaxCrossEntropy(), jnn.optimizers.sgd, train,
    ...                            key=jax.random.key(0), batch_size=64, steps=50)
    >>> 1e-3 < found.suggestion < 1
    True
    """
    steps, batch_size = whole("steps", steps), whole("batch_size", batch_size)
    if taken := {"chunk", "epochs", "resume"} & options.keys():
        raise ValueError(f"{', '.join(sorted(taken))}: the finder chooses these; leave them out")
    checked("data", net, loss, data, options.get("transform"))
    if not callable(make):
        raise ValueError(
            f"make is {type(make).__name__}; give what makes an optimizer from a learning rate, "
            "such as jnn.optimizers.momentum, not the optimizer itself"
        )
    ramp = Range(low, high)
    rates = ramp.at(np.arange(steps) / max(1, steps - 1))
    per_epoch = max(1, len(data[1]) // batch_size)
    records = run(
        net,
        loss,
        make(lambda step: ramp.at(step / max(1, steps - 1))),
        data,
        key=key,
        batch_size=batch_size,
        epochs=-(-steps // per_epoch),
        chunk=1,
        **options,
    )
    losses: list[float] = []
    total = 0.0
    try:
        for record, _ in zip(records, range(steps), strict=False):
            i = (record.step - 1) % per_epoch
            before, total = (total if i else 0.0), record.loss * (i + 1)
            losses.append(total - before)
            if losses[-1] > 4 * min(losses):
                break
    except Diverged:
        pass
    if not losses:
        raise ValueError(
            f"the loss is not finite at the lowest rate; low is {low}, try a lower one"
        )
    smooth = _smoothed(losses)
    return Rates(rates[: len(losses)], np.array(losses), float(rates[np.argmin(smooth)] / 10))


def _smoothed(losses: Sequence[float], keep: float = 0.8) -> np.ndarray:
    """The running mean of the losses, each weighing `keep` times what the next one does."""
    total, weight, means = 0.0, 0.0, []
    for loss in losses:
        total, weight = keep * total + loss, keep * weight + 1
        means.append(total / weight)
    return np.array(means)
