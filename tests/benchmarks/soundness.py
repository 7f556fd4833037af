"""False alarms: jnn's own layers, which are right, checked at a thousand random places."""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import jax
import jax.numpy as jnp

import jnn
from jnn.gradcheck.functions import REGIMES

sys.path.append(str(Path(__file__).parents[1]))  # where the table of layers lies

CHECKS = 1000


def soundness() -> dict[str, Callable[[], str]]:
    """The benchmark of this file by name."""
    return {"soundness": bench}


def bench() -> str:
    """How many of the checks refuse what is right, and which."""
    from row import example
    from table import ROWS

    random, refused = Random(0), []
    # Row after row, for what is compiled for one check serves the next.
    places = [ROWS[n * len(ROWS) // CHECKS] for n in range(CHECKS)]
    for n, row in enumerate(places):
        if row is not places[n - 1]:
            jax.clear_caches()
        print(f"{n + 1} of {CHECKS}: {row.name}", end="\33[K\r", file=sys.stderr)
        regime, key = random.choice(list(REGIMES)), jax.random.key(random.randrange(2**31))
        x = jax.tree.map(jnp.asarray, example(row, jnp.float32).x)
        report = jnn.check_layer(row.layer, _moved(x, key), regimes=[regime], key=key)
        if not report:
            refused.append(f"* refused: {row.name}, seed {jax.random.key_data(key)}:\n{report}")
    total = f"{len(refused)} of {CHECKS} checks of {len(ROWS)} right layers refused"
    return "\n".join([total, *refused])


def _moved(x, key):
    """Other numbers of the same kind; integers and masks stay."""

    def moved(v: jax.Array) -> jax.Array:
        if not jnp.issubdtype(v.dtype, jnp.floating):
            return v
        return v + jax.random.normal(jax.random.clone(key), v.shape, v.dtype)

    return jax.tree.map(moved, x)
