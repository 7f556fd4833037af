"""Fewer steps by curvature: K-FAC beside Adam on a deep autoencoder.

    python examples/natural_gradient.py [PICTURE]

Six layers squeeze the digits through eight numbers and out again. Such a network is what
gradient descent is slow at: its directions differ in curvature by orders of magnitude, and most of
that is between whole directions rather than between single weights, which is all that Adam can see.
K-FAC takes the curvature of every layer to be a Kronecker product, whose factors the backward pass
has in its hands. Adam is given five rates to choose from, and K-FAC one. In a fourth of Adam's
steps, each of which costs two to three of its own, K-FAC is where Adam ends.
"""

import sys

import jax
import numpy as np

import jnn

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WIDTHS = (48, 24, 8, 24, 48)
loss = jnn.SigmoidCrossEntropy()


def main(picture: str = "natural_gradient.png", *, epochs: int = 40) -> dict[str, list[float]]:
    """Trains by both, draws the losses, and returns them by epoch, the best rate's of Adam."""
    jnn.plots.check_new(picture)
    images = jnn.data.digits().train.x
    x = images.reshape(len(images), -1)
    layers = [layer for width in WIDTHS for layer in (jnn.Dense(width), jnn.Tanh())]
    net = jnn.Serial(*layers, jnn.Dense(x.shape[1]))

    def losses(name: str, optimizer: jnn.optimizers.Optimizer, **options: object) -> list[float]:
        history = jnn.fit(
            net,
            loss,
            optimizer,
            (x, x),
            key=jax.random.key(0),
            epochs=epochs,
            batch_size=128,
            progress=False,
            **options,
        ).history
        found = [record.loss for record in history if record.epoch.is_integer()]
        print(f"{name}: {found[-1]:.2f}, {history[-1].examples_per_second:,.0f} examples/s")
        return found

    adams = {lr: losses(f"Adam, {lr:g}", jnn.optimizers.adam(lr)) for lr in RATES}
    best = min(adams, key=lambda lr: adams[lr][-1])
    kfac = jnn.optimizers.kfac(net, x, 0.1)
    natural = losses("K-FAC", kfac, gradient=jnn.optimizers.kfac_gradient)
    passed = int(np.argmax(np.array(natural) < adams[best][-1])) + 1
    print(f"K-FAC is below Adam's last loss after {passed} of {epochs} epochs")
    curves = {"K-FAC": natural, f"Adam at its best rate, {best:g}": adams[best]}
    jnn.plots.save(jnn.plots.lines(curves, "epoch of 11 steps", "cross-entropy, a digit"), picture)
    print(f"picture in {picture}")
    return {"K-FAC": natural, "Adam": adams[best]}


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
