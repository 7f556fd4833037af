"""Optimizers, each at its own best rate: on a network they differ little, in valleys much.

    python examples/optimizers_compared.py [PICTURE]

Every optimizer gets as many learning rates to choose from. In a valley 50 times as curved across
as along, Nesterov's momentum is fastest, unless the valley lies along a coordinate. There Adagrad
at a rate far too large is home in 4 steps: once it has overshot, the gradients it remembers are the
rate times each coordinate's curvature, and divided by them a step is Newton's. Turned by 45
degrees, the same valley takes it 18 times as many; descent and momentum do not notice. RMSprop at a
fixed rate never settles, so its best rate is small and it is slowest. On the digits all six end
within a factor of 2 or 3, and seeds overlap: whether Adam is a little above RMSprop and Nesterov's
a little above plain momentum, as notes have it, cannot be told from that.
Adagrad and Adam forgive a wrong rate most.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

# The optimizer, and the highest of its rates: in the valleys, and for the network.
METHODS = {
    "SGD": (jnn.optimizers.sgd, 0.08, 2.0),
    "momentum": (jnn.optimizers.momentum, 0.08, 0.5),
    "Nesterov": (jnn.optimizers.nesterov, 0.08, 0.5),
    "Adagrad": (jnn.optimizers.adagrad, 32.0, 0.5),
    "RMSprop": (jnn.optimizers.rmsprop, 0.25, 0.1),
    "Adam": (jnn.optimizers.adam, 2.0, 0.1),
}
FALL = 2.0 ** -np.arange(9, dtype=np.float32)  # the rates, times the highest
CURVATURES, LEFT, STEPS = np.array([1.0, 50.0], np.float32), 1e-3, 300  # of the valleys
EVERY, BATCH = 30, 32  # steps between looks at the network's loss, examples in a step
STARTS = 33  # in each valley
loss = jnn.SoftmaxCrossEntropy()


class Result(NamedTuple):
    """What one optimizer took, in medians over starts and seeds, at the best rate of each task."""

    straight: float  # steps in the valley along the coordinates until LEFT of the loss is left
    turned: float  # as many in the valley across them
    loss: float  # of the network in the end
    rates: int  # at which that is within twice the best


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, None, 0))
def path(name: str, axes: jax.Array, start: jax.Array, lr: jax.Array) -> Any:
    """The points and losses of descent in a valley along the rows of `axes`, from `start` there."""
    descent = METHODS[name][0](lambda _: lr)

    def value(at: jax.Array) -> jax.Array:
        return (jnp.asarray(CURVATURES) * (axes @ at) ** 2).sum() / 2

    def step(carry: tuple, _: None) -> tuple[tuple, tuple]:
        at, state = carry
        updates, state = descent.update(jax.grad(value)(at), state, at)
        return (jnn.optimizers.apply_updates(at, updates), state), (at, value(at))

    at = start @ axes
    return jax.lax.scan(step, (at, descent.init(at)), length=STEPS)[1]


@partial(jax.jit, static_argnums=(0, 1))
@partial(jax.vmap, in_axes=(None, None, 0, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, None, 0, None, None))
def curve(
    name: str, net: jnn.Layer, key: jax.Array, lr: jax.Array, batches: jax.Array, data: Any
) -> jax.Array:
    """The network's training loss after every few steps with `batches` (looks, EVERY, BATCH)."""
    x, y = data
    params, _ = net.init(key, x)
    gradient, descent = jnn.backprop(net, loss), METHODS[name][0](lambda _: lr)

    def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        _, grads = gradient(params, x[batch], y[batch], jnn.Eval())
        updates, state = descent.update(grads, state, params)
        return (jnn.optimizers.apply_updates(params, updates), state), None

    def look(carry: tuple, batches: jax.Array) -> tuple[tuple, jax.Array]:
        carry, _ = jax.lax.scan(step, carry, batches)
        return carry, loss.forward(net.forward(carry[0], x, jnn.Eval())[0], y)[0]

    return jax.lax.scan(look, (params, descent.init(params)), batches)[1]


def main(picture: str = "optimizers.png", *, seeds: int = 3, looks: int = 10) -> dict[str, Result]:
    """Runs all grids, draws the best, and returns what they took."""
    jnn.plots.check_new(picture)
    data = jnn.data.digits().train
    keys = jax.random.split(jax.random.key(0), seeds)
    shape = (seeds, looks, EVERY, BATCH)
    batches = np.random.default_rng(0).integers(0, len(data.x), shape, np.int32)
    dense = jnn.Dense(64, weight=jnn.initializers.he_normal)
    net = jnn.Serial(jnn.Flatten(), dense, jnn.ReLU(), jnn.Dense(10))
    angles = np.array([2.9, *np.random.default_rng(1).uniform(0, 2 * np.pi, STARTS - 1)])
    starts = 2 * np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    turn = np.sqrt(0.5) * np.array([[1, 1], [-1, 1]])
    found = {}
    sheet, (*valleys, curves) = jnn.plots.figure(3, size=(4.6, 4.4))
    for name, (_, steepest, highest) in METHODS.items():
        steps = []
        for ax, axes in zip(valleys, (np.eye(2), turn), strict=True):
            points, values = path(name, axes.astype(np.float32), starts, steepest * FALL)
            goal = LEFT * (CURVATURES * starts**2).sum(axis=1)[:, None, None] / 2
            far = ~(np.asarray(values) <= goal)[..., ::-1]  # nan is far
            needed = np.where(far[..., 0], np.inf, STEPS - far.argmax(axis=-1))
            best = int(np.median(needed, axis=0).argmin())
            steps.append(float(np.median(needed[:, best])))
            ax.plot(*points[0, best].T, marker=".", ms=3, lw=1, label=f"{name}: {steps[-1]:.0f}")
        losses = curve(name, net, keys, highest * FALL, batches, tuple(data))
        middle = np.nan_to_num(np.median(losses, axis=0), nan=np.inf)  # (rates, looks)
        final, best = middle[:, -1].min(), int(middle[:, -1].argmin())
        found[name] = Result(
            steps[0], steps[1], float(final), int((middle[:, -1] <= 2 * final).sum())
        )
        print(
            f"{name:9} {steps[0]:.0f} and {steps[1]:.0f} steps in the valleys, loss {final:.3f} at "
            f"lr {highest * FALL[best]:.3g}, within twice that at {found[name].rates} of 9 rates"
        )
        curves.plot(EVERY * np.arange(1, looks + 1), middle[best], label=f"{name}: {final:.3f}")
    low, high = (f([r.loss for r in found.values()]) for f in (min, max))
    sheet.suptitle(
        f"at its best rate each, six optimizers end within a factor of {high / low:.1f} on the "
        f"digits; turning a valley takes Adagrad from {found['Adagrad'].straight:.0f} steps to "
        f"{found['Adagrad'].turned:.0f}, and SGD and momentum do not notice",
        fontsize=11,
    )
    for ax, title in zip(valleys, ("straight", "turned"), strict=True):
        ax.set(xlim=(-2.5, 1.5), ylim=(-3, 1), aspect="equal")
        ax.set_title(f"steps until {LEFT:.1%} is left, {title} valley", fontsize=10)
    curves.set(yscale="log", xlabel="step")
    curves.set_title(f"training loss on the digits, median of {seeds} seeds", fontsize=10)
    for ax in (*valleys, curves):
        ax.legend(frameon=False, fontsize=8)
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
