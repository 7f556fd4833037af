"""Hypotheses that a program with one thing changed explains: the primal, or its exact gradient."""

from collections.abc import Callable

import numpy as np

from jnn.gradcheck.case import ENOUGH, EXPLAINED, Case, Cause, multiple, named, same
from jnn.gradcheck.variants import Variant

POWERS = {1: "a factor of ", -1: "a factor of 1 / ", 2: "the square of ", -2: "1 / the square of "}
TIMES = 100  # of all kinds of edits, those that want a factor beside are the least likely
TWO = 200  # edges of which all pairs are tried


def variant(case: Case) -> Cause | None:
    """The gradient of a variant of the primal; of several, one that explains all leaves."""
    off, fits = case.hand - case.exact, []
    for order, (what, gradient, everywhere) in enumerate(case.variants()):
        if what.kind == "kept":
            continue
        if same(case.hand, gradient):
            fits.append((not everywhere, ORDER.index(what.kind), 0.0, order, what))
        elif what.kind == "edge":
            # Times alpha along the edge, the gradient is exact + (alpha - 1) of what it owes to it.
            k = multiple(off, case.exact - gradient)
            if k is not None:
                fits.append((True, len(ORDER), abs(k + 2) > EXPLAINED, order, what, 1 + k))
    if not fits:
        return None
    *_, what = best = min(fits, key=lambda fit: fit[:4])
    if best[1] == len(ORDER):
        *_, what, alpha = best
        how = f"is multiplied by {named(alpha, case.constants)}"
        return Cause("edge", f"{_through(what)} {how}", what.source)
    return Cause(*_SAID[what.kind](what), what.source)


def two_edges(case: Case) -> Cause | None:
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
    words = f"{_through(first)} is missing, and {_through(second)} ({second.source.short}) too"
    return Cause("edge", words, first.source)


def edit(case: Case) -> Cause | None:
    """The exact gradient with one thing about it changed; of several, one that explains all."""
    fits = []
    for order, (change, gradient, everywhere) in enumerate(case.edits()):
        if same(case.hand, gradient):
            fits.append((not everywhere, change.kind, order, change, 1.0))
        elif (k := multiple(case.hand, gradient)) is not None:
            fits.append((True, TIMES, order, change, k))
    if not fits:
        return None
    *_, change, k = min(fits, key=lambda fit: fit[:3])
    times = "" if k == 1 else f", and it is {named(k, case.constants)} times that"
    return Cause(change.cause, change.message + times, change.source)


def kept(case: Case) -> Cause | None:
    """The derivative of all that follows a value, at another one."""
    fits = [
        (not everywhere, what)
        for what, gradient, everywhere in case.variants()
        if what.kind == "kept" and same(case.hand, gradient)
    ]
    if not fits:
        return None
    _, what = min(fits, key=lambda fit: fit[0])
    words = (
        f"{what.other} stands for {what.meant} in all of the backward pass: was it kept instead?"
    )
    return Cause("wrong-operand", words, what.source)


def mixed(case: Case) -> Cause | None:
    """A sum along an axis along which there must be none."""
    for what, axis, does, must in (mixed := case.mixed()):
        if not does or must:
            continue
        words = (
            f"what stands first along axis {axis} of {what} changes it at the other places there, "
            "and must not: is a sum along the wrong axis, or a mask forgotten?"
        )
        lost = [axis for which, axis, does, must in mixed if which == what and must and not does]
        if lost:
            words = f"{what} is summed along axis {axis} where it must be along axis {lost[0]}"
        return Cause("wrong-operand", words)
    return None


def depends(case: Case) -> Cause | None:
    """Something that it must depend on and does not, or the other way round."""
    for path, (does, must) in case.depends().items():
        if does and not must:
            return Cause("wrong-operand", f"it depends on {path}, and must not")
        if must and not does:
            return Cause("local-derivative", f"it does not depend on {path}, and must")
    for what, axis, does, must in case.mixed():
        if must and not does:
            words = (
                f"what stands first along axis {axis} of {what} must change it at the other places "
                "there, and does not"
            )
            return Cause("local-derivative", words)
    return None


def times(case: Case) -> Cause | None:
    """A factor that is something known, or a power of it."""
    with np.errstate(all="ignore"):
        ratio = case.hand / case.exact
        if ratio.size < ENOUGH or not np.isfinite(ratio).all():
            return None
        for name, tensor in {**case.known, **case.values()}.items():
            if tensor.size < 2 or np.ndim(tensor) != ratio.ndim:
                continue
            if any(n not in (1, m) for n, m in zip(tensor.shape, ratio.shape, strict=True)):
                continue
            for power, words in POWERS.items():
                rest = ratio / tensor**power
                if (
                    rest.any()
                    and np.isfinite(rest).all()
                    and np.ptp(rest) <= EXPLAINED * abs(rest).max()
                ):
                    k = rest.flat[0]
                    by = "" if abs(k - 1) <= EXPLAINED else f"{named(k, case.constants)} times "
                    return Cause("local-derivative", f"it is off by {by}{words}{name}")
    return None


def _through(what: Variant) -> str:
    return f"the derivative through operand {what.operand} of `{what.primitive}`"


# What to say of a variant: the cause, and the sentence.
_SAID: dict[str, Callable[[Variant], tuple[str, str]]] = {
    "edge": lambda v: ("edge", f"{_through(v)} is missing"),
    "line": lambda v: ("edge", "the derivative through all of this line is missing"),
    "own": lambda v: (
        ("extra-term", "it goes where a stop_gradient must stop it")
        if v.primitive == "stop_gradient"
        else ("local-derivative", f"that of `{v.other}` is missing")
    ),
    "output": lambda v: (
        "local-derivative",
        f"that of `{v.other}` is taken at its output, where it must be at its input",
    ),
    "formula": lambda v: (
        "local-derivative",
        f"that of `{v.other}` is taken for {v.meant}; x is its input and y its output",
    ),
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
