"""Tanh learns faster than sigmoid, each at its own best learning rate.

    python examples/tanh_learns_faster_than_sigmoid.py [PICTURE]

Both are the same squashing function but for scale and centre: a tanh puts out numbers around 0, a
sigmoid around 1/2. Same network, data, weights at the start, batches and grid of learning rates;
counted are the steps until the training loss is below 0.1. A whole grid of runs is one compiled
loop: forward, backward and update are pure functions, so `jax.vmap` trains many at once.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import jnn

RATES = np.array([0.2, 0.5, 0.8, 1.5, 3.0, 6.0], np.float32)
GOAL, EVERY, BATCH = 0.1, 10, 32  # a loss, steps between looks at it, examples in a step
loss = jnn.SoftmaxCrossEntropy()


class Result(NamedTuple):
    """One activation's runs."""

    losses: np.ndarray  # (seeds, rates, looks)
    steps: np.ndarray  # the median over the seeds of the steps to GOAL, inf where never, (rates,)


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, 0, None, None))
def curve(net: jnn.Layer, key: jax.Array, lr: jax.Array, batches: jax.Array, data: Any) -> Any:
    """The training loss after every few steps of descent with `batches` (looks, EVERY, BATCH)."""
    x, y = data
    params, _ = net.init(key, x)
    gradient, descent = jnn.backprop(net, loss), jnn.optimizers.sgd(lambda _: lr)

    def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        _, grads = gradient(params, x[batch], y[batch], jnn.Eval())
        updates, state = descent.update(grads, state, params)
        return (jnn.optimizers.apply_updates(params, updates), state), None

    def look(carry: tuple, batches: jax.Array) -> tuple[tuple, jax.Array]:
        carry, _ = jax.lax.scan(step, carry, batches)
        scores, _ = net.forward(carry[0], x, jnn.Eval())
        return carry, loss.forward(scores, y)[0]

    return jax.lax.scan(look, (params, descent.init(params)), batches)[1]


def main(picture: str = "tanh.png", *, seeds: int = 5, looks: int = 90) -> dict[str, Result]:
    """Runs both grids, draws them, and returns them."""
    data = jnn.data.digits().train
    keys = jax.random.split(jax.random.key(0), seeds)
    shape = (seeds, looks, EVERY, BATCH)
    batches = np.random.default_rng(0).integers(0, len(data.x), shape, np.int32)
    dense = jnn.Dense(64, weight=jnn.initializers.lecun_normal)
    found = {}
    sheet, (curves, grid) = jnn.plots.figure(2)
    for name, activation in (("sigmoid", jnn.Sigmoid()), ("tanh", jnn.Tanh())):
        last = jnn.Dense(10, weight=jnn.initializers.lecun_normal)
        net = jnn.Serial(jnn.Flatten(), dense, activation, dense, activation, last)
        losses = np.asarray(curve(net, keys, RATES, batches, tuple(data)))
        below = losses < GOAL
        there = np.where(below.any(-1), EVERY * (1 + below.argmax(-1)), np.inf)
        found[name] = Result(losses, np.median(there, axis=0))
        best = int(found[name].steps.argmin())
        for lr, n in zip(RATES, found[name].steps, strict=True):
            print(f"{name:8} lr {lr:4.1f}: loss {GOAL} after {n:.0f} steps")
        at, runs = EVERY * np.arange(1, looks + 1), np.minimum.accumulate(losses[:, best], axis=1)
        (line,) = curves.plot(at, np.median(runs, axis=0), label=f"{name}, lr {RATES[best]:g}")
        curves.fill_between(at, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, lw=0)
        grid.plot(RATES, found[name].steps, marker="o", label=name)
    sigmoid, tanh = (found[name].steps.min() for name in ("sigmoid", "tanh"))
    sheet.suptitle(
        f"tanh needs {tanh:.0f} steps, sigmoid {sigmoid:.0f}: {sigmoid / tanh:.1f} times as many "
        f"(medians of {seeds} seeds)"
    )
    curves.axhline(GOAL, color="#999999", lw=0.8)
    curves.set(
        xlabel="step",
        ylabel="lowest training loss so far",
        yscale="log",
        title="each at its best rate",
    )
    grid.set(xlabel="learning rate", ylabel=f"steps to a loss of {GOAL}", xscale="log")
    grid.set_xticks(RATES, [f"{lr:g}" for lr in RATES])
    grid.minorticks_off()
    grid.set(title="other rates never get there")
    for ax in (curves, grid):
        ax.legend(frameon=False)
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
