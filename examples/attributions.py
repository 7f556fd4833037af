"""Six answers to one question: which pixels is a decision owed to?

    python examples/attributions.py [PICTURE]

Trains a small convolutional network on the digits and asks it about one test image of each. All six
are backward passes through the same caches: the slope as it is; with another rule at every ReLU;
averaged over noise; averaged on the way from an empty image; handing on relevance in place of a
slope; and stopped at the maps of a layer. Two of them must add up, and do: integrated gradients to
the score less that of the empty image, and relevance, the layers having no biases, to the score.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from jnn import attribution, rules

net = jnn.Serial(
    jnn.Conv(16, bias=False),
    jnn.ReLU(),
    jnn.Conv(32, bias=False),
    ("maps", jnn.ReLU()),
    jnn.MaxPool(),
    jnn.Flatten(),
    jnn.Dense(10, bias=False),
)


def main(picture: str = "attributions.png") -> dict[str, float]:
    """Trains, draws, and returns by how much the two that must add up do not, of the scores."""
    jnn.plots.check_new(picture)
    data, loss = jnn.data.digits(), jnn.SoftmaxCrossEntropy()
    params, state, _ = jnn.fit(
        net,
        loss,
        jnn.optimizers.momentum(0.05),
        data.train,
        key=jax.random.key(0),
        epochs=10,
        batch_size=32,
    )
    x = jnp.asarray(data.test.x[[list(data.test.y).index(digit) for digit in range(10)]])
    scores, _ = net.forward(params, x, jnn.Eval(state))
    of = net, params, state, x, scores.argmax(axis=-1)
    key = jax.random.key(1)
    found = {
        "the slope": attribution.saliency(*of),
        "guided": attribution.saliency(*of, pull={jnn.ReLU: rules.guided}),
        "SmoothGrad": attribution.smooth_gradient(*of, key=key, deviation=0.2),
        "integrated": attribution.integrated_gradients(*of, steps=64),
        "relevance": attribution.relevance(*of, pull=rules.relevance(gamma=0.25)),
        "Grad-CAM": attribution.grad_cam(*of, layer="maps")[..., None],
    }
    rows = [x, *found.values()]
    titles = [f"seen as {digit}" for digit in of[4]] + [name for name in found for _ in range(10)]
    jnn.plots.save(
        jnn.plots.images(
            np.concatenate(rows)[..., 0],
            titles,
            columns=10,
            signed=10 * [False] + 50 * [True] + 10 * [False],
            caption="red speaks for the decision, blue against it; Grad-CAM is where, in black",
        ),
        picture,
    )
    print(f"picture in {picture}")
    won = scores.max(axis=-1)
    off = {
        name: float(abs(found[name].sum(axis=(1, 2, 3)) - won).max() / abs(won).max())
        for name in ("integrated", "relevance")
    }
    print("off by " + ", ".join(f"{share:.1e} ({name})" for name, share in off.items()))
    return off


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
