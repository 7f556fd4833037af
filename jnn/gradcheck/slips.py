"""Why an optimizer's updates are wrong: slips that people make, each of which must explain all."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from jnn.gradcheck.causes import DETOUR, Cause

FITS = 1e-6  # of an update a guess may be off; the verdict is stricter
ALIKE = 1e-5  # a ratio may vary that is called the same: eps moves it a little
USUAL = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)  # what moments fade by
LARGE = 2.0**60  # times a gradient, beside which every epsilon is nothing
SHORT = ("changing", "tiny", "zero")
TIMES: dict[str, Callable[[Any], Any]] = {
    "takes t + 1 for t": lambda t: t + 1,
    "takes t - 1 for t": lambda t: t - 1,
    "takes 2 t for t": lambda t: 2 * t,
    "takes t = 1 for ever": lambda t: 0 * t + 1,
}


class Variant(NamedTuple):
    """The formula with one thing exchanged."""

    time: Callable[[Any], Any] = lambda t: t
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, g: g
    parameter: Callable[[np.ndarray], np.ndarray] = lambda x: x
    forgets: bool = False


class Run(NamedTuple):
    """One parameter in one run, steps along the first axis."""

    x: np.ndarray
    g: np.ndarray
    mine: np.ndarray
    right: np.ndarray
    allowed: np.ndarray


class Case(NamedTuple):
    """One parameter whose updates are wrong, and what is known around it."""

    runs: Mapping[str, Run]
    run: str  # in which it is first wrong, and at which step
    first: int
    again: Callable[[str, Variant], np.ndarray]  # the updates of another formula in a run
    others: Mapping[str, np.ndarray]  # the right updates of the other parameters
    known: Mapping[str, Any]


def explain(case: Case) -> Cause:
    """The first hypothesis that fits."""
    if case.run == "late":
        return _late(case)
    for hypothesis in (
        _precision,
        _swapped,
        _ratio,
        _time,
        _decay,
        _coupled,
        _epsilon,
        _moments,
        _linear,
    ):
        with np.errstate(all="ignore"):
            if cause := hypothesis(case):
                return cause
    return _unexplained(case)


def _precision(case: Case) -> Cause | None:
    offs = [_norm(r.mine - r.right) / (_norm(r.right) or 1) for r in case.runs.values()]
    off = float(np.max(offs))  # NaN where one is
    if not off <= DETOUR:
        return None
    # An epsilon shows where gradients are as small, and there by far more.
    return Cause("precision", f"precision: it is off by {off:.0e}, as by way of float32")


def _swapped(case: Case) -> Cause | None:
    mine = case.runs["changing"].mine
    for path, other in case.others.items():
        if other.shape == mine.shape and _norm(mine - other) <= FITS * _norm(other):
            return Cause("swapped", f"structure: it gets the update of {path}")
    return None


def _ratio(case: Case) -> Cause | None:
    """A factor that all elements share: of the learning rate, or of a bias correction."""
    still = _still(case, "changing")
    run = case.runs["changing"]
    for decay in (0.0, run.right - still):
        right = run.right - decay
        k = _factors(run.mine - decay, right)
        if k is None:
            continue
        there = k[np.isfinite(k)]
        if len(there) == len(k) and np.ptp(there) <= ALIKE * abs(there).max():
            if abs(there[0] + 1) <= ALIKE:
                return Cause("sign", "learning rate: the update has the wrong sign")
            rate = _factors(run.right - right, run.x) if np.any(decay) else None
            if rate is not None and abs(there[0] - 1 - rate[0]) <= FITS * abs(rate[0]):
                words = "decay: it shrinks the parameters after the update, not before it"
                return Cause("swapped", words)
            if abs(there[0] - 1) > ALIKE:
                return Cause(
                    "scale",
                    f"learning rate: the update is {_named(there.mean(), case)} times as long",
                )
        elif slip := _bias(case, k) or _schedule(case, k, right, decay):
            return slip
    return None


def _corrections(case: Case) -> Iterator[tuple[float, str, np.ndarray, np.ndarray]]:
    """(b, what is done, the factor for a first moment, the factor for a second)."""
    t = np.arange(1.0, len(case.runs["changing"].g) + 1)
    named = [v for v in case.known.values() if isinstance(v, float) and 0 < v < 1]
    named = [v for v in named if v >= USUAL[0]]
    yield 0.0, "", np.ones_like(t), np.ones_like(t)
    for b in dict.fromkeys((*named, *USUAL)):
        c = 1 - b**t
        ways = {"is missing": c, "is applied once more than in the formula": 1 / c}
        ways |= {way: c / (1 - b ** when(t)) for way, when in TIMES.items()}
        for way, factor in ways.items():
            yield b, way, factor, 1 / np.sqrt(factor)
        for other in named:
            if other != b:
                factor = c / (1 - other**t)
                yield b, f"fades by {other:g} for {b:g}", factor, 1 / np.sqrt(factor)


def _bias(case: Case, k: np.ndarray) -> Cause | None:
    for mine, other, factor in _pairs(case):
        if _same(factor, k):
            ways = {"first": mine, "second": other}
            said = {name: way for name, way in ways.items() if way}
            if len(said) == 2 and mine == other:
                words = f"that of both moments {mine}"
            else:
                words = " and ".join(f"that of the {n} moment {way}" for n, way in said.items())
            once = set(said.values())
            cause = {"is missing": "missing-term"} | {
                "is applied once more than in the formula": "extra-term"
            }
            return Cause(cause.get(min(once), "scale"), f"bias correction: {words}")
    return None


def _pairs(case: Case) -> list[tuple[str, str, np.ndarray]]:
    """What may have become of either bias correction; the likelier, the earlier."""
    ways = list(_corrections(case))
    pairs = [
        (a[1], b[1], a[2] * b[3]) for a, b in product(ways, ways) if (a[1] or b[1]) and _apart(a, b)
    ]
    return sorted(pairs, key=lambda p: 0 if p[0] == p[1] else 2 - (not p[0] or not p[1]))


def _apart(a: Any, b: Any) -> bool:
    """Adam's moments fade at different rates, the second slower."""
    return not a[0] or not b[0] or a[0] < b[0]


def _schedule(case: Case, k: np.ndarray, right: np.ndarray, decay: Any) -> Cause | None:
    """Another rate than that of this step, whatever t is in the corrections."""
    for way, when in TIMES.items():
        other = case.again("changing", Variant(time=when)) - decay
        shift = _factors(other, right)
        if shift is None:
            continue
        for a, b, undone in _pairs(case):
            if a == b == way and _same(shift / undone, k):
                words = f"step count: the schedule {way}, the bias corrections do not"
                return Cause("swapped", words)
    return None


def _time(case: Case) -> Cause | None:
    for way, when in TIMES.items():
        if _fits(case, Variant(time=when)):
            return Cause("swapped", f"step count: it {way}")
    for variant in (Variant(forgets=True), Variant(lambda t: 0 * t + 1, forgets=True)):
        if _fits(case, variant):
            words = "no state is carried on, so that every update is a first one"
            return Cause("missing-term", f"step count: {words}")
    return None


def _decay(case: Case) -> Cause | None:
    """Decay beside the gradient: c x, with a c that all elements share."""
    run = case.runs["changing"]
    still = _still(case, "changing")
    off, mine, right = run.mine - run.right, run.mine - still, run.right - still
    decays = _norm(right) > FITS * _norm(run.right)
    if decays and _fits(case, Variant(parameter=np.zeros_like)):
        return Cause("missing-term", "decay: it is missing")
    if decays and (rate := _factors(mine, run.x)) is not None and _all(rate):
        usual = _factors(right, run.x)
        if usual is None:
            words = f"it is beside the gradient, -{abs(rate[0]):.6g} x, not added to it"
            return Cause("swapped", f"decay: {words}")
        if _all(rate / usual) and np.ptp(rate / usual) <= ALIKE:
            k = rate[0] / usual[0]
            if abs(k + 1) <= ALIKE:
                return Cause("sign", "decay: it has the wrong sign, so that parameters grow")
            return Cause("scale", f"decay: it is {_named(k, case)} times what it must be")
        words = f"its rate follows another schedule: {rate[0]:.6g} for {usual[0]:.6g} at step 1"
        return Cause("scale", f"decay: {words}")
    if not decays and (rate := _factors(off, run.x)) is not None and _all(rate):
        if not all(_shrinks(case.runs[name], rate) for name in SHORT):
            return None
        words = f"parameters decay by {_named(-rate[0], case)} at step 1, and must not"
        return Cause("extra-term", f"decay: {words}")
    return None


def _shrinks(run: Run, rate: np.ndarray) -> bool:
    """Whether a run is right but for a decay at these rates."""
    guess = run.right + rate.reshape(-1, *[1] * (run.x.ndim - 1)) * run.x
    return bool((abs(run.mine - guess) <= run.allowed + FITS * abs(run.mine)).all())


def _coupled(case: Case) -> Cause | None:
    """c x within the gradient, in place of what else decays or besides."""
    for parameter in (np.zeros_like, lambda x: x):

        def coupled(c: float, parameter: Any = parameter) -> Variant:
            return Variant(gradient=lambda x, g: g + c * x, parameter=parameter)

        def off(c: float, coupled: Any = coupled) -> np.ndarray:
            return (case.again("changing", coupled(c)) - case.runs["changing"].mine).ravel()

        named = [v for v in case.known.values() if isinstance(v, float) and v > 0]
        grid = [*named, *10.0 ** np.arange(-6, 1.01, 0.5)]
        c = min(grid, key=lambda c: np.nan_to_num(_norm(off(c)), nan=math.inf))
        for _ in range(8):  # Gauss and Newton
            rest = off(c)
            slope = (off(c * (1 + 1e-6)) - rest) / (c * 1e-6)
            if not slope @ slope > 0:
                break
            c -= rest @ slope / (slope @ slope)
        if not abs(c) > 0 or not _fits(case, coupled(c)):
            continue
        beside = _still(case, "changing")
        right = case.runs["changing"].right
        if _norm(beside - right) <= FITS * _norm(right):
            return Cause("extra-term", f"decay: {_named(c, case)} x is added to the gradient")
        if parameter is np.zeros_like:
            words = f"coupled: {_named(c, case)} x is added to the gradient, not beside it"
            return Cause("swapped", f"decay: {words}")
        return Cause("extra-term", f"decay: {_named(c, case)} x is added to the gradient too")
    return None


def _epsilon(case: Case) -> Cause | None:
    """Where a quotient a / (root + eps) of the formula has another eps, or that elsewhere."""

    def at(scale: float) -> np.ndarray:
        still = Variant(gradient=lambda x, g: scale * g, parameter=np.zeros_like)
        return case.again("tiny", still)

    run, limit = case.runs["tiny"], at(LARGE)
    if not _norm(at(2 * LARGE) - limit) <= FITS * _norm(limit):
        return None  # it depends on the size of gradients, and so has no eps of this kind
    right, double = at(1) / limit, at(2) / limit
    mine = (run.mine - run.right + at(1)) / limit
    seen = (right > ALIKE) & (right < 1 - ALIKE)
    if seen.any() and (abs(mine - 1)[seen] <= FITS).all():
        return Cause("missing-term", "epsilon: it is missing")
    seen &= (mine > ALIKE) & (mine < 1 - ALIKE) & np.isfinite(mine)
    steps = [t for t in range(len(seen)) if seen[t].any()]
    roots: dict[str, Callable[[Any], Any]] = {
        "outside": lambda q: q / (1 - q),
        "inside": lambda q: q / np.sqrt(1 - q * q),
    }
    owed: dict[str, Callable[[Any, Any], Any]] = {
        "outside": lambda root, q: root * (1 / q - 1),
        "inside": lambda root, q: root**2 * (1 / q**2 - 1),
    }
    eps = case.known.get("eps")
    for formula, place in product(roots, owed):
        root = roots[formula](right)
        if not steps or not np.allclose(roots[formula](double)[seen], 2 * root[seen], rtol=1e-3):
            continue
        units = owed[place](root, mine)
        if any(np.ptp(units[t][seen[t]]) > 1e-3 * units[t][seen[t]].max() for t in steps):
            continue
        e = np.array([units[t][seen[t]].mean() for t in steps])
        power = (1 if place == "inside" else 0.5) / (1 if formula == "inside" else 0.5)
        size = "" if eps is None else f", as {e[0] * eps**power:.6g}"
        if np.ptp(e) <= 1e-3 * e.max():
            if formula != place:
                return Cause("swapped", f"epsilon: it stands {place} the root{size}")
            if abs(e[0] - 1) <= 1e-3:
                return None
            words = f"epsilon: it is {e[0]:.6g} times what it must be{size}"
            return Cause("scale", words)
        t, turn = np.array(steps) + 1.0, 1 if place == "inside" else 0.5
        for b, (sign, words) in product(
            (*(v for v in case.known.values() if isinstance(v, float) and 0.5 <= v < 1), *USUAL),
            ((-1, "before the bias correction"), (1, "after the bias correction")),
        ):
            k = e / (1 - b**t) ** (sign * turn)
            if np.ptp(k) <= 1e-3 * k.max():
                also = "" if formula == place else f", {place} the root"
                return Cause("swapped", f"epsilon: it is added {words}{also}")
    return None


def _moments(case: Case) -> Cause | None:
    """Adam and what is like it, whose moments fade at other rates or start elsewhere."""
    run = case.runs["changing"]
    still = _still(case, "changing")
    found = [_fading(dx, run.g) for dx in (run.mine - run.right + still, still)]
    if None in found or found[0] == found[1]:
        return None
    mine, right = found
    said = []
    for name, a, b in zip(("first", "second"), mine, right, strict=True):
        if a[0] != b[0]:
            said.append(f"the {name} moment fades by {a[0]:g} for {b[0]:g}")
        elif a[1] != b[1]:
            said.append(f"the {name} moment starts from {a[1]}, not from {b[1]}")
    return Cause("scale", f"momentum: {' and '.join(said)}")


def _fading(dx: np.ndarray, g: np.ndarray) -> tuple[Any, Any] | None:
    """((b1, where it starts), (b2, where)) of moments whose quotient the updates follow."""

    def moment(b: float, start: str, g: np.ndarray) -> np.ndarray:
        m = np.zeros_like(g)
        for t, new in enumerate(g):
            m[t] = new if t == 0 and start != "0" else b * m[t - 1] + (1 - b) * new
        return m

    starts = ("0", "the gradient"), ("0", "its square")
    firsts, seconds = (
        {(b, start): moment(b, start, of) for b in (0.0, *USUAL) for start in ways}
        for ways, of in zip(starts, (g, g * g), strict=True)
    )
    for (first, m), (second, v) in product(firsts.items(), seconds.items()):
        if _factors(dx[1:], m[1:] / np.sqrt(v[1:])) is not None:
            return first, second
    return None


def _linear(case: Case) -> Cause | None:
    """Momentum, whose updates are sums of the last one and of gradients, with constant weights."""
    run = case.runs["changing"]
    mine, right = (_recurrence(dx, run) for dx in (run.mine, run.right))
    if mine is None or right is None:
        return None
    words = f"; it follows {_said(mine)}, the formula {_said(right)}"
    same = {name: abs(mine[name] - right[name]) <= FITS * abs(right[name]) for name in mine}
    last, g, before, _ = mine
    if all(same.values()):
        k = _factors(run.mine[:1], run.right[:1])
        how = "another" if k is None else f"{_named(k[0], case)} times as long"
        return Cause(
            "scale", f"momentum: only the first step is wrong, as if undampened: it is {how}"
        )
    if same[last] and same[g] and same[before]:
        return Cause("extra-term" if mine["x"] else "missing-term", "decay: it differs" + words)
    if not mine[last] and right[last]:
        return Cause("missing-term", "momentum: it is missing" + words)
    if mine[last] and not right[last]:
        return Cause("extra-term", "momentum: there must be none" + words)
    if abs(mine[last] + right[last]) <= FITS * abs(right[last]) and right[last]:
        return Cause("sign", "momentum: the velocity has the wrong sign" + words)
    if right[before] and not mine[before]:
        how = "the look-ahead of Nesterov's is missing, or takes the old velocity"
        return Cause("missing-term", f"momentum: {how}{words}")
    if mine[before] and not right[before]:
        return Cause("extra-term", "momentum: there is a look-ahead, as Nesterov's" + words)
    if same[g]:
        k = mine[last] / right[last]
        return Cause("scale", f"momentum: it is {_named(k, case)} times what it must be{words}")
    if same[last]:
        k = mine[g] / right[g]
        return Cause("scale", f"momentum: the gradient counts {_named(k, case)} times{words}")
    return Cause("scale", "momentum: the velocity is another" + words)


def _recurrence(dx: np.ndarray, run: Run) -> dict[str, float] | None:
    """Weights of the last update, of this gradient, of the last and of x, from step 2 on."""
    columns = {"dx'": dx[:-1], "g": run.g[1:], "g'": run.g[:-1], "x": run.x[1:]}
    for names in ("g", "g x", "dx' g", "dx' g x", "dx' g g'", "dx' g g' x"):
        chosen = names.split()
        a = np.stack([columns[name].ravel() for name in chosen], axis=1)
        b = dx[1:].ravel()
        if not (np.isfinite(b).all() and len(b) > 2 * len(chosen)):
            continue
        found, *_ = np.linalg.lstsq(a, b, rcond=None)
        if _norm(a @ found - b) <= 1e-9 * _norm(b):
            return dict.fromkeys(columns, 0.0) | dict(zip(chosen, map(float, found), strict=True))
    return None


def _said(weights: Mapping[str, float]) -> str:
    terms = " ".join(f"{w:+.4g} {name}".replace("+", "+ ", 1) for name, w in weights.items() if w)
    return "dx = " + terms.removeprefix("+ ")


def _late(case: Case) -> Cause:
    """Right for many steps, and then no more."""
    run, last = case.runs["late"], case.first - 1
    words = f"it is right for {last} steps, and no more"
    if not np.isfinite(run.mine).all():
        return Cause("nonfinite", f"step count: {words}: it is not finite")
    for how, when in (
        (f"stops at {last}", lambda t: min(t, last)),
        (f"begins again after {last}", lambda t: (t - 1) % last + 1),
        (f"begins again at 0 after {last}", lambda t: t % (last + 1)),
    ):
        guess = case.again("late", Variant(time=when))
        if (abs(guess - run.mine) <= run.allowed + FITS * abs(run.mine)).all():
            return Cause("swapped", f"step count: it {how}")
    return Cause("unexplained", words)


def _unexplained(case: Case) -> Cause:
    """Where and when, where no word for it fits."""
    run = case.runs[case.run]
    off = ~(abs(run.mine - run.right) <= run.allowed)
    bad = ~np.isfinite(run.mine)
    if bad.any():
        step = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        still = "" if run.g[step].any() else ", where the gradient is 0"
        words = f"{bad.sum()} of {bad.size} updates are not finite, at step {step + 1}{still} first"
        return Cause("nonfinite", words)
    steps = np.flatnonzero(off.reshape(len(off), -1).any(axis=1)) + 1
    when = "at every step" if len(steps) == len(off) else f"at steps {steps[0]} to {steps[-1]}"
    when = f"at step {steps[0]} alone" if len(steps) == 1 else when
    mine, right = run.mine[case.first - 1], run.right[case.first - 1]
    k = _norm(mine) / _norm(right) if _norm(right) else math.inf
    share = np.vdot(mine, right) / (_norm(mine) * _norm(right) or 1)
    fine = ", ".join(
        name
        for name, r in case.runs.items()
        if (abs(r.mine - r.right) <= r.allowed + FITS * abs(r.right)).all()
    )
    words = f"it differs {when}; there it is {k:.3g} times as long, with a cosine of {share:.3f}"
    return Cause("unexplained", words + (f"; with {fine} gradients all but right" if fine else ""))


def _still(case: Case, run: str) -> np.ndarray:
    """The formula's updates of parameters that are 0, so that none decays."""
    return case.again(run, Variant(parameter=np.zeros_like))


def _fits(case: Case, variant: Variant) -> bool:
    """Whether the updates are those of this formula in every short run."""
    for name in SHORT:
        run, guess = case.runs[name], case.again(name, variant)
        near = abs(run.mine - guess) <= run.allowed + FITS * (abs(run.mine) + abs(guess))
        lost = ~np.isfinite(run.mine) & ~np.isfinite(guess)
        if not (near & np.isfinite(run.mine) | lost).all():
            return False
    return True


def _factors(mine: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """For each step the k of mine = k right, NaN where none is to be had; None if there is none."""
    k = np.full(len(mine), np.nan)
    for t, (a, b) in enumerate(zip(mine, right, strict=True)):
        if np.isfinite(a).all() and np.isfinite(b).all() and b.any():
            k[t] = np.vdot(a, b) / np.vdot(b, b)
            if _norm(a - k[t] * b) > ALIKE * _norm(a):
                return None
    return k if np.isfinite(k).sum() > 1 or len(k) == 1 else None


def _same(guess: np.ndarray, k: np.ndarray) -> bool:
    there = np.isfinite(k)
    return bool(there.sum() > 1 and (abs(guess - k) <= ALIKE * abs(k))[there].all())


def _all(k: np.ndarray) -> bool:
    return bool(np.isfinite(k).all())


def _norm(a: np.ndarray) -> float:
    return float(np.linalg.norm(a))


def _named(k: float, case: Case) -> str:
    """The number, and all that it is recognised as."""
    forms: dict[str, float] = {}
    for name, c in case.known.items():
        if isinstance(c, int | float) and 0 < c != 1:
            forms |= {name: c, f"1/{name}": 1 / c, f"1 - {name}": 1 - c}
            forms |= {f"1/(1 - {name})": 1 / (1 - c)}
    if "lr" in forms and "decay" in forms:
        forms["lr decay"] = forms["lr"] * forms["decay"]
    hits = [name for name, value in forms.items() if math.isclose(k, value, rel_tol=ALIKE)]
    return f"{k:.6g}" + (f" = {' or '.join(hits)}" if hits else "")
