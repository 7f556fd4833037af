"""Slips in a term of an optimizer's formula: its decay, its epsilon, its momentum."""

import math
from itertools import product
from typing import Any

import numpy as np

from jnn.gradcheck.case import Cause
from jnn.gradcheck.updates import (
    ALIKE,
    FITS,
    SHORT,
    Case,
    alike,
    constant,
    factors,
    norm,
)

LARGE = 2.0**60  # times a gradient, beside which every epsilon is nothing


def decay(case: Case) -> Cause | None:
    """Decay beside the gradient: c x, with a c that all elements share."""
    run, decays = case.changing, case.decay.any()
    if decays and case.fits(parameter=np.zeros_like):
        return Cause("missing-term", "decay: it is missing")
    rate = factors(run.mine - case.still("changing"), run.x)
    if rate is None or not np.isfinite(rate).all():
        return None
    for name in SHORT:
        shrink = rate.reshape(-1, *[1] * (run.x.ndim - 1)) * case.runs[name].x
        if not case.runs[name].agrees(case.still(name) + shrink):
            return None
    if not decays:
        words = f"parameters decay by {case.named(-rate[0])} at step 1, and must not"
        return Cause("extra-term", f"decay: {words}")
    usual = factors(case.decay, run.x)
    if usual is None:
        words = f"it is beside the gradient, {rate[0]:.6g} x, not added to it"
        return Cause("swapped", f"decay: {words}")
    return _times(case, rate / usual)


def coupled(case: Case) -> Cause | None:
    """c x within the gradient."""
    c = _within(case, "mine")
    if c is None:
        return None
    if not case.decay.any():
        return Cause("extra-term", f"decay: {case.named(c)} x is added to the gradient")
    usual = _within(case, "right")
    if usual is None:
        words = f"{case.named(c)} x is added to the gradient, not beside it"
        return Cause("swapped", f"decay: coupled: {words}")
    return _times(case, np.array([c / usual]))


def _times(case: Case, k: np.ndarray) -> Cause | None:
    if not constant(k):
        return None
    if alike(k[0], -1):
        return Cause("sign", "decay: it has the wrong sign, so that parameters grow")
    return Cause("scale", f"decay: it is {case.named(k[0])} times what it must be")


def _within(case: Case, field: str) -> float | None:
    """The c of what the updates are, if the gradient of a formula without decay is g + c x."""

    def changes(c: float) -> dict[str, Any]:
        return {"gradient": lambda x, g: g + c * x, "parameter": np.zeros_like}

    def off(c: float) -> np.ndarray:
        return (case.again("changing", **changes(c)) - getattr(case.changing, field)).ravel()

    grid = [*case.known.values(), *10.0 ** np.arange(-6, 1.01, 0.5)]
    c = min(grid, key=lambda c: np.nan_to_num(norm(off(c)), nan=math.inf))
    for _ in range(8):  # Gauss and Newton
        rest = off(c)
        slope = (off(c * (1 + 1e-6)) - rest) / (c * 1e-6)
        if not slope @ slope > 0:
            break
        c -= rest @ slope / (slope @ slope)
    return c if abs(c) > 0 and case.fits(field=field, **changes(c)) else None


def epsilon(case: Case) -> Cause | None:
    """Where a quotient a / (root + eps) of the formula has another eps, or that elsewhere.

    As a share of a / root it is r / (r^p + e)^(1/p), with p = 1 for an e outside the root r, and
    p = 2 for one inside.
    """

    def at(scale: float) -> np.ndarray:
        return case.still("tiny", gradient=lambda x, g: scale * g)

    run, limit = case.runs["tiny"], at(LARGE)
    if not norm(at(2 * LARGE) - limit) <= FITS * norm(limit):
        return None  # it depends on the size of gradients, and so has no eps of this kind
    right, double = at(1) / limit, at(2) / limit
    mine = (run.mine - run.right + at(1)) / limit
    seen = (right > ALIKE) & (right < 1 - ALIKE)
    if seen.any() and (abs(mine - 1)[seen] <= FITS).all():
        return Cause("missing-term", "epsilon: it is missing")
    seen &= (mine > ALIKE) & (mine < 1 - ALIKE)
    steps = [t for t in range(len(seen)) if seen[t].any()]
    for p, q in product((1, 2), (1, 2)):  # of the formula, and of what is there
        root, other = (share / (1 - share**p) ** (1 / p) for share in (right, double))
        if not steps or not np.allclose(other[seen], 2 * root[seen], rtol=1e-3):
            continue
        each = root**q * (mine**-q - 1)  # in units of the formula's, to the power of q / p
        if all(np.ptp(each[t][seen[t]]) <= 1e-3 * each[t][seen[t]].max() for t in steps):
            e = np.array([each[t][seen[t]].mean() for t in steps])
            return _another(case, p, q, e, np.array(steps) + 1.0)
    return None


def _another(case: Case, p: int, q: int, e: np.ndarray, t: np.ndarray) -> Cause | None:
    """What an epsilon is called that is e at steps t."""
    elsewhere = "" if p == q else f"{'inside' if q == 2 else 'outside'} the root"
    eps = case.known.get("eps")
    size = "" if eps is None else f", as {e[0] * eps ** (q / p):.6g}"
    if np.ptp(e) <= 1e-3 * e.max():
        if elsewhere:
            return Cause("swapped", f"epsilon: it stands {elsewhere}{size}")
        if abs(e[0] - 1) <= 1e-3:
            return None
        return Cause("scale", f"epsilon: it is {e[0]:.6g} times what it must be{size}")
    for b, (power, when) in product(case.rates, ((q / 2, "before"), (-q / 2, "after"))):
        k = e * (1 - b**t) ** power
        if np.ptp(k) <= 1e-3 * k.max():
            words = f"it is added {when} the bias correction" + f", {elsewhere}" * bool(elsewhere)
            return Cause("swapped", f"epsilon: {words}")
    return None


def moments(case: Case) -> Cause | None:
    """Adam and what is like it, whose moments fade at other rates."""
    g, still = case.changing.g, case.still("changing")
    firsts, seconds = ({b: _fading(b, of) for b in (0.0, *case.rates)} for of in (g, g * g))

    def rates(dx: np.ndarray) -> tuple[float, float] | None:
        for (first, m), (second, v) in product(firsts.items(), seconds.items()):
            if factors(dx[1:], m[1:] / np.sqrt(v[1:])) is not None:
                return first, second
        return None

    mine, right = rates(case.changing.mine - case.changing.right + still), rates(still)
    if mine is None or right is None or mine == right:
        return None
    said = [
        f"the {name} moment fades by {a:g} for {b:g}"
        for name, a, b in zip(("first", "second"), mine, right, strict=True)
        if a != b
    ]
    return Cause("scale", f"momentum: {' and '.join(said)}")


def _fading(b: float, of: np.ndarray) -> np.ndarray:
    m = np.zeros_like(of)
    for t, new in enumerate(of):
        m[t] = b * m[t - 1] + (1 - b) * new  # m[-1] is 0 yet
    return m


def velocity(case: Case) -> Cause | None:
    """Momentum, whose updates are sums of the last one and of gradients, with constant weights."""
    run = case.changing
    mine, right = (_recurrence(dx, run.g) for dx in (run.mine, run.right))
    if mine is None or right is None:
        return None
    last, g, before = (alike(a, b) for a, b in zip(mine, right, strict=True))
    words = f"; it follows {_said(mine)}, the formula {_said(right)}"
    if last and g and before:
        k = factors(run.mine[:1].repeat(2, 0), run.right[:1].repeat(2, 0))
        how = "" if k is None else f": it is {case.named(k[0])} times as long"
        return Cause("scale", f"momentum: only the first step is wrong, as if undampened{how}")
    for i, what in ((0, "it"), (2, "the look-ahead of Nesterov's")):
        if right[i] and not mine[i]:
            return Cause("missing-term", f"momentum: {what} is missing{words}")
        if mine[i] and not right[i]:
            return Cause("extra-term", f"momentum: {what} must not be there{words}")
    if alike(mine[0], -right[0]) and right[0]:
        return Cause("sign", f"momentum: the velocity has the wrong sign{words}")
    if not last:
        times = case.named(mine[0] / right[0])
        return Cause("scale", f"momentum: it is {times} times what it must be{words}")
    k, damped = mine[1] / right[1], 1 - right[0]
    if right[0] and (alike(k, damped) or alike(k, 1 / damped)):
        how = "dampened" if k < 1 else "not dampened"
        return Cause("scale", f"momentum: it is {how}, {case.named(k)} times as long{words}")
    return None  # a matter of the learning rate


def _recurrence(dx: np.ndarray, g: np.ndarray) -> list[float] | None:
    """Weights of the last update, of this gradient and of the last, from step 2 on."""
    columns = np.stack([a.ravel() for a in (dx[:-1], g[1:], g[:-1])], axis=1)
    b = dx[1:].ravel()
    if not np.isfinite(dx).all() or len(b) <= 6:
        return None
    for n in ([1], [0, 1], [0, 1, 2]):
        found, *_ = np.linalg.lstsq(columns[:, n], b, rcond=None)
        if norm(columns[:, n] @ found - b) <= 1e-9 * norm(b):
            weights = dict(zip(n, map(float, found), strict=True))
            return [weights.get(i, 0.0) for i in range(3)]
    return None


def _said(weights: list[float]) -> str:
    named = zip(weights, ("dx'", "g", "g'"), strict=True)
    return "dx = " + " ".join(f"{w:+.4g} {name}" for w, name in named if w)
