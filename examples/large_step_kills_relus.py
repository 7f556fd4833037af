"""Steps that are too large kill ReLUs; Leaky ReLU survives, unless it blows up.

    python examples/large_step_kills_relus.py [PICTURE]

Trains one hidden layer on the digits with 100 steps of a rate up to far too large, then with 900 of
0.1, which is a good one. From rate 2 on the first hundred switch off nine units in ten for every
example. A ReLU that is off gets no gradient, so it never comes back, and the network stays as bad.
Leaky ReLUs go off as much and hardly come back either; but being off they still pass on 1% and
learn, so that most of the accuracy returns. Death also protects: at rate 16, where ReLUs merely
die, Leaky ReLU diverges to NaN; with a second hidden layer it does so from rate 2 on.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

RATES = np.array([0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], np.float32)
GOOD, SHOCK, STEPS, BATCH = 0.1, 100, 1000, 32
loss = jnn.SoftmaxCrossEntropy()


class Outcome(NamedTuple):
    """The network at each of RATES, medians over the seeds; NaN where it diverged."""

    off: np.ndarray  # the fraction of units that fire for no training example, after the shock
    returned: np.ndarray  # the fraction of those that fire for some at the end
    accuracy: np.ndarray  # on the training digits, at the end


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None, 0, None))
@partial(jax.vmap, in_axes=(None, None, 0, None, None))
def shocked(
    net: jnn.Layer, key: jax.Array, rate: jax.Array, batches: jax.Array, data: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which units are off after the shock, which at the end, and the final accuracy."""
    x, y = data
    params, _ = net.init(key, x)
    gradient = jnn.backprop(net, loss)
    descent = jnn.optimizers.sgd(lambda step: jnp.where(step < SHOCK, rate, GOOD))

    def step(carry: tuple, batch: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        _, grads = gradient(params, x[batch], y[batch], jnn.Eval())
        updates, state = descent.update(grads, state, params)
        return (jnn.optimizers.apply_updates(params, updates), state), None

    off, scores = [], x
    carry = params, descent.init(params)
    for part in (batches[:SHOCK], batches[SHOCK:]):
        carry, _ = jax.lax.scan(step, carry, part)
        scores, cache = net.forward(carry[0], x, jnn.Eval())
        off.append((cache["hidden"] <= 0).all(axis=0))
    accuracy = loss.correct(scores, y).mean()
    return off[0], off[1], accuracy


def main(picture: str = "dead.png", *, seeds: int = 5) -> dict[str, Outcome]:
    """Shocks both networks, draws what became of them, and returns it."""
    data = jnn.data.digits().train
    keys = jax.random.split(jax.random.key(0), seeds)
    shape = (seeds, STEPS, BATCH)
    batches = np.random.default_rng(0).integers(0, len(data.x), shape, np.int32)
    found = {}
    sheet, (left, right) = jnn.plots.figure(2)
    for name, activation in (("ReLU", jnn.ReLU()), ("Leaky ReLU", jnn.LeakyReLU(0.01))):
        net = jnn.Serial(jnn.Flatten(), jnn.Dense(64), ("hidden", activation), jnn.Dense(10))
        runs = shocked(net, keys, RATES, batches, tuple(data))
        before, after, accuracy = map(np.asarray, runs)  # (seeds, rates, units) and (seeds, rates)
        back = (before & ~after).sum(-1) / np.maximum(1, before.sum(-1))
        whole = np.where(np.isfinite(accuracy), 1, np.nan)
        each = (before.mean(-1) * whole, back * whole, accuracy)
        outcome = found[name] = Outcome(*(np.median(v, axis=0) for v in each))
        for rate, off, returned, final in zip(RATES, *outcome, strict=True):
            fate = f"{off:.0%} off, {returned:.0%} of which come back; accuracy at last {final:.1%}"
            print(f"{name:10} {SHOCK} steps at {rate:4.1f}:", "diverged" if off != off else fate)
        lost = RATES[np.isnan(outcome.accuracy)]
        label = name + "".join(f", diverges at {rate:g}" for rate in lost)
        left.plot(RATES, outcome.off, marker="o", label=name)
        right.plot(RATES, outcome.accuracy, marker="o", label=label)
    relu, leaky = (found[name].accuracy[-2] for name in ("ReLU", "Leaky ReLU"))
    sheet.suptitle(
        f"after {SHOCK} steps at {RATES[-2]:g} ReLU stays at {relu:.0%}, Leaky ReLU returns to "
        f"{leaky:.0%}"
    )
    left.set(title="units off for every example")
    right.set(title=f"training accuracy after {STEPS - SHOCK} good steps")
    for ax in (left, right):
        ax.set(xlabel=f"learning rate of the first {SHOCK} steps", xscale="log", ylim=(-0.03, 1.03))
        ax.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        ax.minorticks_off()
        ax.legend(frameon=False, loc="center left")
    jnn.plots.save(sheet, picture)
    print(f"picture in {picture}")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FileExistsError as error:
        sys.exit(str(error))
