"""A residual network against a plain one on photographs: what knowing about pictures is worth.

    python examples/residual_cnn.py [PICTURE [DIRECTORY]]

DIRECTORY holds CIFAR-10 in its binary format, data_batch_1.bin and test_batch.bin among others.
Both networks see the same photographs for as many epochs, mirrored at random. The residual one is
of convolutions, which look for the same thing everywhere, in blocks that are added to what they are
given. Without a directory both learn the embedded digits, where a plain network does about as well.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jnn
from jnn.report import follow

BATCH = 64
loss = jnn.SoftmaxCrossEntropy()


class Result(NamedTuple):
    """How one network did."""

    accuracies: list[float]  # on the test set, after every epoch
    parameters: int


@dataclass(frozen=True)
class Mirrored(jnn.Layer):
    """In training, every picture the other way round with probability 1/2."""

    def forward(self, params: Any, x: Any, mode: Any) -> tuple[jax.Array, jax.Array]:
        if isinstance(mode, jnn.Train):
            turned = jax.random.bernoulli(mode.key, shape=(len(x), 1, 1, 1))
        else:
            turned = jnp.zeros((len(x), 1, 1, 1), bool)
        return jnp.where(turned, x[:, :, ::-1], x), turned

    def pull(self, params: Any, cache: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where(cache, dy[:, :, ::-1], dy)


def block(features: int, stride: int = 1) -> jnn.Layer:
    """Two convolutions, added to what they are given."""
    conv = partial(jnn.Conv, bias=False)  # batch norm has a shift
    return jnn.Serial(
        jnn.Residual(
            conv(features, stride=stride),
            jnn.BatchNorm(),
            jnn.ReLU(),
            conv(features),
            jnn.BatchNorm(),
            projection=None if stride == 1 else conv(features, 1, stride=stride),
        ),
        jnn.ReLU(),
    )


def residual(width: int) -> list[jnn.Layer]:
    """A small ResNet."""
    return [
        jnn.Conv(width, bias=False),
        jnn.BatchNorm(),
        jnn.ReLU(),
        block(width),
        block(2 * width, stride=2),
        block(4 * width, stride=2),
        jnn.GlobalAvgPool(),
        jnn.Dense(10, jnn.initializers.lecun_normal),
    ]


def plain(width: int) -> list[jnn.Layer]:
    """Dense layers with batch norm."""
    hidden = [layer for _ in range(2) for layer in (jnn.Dense(width), jnn.BatchNorm(), jnn.ReLU())]
    return [jnn.Flatten(), *hidden, jnn.Dense(10, jnn.initializers.lecun_normal)]


def main(
    picture: str = "residual_cnn.png",
    directory: str | None = None,
    *,
    width: int = 16,
    epochs: int = 12,
    limit: int | None = None,
) -> dict[str, Result]:
    """Trains both, draws their curves and what the residual one gets wrong, and returns both."""
    jnn.plots.check_new(picture)
    data = jnn.data.digits() if directory is None else jnn.data.cifar10(directory, batches=(1,))
    train = data.train.x[:limit], data.train.y[:limit]
    transform = jnn.preprocessing.Standardize.fit(train[0], channels=True)
    mirrors = () if directory is None else (Mirrored(),)  # a digit mirrored is none
    steps = epochs * (len(train[0]) // BATCH)
    found, curves = {}, {}
    for name, layers in {"residual": residual(width), "plain": plain(16 * width)}.items():
        net = jnn.Serial(*mirrors, *layers)
        rate = jnn.schedules.one_cycle(0.0, 0.01, steps=steps, rise=0.2)
        run = jnn.run(
            net,
            loss,
            jnn.optimizers.adamw(rate, decay=0.05),
            train,
            key=jax.random.key(0),
            epochs=epochs,
            batch_size=BATCH,
            validation=data.test,
            transform=transform,
        )
        history, parameters = [], 0
        for progress in follow(run):
            if progress.validation is not None:
                history.append(100 * (progress.validation.accuracy or 0))
                parameters = sum(p.size for p in jax.tree.leaves(progress.state.params))
        found[name] = Result([accuracy / 100 for accuracy in history], parameters)
        curves[f"{name}, {parameters:,} parameters: {history[-1]:.1f}%"] = history
        print(f"{name:8}  {parameters:9,} parameters  test accuracy {history[-1]:.1f}%", flush=True)
    ahead = 100 * (found["residual"].accuracies[-1] - found["plain"].accuracies[-1])
    sheet = jnn.plots.lines(
        curves, "epoch", "test accuracy, %", title=f"convolutions are {ahead:.1f} points ahead"
    )
    sheet.axes[0].set_yscale("linear")
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (FileExistsError, FileNotFoundError) as error:
        sys.exit(str(error))
