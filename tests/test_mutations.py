"""The planted bugs are bugs, and the rewrites are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.mutations import FIRST, LAST, UNSEEN
from benchmarks.mutations.case import Function, equivalents, planted

from jnn.gradcheck.report import CAUSES

FUNCTIONS = FIRST + LAST + UNSEEN


def test_there_are_enough_and_a_third_was_written_last():
    bugs, last = planted(FUNCTIONS), planted(LAST + UNSEEN)
    rewrites = [name for f in FUNCTIONS for name in f.rewrites]
    assert len(bugs) >= 120 and len(FUNCTIONS) >= 20 and len(rewrites) >= 40
    assert 3 * len(last) >= len(bugs)
    assert len({case.name for case in bugs}) == len(bugs)
    assert all(case.causes and case.causes <= CAUSES.keys() for case in bugs)
    assert not any(case.causes for case in equivalents(FUNCTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_bugs_differ_from_the_right_gradient_and_rewrites_do_not(function: Function):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # as people write them
        for case in equivalents([function]):
            assert off(case) == set(), case.name
        for case in planted([function]):
            if not case.causes & ELSEWHERE:
                assert off(case) and off(case) <= case.spoiled, case.name


ELSEWHERE = {"structure", "primal-mismatch"}  # seen without a look at the gradient


def off(case) -> set[str]:
    """The arguments whose gradients are wrong."""
    args = [_wide(a) for a in case.args]
    floating = [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]

    def of(f):
        def some(*some):
            return f(*(some[floating.index(i)] if i in floating else a for i, a in enumerate(args)))

        return jax.vjp(some, *(args[i] for i in floating))

    y, exact = of(case.plain)
    random = np.random.default_rng(0)
    dy = jax.tree.map(lambda v: jnp.asarray(random.standard_normal(v.shape)), y)
    try:
        hand = of(case.f)[1](dy)
    except ValueError:
        return set()
    return {
        f"args[{i}]"
        for i, a, b in zip(floating, hand, exact(dy), strict=True)
        if not abs(a - b).max() <= 1e-11 * abs(b).max()
    }


def _wide(a):
    return jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a)
