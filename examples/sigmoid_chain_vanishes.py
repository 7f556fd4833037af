"""A chain of sigmoids vanishes, and large weights saturate it.

    python examples/sigmoid_chain_vanishes.py [PICTURE]

Pulls one cotangent back through ten layers of 100 units, by hand, and notes its norm before each,
for weights of standard deviation gain / sqrt(100). A sigmoid's slope is at most 1/4, so with gain 1
nothing arrives. Larger weights do saturate the units, as the notes say. What the notes leave out:
the few units still in between pass their gradient on through those large weights, so its norm does
not vanish but explodes, while most units get next to nothing. ReLU needs gain sqrt(2), tanh 1.
"""

import math
import sys
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import jnn

DEPTH, WIDTH, EXAMPLES = 10, 100, 64
CHAINS = {  # activation, its steepest slope, gains
    "sigmoid": (jnn.Sigmoid(), 0.25, (1.0, 4.0, 30.0)),
    "tanh": (jnn.Tanh(), 1.0, (1.0, 4.0, 30.0)),
    "ReLU": (jnn.ReLU(), 1.0, (1.0, math.sqrt(2), 4.0)),
}


class Chain(NamedTuple):
    """What a chain does to a cotangent."""

    norms: np.ndarray  # of the cotangent before layer 10, 9, ..., 1; it starts at 1
    flat: float  # the fraction of units whose slope is under 5% of its greatest


def pulled(activation: jnn.Layer, steepest: float, gain: float, seed: int) -> Chain:
    """Goes forward through a fresh chain, and back by hand."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    net = jnn.Serial(*DEPTH * (jnn.Dense(WIDTH, bias=False), activation))
    names = [name for name, layer in net.layers if layer != activation]
    params = {name: {"w": gain / WIDTH**0.5 * normal(WIDTH, WIDTH)} for name in names}
    y, cache = net.forward(params, normal(EXAMPLES, WIDTH), jnn.Eval())
    dy = normal(*y.shape)
    dy, norms, slopes = jnp.asarray(dy / np.linalg.norm(dy)), [], []
    for name, layer in reversed(net.layers):
        if layer == activation:
            slopes.append(layer.pull({}, cache[name], jnp.ones_like(dy)))
        _, dy = layer.backward(params.get(name, {}), cache[name], dy)
        if layer != activation:
            norms.append(np.linalg.norm(dy))
    return Chain(np.array(norms), float(np.mean(np.array(slopes) < 0.05 * steepest)))


def main(picture: str = "sigmoid_chain.png", *, seeds: int = 5) -> dict[tuple[str, float], Chain]:
    """Measures all chains, draws them, and returns their medians by activation and gain."""
    chains = {}
    sheet, axes = jnn.plots.figure(3)
    for ax, (name, (activation, steepest, gains)) in zip(axes, CHAINS.items(), strict=True):
        for gain in gains:
            runs = [pulled(activation, steepest, gain, seed) for seed in range(seeds)]
            norms, flat = (np.median(values, axis=0) for values in zip(*runs, strict=True))
            chain = Chain(norms, float(flat))
            chains[name, gain] = chain
            label = f"gain {gain:.3g}, {chain.flat:.0%} flat"
            print(f"{name:8} {label:22} a cotangent of 1 arrives as {chain.norms[-1]:.1e}")
            ax.plot(range(DEPTH, 0, -1), chain.norms, marker=".", label=label)
        ax.set(xlabel="before layer", yscale="log", ylim=(1e-8, 1e8), title=name)
        ax.legend(frameon=False, fontsize=9)
        ax.axhline(1, color="#999999", lw=0.8, zorder=0)
    axes[0].set(ylabel="norm of the cotangent")
    axes[1].set(xlabel="before layer, whose weights spread by gain / sqrt(n)")
    sheet.suptitle(
        f"ten sigmoids leave {chains['sigmoid', 1.0].norms[-1]:.0e} of a cotangent; "
        "large weights flatten most units, and yet what passes explodes"
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return chains


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
