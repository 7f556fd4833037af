"""Batch norm forgives a bad start, within limits.

    python examples/batch_norm_forgives.py [PICTURE]

Three hidden layers of ReLUs learn the digits from He's weights times a factor, with and without
batch norm, each at the best of the same learning rates for every factor. Batch norm undoes the
factor in the forward pass, so even a hundredth does little harm to the median, though the unlucky
seeds suffer. It does not undo all: a gradient shrinks as weights grow, so from far too large ones
its network hardly learns, and the last layer, which no batch norm follows, starts with scores that
are as large.
"""

import math
import sys
from functools import partial
from typing import Any

import jax
import numpy as np

import jnn

SCALES = np.array([0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0], np.float32)
RATES = np.array([0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0], np.float32)
DEPTH, STEPS, BATCH, GOAL = 3, 200, 32, 0.3
loss = jnn.SoftmaxCrossEntropy()


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, 0, None, None, None))
@partial(jax.vmap, in_axes=(None, None, None, 0, None, None))
def final_loss(
    net: jnn.Layer, key: jax.Array, scale: jax.Array, lr: jax.Array, batches: jax.Array, data: Any
) -> jax.Array:
    """The training loss, in evaluation, after descent with `batches` (steps, BATCH)."""
    x, y = data
    params, state = net.init(key, x)
    weights = jnn.masks.mask(params, jnn.masks.weights)
    params = jax.tree.map(lambda is_weight, p: scale * p if is_weight else p, weights, params)
    gradient, descent = jnn.backprop(net, loss), jnn.optimizers.sgd(lambda _: lr)

    def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
        params, state, memory = carry
        (_, cache), grads = gradient(params, x[batch], y[batch], jnn.Train(key))
        updates, memory = descent.update(grads, memory, params)
        params = jnn.optimizers.apply_updates(params, updates)
        return (params, net.observe(state, cache), memory), None

    carry = params, state, descent.init(params)
    (params, state, _), _ = jax.lax.scan(step, carry, batches)
    scores, _ = net.forward(params, x, jnn.Eval(state))
    return loss.forward(scores, y)[0]


def main(picture: str = "batch_norm.png", *, seeds: int = 3) -> dict[str, np.ndarray]:
    """Runs both grids, draws them, returns the final losses at the best rates, (seeds, scales)."""
    jnn.plots.check_new(picture)
    data = jnn.data.digits().train
    keys = jax.random.split(jax.random.key(0), seeds)
    batches = np.random.default_rng(0).integers(0, len(data.x), (seeds, STEPS, BATCH), np.int32)
    found = {}
    sheet, (ax,) = jnn.plots.figure(size=(6.5, 4.5))
    for name, norm in (("without batch norm", ()), ("with batch norm", (jnn.BatchNorm(),))):
        block = (jnn.Dense(64, weight=jnn.initializers.he_normal), *norm, jnn.ReLU())
        net = jnn.Serial(jnn.Flatten(), *DEPTH * block, jnn.Dense(10))
        losses = final_loss(net, keys, SCALES, RATES, batches, tuple(data))
        losses = np.nan_to_num(np.asarray(losses), nan=np.inf)  # (seeds, scales, rates)
        best = np.median(losses, axis=0).argmin(axis=-1)
        found[name] = runs = np.take_along_axis(losses, best[None, :, None], axis=-1)[..., 0]
        for scale, i, value in zip(SCALES, best, np.median(runs, axis=0), strict=True):
            print(f"{name:18} weights x {scale:6g}: loss {value:.3f} at lr {RATES[i]:g}")
        (line,) = ax.plot(SCALES, np.median(runs, axis=0), marker="o", label=name)
        ax.fill_between(SCALES, runs.min(0), runs.max(0), color=line.get_color(), alpha=0.2, lw=0)
    good = {name: SCALES[np.median(runs, axis=0) < GOAL] for name, runs in found.items()}
    sheet.suptitle(
        f"a loss below {GOAL} after {STEPS} steps:\n"
        + ", ".join(f"{name} from x {min(at):g} to x {max(at):g}" for name, at in good.items()),
        fontsize=11,
    )
    ax.axhline(math.log(10), color="#999999", lw=0.8)
    ax.text(0.6, math.log(10), "guessing", va="bottom", color="#777777", fontsize=9)
    ax.set(xscale="log", yscale="log", ylim=(0.01, 10))
    ax.set(xlabel="initial weights, times those of He", ylabel="training loss at the best rate")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(0, 0.6))
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
