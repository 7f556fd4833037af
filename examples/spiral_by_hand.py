"""The lectures' spiral, trained in a plain loop with forward and backward called by hand.

    python examples/spiral_by_hand.py [PICTURE]

Shows what `jnn.run` does for you: forward, loss, loss backward, backward, update. The picture is
what the network decides everywhere in the plane.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jnn

net = jnn.Serial(jnn.Dense(100), jnn.ReLU(), jnn.Dense(3))
loss = jnn.SoftmaxCrossEntropy()
optimizer = jnn.optimizers.momentum(0.1)


@jax.jit
def step(params, state, x, y):
    """One step on the whole data set."""
    scores, cache = net.forward(params, x, jnn.Eval())
    value, kept = loss.forward(scores, y)
    grads, _ = net.backward(params, cache, loss.backward(kept, jnp.ones_like(value)))
    updates, state = optimizer.update(grads, state, params)
    return jnn.optimizers.apply_updates(params, updates), state, value


def main(picture: str = "spiral.png") -> float | None:
    """Trains, draws, and returns the test accuracy."""
    jnn.plots.check_new(picture)
    data = jnn.data.spiral()
    x, y = map(jnp.asarray, data.train)
    params, _ = net.init(jax.random.key(0), x)
    state = optimizer.init(params)
    for i in range(1000):
        params, state, value = step(params, state, x, y)
        if i % 200 == 0:
            print(f"step {i:4}  loss {value:.4f}")
    result = jnn.evaluate(net, loss, params, {}, data.test)
    print(f"test accuracy {result.accuracy:.1%}")

    def predict(points: np.ndarray) -> jax.Array:
        return net.forward(params, points, jnn.Eval())[0]

    title = f"the test points, {result.accuracy:.1%} right"
    jnn.plots.save(jnn.plots.decision_boundary(predict, *data.test, title), picture)
    print(f"picture in {picture}")
    return result.accuracy


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
