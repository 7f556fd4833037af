"""What a gradient owes beside its value: linear, repeatable, and as accurate as need be."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.probe import Flat, Seen, gradient
from jnn.gradcheck.report import Finding
from jnn.gradcheck.target import Target, close, compiled, compiled_exact, root_mean_square, typical

LINEAR = 1e-5  # of the gradient, for what goes through float32 is another fault
LOSSES = 10  # times what autodiff loses in low precision is too much
LEAST = 2  # ulps, in which to count that where autodiff loses less


def linear(seen: Seen, paths: Sequence[str], regime: str) -> list[Finding]:
    """The primal under differentiation, and linearity in the cotangent."""
    found = []
    for k, (y, exact) in enumerate(zip(seen.y, seen.y_exact, strict=True)):
        if not close(y, exact):
            words = f"output {k} is off by {abs(y - exact).max():.1e} under differentiation"
            found.append(Finding("", "primal-mismatch", words, regime=regime))
    for i, path in enumerate(paths):
        at = {name: gradients[i] for name, gradients in seen.contract.items()}
        if not np.isfinite(at["one"]).all():
            continue
        if at["one"].any() and (at["double"] == at["one"]).all():
            words = "twice the cotangent gives the same gradient"
            found.append(Finding(path, "ignores-cotangent", words, regime=regime))
        elif at["zero"].any():
            words = "the gradient is not 0 where the cotangent is"
            found.append(Finding(path, "constant-term", words, regime=regime))
        elif not (
            close(at["double"], 2 * at["one"], LINEAR)
            and close(at["mixed"], 1.7 * at["one"] - 37.3 * at["other"], LINEAR)
        ):
            words = "the gradient at a sum of cotangents is not the sum of the gradients"
            found.append(Finding(path, "nonlinear", words, regime=regime))
    return found


def again(target: Target) -> tuple[list[Finding], list[str]]:
    """Whether it is the same after another use, uncompiled and vmapped; and what cannot be told."""
    flat, others = target.flat, target.others
    v, w = target.draws()
    want = compiled(flat, target.leaves, others, v)
    elsewhere = tuple(1.5 * np.asarray(a) for a in target.leaves)

    def after_another_use() -> Any:
        compiled(flat, elsewhere, others, w)
        return compiled(flat, target.leaves, others, v)

    ways: dict[str, Callable[[], Any]] = {
        "called again": after_another_use,
        "not compiled": lambda: gradient(flat, target.leaves, others, v),
        "vmapped": lambda: jax.tree.map(
            lambda a: np.asarray(a)[1], _vmapped(flat, target.leaves, others, v)
        ),
    }
    found, notes = [], []
    for way, call in ways.items():
        try:
            got = call()
        except NotImplementedError as error:
            notes.append(f"it cannot be {way}: {str(error).splitlines()[0]}")
            continue
        for path, g, wanted in zip(("output", *target.paths), _ends(got), _ends(want), strict=True):
            if not close(np.asarray(g), np.asarray(wanted)):
                words = f"{way}, it gives something else than before" + " compiled" * (
                    way != "called again"
                )
                found.append(Finding(path, "nondeterministic", words))
    return found, notes


def numerics(target: Target) -> list[Finding]:
    """What it loses in the arguments' own dtype, beside what autodiff loses there."""
    if all(a.dtype == jnp.float64 for a in target.given):
        return []
    v, _ = target.draws()
    with jax.enable_x64(False):
        y = jax.eval_shape(target.flat, target.given, target.others)
        low = tuple(np.asarray(a).astype(o.dtype) for a, o in zip(v, y, strict=True))
        _, hand = compiled(target.flat, target.given, target.others, low)
        _, auto = compiled_exact(target.reference, target.given, target.others, low)
    wide = tuple(np.asarray(a, np.float64) for a in low)
    _, exact = compiled_exact(target.reference, target.leaves, target.others, wide)
    found = []
    for path, given, *here in zip(target.paths, target.given, hand, auto, exact, strict=True):
        mine, theirs, right = (np.asarray(a, np.float64) for a in here)
        unit = float(jnp.finfo(given.dtype).eps) / 2 * typical(right)
        lost, usual = (root_mean_square(a - right) / unit for a in (mine, theirs))
        if not lost <= LOSSES * max(usual, LEAST) and np.isfinite(usual):
            words = f"in {given.dtype} it loses {lost:.3g} ulps where autodiff loses {usual:.2g}"
            found.append(Finding(path, "precision", words))
    return found


def _ends(found: Any) -> list[Any]:
    """The first output, and all gradients."""
    y, grads = found
    return [y[0], *grads]


@partial(jax.jit, static_argnums=0)
def _vmapped(f: Flat, leaves: Any, others: Any, v: Any) -> Any:
    twice = jax.tree.map(lambda a: jnp.stack([a, a]), (leaves, others, v))
    return jax.vmap(partial(gradient, f))(*twice)
