"""What a gradient owes beside its value: linear, repeatable, and as accurate as need be."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.finite_differences import ERROR_BARS, slope
from jnn.gradcheck.flat import Flat, gradient
from jnn.gradcheck.primal import BRIEFLY
from jnn.gradcheck.probe import Seen
from jnn.gradcheck.report import Finding
from jnn.gradcheck.sizes import root_mean_square, typical
from jnn.gradcheck.target import Target, close, compiled, compiled_exact
from jnn.layer import Layer, Mode, Params

LINEAR = 1e-5  # of the gradient, for what goes through float32 is another fault
NARROW = 2**-7  # of the gradient, by which bfloat16 may round it
LOSSES = 10  # times what autodiff loses in low precision is too much
LEAST = 2  # ulps, in which to count that where autodiff loses less


def linear(seen: Seen, paths: Sequence[str], regime: str, unit: float) -> list[Finding]:
    """The primal under differentiation, and linearity in the cotangent."""
    found = []
    for k, (y, exact) in enumerate(zip(seen.y, seen.y_exact, strict=True)):
        if not close(y, exact, unit):
            words = f"output {k} is off by {abs(y - exact).max():.1e} under differentiation"
            found.append(Finding("", "primal-mismatch", words, regime=regime))
    for i, path in enumerate(paths):
        at, mixed, noise = _combined(seen, i)
        if not np.isfinite(at["one"]).all():
            continue
        if (
            at["one"].any()
            and (at["double"] == at["one"]).all()
            and (close(at["other"], at["one"], unit, LINEAR))
        ):
            words = "twice the cotangent gives the same gradient"
            found.append(Finding(path, "ignores-cotangent", words, regime=regime))
        elif at["zero"].any():
            words = "the gradient is not 0 where the cotangent is"
            found.append(Finding(path, "constant-term", words, regime=regime))
        elif not (
            close(at["double"], 2 * at["one"], unit, LINEAR, noise)
            and close(at["mixed"], mixed, unit, NARROW if exact_twice(at) else LINEAR, noise)
        ):
            words = "the gradient at a sum of cotangents is not the sum of the gradients"
            found.append(Finding(path, "nonlinear", words, regime=regime))
    return found


def exact_twice(at: dict[str, np.ndarray]) -> bool:
    """Whether twice the cotangent gives exactly twice the gradient, as what is rounded does too."""
    return np.array_equal(at["double"], 2 * at["one"])


def rounded(seen: Seen, i: int, unit: float) -> bool:
    """Whether leaf i's gradient is linear but for the rounding of a narrow dtype."""
    at, mixed, noise = _combined(seen, i)
    return exact_twice(at) and not close(at["mixed"], mixed, unit, LINEAR, noise)


def _combined(seen: Seen, i: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Leaf i's gradient by cotangent, what it must be at a sum of them, and how far that may be."""
    at = {name: gradients[i] for name, gradients in seen.contract.items()}
    noise = 40 * np.nan_to_num(seen.allowed[i], nan=0.0, posinf=0.0)
    return at, 1.7 * at["one"] - 37.3 * at["other"], noise


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
            if not close(np.asarray(g), np.asarray(wanted), target.unit):
                words = f"{way}, it gives something else than before" + " compiled" * (
                    way != "called again"
                )
                found.append(Finding(path, "nondeterministic", words))
    return found, notes


def numerics(target: Target) -> list[Finding]:
    """What it loses in the arguments' own dtype, beside what autodiff loses there."""
    if target.measured or all(a.dtype == jnp.float64 for a in target.given):
        return []
    v, _ = target.draws()
    f, reference = (replace(flat, typed=None) for flat in (target.flat, target.reference))
    with jax.enable_x64(False):
        # Integers of 64 bits would meet JAX's own of 32.
        others = tuple(
            jnp.asarray(np.asarray(a)) if jnp.issubdtype(a.dtype, jnp.integer) else a
            for a in target.given_others
        )
        y = jax.eval_shape(f, target.given, others)
        low = tuple(np.asarray(a).astype(o.dtype) for a, o in zip(v, y, strict=True))
        _, hand = compiled(f, target.given, others, low)
        _, auto, _ = compiled_exact(reference, target.given, others, low)
    wide = tuple(np.asarray(a, np.float64) for a in low)
    # Each beside itself, for on a kink they may well choose otherwise.
    _, by_hand = compiled(target.flat, target.leaves, target.others, wide)
    _, exact, _ = compiled_exact(target.reference, target.leaves, target.others, wide)
    found = []
    for path, given, *here in zip(
        target.paths, target.given, hand, by_hand, auto, exact, strict=True
    ):
        mine, my_right, theirs, right = (np.asarray(a, np.float64) for a in here)
        unit = float(jnp.finfo(given.dtype).eps) / 2 * typical(right)
        lost = root_mean_square(mine - my_right) / unit
        usual = root_mean_square(theirs - right) / unit
        if not lost <= LOSSES * max(usual, LEAST) and np.isfinite(usual):
            words = f"in {given.dtype} it loses {lost:.3g} ulps where autodiff loses {usual:.2g}"
            found.append(Finding(path, "precision", words))
    return found


def witnessed(target: Target) -> list[Finding]:
    """Whether finite differences along random directions tell the slopes that the gradient does."""
    v, _ = target.draws()
    ways = tuple(target.rng.standard_normal(a.shape) * typical(a) for a in target.leaves)
    # Off the point, where biases of zero may put it on a kink.
    at = tuple(
        np.asarray(a) + 0.01 * typical(a) * target.rng.standard_normal(a.shape)
        for a in target.leaves
    )
    slopes, errors, told = map(np.asarray, _slopes(target.flat, at, target.others, v, ways))
    found = []
    for path, measured, bar, by_hand in zip(target.paths, slopes, errors, told, strict=True):
        if not abs(measured - by_hand) <= ERROR_BARS * bar:
            words = (
                f"along a random direction it is {by_hand:.6g}, by finite differences "
                f"{measured:.6g} with an error of {bar:.0e}"
            )
            found.append(Finding(path, "unexplained", words))
    return found


@partial(jax.jit, static_argnums=0, compiler_options=BRIEFLY)
def _slopes(f: Flat, leaves: Any, others: Any, v: Any, ways: Any) -> Any:
    """For each leaf the slope, its error bar, and what the gradient says it is."""

    def along(leaf: jax.Array) -> Any:
        def value(t: jax.Array) -> jax.Array:
            moved = tuple(
                a + jnp.where(leaf == i, t, 0) * u
                for i, (a, u) in enumerate(zip(leaves, ways, strict=True))
            )
            return jnp.stack([jnp.vdot(*ab) for ab in zip(v, f(moved, others), strict=True)]).sum()

        return slope(value)

    _, grads = gradient(f, leaves, others, v)
    told = jnp.stack([jnp.vdot(g, u) for g, u in zip(grads, ways, strict=True)])
    measured = jax.lax.map(along, jnp.arange(len(leaves)))
    return measured.value, measured.error, told


def independent(layer: Layer, params: Params, x: Any, mode: Mode) -> list[Finding]:
    """Whether any example's output stays as it is where another example changes."""

    def last(x: Any) -> list[np.ndarray]:
        return [np.asarray(y)[-1:] for y in jax.tree.leaves(_output(layer, params, x, mode))]

    def other(v: np.ndarray) -> np.ndarray:
        if not jnp.issubdtype(v.dtype, jnp.floating):
            return v
        return np.concatenate([1.5 * v[:1], v[1:]]).astype(v.dtype)

    arrays = jax.tree.map(np.asarray, x)
    if len(jax.tree.leaves(arrays)[0]) < 2:
        return []
    for before, after in zip(last(arrays), last(jax.tree.map(other, arrays)), strict=True):
        if not np.array_equal(before, after, equal_nan=True):
            words = "in evaluation the output of the last example changes with the first example"
            return [Finding("", "structure", words)]
    return []


@partial(jax.jit, static_argnums=0, compiler_options=BRIEFLY)
def _output(layer: Layer, params: Params, x: Any, mode: Mode) -> Any:
    return layer.forward(params, x, mode)[0]


def _ends(found: Any) -> list[Any]:
    """The first output, and all gradients."""
    y, grads = found
    return [y[0], *grads]


@partial(jax.jit, static_argnums=0, compiler_options=BRIEFLY)
def _vmapped(f: Flat, leaves: Any, others: Any, v: Any) -> Any:
    twice = jax.tree.map(lambda a: jnp.stack([a, a]), (leaves, v))
    return jax.vmap(lambda leaves, v: gradient(f, leaves, others, v))(*twice)
