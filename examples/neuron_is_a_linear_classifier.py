"""A neuron is a linear classifier, and its loss says which: softmax or support vector machine.

    python examples/neuron_is_a_linear_classifier.py [PICTURE]

One neuron s = w x + b is trained on two separable blobs. Wherever its sigmoid exceeds 1/2 it says
"class 1", and that is one side of the line w x + b = 0. With the cross-entropy of that sigmoid it
is the binary softmax classifier: two softmax scores, trained alike, differ by exactly s. With a
hinge and weight decay it is the binary SVM, whose line keeps further from the nearest points.
"""

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn


@dataclass(frozen=True)
class Hinge(jnn.Loss):
    """The SVM's loss of one score s for a target t in {0, 1}: max(0, 1 - s) or max(0, 1 + s)."""

    def values(self, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, Any]:
        sign = 2 * target - 1
        short = jnp.maximum(0, 1 - sign * prediction)
        return short.sum(axis=1), jnp.where(short > 0, -sign, 0)

    def pull(self, cache: Any, dvalues: jax.Array) -> jax.Array:
        return cache * dvalues[:, None]

    def values_shape(self, cache: Any) -> tuple[int, ...]:
        return cache.shape[:1]


class Line(NamedTuple):
    """A trained neuron as what it is: the line w x + b = 0."""

    w: np.ndarray
    b: float
    margin: float  # from the line to the nearest point; negative where that is on the wrong side


def trained(loss: jnn.Loss, x: np.ndarray, y: np.ndarray, outputs: int = 1) -> Line:
    """Descends from zero with a little weight decay; two outputs count by their difference."""
    net = jnn.Serial(jnn.Dense(outputs, weight=jnn.initializers.zeros))
    # Two scores part at twice the speed of one, so half the step keeps their difference in step.
    descent = jnn.optimizers.sgd(0.2 / outputs)

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        decay = {"w": 0.004 * outputs * params["dense1"]["w"], "b": 0}
        grads = {"dense1": jax.tree.map(jnp.add, grads["dense1"], decay)}
        return descent.update(grads, state, params)

    optimizer, n = jnn.optimizers.Optimizer(descent.init, update), len(x)
    key = jax.random.key(0)
    *_, last = jnn.run(net, loss, optimizer, (x, y), key=key, epochs=5000, batch_size=n, chunk=5000)
    w, b = (np.asarray(last.state.params["dense1"][name]) for name in ("w", "b"))
    w, b = (w[:, 0], b[0]) if outputs == 1 else (w[:, 1] - w[:, 0], b[1] - b[0])
    signed = (2 * y.reshape(-1) - 1) * (x @ w + b) / np.linalg.norm(w)
    return Line(w, float(b), float(signed.min()))


def main(picture: str = "neuron.png") -> dict[str, Line]:
    """Trains the neuron three ways, draws its lines, and returns them."""
    random, y = np.random.default_rng(0), np.arange(120, dtype=np.int32) % 2
    centre, spread = np.array([[-1, -0.5], [1, 0.5]])[y], [0.18, 0.45]
    x = (centre + spread * random.standard_normal((120, 2))).astype(np.float32)
    t = y[:, None].astype(np.float32)
    found = {
        "sigmoid": trained(jnn.SigmoidCrossEntropy(), x, t),
        "softmax": trained(jnn.SoftmaxCrossEntropy(), x, y, outputs=2),
        "SVM": trained(Hinge(), x, t),
    }
    for name, (w, b, margin) in found.items():
        print(f"{name}: {w[0]:.4f} x1 + {w[1]:.4f} x2 + {b:.4f} = 0, margin {margin:.3f}")

    title = "one neuron cuts the plane by a line; its loss says where"
    sheet, axes = jnn.plots.figure(2, title=title, size=(4.0, 4.4))
    plane = np.stack(np.meshgrid(np.linspace(-1.8, 1.8, 200), np.linspace(-2, 2, 200)), axis=-1)
    for ax, name, colour in zip(axes, ("sigmoid", "SVM"), ("#333333", "#b5485d"), strict=True):
        w, b, margin = found[name]
        shade = 1 / (1 + np.exp(-(plane @ w + b)))
        ax.pcolormesh(*np.moveaxis(plane, -1, 0), shade, cmap="PuOr", alpha=0.5, lw=0)
        ax.scatter(*x.T, c=y, cmap="PuOr", s=16, edgecolors="white", linewidths=0.5)
        for offset in (0, margin, -margin):
            point = w * (offset * np.linalg.norm(w) - b) / (w @ w)
            ends = point + np.outer([-9, 9], [-w[1], w[0]])
            ax.plot(*ends.T, color=colour, lw=1 if offset else 2, ls="--" if offset else "-")
        ax.set(xlim=(-1.8, 1.8), ylim=(-2, 2), aspect="equal", xlabel="x1", ylabel="x2")
        ax.set_title(f"{name}: margin {margin:.3f}", fontsize=10)
    axes[0].set_title(f"sigmoid, softmax: margin {found['sigmoid'].margin:.3f}", fontsize=10)
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
