"""Preprocessing, seen: centring moves a cloud, scaling squeezes it, whitening makes it round.

    python examples/preprocessing_in_pictures.py [PICTURE]

The pictures of the notes, with numbers. Every transform is fitted on training points alone, and
what is drawn are test points, so their covariance is only nearly what was asked for. What it is
for is the last panel: how round the cloud is, seen from a linear neuron, sets how fast descent can
be. Its bias counts as a constant input, so a mean far from 0 is the worst stretch of all. Turning
the cloud alone (PCA) changes nothing about that; dividing by the spreads afterwards changes all.
Standardising does little here, for the two inputs spread alike already and lean on each other.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

FITS = {
    "raw": None,
    "centred": jnn.preprocessing.Center.fit,
    "standardised": jnn.preprocessing.Standardize.fit,
    "decorrelated": jnn.preprocessing.PCA.fit,
    "whitened": jnn.preprocessing.Whiten.fit,
}
GOAL, STEPS = 1e-3, 100_000  # how much of the loss may be left, and when to give up


class Cloud(NamedTuple):
    """A cloud of test points after one kind of preprocessing."""

    mean: np.ndarray  # (2,)
    covariance: np.ndarray  # (2, 2)
    condition: float  # largest over least curvature of a linear neuron's loss on training points
    steps: int  # of descent at the best rate until GOAL of the loss is left


@jax.jit
def steps_needed(x: jax.Array, y: jax.Array, lr: jax.Array) -> jax.Array:
    """Steps of descent on all of (x, y), from zero, until GOAL of the loss is left."""
    net, loss = jnn.Serial(jnn.Dense(1, weight=jnn.initializers.zeros)), jnn.SquaredError()
    gradient, descent = jnn.backprop(net, loss), jnn.optimizers.sgd(lambda _: lr)
    params, _ = net.init(jax.random.key(0), x)
    (first, _), _ = gradient(params, x, y, jnn.Eval())

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        params, state, _, i = carry
        ((value, _), grads) = gradient(params, x, y, jnn.Eval())
        updates, state = descent.update(grads, state, params)
        return jnn.optimizers.apply_updates(params, updates), state, value, i + 1

    def far(carry: tuple[Any, ...]) -> jax.Array:
        return (carry[2] > GOAL * first) & (carry[3] < STEPS)

    # `value` is that before the step, so the last step is only a look.
    return jax.lax.while_loop(far, step, (params, descent.init(params), first, 0))[3] - 1


def main(picture: str = "preprocessing.png") -> dict[str, Cloud]:
    """Measures every cloud, draws it, and returns the numbers."""
    jnn.plots.check_new(picture)
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 400, 2)) @ np.array([[2.0, 1.4], [0.0, 0.5]]) + [4.0, -3.0]
    train, test = x.astype(np.float32)
    y = (train @ np.array([[1.0], [-2.0]]) + 3).astype(np.float32)
    found = {}
    sheet, axes = jnn.plots.figure(3, 2, size=(4.2, 4.0))
    for ax, (name, fit) in zip(axes, FITS.items(), strict=False):
        into = jnp.asarray if fit is None else fit(train).apply
        points, given = np.asarray(into(test)), np.asarray(into(train), np.float64)
        inputs = np.column_stack([given, np.ones(len(given))])
        least, *_, most = np.linalg.eigvalsh(2 * inputs.T @ inputs / len(inputs))
        steps = int(steps_needed(into(train), y, np.float32(2 / (most + least))))
        covariance = np.cov(points.T)
        found[name] = cloud = Cloud(points.mean(axis=0), covariance, most / least, steps)
        (a, b), (_, c) = covariance
        print(
            f"{name:12} test points: mean {cloud.mean.round(2)}, covariance {a:.2f} {b:.2f} "
            f"{c:.2f}; condition {cloud.condition:.3g}, {steps} steps of descent"
        )
        ax.scatter(*points.T, s=8, alpha=0.5, lw=0)
        ax.axhline(0, color="#999999", lw=0.8, zorder=0)
        ax.axvline(0, color="#999999", lw=0.8, zorder=0)
        ax.set(xticks=range(-10, 11, 5), yticks=range(-10, 11, 5))
        ax.set(xlim=(-10, 10), ylim=(-10, 10), aspect="equal")
        ax.set_title(f"{name}\nvariances {a:.2f} and {c:.2f}, covariance {b:.2f}", fontsize=10)
    bars = axes[-1].barh(list(found), [cloud.steps for cloud in found.values()])
    axes[-1].bar_label(bars, padding=3)
    axes[-1].invert_yaxis()
    axes[-1].set(xscale="log", xlim=(0.5, 1e5))
    axes[-1].set_title(
        f"steps of descent until {GOAL:.1%}\nof a neuron's loss is left", fontsize=10
    )
    raw, centred, white = (found[name].steps for name in ("raw", "centred", "whitened"))
    sheet.suptitle(
        f"{raw} steps of descent become {centred} by centring the cloud, and {white} by whitening "
        "it; only scaling or turning it does little here"
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
