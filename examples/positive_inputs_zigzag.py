"""Positive-only activations make a neuron's weights zigzag.

    python examples/positive_inputs_zigzag.py [PICTURE]

The gradient of a neuron's weights is its inputs times one number, so if no input is negative, as
behind a sigmoid or a ReLU, all weights rise together or fall together. Two measurements. How many
gradients of a unit's weights have one sign, in a network on the digits: adding up a batch helps, as
the notes say, but a sigmoid little. And the way of two weights to a goal that one must rise and one
must fall to reach: at a low rate the zigzag costs no steps; its cost is that the rate, and with it
the number of steps, cannot be improved as far.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

GOAL, NEAR, STEPS = np.array([1.0, -1.0], np.float32), 0.1, 120
RATES = np.array([0.3, 0.6, 1.0, 1.5], np.float32)
BATCHES = (1, 4, 32)


class Found(NamedTuple):
    """Medians over the seeds."""

    same_sign: dict[str, list[float]]  # by activation, for each of BATCHES
    steps: dict[str, np.ndarray]  # to the goal at each of RATES, inf where it is not reached
    detour: dict[str, np.ndarray]  # the length of the way there over that of the straight line


def same_sign(activation: jnn.Layer) -> list[float]:
    """The fraction of gradients of a second-layer unit's weights without two opposite signs."""
    x, y = (v[:512, None] for v in jnn.data.digits().train)
    dense = jnn.Dense(64, weight=jnn.initializers.lecun_normal)
    net = jnn.Serial(jnn.Flatten(), dense, activation, dense, activation, jnn.Dense(10))
    params, _ = net.init(jax.random.key(0), x[0])
    gradient = jnn.backprop(net, jnn.SoftmaxCrossEntropy())
    _, grads = jax.lax.map(lambda xy: gradient(params, xy[0], xy[1], jnn.Eval()), (x, y))
    each = np.moveaxis(np.asarray(grads["dense2"]["w"]), 1, 2)  # (examples, units, inputs)
    fractions = []
    for batch in BATCHES:
        w = each.reshape(-1, batch, *each.shape[1:]).mean(axis=1)
        w = w[abs(w).max(axis=-1) > 0]  # the gradient of a unit that is off has no sign
        fractions.append(float(((w >= 0).all(axis=-1) | (w <= 0).all(axis=-1)).mean()))
    return fractions


@jax.jit
def walk(x: jax.Array, lr: jax.Array) -> jax.Array:
    """The weights (steps + 1, 2) of one linear neuron, from zero, an example of x a step."""
    net = jnn.Serial(jnn.Dense(1, bias=False))
    gradient, descent = jnn.backprop(net, jnn.SquaredError()), jnn.optimizers.sgd(lambda _: lr)
    params = {"dense1": {"w": jnp.zeros((2, 1))}}

    def step(carry: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        params, state = carry
        _, grads = gradient(params, x[None], (x @ GOAL)[None, None], jnn.Eval())
        updates, state = descent.update(grads, state, params)
        params = jnn.optimizers.apply_updates(params, updates)
        return (params, state), params["dense1"]["w"][:, 0]

    _, points = jax.lax.scan(step, (params, descent.init(params)), x)
    return jnp.concatenate([jnp.zeros((1, 2)), points])


def main(picture: str = "zigzag.png", *, seeds: int = 9) -> Found:
    """Measures both, draws both, and returns the numbers."""
    activations = {"sigmoid": jnn.Sigmoid(), "ReLU": jnn.ReLU(), "tanh": jnn.Tanh()}
    found = Found({name: same_sign(a) for name, a in activations.items()}, {}, {})
    for name, fractions in found.same_sign.items():
        shown = ", ".join(f"{v:.0%}" for v in fractions)
        print(f"{name}: gradients of one sign, in batches of {BATCHES}: {shown}")

    sheet, (bars, plane) = jnn.plots.figure(2, size=(5.2, 4.2))
    x = np.random.default_rng(0).uniform(0, 1, (seeds, STEPS, 2)).astype(np.float32)
    for name, inputs in (("positive", x), ("centred", x - np.float32(0.5))):
        points = np.asarray(jax.vmap(jax.vmap(walk, (None, 0)), (0, None))(inputs, RATES))
        far = np.linalg.norm(points - GOAL, axis=-1)
        there = np.where((far < NEAR).any(-1), (far < NEAR).argmax(-1), np.inf)  # (seeds, rates)
        lengths = np.linalg.norm(np.diff(points, axis=2), axis=-1).cumsum(-1)
        last = np.minimum(there, STEPS).astype(int)[..., None] - 1
        way = np.take_along_axis(lengths, last, axis=-1)[..., 0] / np.linalg.norm(GOAL)
        found.steps[name] = np.median(there, axis=0)
        found.detour[name] = np.median(np.where(np.isfinite(there), way, np.inf), axis=0)
        for lr, n, d in zip(RATES, found.steps[name], found.detour[name], strict=True):
            print(f"{name} inputs, lr {lr:.1f}: {n:.0f} steps, {d:.1f} times the straight way")
        best, detour = found.steps[name].min(), found.detour[name][1]
        label = f"{name} inputs: {detour:.1f} times the straight way; at best {best:.0f} steps"
        plane.plot(*points[0, 1, : last[0, 1, 0] + 2].T, marker=".", lw=1, label=label)
    plane.plot(*GOAL, marker="*", ms=14, color="#b5485d", ls="")
    plane.set(xlabel="w1", ylabel="w2", title=f"two weights, lr {RATES[1]:.1f}", aspect="equal")
    plane.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    for i, (name, fractions) in enumerate(found.same_sign.items()):
        drawn = bars.bar(np.arange(len(BATCHES)) + 0.27 * (i - 1), fractions, 0.25, label=name)
        bars.bar_label(drawn, [f"{v:.0%}" for v in fractions], fontsize=8)
    bars.set(xticks=range(3), xticklabels=BATCHES, xlabel="examples in the batch", ylim=(0, 1.2))
    bars.set(title="gradients of one sign, of units behind")
    bars.legend(frameon=False, ncols=3, loc="upper center")
    ratio = found.detour["positive"][1] / found.detour["centred"][1]
    sheet.suptitle(
        f"behind a sigmoid {found.same_sign['sigmoid'][0]:.0%} of gradients have one sign, and two "
        f"weights go {ratio:.1f} times as far as with centred inputs",
        fontsize=10,
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
