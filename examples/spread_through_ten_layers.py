"""1/sqrt(n) keeps the spread through ten layers, and a ReLU needs sqrt(2/n).

    python examples/spread_through_ten_layers.py [PICTURE]

Sends normal noise through ten layers and notes the standard deviation of what each puts out. The
notes derive 1/sqrt(n) for a sum, without an activation, and there the spread is kept. A tanh
squashes, so with 1/sqrt(n) its spread still falls, though like 1/sqrt(depth) and not by a factor a
layer; the larger sqrt(2/n) keeps it at a level. A ReLU drops half of the square at every layer,
and the 2 makes up for just that. What the notes leave out: that is the spread over all units and
examples. Over the examples alone, unit by unit, even sqrt(2/n) leaves a ReLU less at every layer:
its units come to differ from each other more than an example does from the next.
"""

import sys
from typing import NamedTuple

import jax
import numpy as np

import jnn

DEPTH, WIDTH, EXAMPLES = 10, 500, 200
ACTIVATIONS = {"no activation": None, "tanh": jnn.Tanh(), "ReLU": jnn.ReLU()}
WEIGHTS = {"0.01": 0.01, "1/sqrt(n)": WIDTH**-0.5, "sqrt(2/n)": (2 / WIDTH) ** 0.5}


class Spread(NamedTuple):
    """Medians over the seeds for x and what each layer makes of it, each (1 + DEPTH,)."""

    all: np.ndarray  # the standard deviation over units and examples
    examples: np.ndarray  # that over the examples alone, root mean square over the units


def spread(activation: jnn.Layer | None, std: float, seed: int) -> Spread:
    """Sends noise through a fresh network, layer by layer."""
    weight = jnn.initializers.normal(std)
    block = (jnn.Dense(WIDTH, weight=weight), *([] if activation is None else [activation]))
    net = jnn.Serial(*DEPTH * block)
    keys = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], (EXAMPLES, WIDTH))
    params, _ = net.init(keys[1], x)
    outputs = [x]
    for name, layer in net.layers:
        x, _ = layer.forward(params.get(name, {}), x, jnn.Eval())
        outputs.append(x)
    kept = np.asarray(outputs)[:: len(block)]
    return Spread(kept.std(axis=(1, 2)), np.sqrt(kept.var(axis=1).mean(axis=1)))


def main(picture: str = "ten_layers.png", *, seeds: int = 5) -> dict[tuple[str, str], Spread]:
    """Measures all networks, draws them, and returns their spreads by activation and weights."""
    jnn.plots.check_new(picture)
    found = {}
    sheet, axes = jnn.plots.figure(3)
    for ax, (name, activation) in zip(axes, ACTIVATIONS.items(), strict=True):
        for std, number in WEIGHTS.items():
            runs = [spread(activation, number, seed) for seed in range(seeds)]
            found[name, std] = one = Spread(*np.median(runs, axis=0))
            print(
                f"{name:13} weights {std:9}: spread {one.all[-1]:.2g} after {DEPTH} layers, "
                f"{one.examples[-1]:.2g} over the examples alone"
            )
            (line,) = ax.plot(one.all, marker=".", label=f"{std}: at last {one.all[-1]:.2g}")
            ax.plot(one.examples, color=line.get_color(), ls=":")
        ax.axhline(1, color="#999999", lw=0.8, zorder=0)
        ax.set(yscale="log", ylim=(1e-9, 1e2), title=name, xlabel="layer")
        ax.legend(frameon=False, fontsize=8, title="weights of spread", loc="lower left")
    axes[2].set_title("ReLU (dotted: over the examples alone)")
    axes[0].set(ylabel="spread of what a layer puts out")
    one, two = found["no activation", "1/sqrt(n)"], found["ReLU", "sqrt(2/n)"]
    sheet.suptitle(
        f"1/sqrt(n) keeps the spread without an activation ({one.all[-1]:.2f} after {DEPTH} layers "
        f"of {WIDTH}); ReLU needs sqrt(2/n) ({two.all[-1]:.2f})"
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
