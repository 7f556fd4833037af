"""Which pixels a network looks at: the backward pass asked for dx instead of gradients.

    python examples/saliency.py [PICTURE]

Trains on the digits, then pulls "one more point for the winning class" back to the pixels of one
test image of each digit. Ink on red pixels speaks for the decision, ink on blue ones against it.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn

net = jnn.Serial(jnn.Flatten(), jnn.Dense(128), jnn.ReLU(), jnn.Dense(10))


@jax.jit
def saliency(params, x):
    """The winning class of each image, and how its score changes with every pixel."""
    scores, cache = net.forward(params, x, jnn.Eval())
    winner = scores.argmax(axis=-1)
    _, dx = net.backward(params, cache, jax.nn.one_hot(winner, 10, dtype=scores.dtype))
    return winner, dx


def main(picture: str = "saliency.png") -> float:
    """Trains, draws, and returns the share of the winning scores that x dx accounts for."""
    jnn.plots.check_new(picture)
    data, loss = jnn.data.digits(), jnn.SoftmaxCrossEntropy()
    params, _, _ = jnn.fit(
        net,
        loss,
        jnn.optimizers.momentum(0.05),
        data.train,
        key=jax.random.key(0),
        epochs=10,
        batch_size=32,
    )
    x = jnp.asarray(data.test.x[[list(data.test.y).index(digit) for digit in range(10)]])
    winner, dx = saliency(params, x)
    jnn.plots.save(
        jnn.plots.images(
            np.concatenate([x, dx])[..., 0],
            [f"seen as {digit}" for digit in winner] + [f"why {digit}" for digit in winner],
            columns=10,
            signed=10 * [False] + 10 * [True],
            caption="ink on red pixels speaks for the decision, ink on blue ones against it",
        ),
        picture,
    )
    print(f"picture in {picture}")
    # A ReLU network is linear around each input: score = <x, dx> + a bias term.
    scores, _ = net.forward(params, x, jnn.Eval())
    return float((x * dx).sum() / scores.max(axis=-1).sum())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
