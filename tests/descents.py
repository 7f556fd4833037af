"""All optimizers by name, and a problem on which to follow them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jnn.optimizers import (
    adadelta,
    adagrad,
    adam,
    adamw,
    apply_updates,
    average,
    chain,
    clip_norm,
    clip_value,
    decay,
    freeze,
    lion,
    max_norm,
    momentum,
    muon,
    nesterov,
    reduce_on_plateau,
    rmsprop,
    sgd,
    takes_value,
)

SHAPES = {"w": (3, 2), "nest": {"b": (2,), "s": ()}}

# What takes nothing but a learning rate.
PLAIN = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "adadelta": adadelta,
    "adam": adam,
    "adam, uncorrected": partial(adam, bias_correction=False),
    "adamw": adamw,
    "lion": partial(lion, decay=0.1),
    "muon": muon,
}
# The same with pieces around them.
COMPOSED = {
    "chain": lambda lr: chain(clip_value(9.0), clip_norm(5.0), decay(0.1), sgd(lr), max_norm(9.0)),
    "freeze": lambda lr: freeze(adam(lr), "*nest.*"),
    "average": lambda lr: average(adam(lr)),
    "plateau": lambda lr: reduce_on_plateau(adam(lr)),
    "all at once": lambda lr: average(
        reduce_on_plateau(freeze(chain(clip_norm(5.0), muon(lr), max_norm(9.0)), "*nest.s"))
    ),
}
ALL = PLAIN | COMPOSED


def falling(step):
    return 0.1 / (1 + 0.05 * jnp.asarray(step, float))


def rising(step):
    return jnp.minimum(0.99, 0.5 + 0.005 * jnp.asarray(step, float))


def rate(value):
    """A number or a schedule as a quick function of the step, for loops in numpy."""
    if not callable(value):
        return lambda t: value
    values = np.asarray(value(jnp.arange(200)))
    return lambda t: values[t]


def tree(rng):
    return jax.tree.map(rng.standard_normal, SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def take(optimizer, grads, state, params):
    """One update; the loss, where it is asked for, is 1."""
    value = {"value": jnp.ones(())} if takes_value(optimizer) else {}
    return optimizer.update(grads, state, params, **value)


def follow(optimizer, steps=200):
    """Parameters and state after steps whose gradients change and depend on the parameters."""
    rng = np.random.default_rng(0)
    params, target = (jax.tree.map(jnp.asarray, tree(rng)) for _ in range(2))

    def step(carry, noise):
        params, state = carry
        grads = jax.tree.map(lambda p, t: p - t + noise, params, target)
        updates, state = take(optimizer, grads, state, params)
        return (apply_updates(params, updates), state), None

    noises = jnp.asarray(np.random.default_rng(1).standard_normal(steps))
    (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, noises))(
        (params, optimizer.init(params))
    )
    return params, state


def by_hand(rule, moments, steps=200):
    """The same in numpy: rule(t, x, dx, *moments) -> (x, *moments), with t from 0, leaf by leaf.

    Returns the parameters and each moment, which starts at zero, as lists of leaves.
    """
    rng = np.random.default_rng(0)
    params, target = (jax.tree.leaves(tree(rng)) for _ in range(2))
    rows = [(x, *(np.zeros_like(x) for _ in range(moments))) for x in params]
    for t, noise in enumerate(np.random.default_rng(1).standard_normal(steps)):
        rows = [
            rule(t, x, x - goal + noise, *rest)
            for (x, *rest), goal in zip(rows, target, strict=True)
        ]
    return [list(column) for column in zip(*rows, strict=True)]
