"""Why an optimizer's updates are wrong: slips that people make, each of which must explain all."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from jnn.gradcheck.case import Cause
from jnn.gradcheck.causes import DETOUR
from jnn.gradcheck.terms import coupled, decay, epsilon, moments, velocity
from jnn.gradcheck.updates import ALIKE, SHORT, Case, alike, constant, factors, norm

TIMES: dict[str, Callable[[Any], Any]] = {
    "takes t + 1 for t": lambda t: t + 1,
    "takes t - 1 for t": lambda t: t - 1,
    "takes 2 t for t": lambda t: 2 * t,
    "takes t = 1 for ever": lambda t: 0 * t + 1,
}
CAUSE_OF = {"is missing": "missing-term", "is applied once more than in the formula": "extra-term"}


def explain(case: Case) -> Cause:
    """The first hypothesis that fits."""
    tried = (_precision, _count, velocity, _ratio, decay, coupled, epsilon, moments)
    if case.run == "late":  # after many steps that are right
        tried = (_count,)
    elif case.changing.agrees(case.changing.right):  # but for what is as small as eps
        tried = (_precision, epsilon)
    for hypothesis in tried:
        with np.errstate(all="ignore"):
            if cause := hypothesis(case):
                return cause
    return _unexplained(case)


def _precision(case: Case) -> Cause | None:
    off = np.max([norm(r.mine - r.right) / (norm(r.right) or 1) for r in case.runs.values()])
    if not off <= DETOUR:  # so it is where one is NaN
        return None
    # An epsilon shows where gradients are as small, and there by far more.
    return Cause("precision", f"precision: it is off by {off:.0e}, as by way of float32")


def _count(case: Case) -> Cause | None:
    names, last = ("late",) if case.run == "late" else SHORT, case.first - 1
    broken: dict[str, Callable[[Any], Any]] = {
        f"stops at {last}": lambda t: min(t, last),
        f"begins again after {last}": lambda t: (t - 1) % last + 1,
        f"begins again at 0 after {last}": lambda t: t % (last + 1),
    }
    for way, when in (TIMES | broken if last else TIMES).items():
        if case.fits(names, time=when):
            return Cause("swapped", f"step count: it {way}")
    if case.fits(names, forgets=True) or case.fits(names, forgets=True, time=lambda t: 1):
        words = "no state is carried on, so that every update is a first one"
        return Cause("missing-term", f"step count: {words}")
    return None


def _ratio(case: Case) -> Cause | None:
    """A factor that all elements share: of the learning rate, or of a bias correction."""
    run = case.changing
    for beside in (0.0, case.decay):
        k = factors(run.mine - beside, run.right - beside)
        if k is None:
            continue
        if not constant(k):
            if slip := _bias(case, k):
                return slip
        elif k[0] == 0:
            return Cause("zero", "learning rate: the update is 0")
        elif alike(k[0], -1):
            return Cause("sign", "learning rate: the update has the wrong sign")
        elif not alike(k[0], 1):
            words = f"the update is {case.named(k[0])} times as long"
            return Cause("scale", f"learning rate: {words}")
    return None


def _bias(case: Case, k: np.ndarray) -> Cause | None:
    """What became of either bias correction, or of the schedule beside them."""
    pairs = _corrections(case)

    def explains(factor: np.ndarray) -> bool:
        off = abs(factor - k) > ALIKE * abs(k)
        there = np.isfinite(factor) & np.isfinite(k)  # not where t is 0, and so 1 - b^t
        return bool(there[1:].all() and not off[there].any())

    for first, second, factor in pairs:
        if explains(factor):
            said = {n: way for n, way in (("first", first), ("second", second)) if way}
            words = " and ".join(f"that of the {n} moment {way}" for n, way in said.items())
            words = f"that of both moments {first}" if first == second else words
            cause = CAUSE_OF.get(first or second, "scale")
            return Cause(cause, f"bias correction: {words}")
    for way, when in TIMES.items():
        shift = factors(case.still("changing", time=when), case.still("changing"))
        if shift is None:
            continue
        if any(a == b == way and explains(shift / undone) for a, b, undone in pairs):
            words = f"the schedule {way}, the bias corrections do not"
            return Cause("swapped", f"learning rate: {words}")
    return None


def _corrections(case: Case) -> list[tuple[str, str, np.ndarray]]:
    """What is done in either bias correction, and the factor that it makes; the likelier first."""
    t = np.arange(1.0, len(case.changing.g) + 1)
    ways = [(0.0, "", np.ones_like(t))]
    for b in case.rates:
        c = 1 - b**t
        ways += [(b, way, made) for way, made in zip(CAUSE_OF, (c, 1 / c), strict=True)]
        ways += [(b, way, c / (1 - b ** when(t))) for way, when in TIMES.items()]
        others = (other for other in case.named_rates if other != b)
        ways += [(b, f"fades by {o:g} for {b:g}", c / (1 - o**t)) for o in others]
    pairs = [
        (a[1], b[1], a[2] / np.sqrt(b[2]))
        for a, b in product(ways, ways)
        if a[0] < b[0] or (a[1] and not b[1])  # the second moment fades more slowly
    ]
    return sorted(pairs, key=lambda p: 0 if p[0] == p[1] else 2 - ("" in p[:2]))


def _unexplained(case: Case) -> Cause:
    """Where and when, where no word for it fits."""
    run, at = case.runs[case.run], case.first - 1
    bad = ~np.isfinite(run.mine)
    if bad.any():
        step = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        where = "" if run.g[step].any() else ", where the gradient is 0"
        words = f"{bad.sum()} of {bad.size} updates are not finite, at step {step + 1}{where} first"
        return Cause("nonfinite", words)
    wrong = np.flatnonzero(run.off.any(axis=1)) + 1
    mine, right = run.mine[at], run.right[at]
    long, cosine = norm(mine) / (norm(right) or 1), norm(mine) * norm(right) or 1
    words = (
        f"it differs at {len(wrong)} of {len(run.g)} steps, {wrong[0]} to {wrong[-1]}; at first it "
        f"is {long:.3g} times as long, with a cosine of {np.vdot(mine, right) / cosine:.3f}"
    )
    fine = [name for name, r in case.runs.items() if r.agrees(r.right)]
    return Cause("unexplained", words + (f"; {', '.join(fine)} ones all but right" * bool(fine)))
