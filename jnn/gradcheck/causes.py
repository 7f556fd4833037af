"""Why a gradient is wrong: hypotheses, cheap ones first, each of which must explain the error."""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import jax.numpy as jnp
import numpy as np

from jnn.gradcheck import changes
from jnn.gradcheck.case import ENOUGH, EXPLAINED, Case, Cause, listed, multiple, named, norm, same
from jnn.gradcheck.sizes import typical

DETOUR = 2e-6  # relative error of a computation that went through float32
SMOOTH = 0.4  # of the variation of a shuffled sequence, that of a smooth one
IDLE = 1e-9  # of the typical size is 0, and what is 0 is seldom wrong
FEW = 0.5  # of the elements wrong, and no more, is "some", unless more is known of them


def explain(case: Case) -> Cause:
    """The first hypothesis that leaves next to nothing of the error."""
    stopped = ""
    for hypothesis in (
        _nonfinite,
        _zero,
        _precision,
        _scale,
        _reordered,
        _swapped,
        _some_examples,
        _some_named,
        _others,
        changes.variant,
        _term,
        changes.two_edges,
        changes.edit,
        changes.kept,
        changes.mixed,
        changes.times,
        _some_elements,
        _some_places,
        _weights,
        _local,
        changes.depends,
    ):
        try:
            if cause := hypothesis(case):
                return cause
        except Exception as error:  # whatever it trips over must not hide that something is wrong
            stopped += f"; `{hypothesis.__name__}` stopped at {error!r}".partition("\n")[0]
    hand, exact = case.hand.ravel(), case.exact.ravel()
    cosine = hand @ exact / (np.linalg.norm(hand) * np.linalg.norm(exact) or 1)
    ratio = np.linalg.norm(hand) / (np.linalg.norm(exact) or 1)
    return Cause(
        "unexplained",
        f"cosine to the right one {cosine:.3f}, norm {ratio:.3g} times its norm{stopped}",
    )


def _nonfinite(case: Case) -> Cause | None:
    bad = ~np.isfinite(case.hand)
    if not bad.any():
        return None
    fate = "where the right one is finite" if np.isfinite(case.exact[bad]).all() else "as the exact"
    return Cause("nonfinite", f"{bad.sum()} of {bad.size} elements are not finite, {fate}")


def _zero(case: Case) -> Cause | None:
    if case.hand.any():
        return None
    return Cause("zero", "it is 0 everywhere, and must not be")


def _scale(case: Case) -> Cause | None:
    factor = multiple(case.hand, case.exact)
    if factor is None:
        return None
    if math.isclose(factor, -1, rel_tol=EXPLAINED):
        return Cause("sign", "it is minus what it must be")
    return Cause("scale", f"it is {named(factor, case.constants)} times what it must be")


def _reordered(case: Case) -> Cause | None:
    hand, exact = case.hand, case.exact
    for axes in permutations(range(exact.ndim)):
        moved = exact.transpose(axes)
        if axes != tuple(range(exact.ndim)) and same(hand, moved):
            return Cause("transpose", f"it is what it must be with its axes in the order {axes}")
    for axis in range(exact.ndim):
        if same(hand, np.flip(exact, axis)):
            return Cause("permutation", f"it is reversed along axis {axis}")
        for by in (1, -1):
            if same(hand, np.roll(exact, by, axis)):
                return Cause("permutation", f"it is shifted by {by} along axis {axis}")
    by_columns = exact.ravel("F").reshape(exact.shape), exact.reshape(exact.shape[::-1]).T
    if any(same(hand, guess) for guess in by_columns):
        return Cause("permutation", "it is read or written in column order")
    if exact.size > 1 and same(np.sort(hand, axis=None), np.sort(exact, axis=None)):
        return Cause("permutation", "its elements are the right ones in another order")
    return None


def _others(case: Case) -> Cause | None:
    """As many elements of something known as it must hold, but others."""
    hand, exact = case.hand[case.hand != 0], case.exact[case.exact != 0]
    for name, tensor in case.known.items():
        if tensor.size > 1 and len(hand) == len(exact) and np.isin([hand, exact], tensor).all():
            return Cause("permutation", f"it holds other elements of {name} than it must")
    return None


def _swapped(case: Case) -> Cause | None:
    for path, other in case.others.items():
        if other.shape == case.hand.shape and same(case.hand, other):
            return Cause("swapped", f"it is the gradient of {path}")
    return None


def _precision(case: Case) -> Cause | None:
    off = norm(case.hand - case.exact) / (norm(case.exact) or 1)
    for dtype in (jnp.bfloat16, np.float16):
        hand, exact = (_stored(g, dtype) for g in (case.hand, case.exact))
        if hand and not exact and off <= float(jnp.finfo(dtype).eps):
            name = np.dtype(dtype).name
            return Cause("precision", f"it is off by {off:.0e} in float64, as by way of {name}")
    if case.rounded:
        return Cause("precision", f"it is off by {off:.0e} in float64, as by way of a narrow dtype")
    if not off <= DETOUR:
        return None
    # So small an error is a factor only if it is itself in proportion.
    rest, square = case.hand - case.exact, float(np.vdot(case.exact, case.exact))
    k = float(np.vdot(rest, case.exact)) / square if square else 0.0
    if norm(rest - k * case.exact) <= 1e-3 * norm(rest):
        return Cause("scale", f"it is 1 {k:+.2g} times what it must be")
    return Cause("precision", f"it is off by {off:.0e} in float64, as by way of float32")


def _stored(gradient: np.ndarray, dtype: Any) -> bool:
    """Whether the dtype holds all of it."""
    with np.errstate(over="ignore"):
        return np.array_equal(gradient.astype(dtype).astype(gradient.dtype), gradient)


def _some_examples(case: Case) -> Cause | None:
    return _counted(_weighed(case), "examples")


def _some_places(case: Case) -> Cause | None:
    for axis in (1, 2):
        if cause := _counted(_weighed(case, axis), f"places along axis {axis} of the output"):
            return cause
    return None


def _counted(weights: np.ndarray | None, what: str) -> Cause | None:
    """Some count, and others do not."""
    if weights is None:
        return None
    counts = abs(weights - 1) <= EXPLAINED
    if not np.allclose(weights[~counts], 0, atol=EXPLAINED):
        return None
    kept, lost = np.flatnonzero(counts), np.flatnonzero(~counts)
    only = f"only {listed(kept)} count" + "s" * (len(kept) == 1)
    few = f"all count but {listed(lost)}" if len(lost) < len(kept) else only
    return Cause("some-examples", f"of {len(weights)} {what} {few}")


def _weights(case: Case) -> Cause | None:
    weights = _weighed(case)
    if weights is None:
        return None
    shown = ", ".join(f"{w:.3g}" for w in weights[:6])
    return Cause("local-derivative", f"the examples weigh {shown} rather than 1 each")


def _weighed(case: Case, axis: int = 0) -> np.ndarray | None:
    """What each example counts, or each place along another axis, if that tells all."""
    parts = case.examples(axis)
    if parts is None or len(parts) < 2:
        return None
    flat, every = parts.reshape(len(parts), -1), parts.sum(axis=0)
    for i, part in enumerate(parts):
        one = np.arange(len(parts)) == i
        if same(case.hand, part):
            return 1.0 * one
        if same(case.hand, every - part):
            return 1.0 * ~one
    if flat.shape[1] <= len(flat):  # weights enough to explain anything
        return None
    weights, *_ = np.linalg.lstsq(flat.T, case.hand.ravel(), rcond=None)
    if not same(weights @ flat, case.hand.ravel()) or np.linalg.matrix_rank(flat) < len(flat):
        return None
    return weights


def _term(case: Case) -> Cause | None:
    off = case.hand - case.exact
    for name, tensor in case.known.items():
        if tensor.shape != off.shape:
            continue
        factor = multiple(off, tensor)
        if factor is not None:
            # What was left out is part of the exact gradient; what was added is not.
            missing = factor < 0 and norm(case.hand) < norm(case.exact)
            cause, words = ("missing-term", "lacks") if missing else ("extra-term", "has")
            amount = named(-factor if missing else factor, case.constants)
            return Cause(cause, f"it {words} {amount} times {name}")
    return None


def _some_named(case: Case) -> Cause | None:
    """Some elements that something known sets apart, and wrong by one factor."""
    cause = _some_elements(case)
    if cause is None or "those" not in cause.message:
        return None
    told = any(words in cause.message for words in ("times what they", "are 0", "must be 0"))
    return cause if told else None


def _some_elements(case: Case) -> Cause | None:
    count, size = int(case.wrong.sum()), case.wrong.size
    place = next(_places(case), None)
    if not 0 < count < size or (count > FEW * size and place is None):
        return None
    ratio = case.hand[case.wrong] / np.where(case.exact[case.wrong], case.exact[case.wrong], np.nan)
    words = f"{count} of {size} elements are wrong"
    if not case.hand[case.wrong].any():
        words += ": they are 0"
    elif np.isfinite(ratio).all() and np.ptp(ratio) <= EXPLAINED * max(1.0, abs(ratio[0])):
        words += f": they are {ratio[0]:.6g} times what they must be"
    elif not case.exact[case.wrong].any():
        words += ": they must be 0"
    if place:
        words += f"; they are those {place}"
    return Cause("some-elements", words)


def _local(case: Case) -> Cause | None:
    """A function of one tensor, by which the exact gradient or a cotangent was multiplied."""
    tensors = {**case.known, **case.values()}
    alike = {name: v for name, v in tensors.items() if v.shape == case.hand.shape}
    by = {"what it must be": case.exact}
    by |= {name: v for name, v in alike.items() if "cotangent" in name}
    for of, factor in by.items():
        ratio = (case.hand / np.where(factor, factor, np.nan)).ravel()
        if ratio.size < ENOUGH or not np.isfinite(ratio).all():
            continue
        shuffled = np.random.default_rng(0).permutation(ratio)
        for name, tensor in alike.items():
            along = ratio[np.argsort(tensor, axis=None)]
            if 0 < abs(np.diff(along)).sum() < SMOOTH * abs(np.diff(shuffled)).sum():
                words = f"it is {of} times a smooth function of {name} alone"
                return Cause("local-derivative", words)
    return None


def _places(case: Case) -> Iterator[str]:
    """What sets the wrong elements apart, if anything known does."""
    for name, tensor in case.known.items():
        if tensor.shape == case.wrong.shape:
            for word, mask in (
                ("< 0", tensor < 0),
                ("> 0", tensor > 0),
                ("== 0", tensor == 0),
                ("at its greatest", tensor == tensor.max()),
                ("at its least", tensor == tensor.min()),
            ):
                if (mask == case.wrong).all():
                    yield f"where {name} is {word}"
    if case.wrong.ndim:
        yield from _rows(case)
    idle = abs(case.exact) <= IDLE * typical(case.exact)
    for axis, n in enumerate(case.wrong.shape):
        lines, still = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (case.wrong, idle))
        hit = lines.any(axis=1)
        some = 2 * hit.sum() <= n or hit.sum() < n - 1  # for one row may be right by chance
        if some and lines[hit].all() and not still[~hit].all():
            yield f"at {listed(np.flatnonzero(hit))} along axis {axis}"


def _rows(case: Case) -> Iterator[str]:
    """Which rows, told by the integers that may have pointed at them."""
    count = case.wrong.shape[0]
    rows = case.wrong.reshape(count, -1).any(axis=1)
    for name, numbers in case.integers.items():
        times = np.bincount(numbers[(numbers >= 0) & (numbers < count)].ravel(), minlength=count)
        for words, which in (
            (f"that {name} names", times > 0),
            (f"that {name} names more than once", times > 1),
            (f"that {name} does not name", times == 0),
        ):
            if (which == rows).all() and 0 < which.sum() < count:
                yield f"in the rows {words}"
        if numbers.shape == case.wrong.shape[:1] and case.wrong.ndim == 2:
            label = np.arange(case.wrong.shape[1]) == numbers[:, None]
            if (label == case.wrong).all():
                yield f"that {name} points at"
            if (label != case.wrong).all():
                yield f"that {name} does not point at"
    if case.wrong.ndim == 2:
        i, j = np.indices(case.wrong.shape)
        for words, which in (("on", i == j), ("off", i != j), ("above", i < j), ("below", i > j)):
            if (which == case.wrong).all():
                yield f"{words} the diagonal"
