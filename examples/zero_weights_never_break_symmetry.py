"""All-zero weights never break symmetry: every hidden unit stays a copy of its neighbour.

    python examples/zero_weights_never_break_symmetry.py [PICTURE]

Units that start alike get the same gradient, step alike, and stay alike. Sigmoids put out 1/2, so
their weights do move, but all in step. ReLUs put out 0 and get no gradient: nothing but the last
bias ever moves. Small random weights are all that it takes.

"Never" is true of exact numbers. A matrix product may add up two equal columns in different orders,
and the rounding error between them then grows: where this was written 32 sigmoids became two kinds
after some twenty epochs, and learned what two units can.
"""

import sys
from typing import NamedTuple

import jax
import numpy as np

import jnn

UNITS = 32


class Outcome(NamedTuple):
    """What became of the hidden units of one network."""

    kinds: list[int]  # the first unit of each kind: those that are no exact copy of another
    moved: float  # the largest change of a first-layer weight
    accuracy: float  # on the training digits, in the last epoch
    weights: np.ndarray  # of the first layer, (64, UNITS)


def trained(activation: jnn.Layer, weight: jnn.initializers.Initializer, epochs: int) -> Outcome:
    """Trains one hidden layer on the digits, from weights that `weight` draws."""
    data, loss = jnn.data.digits(), jnn.SoftmaxCrossEntropy()
    net = jnn.Serial(
        jnn.Flatten(),
        jnn.Dense(UNITS, weight=weight),
        activation,
        jnn.Dense(10, weight=weight),
    )
    optimizer, key = jnn.optimizers.momentum(0.1), jax.random.key(0)
    before = jnn.training.start(net, optimizer, data.train.x, key)
    *_, last = jnn.run(
        net, loss, optimizer, data.train, resume=before, epochs=epochs, batch_size=32, chunk=10**6
    )
    w = np.asarray(last.state.params["dense1"]["w"])
    return Outcome(
        kinds=np.unique(w, axis=1, return_index=True)[1].tolist(),
        moved=float(abs(w - before.params["dense1"]["w"]).max()),
        accuracy=last.accuracy or 0.0,
        weights=w,
    )


def main(picture: str = "zero_weights.png", *, epochs: int = 20) -> dict[str, Outcome]:
    """Trains three networks, draws the weights of two, returns what became of all."""
    zeros, random = jnn.initializers.zeros, jnn.initializers.lecun_normal
    outcomes = {
        "sigmoid from zero": trained(jnn.Sigmoid(), zeros, epochs),
        "sigmoid from random": trained(jnn.Sigmoid(), random, epochs),
        "ReLU from zero": trained(jnn.ReLU(), zeros, epochs),
    }
    for name, o in outcomes.items():
        print(
            f"{name:20} {len(o.kinds):2} kinds of unit among {UNITS}, "
            f"weights moved up to {o.moved:.2f}, accuracy {o.accuracy:.1%}"
        )
    tiles, titles, captions = [], [], []
    for row, name in (("upper", "sigmoid from zero"), ("lower", "sigmoid from random")):
        o = outcomes[name]
        # One of each kind first, so that no difference is hidden.
        units = sorted(range(UNITS), key=lambda i, kinds=o.kinds: (i not in kinds, i))[:8]
        tiles.append(o.weights.T[units].reshape(-1, 8, 8))
        titles += [f"unit {i + 1}" for i in units]
        captions.append(
            f"{row} row, {name}: {len(o.kinds)} kinds of unit among {UNITS}, "
            f"accuracy {o.accuracy:.0%}"
        )
    sheet = jnn.plots.images(
        np.concatenate(tiles), titles, 8, signed=[True] * 16, caption="\n".join(captions)
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return outcomes


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
