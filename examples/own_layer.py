"""Your own layer, with its backward written by hand, and a slip that the check finds.

    python examples/own_layer.py [PICTURE]

Swish is y = x sigmoid(x). The first version below forgets that x appears twice. A network with it
still trains, only worse, which is why nobody notices; the check does, before the first step.
The picture shows both networks learning.
"""

import sys

import jax

import jnn


class Careless(jnn.Elementwise):
    """Swish whose derivative leaves out the slope of the sigmoid."""

    keeps = "x"

    def f(self, x):
        return x * jax.nn.sigmoid(x)

    def df(self, kept, dy):
        return dy * jax.nn.sigmoid(kept)


class Swish(Careless):
    """Swish: dx = (s + x s (1 - s)) dy with s = sigmoid(x)."""

    def df(self, kept, dy):
        s = jax.nn.sigmoid(kept)
        return dy * (s + kept * s * (1 - s))


def main(picture: str = "own_layer.png") -> tuple[bool, bool]:
    """Checks both, trains both, draws both; returns the verdicts on the careless and the right."""
    jnn.plots.check_new(picture)
    data, loss = jnn.data.digits(), jnn.SoftmaxCrossEntropy()
    x, y = (v[:8] for v in data.train)
    verdicts, losses = [], {}
    for activation in (Careless(), Swish()):
        net = jnn.Serial(
            jnn.Flatten(), jnn.Dense(64), activation, jnn.Dense(64), activation, jnn.Dense(10)
        )
        params, state = net.init(jax.random.key(0), x)
        check = jnn.gradcheck.check_network(
            net, loss, params, x, y, jnn.Eval(state), key=jax.random.key(1)
        )
        print(f"{activation}: {check}")
        verdicts.append(bool(check))
        fitted = jnn.fit(
            net,
            loss,
            jnn.optimizers.sgd(0.1),
            data.train,
            key=jax.random.key(2),
            epochs=20,
            batch_size=32,
            progress=False,
        )
        losses[f"{activation}"] = [record.loss for record in fitted.history]
    jnn.plots.save(jnn.plots.lines(losses, "epoch", "training loss"), picture)
    print(f"picture in {picture}")
    return verdicts[0], verdicts[1]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
