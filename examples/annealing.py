"""Annealing.

python examples/annealing.py [PICTURE]
"""

import math
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

RATES = (0.1, 0.2, 0.4, 0.8)
WRONG = 0.2  # the share of training labels drawn anew
BATCH, HALVINGS = 32, 5  # a run ends at 2^-HALVINGS of its first rate, but for the cosine's 0
loss = jnn.SoftmaxCrossEntropy()


def schedules(lr: float, steps: int) -> dict[str, jnn.optimizers.Schedule]:
    """Every schedule that begins at `lr`, for a run of `steps`."""
    last = 2.0**HALVINGS
    return {
        "constant": jnn.schedules.constant(lr),
        "step decay": jnn.schedules.step_decay(lr, every=-(-steps // (HALVINGS + 1)), factor=0.5),
        "exponential": jnn.schedules.exponential(lr, rate=math.log(last) / steps),
        "1/t": jnn.schedules.inverse(lr, rate=(last - 1) / steps),
        "cosine": jnn.schedules.cosine(lr, steps),
    }


class Result(NamedTuple):
    """The runs of one schedule on one set of labels."""

    losses: np.ndarray  # of training, after every epoch, (seeds, rates, epochs)
    accuracies: np.ndarray  # on the test part, after the last, (seeds, rates)


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, 0, None, None))
def train(net: jnn.Layer, key: jax.Array, rates: jax.Array, batches: jax.Array, data: Any) -> Any:
    """Training losses by epoch, final test accuracy; `batches` (epochs, steps, BATCH)."""
    (x, y), test = data
    params, _ = net.init(key, x)
    gradient, descent = jnn.backprop(net, loss), jnn.optimizers.sgd(lambda t: rates[t])

    def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        _, grads = gradient(params, x[batch], y[batch], jnn.Eval())
        updates, state = descent.update(grads, state, params)
        return (jnn.optimizers.apply_updates(params, updates), state), None

    def epoch(carry: tuple, batches: jax.Array) -> tuple[tuple, jax.Array]:
        carry, _ = jax.lax.scan(step, carry, batches)
        scores, _ = net.forward(carry[0], x, jnn.Eval())
        return carry, loss.forward(scores, y)[0]

    (params, _), losses = jax.lax.scan(epoch, (params, descent.init(params)), batches)
    scores, _ = net.forward(params, test[0], jnn.Eval())
    return losses, loss.correct(scores, test[1]).mean()


def main(
    picture: str = "annealing.png", *, seeds: int = 3, epochs: int = 30
) -> dict[str, dict[str, Result]]:
    """Trains with every schedule on clean and on noisy labels, draws the ends, and returns both."""
    jnn.plots.check_new(picture)
    (x, y), test = jnn.data.digits()[1:3]
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(len(y)) < WRONG, rng.integers(0, 10, len(y)), y).astype(np.int32)
    per_epoch = len(x) // BATCH
    orders = [[rng.permutation(len(x)) for _ in range(epochs)] for _ in range(seeds)]
    batches = np.array(orders)[:, :, : per_epoch * BATCH].reshape(seeds, epochs, per_epoch, BATCH)
    steps = jnp.arange(epochs * per_epoch)
    tables = [schedule(steps) for lr in RATES for schedule in schedules(lr, len(steps)).values()]
    keys = jax.random.split(jax.random.key(0), seeds)
    hidden = jnn.Dense(32, weight=jnn.initializers.he_normal)
    last = jnn.Dense(10, weight=jnn.initializers.lecun_normal)
    net = jnn.Serial(jnn.Flatten(), hidden, jnn.ReLU(), last)

    found: dict[str, dict[str, Result]] = {}
    sheet, axes = jnn.plots.figure(3)
    for ax, (name, labels) in zip(axes, {"clean": y, "noisy": noisy}.items(), strict=False):
        data = ((x, labels), tuple(test))
        trained = train(net, keys, np.stack(tables), batches, data)
        losses, right = (
            np.asarray(v).reshape(seeds, len(RATES), -1, *v.shape[2:]) for v in trained
        )
        found[name] = {
            schedule: Result(losses[:, :, i], right[:, :, i])
            for i, schedule in enumerate(schedules(1, 1))
        }
        for schedule, result in found[name].items():
            mean = result.accuracies.mean(axis=0)
            print(f"{name} labels, {schedule:11}", *(f"{v:.1%}" for v in mean))
            ax.plot(RATES, 100 * mean, marker="o", label=schedule)
        ax.set(xscale="log", xlabel="first learning rate", ylabel="test accuracy, %", ylim=(86, 98))
        ax.set(title=f"{name} labels", xticks=RATES, xticklabels=RATES)
        ax.minorticks_off()
    for schedule, result in found["noisy"].items():
        axes[2].plot(range(1, epochs + 1), result.losses[:, -1].mean(axis=0), label=schedule)
    axes[2].set(xlabel="epoch", ylabel="training loss", title=f"noisy labels from {RATES[-1]}")
    axes[2].legend(frameon=False)
    cosine, constant = (found["noisy"][s].accuracies[:, -1].mean() for s in ("cosine", "constant"))
    lost = 100 * (cosine - constant)
    sheet.suptitle(
        f"the highest constant rate costs {lost:.1f} points of test accuracy where labels are noisy"
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
