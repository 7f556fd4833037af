"""What Adam's bias correction changes: without it the first steps are 3 to 7 times as long.

    python examples/adam_bias_correction.py [PICTURE]

The notes write Adam without the correction. Both means start at zero, but that of the squares
(b2 = 0.999) fills more slowly than that of the gradients (b1 = 0.9). So leaving it out is no
warm-up but the opposite: under a constant gradient update t is

    lr (1 - b1^t) / sqrt(1 - b2^t)

long rather than lr, which is 3.16 lr at first, 6.6 lr at the twelfth, and 3.2 lr at the hundredth.
On the digits it acts as a larger rate would: small rates learn faster without the correction, large
ones fail, and at the best rate of the grid, the same for both, hardly anything is left between
them. What the correction buys is room above that rate.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

RATES = np.array([3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1], np.float32)
B1, B2, SHOWN, BATCH = 0.9, 0.999, 100, 32
loss = jnn.SoftmaxCrossEntropy()


class Result(NamedTuple):
    """Adam with or without the correction."""

    sizes: np.ndarray  # of the first updates over lr, where the gradient is constant, (SHOWN,)
    losses: np.ndarray  # of training, after the last step, (seeds, rates)


def constant_gradient(corrected: bool) -> np.ndarray:
    """The sizes of the first updates over lr where every gradient is 1."""
    adam, one = jnn.optimizers.adam(1.0, B1, B2, bias_correction=corrected), jnp.ones(())

    def step(state: Any, _: None) -> tuple[Any, Any]:
        update, state = adam.update(one, state, one)
        return state, update

    return -np.asarray(jax.lax.scan(step, adam.init(one), length=SHOWN)[1])


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, None, 0, None, None))
def train(
    net: jnn.Layer, corrected: bool, key: jax.Array, lr: jax.Array, batches: jax.Array, data: Any
) -> jax.Array:
    """The training loss after a step with each of `batches` (steps, BATCH)."""
    x, y = data
    params, _ = net.init(key, x)
    gradient = jnn.backprop(net, loss)
    adam = jnn.optimizers.adam(lambda _: lr, B1, B2, bias_correction=corrected)

    def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        _, grads = gradient(params, x[batch], y[batch], jnn.Eval())
        updates, state = adam.update(grads, state, params)
        return (jnn.optimizers.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), batches)
    scores, _ = net.forward(params, x, jnn.Eval())
    return loss.forward(scores, y)[0]


def main(picture: str = "adam.png", *, seeds: int = 5, steps: int = 300) -> dict[str, Result]:
    """Measures both, draws them, and returns them."""
    jnn.plots.check_new(picture)
    data = jnn.data.digits().train
    keys = jax.random.split(jax.random.key(0), seeds)
    shape = (seeds, steps, BATCH)
    batches = np.random.default_rng(0).integers(0, len(data.x), shape, np.int32)
    dense = jnn.Dense(32, weight=jnn.initializers.he_normal)
    last = jnn.Dense(10, weight=jnn.initializers.lecun_normal)
    net = jnn.Serial(jnn.Flatten(), dense, jnn.ReLU(), dense, jnn.ReLU(), last)
    found, at = {}, np.arange(1, SHOWN + 1)
    sheet, (sizes, grid) = jnn.plots.figure(2)
    for name, corrected in (("corrected", True), ("uncorrected", False)):
        losses = np.asarray(train(net, corrected, keys, RATES, batches, tuple(data)))
        found[name] = Result(constant_gradient(corrected), losses)
        for lr, runs in zip(RATES, losses.T, strict=True):
            print(f"{name:11} lr {lr:<6.2g}: training loss {np.median(runs):.3f}")
        sizes.plot(at, found[name].sizes, label=name)
        grid.plot(RATES, np.median(losses, axis=0), marker="o", label=name)
        grid.fill_between(RATES, losses.min(0), losses.max(0), alpha=0.2, lw=0)
    low, first, high = (f(found["uncorrected"].sizes) for f in (np.min, lambda s: s[0], np.max))
    print(f"uncorrected, the first update is {first:.2f} lr and the longest {high:.2f} lr")
    sheet.suptitle(
        f"uncorrected, Adam's first {SHOWN} steps are {low:.1f} to {high:.1f} times as long: "
        "small rates gain, large ones fail"
    )
    formula = (1 - B1**at) / np.sqrt(1 - B2**at)
    sizes.plot(at, formula, "k:", lw=1, label="(1 - b1^t) / sqrt(1 - b2^t)")
    sizes.set(
        xlabel="step t", ylabel="size of the update / lr", title="a constant gradient", ylim=0
    )
    grid.set(xscale="log", yscale="log", xlabel="learning rate")
    grid.set(ylabel=f"training loss after {steps} steps", title=f"the digits, {seeds} seeds")
    for ax in (sizes, grid):
        ax.legend(frameon=False)
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
