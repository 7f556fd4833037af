"""Dropout as an ensemble: one pass errs as seldom as the average of it, but is too sure.

    python examples/dropout_is_an_ensemble.py [PICTURE]

A network trained with dropout is read as many thinned ones that share weights, and the whole one
at test time as their average. Here the probabilities of up to 300 sampled networks are averaged, on
test digits, after training on few. The whole network makes as many mistakes as the average, in one
pass rather than 300. It is no stand-in for the average's probabilities, though: its test loss is
about half as high again. Nor does dropout itself cut mistakes here by more than seeds differ: what
beats a plain network clearly is the loss of the average, which one pass does not have.
"""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jnn

COUNTS = (1, 2, 5, 10, 30, 100, 300)  # masks averaged
EXAMPLES, STEPS, BATCH = 200, 1000, 32
loss = jnn.SoftmaxCrossEntropy()


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, 0, None))
def trained(net: jnn.Layer, key: jax.Array, batches: jax.Array, data: Any) -> Any:
    """The parameters after momentum on `batches` (STEPS, BATCH)."""
    x, y = data
    key, masks = jax.random.split(key)
    params, _ = net.init(key, x)
    gradient, descent = jnn.backprop(net, loss), jnn.optimizers.momentum(0.05)

    def step(carry: tuple, now: tuple) -> tuple[tuple, None]:
        (params, memory), (key, batch) = carry, now
        _, grads = gradient(params, x[batch], y[batch], jnn.Train(key))
        updates, memory = descent.update(grads, memory, params)
        return (jnn.optimizers.apply_updates(params, updates), memory), None

    carry, now = (params, descent.init(params)), (jax.random.split(masks, len(batches)), batches)
    (params, _), _ = jax.lax.scan(step, carry, now)
    return params


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, None))
def judged(net: jnn.Layer, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Test loss and errors: of the network at test time, then of the averages of COUNTS masks."""

    def thinned(key: jax.Array) -> jax.Array:
        return jax.nn.softmax(net.forward(params, x, jnn.Train(key))[0])

    keys = jax.random.split(jax.random.key(1), COUNTS[-1])
    sums = jnp.cumsum(jax.lax.map(thinned, keys), axis=0)
    whole = jax.nn.softmax(net.forward(params, x, jnn.Eval())[0])
    p = jnp.stack([whole, *(sums[m - 1] / m for m in COUNTS)])  # (1 + counts, n, 10)
    right = jnp.take_along_axis(p, y[None, :, None], axis=-1)[..., 0]
    return jnp.stack([-jnp.log(right).mean(-1), (p.argmax(-1) != y).mean(-1)])


def main(
    picture: str = "dropout.png", *, seeds: int = 5, steps: int = STEPS
) -> dict[str, np.ndarray]:
    """Trains both networks and draws, returns: test loss and errors, (seeds, 2, 1 + counts)."""
    jnn.plots.check_new(picture)
    data = jnn.data.digits()
    (x, y), test = data.train, data.test
    batches = np.random.default_rng(0).integers(0, EXAMPLES, (seeds, steps, BATCH), np.int32)
    dense = jnn.Dense(256, weight=jnn.initializers.he_normal)
    found = {}
    for name, rate in (("dropout", 0.5), ("no dropout", 0.0)):
        block = (dense, jnn.ReLU(), jnn.Dropout(rate))
        net = jnn.Serial(jnn.Flatten(), *block, *block, jnn.Dense(10))
        keys = jax.random.split(jax.random.key(0), seeds)
        params = trained(net, keys, batches, (x[:EXAMPLES], y[:EXAMPLES]))
        found[name] = np.asarray(judged(net, params, test.x, test.y))
    loss_, errors = np.median(found["dropout"], axis=0)
    plain = np.median(found["no dropout"][..., 0], axis=0)
    print(f"no dropout:            test loss {plain[0]:.3f}, errors {plain[1]:.2%}")
    print(f"dropout, whole network: test loss {loss_[0]:.3f}, errors {errors[0]:.2%}")
    for m, *values in zip(COUNTS, loss_[1:], errors[1:], strict=True):
        print("average of {:3} masks:  test loss {:.3f}, errors {:.2%}".format(m, *values))
    sheet, axes = jnn.plots.figure(2)
    for i, (ax, label) in enumerate(zip(axes, ("test loss", "test errors"), strict=True)):
        runs = found["dropout"][:, i]
        middle = np.median(runs, axis=0)
        (line,) = ax.plot(COUNTS, middle[1:], marker="o", label="average of sampled networks")
        ax.fill_between(
            COUNTS, runs[:, 1:].min(0), runs[:, 1:].max(0), color=line.get_color(), alpha=0.2, lw=0
        )
        ax.axhline(middle[0], color="#d98841", label="the whole network, one pass")
        ax.axhline(plain[i], color="#777777", ls="--", label="trained without dropout")
        ax.set(xscale="log", xlabel="masks averaged", ylabel=f"{label}, median of {seeds} seeds")
    axes[0].legend(frameon=False)
    sheet.suptitle(
        f"the whole network in one pass: loss {loss_[0]:.2f}, errors {errors[0]:.1%}; "
        f"the average of {COUNTS[-1]} masks: loss {loss_[-1]:.2f}, errors {errors[-1]:.1%}",
        fontsize=11,
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
