"""A transformer with tied embeddings learns to write, character by character.

    python examples/char_transformer.py [PICTURE [TEXT]]

It is a small GPT: four blocks of causal attention and of a hidden layer, each normed before and
added to what it was given, between an embedding and the same matrix used the other way. TEXT is any
file of text; without one it learns the source code of jnn, all of it there is. As it learns it
prints what it would write, and the loss on the last tenth of the text, which it never sees: in
nats per character, where guessing among 65 characters costs 4.17.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jnn
from jnn.data.text import Text, Vocabulary, read_text, windows
from jnn.report import follow

BATCH, STRIDE = 32, 32  # windows a step, characters between their beginnings
WRITTEN, TEMPERATURE = 300, 0.8  # characters that it writes; below 1 it is surer than it learned


class Result(NamedTuple):
    """How it went."""

    losses: list[float]  # on the held-out part, after every epoch
    text: str  # what it writes in the end
    parameters: int


def source() -> Text:
    """The source code of jnn, in the manner of `read_text`."""
    root = Path(jnn.__file__).parent
    text = "\n".join(path.read_text("utf-8") for path in sorted(root.rglob("*.py")))
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    kept = len(ids) * 9 // 10
    return Text(ids[:kept], ids[kept:], vocabulary)


def transformer(
    characters: int, *, layers: int, width: int, heads: int, dropout: float
) -> jnn.Layer:
    """A decoder whose embedding and whose scores are of one matrix."""
    block = jnn.Serial(
        jnn.Residual(
            jnn.RMSNorm(),
            jnn.Attention(heads, causal=True, rotary=10000.0, bias=False),
            jnn.Dropout(dropout),
        ),
        jnn.Residual(
            jnn.RMSNorm(),
            jnn.Dense(4 * width),
            jnn.GELU(approximate=True),
            jnn.Dense(width, jnn.initializers.normal(0.02)),
            jnn.Dropout(dropout),
        ),
    )
    net = jnn.Serial(
        jnn.Embedding(characters, width),
        jnn.Repeat(block, layers),
        jnn.RMSNorm(),
        jnn.Unembed(characters),
    )
    return jnn.Shared(net, {"unembed1.w": "embedding1.w"})


@partial(jax.jit, static_argnums=0)
def continued(net: jnn.Layer, params: Any, window: jax.Array, key: jax.Array):
    """The characters that come after `window`, each drawn from what the network makes of it."""

    def step(window: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores, _ = net.forward(params, window[None], jnn.Eval())
        new = jax.random.categorical(key, scores[0, -1] / TEMPERATURE).astype(window.dtype)
        return jnp.append(window[1:], new), new

    return jax.lax.scan(step, window, jax.random.split(key, WRITTEN))[1]


def main(
    picture: str = "transformer.png",
    text: str | None = None,
    *,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    length: int = 128,
    epochs: int = 3,
    dropout: float = 0.0,
    lr: float = 3e-3,
    limit: int | None = None,
) -> Result:
    """Trains on the text, prints what it writes, draws the losses, and returns them."""
    jnn.plots.check_new(picture)
    train, held_out, vocabulary = source() if text is None else read_text(text)
    train = train[:limit]
    data = windows(train, length, STRIDE)
    validation = windows(held_out[:limit], length)
    net = transformer(len(vocabulary), layers=layers, width=width, heads=heads, dropout=dropout)
    steps = epochs * (len(data.x) // BATCH)
    rate = jnn.schedules.warmup(jnn.schedules.cosine(lr, steps), max(1, min(100, steps // 10)))
    optimizer = jnn.optimizers.chain(
        jnn.optimizers.clip_norm(1.0), jnn.optimizers.adamw(rate, b2=0.99, decay=0.1)
    )
    history, written, parameters = [], "", 0
    run = jnn.run(
        net,
        jnn.SoftmaxCrossEntropy(),
        optimizer,
        data,
        key=jax.random.key(0),
        epochs=epochs,
        batch_size=BATCH,
        validation=validation,
    )
    for progress in follow(run):
        if progress.validation is None:
            continue
        history.append(progress._replace(state=None))
        parameters = sum(p.size for p in jax.tree.leaves(progress.state.params))
        key = jax.random.fold_in(jax.random.key(1), progress.step)
        ids = continued(net, progress.state.params, jnp.asarray(held_out[:length]), key)
        written = vocabulary.decode(ids)
        print(f"epoch {progress.epoch:.0f}: validation loss {progress.validation.loss:.3f}")
        print("\n".join(f"    | {line}" for line in written.splitlines()), flush=True)
    losses = [progress.validation.loss for progress in history if progress.validation]
    found = Result(losses, written, parameters)
    sheet = jnn.plots.learning_curves(
        history, f"{found.parameters:,} parameters write text at {losses[-1]:.2f} nats a character"
    )
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
