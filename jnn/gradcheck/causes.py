"""Why a gradient is wrong: hypotheses, cheap ones first, each of which must explain the error."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from jnn.gradcheck.variants import Variant

EXPLAINED = 1e-7  # of the gradient's norm may be left over
DETOUR = 2e-6  # relative error of a computation that went through float32
ENOUGH, SMOOTH = 12, 0.4  # elements; of the variation of a shuffled sequence, that of a smooth one
FEW = 0.5  # of the elements wrong, and no more, is "some", unless more is known of them
TWO = 200  # edges of which all pairs are tried


class Cause(NamedTuple):
    """A key of `report.CAUSES`, and the sentence that says more."""

    cause: str
    message: str
    source: str = ""


class Case(NamedTuple):
    """One leaf whose gradient is wrong, and what is known around it."""

    path: str
    hand: np.ndarray
    exact: np.ndarray
    wrong: np.ndarray  # which elements
    others: Mapping[str, np.ndarray]  # the exact gradients of the other leaves
    known: Mapping[str, np.ndarray]  # arguments, outputs, cotangents by name
    constants: Mapping[str, float]  # by name, to recognise a factor by
    integers: Mapping[str, np.ndarray]  # the arguments that hold integers, by name
    examples: Callable[[], np.ndarray | None]  # each example's part of the exact gradient
    # The primal's variants, the gradient that each gives, and whether those of the other leaves
    # are what the function gives too.
    variants: Callable[[], list[tuple[Variant, np.ndarray, bool]]]


def explain(case: Case) -> Cause:
    """The first hypothesis that leaves next to nothing of the error."""
    for hypothesis in (
        _nonfinite,
        _zero,
        _precision,
        _scale,
        _reordered,
        _swapped,
        _some_examples,
        _some_named,
        _variant,
        _term,
        _two_edges,
        _some_elements,
        _local,
    ):
        if cause := hypothesis(case):
            return cause
    hand, exact = case.hand.ravel(), case.exact.ravel()
    cosine = hand @ exact / (np.linalg.norm(hand) * np.linalg.norm(exact) or 1)
    ratio = np.linalg.norm(hand) / (np.linalg.norm(exact) or 1)
    return Cause(
        "unexplained", f"cosine to the right one {cosine:.3f}, norm {ratio:.3g} times its norm"
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
    factor = _factor(case.hand, case.exact)
    if factor is None:
        return None
    if math.isclose(factor, -1, rel_tol=EXPLAINED):
        return Cause("sign", "it is minus what it must be")
    return Cause("scale", f"it is {_named(factor, case.constants)} times what it must be")


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


def _swapped(case: Case) -> Cause | None:
    for path, other in case.others.items():
        if other.shape == case.hand.shape and same(case.hand, other):
            return Cause("swapped", f"it is the gradient of {path}")
    return None


def _precision(case: Case) -> Cause | None:
    off = _norm(case.hand - case.exact) / (_norm(case.exact) or 1)
    if off > DETOUR:
        return None
    # So small an error is a factor only if it is itself in proportion.
    rest, square = case.hand - case.exact, float(np.vdot(case.exact, case.exact))
    k = float(np.vdot(rest, case.exact)) / square if square else 0.0
    if _norm(rest - k * case.exact) <= 1e-3 * _norm(rest):
        return Cause("scale", f"it is 1 {k:+.2g} times what it must be")
    return Cause("precision", f"it is off by {off:.0e} in float64, as by way of float32")


def _some_examples(case: Case) -> Cause | None:
    parts = case.examples()
    if parts is None or len(parts) < 2:
        return None
    flat, every = parts.reshape(len(parts), -1), parts.sum(axis=0)
    for i, part in enumerate(parts):
        if same(case.hand, part):
            return Cause("some-examples", f"of {len(parts)} examples only {i} counts")
        if same(case.hand, every - part):
            return Cause("some-examples", f"of {len(parts)} examples all count but {i}")
    if flat.shape[1] <= len(flat):  # weights enough to explain anything
        return None
    weights, *_ = np.linalg.lstsq(flat.T, case.hand.ravel(), rcond=None)
    if not same(weights @ flat, case.hand.ravel()) or np.linalg.matrix_rank(flat) < len(flat):
        return None
    out = np.flatnonzero(abs(weights) < EXPLAINED)
    if len(out) and np.allclose(np.delete(weights, out), 1, atol=EXPLAINED):
        kept = [i for i in range(len(weights)) if i not in out]
        return Cause("some-examples", f"of {len(parts)} examples only {_listed(kept)} count")
    shown = ", ".join(f"{w:.3g}" for w in weights[:6])
    return Cause("some-examples", f"the examples weigh {shown} rather than 1 each")


def _variant(case: Case) -> Cause | None:
    """The gradient of a variant of the primal; of several, one that explains all leaves."""
    off, fits = case.hand - case.exact, []
    for order, (what, gradient, everywhere) in enumerate(case.variants()):
        if same(case.hand, gradient):
            fits.append((not everywhere, ORDER.index(what.kind), 0.0, order, what))
        elif what.kind == "edge":
            # Times alpha along the edge, the gradient is exact + (alpha - 1) of what it owes to it.
            k = _factor(off, case.exact - gradient)
            if k is not None:
                fits.append((True, len(ORDER), abs(k + 2) > EXPLAINED, order, what, 1 + k))
    if not fits:
        return None
    *_, what = best = min(fits, key=lambda fit: fit[:4])
    if best[1] == len(ORDER):
        *_, what, alpha = best
        how = f"is multiplied by {_named(alpha, case.constants)}"
        return Cause("edge", f"{_through(what)} {how}", what.source)
    return Cause(*_SAID[what.kind](what), what.source)


def _two_edges(case: Case) -> Cause | None:
    """The derivatives along two edges are missing, neither of which lies behind the other."""
    off = (case.hand - case.exact).ravel()
    edges = [
        (what, (g - case.exact).ravel()) for what, g, _ in case.variants() if what.kind == "edge"
    ]
    edges = [(what, cut) for what, cut in edges if cut.any()][:TWO]
    if len(edges) < 2 or off.size < 2:
        return None
    cuts = np.stack([cut for _, cut in edges])
    gram, along = cuts @ cuts.T, cuts @ off
    # |off - a - b|^2, from the products of all.
    size = np.diag(gram)
    left = (
        np.diag(np.full(len(cuts), np.inf))
        + off @ off
        - 2 * (along[:, None] + along)
        + size[:, None]
        + size
        + 2 * gram
    )
    i, j = np.unravel_index(np.argmin(left), left.shape)
    if not same(off, cuts[i] + cuts[j]):
        return None
    first, second = (edges[k][0] for k in sorted((int(i), int(j))))
    words = f"{_through(first)} is missing, and {_through(second)} ({_short(second.source)}) too"
    return Cause("edge", words, first.source)


def _through(what: Variant) -> str:
    return f"the derivative through operand {what.operand} of `{what.primitive}`"


def _short(source: str) -> str:
    return source.rpartition("/")[2]


# What to say of a variant: the cause, and the sentence.
_SAID: dict[str, Callable[[Variant], tuple[str, str]]] = {
    "edge": lambda v: ("edge", f"{_through(v)} is missing"),
    "line": lambda v: ("edge", "the derivative through all of this line is missing"),
    "own": lambda v: ("local-derivative", f"that of `{v.primitive}` is missing"),
    "operand": lambda v: (
        "wrong-operand",
        f"in {_through(v)} stands {v.other} where {v.meant} belongs",
    ),
    "branch": lambda v: (
        "other-branch",
        f"the derivative of `{v.primitive}` goes through operand {v.operand} everywhere",
    ),
    "forced": lambda v: (
        "other-branch",
        f"it is the gradient of the forward with operand {v.operand} of `{v.primitive}` everywhere",
    ),
}
ORDER = list(_SAID)


def _term(case: Case) -> Cause | None:
    off = case.hand - case.exact
    for name, tensor in case.known.items():
        if tensor.shape != off.shape:
            continue
        factor = _factor(off, tensor)
        if factor is not None:
            # What was left out is part of the exact gradient; what was added is not.
            missing = factor < 0 and _norm(case.hand) < _norm(case.exact)
            cause, words = ("missing-term", "lacks") if missing else ("extra-term", "has")
            amount = _named(-factor if missing else factor, case.constants)
            return Cause(cause, f"it {words} {amount} times {name}")
    return None


def _some_named(case: Case) -> Cause | None:
    """Some elements that something known sets apart, and wrong by one factor."""
    cause = _some_elements(case)
    if cause is None or "those" not in cause.message:
        return None
    told = "times what they must be" in cause.message or "are 0" in cause.message
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
    ratio = (case.hand / np.where(case.exact, case.exact, np.nan)).ravel()
    if ratio.size < ENOUGH or not np.isfinite(ratio).all():
        return None
    shuffled = np.random.default_rng(0).permutation(ratio)
    for name, tensor in case.known.items():
        along = (
            ratio[np.argsort(tensor, axis=None)] if tensor.shape == case.hand.shape else shuffled
        )
        if abs(np.diff(along)).sum() < SMOOTH * abs(np.diff(shuffled)).sum():
            words = f"it is off by a factor that is a smooth function of {name} alone"
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
    for axis in range(case.wrong.ndim):
        lines = np.moveaxis(case.wrong, axis, 0).reshape(case.wrong.shape[axis], -1)
        hit = lines.any(axis=1)
        if (lines[hit]).all() and not hit.all():
            yield f"at {_listed(np.flatnonzero(hit))} along axis {axis}"


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
        for words, which in (("on", i == j), ("above", i < j), ("below", i > j)):
            if (which == case.wrong).all():
                yield f"{words} the diagonal"


def _factor(hand: np.ndarray, exact: np.ndarray) -> float | None:
    """k where hand = k exact, neither being 0."""
    square = float(np.vdot(exact, exact))
    if not square:
        return None
    k = float(np.vdot(hand, exact)) / square
    return k if k and _norm(hand - k * exact) <= EXPLAINED * _norm(hand) else None


def same(hand: np.ndarray, guess: np.ndarray) -> bool:
    """Whether a guess leaves next to nothing of it."""
    return hand.shape == guess.shape and _norm(hand - guess) <= EXPLAINED * _norm(guess)


def _norm(v: np.ndarray) -> float:
    return float(np.linalg.norm(v))


def _named(k: float, constants: Mapping[str, float]) -> str:
    """The number, and what it is recognised as."""
    for name, value in constants.items():
        if math.isclose(k, value, rel_tol=EXPLAINED):
            return f"{k:.6g} ({name})"
    return f"{k:.6g}"


def _listed(numbers: Sequence[int] | np.ndarray) -> str:
    shown = ", ".join(str(int(n)) for n in numbers[:6])
    return shown + (" ..." if len(numbers) > 6 else "")


def constants(
    shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, float]
) -> dict[str, float]:
    """Numbers that slips are made of, by name: what the caller names, and the sizes of the axes."""
    found: dict[str, float] = {}
    for name, c in known.items():
        found |= {name: c, f"1/{name}": 1 / c if c else math.inf}
        found |= {f"1 - {name}": 1 - c, f"1/(1 - {name})": 1 / (1 - c) if c != 1 else math.inf}
    found |= {"1/2": 0.5}
    sizes: dict[int, str] = {}
    for name, shape in shapes.items():
        for axis, n in enumerate(shape):
            sizes.setdefault(n, f"axis {axis} of {name}")
        sizes.setdefault(math.prod(shape), f"all of {name}")
    for n, name in sizes.items():
        if n > 2:
            forms = {f"{n}": n, f"1/{n}": 1 / n, f"{n}/{n - 1}": n / (n - 1)}
            forms |= {f"sqrt({n})": math.sqrt(n), f"1/sqrt({n})": 1 / math.sqrt(n)}
            forms |= {f"{n - 1}/{n}": (n - 1) / n}
            for form, value in forms.items():
                found.setdefault(f"{form}, {n} being the length of {name}", value)
    found |= {f"-{name}": -value for name, value in found.items()}
    return found
