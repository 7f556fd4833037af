"""The check of any function with a hand-written backward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.contract import again, linear, numerics
from jnn.gradcheck.diagnosis import Diagnosis
from jnn.gradcheck.edits import MOST, NUMBERS
from jnn.gradcheck.exact import Measured, exact_gradient
from jnn.gradcheck.flat import Flat, gradient
from jnn.gradcheck.primal import Perturbed, evaluated
from jnn.gradcheck.probe import SPREADS, Seen, look
from jnn.gradcheck.report import Finding, Report, together
from jnn.gradcheck.shapes import SHAPES, Reshaped, shown
from jnn.gradcheck.sizes import deviation, root_mean_square, typical
from jnn.gradcheck.target import UNIT, Target, exactly
from jnn.report import show

# What becomes of the floating arguments; r is a leaf's root mean square, or 1 where that is 0.
REGIMES: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "given": lambda a, r, rng: a,
    "moved": lambda a, r, rng: a + 0.1 * r * rng.standard_normal(a.shape),
    "zero": lambda a, r, rng: np.zeros_like(a),
    "tied": lambda a, r, rng: np.rint(2 * a / r) * 2.0 ** np.rint(np.log2(r / 2)),
    "large": lambda a, r, rng: 30 * a,
    "small": lambda a, r, rng: 1e-4 * a,
}
NEARBY = 64  # points around a kink at most, to see the slopes on its sides
NEAR = 1e-6  # of a leaf's root mean square they are away
CURVED = 1e-4  # of the gradient may change so near
DOUBTS = 4  # times it is rounded otherwise
VAGUE = "unexplained", "local-derivative", "wrong-operand"  # if no line is named
WEAK = 1e-6  # relative errors that would be missed make a look one to repeat


def check_gradients(
    f: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    known: Mapping[str, float] | None = None,
    regimes: str | Sequence[str] = "default",
    order: int = 1,
    key: int | jax.Array = 0,
) -> Report:
    """Whether a function's hand-written gradient is right, and if not, what is wrong, in words.

    f           any traceable function of pytrees, with a custom_vjp somewhere within; its float
                leaves are checked, integer and key leaves are allowed
    reference   a plain function of the same value, where f's own primal cannot be differentiated
    known       constants to recognise a wrong factor by, such as {"rate": 0.1}
    regimes     "default" for all of "given", "moved", "zero", "tied", "large" and "small" values
                of the arguments; "all" for other shapes too, "one example", "all axes 1" and "all
                axes alike", axes of one length being taken for one; or the names of some
    order       2 to check the gradient of the gradient too
    key         a number or a JAX key, from which the cotangents are drawn

    The gradient is compared, element by element and in float64, with that of f's own primal: f
    with every custom rule taken out, within loops too, differentiated by JAX (forwards where a
    while loop forbids it backwards). No tolerance is guessed: see `probe.look`. NaN never passes,
    and any value between the slopes on the two sides of a kink does. x64 is switched on inside and
    only there. Where JAX's own gradient is not finite nothing is told of one that is, and a note
    says so. What the arguments never reach is not checked: give both signs, and integers that take
    every branch.

    Beside that, the contract: linear in the cotangent, the same twice, compiled and vmapped, and a
    forward that stays the same under differentiation. And the numerics: in the arguments' own
    dtype it may lose ten times what autodiff loses, or 20 ulps if that is more.

    Raises ValueError where no argument holds floats, one is a tracer, or a regime is unknown.

    >>> @jax.custom_vjp
    ... def scaled(x, w):
    ...     return jnp.tanh(x) * w
    >>> scaled.defvjp(lambda x, w: (scaled(x, w), (x, w)),
    ...               lambda kept, dy: (dy * kept[1], (dy * jnp.tanh(kept[0])).sum(0)))
    >>> x, w = jnp.linspace(-2.0, 2.0, 6).reshape(3, 2), jnp.array([0.5, 2.0])
    >>> report = check_gradients(scaled, x, w, regimes=["given"])
    >>> [(finding.path, finding.cause) for finding in report.findings]
    [('args[0]', 'local-derivative')]
    >>> report.findings[0].message
    'that of `tanh` is missing'
    """
    roots = [f"args[{i}]" for i in range(len(args))]

    def target(args: tuple[Any, ...]) -> Target:
        return Target(f, args, reference, roots, key)

    with exactly(), show(f"checking {getattr(f, '__name__', type(f).__name__)}"):
        return everywhere(target, args, regimes_named(regimes), known or {}, order)


def regimes_named(regimes: str | Sequence[str]) -> list[str]:
    """The regimes of these names."""
    every = [*REGIMES, *SHAPES]
    names = [regimes] if isinstance(regimes, str) else list(regimes)
    names = {"default": list(REGIMES), "all": every}.get("".join(names), names)
    if unknown := [name for name in names if name not in every]:
        raise ValueError(f"regimes names {unknown}; there are {every}, or 'default', or 'all'")
    return names


def everywhere(
    make: Callable[[tuple[Any, ...]], Target],
    args: tuple[Any, ...],
    regimes: Sequence[str],
    known: Mapping[str, float],
    order: int,
) -> Report:
    """The report on targets of these arguments, at other shapes and of second order if asked."""
    if order not in (1, 2):
        raise ValueError(f"order is {order!r}; it must be 1, or 2 for the gradient's gradient too")
    reshaped = Reshaped(make, args)
    target = make(args)
    reports = [checked(target, [name for name in regimes if name in REGIMES], known)]
    for name, lengths in reshaped.regimes():
        if name not in regimes or not reports[-1]:
            continue
        try:
            other = make(reshaped.at(lengths))
        except Exception:  # whatever f raises at shapes that it was not made for
            words = f"f takes no arguments of other lengths ({name})"
            reports.append(replace(reports[-1], regimes=(), notes=(words,)))
        else:
            reports.append(checked(other, ["given"], known).at(name))
    if order == 2 and reports[-1]:
        reports.append(_second(target, known))
    report = together(reports)
    wrong = next((f for f in report.findings if f.indices and f.regime in REGIMES), None)
    if wrong is None:
        return report
    there = target.flat.arguments(
        tuple(
            np.asarray(REGIMES[wrong.regime](np.asarray(a), typical(a), target.rng)).astype(g.dtype)
            for a, g in zip(target.leaves, target.given, strict=True)
        ),
        target.given_others,
    )
    reshaped = replace(reshaped, args=there)
    report = _told_apart(report, reshaped, target, known)
    example = reshaped.smallest(wrong.path)
    if example is None:
        return report
    words = f"the smallest that is wrong too: {shown(example, target.roots)}"
    return replace(report, example=example, notes=(*report.notes, words))


def _told_apart(
    report: Report, reshaped: Reshaped, target: Target, known: Mapping[str, float]
) -> Report:
    """The report, with what was too large for all hypotheses explained with shorter axes."""
    vague = [f for f in report.findings if f.cause in VAGUE and not f.source]
    if not vague or sum(a.size for a in target.leaves) * MOST <= NUMBERS:
        return report
    shorter = reshaped.moderate(vague[0].path)
    if shorter is None:
        return report
    found = checked(reshaped.make(shorter), ["given"], known).findings
    told = {f.path: f for f in found if f.source}
    findings = tuple(
        replace(told[f.path], indices=f.indices, regime=f.regime)
        if f in vague and f.path in told
        else f
        for f in report.findings
    )
    if findings == report.findings:
        return report
    paths = ", ".join(f.path for f in vague if f.path in told)
    words = f"what is said of {paths} was found with shorter axes: {shown(shorter, target.roots)}"
    return replace(report, findings=findings, notes=(*report.notes, words))


def _second(target: Target, known: Mapping[str, float]) -> Report:
    """The report on the gradient's own gradient, for one cotangent."""
    n = len(target.paths)
    args = *target.leaves, target.others, target.draws()[0]
    roots = [*target.paths, "", ""]
    seed = int(target.rng.integers(2**31))
    f = _Slopes(target.flat, n, gradient)
    exact = _Slopes(target.reference, n, exact_gradient)
    try:
        second = Target(f, args, exact, roots, seed, still=(n, n + 1))
        if not (problem := second.refused()):
            return checked(second, ["given"], known).at("of second order")
    except Exception as error:  # JAX has many for what it cannot differentiate
        problem = str(error).splitlines()[0]
    words = f"the backward pass cannot be differentiated itself ({problem})"
    return Report((), {}, (), (words,))


@dataclass(frozen=True)
class _Slopes:
    """The gradient of a function, as a function of n leaves, the other leaves and a cotangent."""

    of: Flat
    n: int
    gradient: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.gradient(self.of, args[: self.n], *args[self.n :])[1]


def checked(
    target: Target, regimes: Sequence[str], known: Mapping[str, float], contract: bool = True
) -> Report:
    """The report on a target, up to the first regime in which something is wrong.

    Without `contract` it is not called again in other ways, nor in low precision.
    """
    if problem := target.refused():
        return Report((Finding("", "structure", problem),), {}, ())
    check = _Check(target, known)
    found: list[Finding] = []
    power: dict[str, float] = {}
    # What computes in a narrow dtype shows little at most values, and all at whole numbers.
    weakest = max if target.unit <= UNIT else min
    done = []
    for name in regimes:
        fresh, strength = check.regime(name)
        if not fresh and strength is None:
            continue
        found += fresh
        done.append(name)
        if fresh:  # what is wrong here is wrong elsewhere for the same reason
            break
        for path, s in zip(target.paths, strength or (), strict=True):
            power[path] = weakest(power.get(path, s), s)
    if not found and contract:
        found, notes = again(target)
        found += numerics(target)
        check.notes += notes
    return Report(tuple(found), power, tuple(done), tuple(dict.fromkeys(check.notes)))


class _Check:
    """The look at one target in regime after regime."""

    def __init__(self, target: Target, known: Mapping[str, float]):
        self.target, self.known = target, known
        self.notes = list(target.notes)

    def regime(self, name: str) -> tuple[list[Finding], list[float] | None]:
        """What is wrong at such values, and what would have been found; None where f has none."""
        target = self.target
        leaves = tuple(
            jnp.asarray(REGIMES[name](np.asarray(a), typical(a), target.rng)) for a in target.leaves
        )
        draws = target.draws()
        seen = self.look(leaves, draws)
        if name == "tied" and target.unit > UNIT:
            seen = self.whole(leaves) or seen
        if not all(np.isfinite(y).all() for y in seen.y_exact):
            if name == "given":
                words = "f itself is not finite, so nothing follows"
                return [Finding("", "nonfinite", words)], None
            self.notes.append(f"at {name} values f is not finite")
            return [], None
        wrong, outside, doubt = {}, [], []
        broken = linear(seen, target.paths, name, target.unit)
        if any(finding.cause == "nonlinear" for finding in broken):
            doubt = self.doubt(leaves, seen)
            allowed = tuple(a + SPREADS * d for a, d in zip(seen.allowed, doubt, strict=True))
            broken = linear(seen._replace(allowed=allowed), target.paths, name, target.unit)
        if broken:
            return broken, None
        for i, path in enumerate(target.paths):
            vague = ~np.isfinite(seen.exact[i])
            if vague.any() and name != "given":
                self.notes.append(f"at {name} values autodiff has no finite gradient of {path}")
            off = ~(abs(seen.hand[i] - seen.exact[i]) <= seen.allowed[i])
            blind = vague & np.isfinite(seen.hand[i])
            if name != "given":
                off &= ~vague
            if off.any():
                doubt = doubt or self.doubt(leaves, seen)
                more = seen.allowed[i] + SPREADS * doubt[i]
                off &= ~(abs(seen.hand[i] - seen.exact[i]) <= more)
            if not off.any():
                continue
            verdict = self.kink(leaves, (seen.v, draws[1]), seen, i, off)
            if verdict == "wrong" and not (off & ~blind).any():
                self.notes.append(f"JAX's own gradient of {path} is not finite here and there")
            elif verdict == "wrong":
                wrong[i] = off & ~blind
            elif verdict == "outside":
                outside.append(self.outside(seen, i, off, name))
            else:
                self.notes.append(
                    f"at {name} values {path} sits on a kink, where another valid slope is taken "
                    "than JAX would"
                )
        diagnosis = Diagnosis(target, self.known, leaves, seen, wrong, name)
        return outside + diagnosis.findings(), _strength(seen)

    def look(self, leaves: tuple[Any, ...], draws: Any, scaled: bool = True) -> Seen:
        """The gradient beside the exact one.

        At ties and on kinks a few ulps change the gradient itself, and nothing could be told from
        its spread; there the point stays where it is.
        """
        target = self.target
        for ulps in (8.0, 0.0):
            seen = look(
                target.flat,
                target.reference,
                leaves,
                target.others,
                draws,
                target.rng,
                ulps,
                target.unit,
                scaled,
            )
            # At the edge of f's domain the points around have no gradient.
            lost = any(
                np.isnan(a[np.isfinite(e)]).any()
                for a, e in zip(seen.allowed, seen.exact, strict=True)
            )
            if max(_strength(seen)) < WEAK and not lost:
                break
        return seen

    def doubt(self, leaves: tuple[Any, ...], seen: Seen) -> list[np.ndarray]:
        """How much of the difference is rounding, operation by operation.

        Points a few ulps away do not tell it where what is computed stays the same at all of them;
        and of what cancels all but wholly, such as the slope of a softmax that is sure, nothing
        but rounding is left.
        """
        target = self.target
        if isinstance(target.reference, Measured):
            return [np.zeros(())] * len(seen.exact)

        def differences() -> list[np.ndarray]:
            walk = Perturbed(target.rng, target.unit)
            at = leaves, target.others, seen.v
            _, exact, _ = evaluated(partial(exact_gradient, target.reference), at, walk)
            _, hand = evaluated(partial(gradient, target.flat), at, walk)
            return [np.asarray(a) - b for a, b in zip(hand, exact, strict=True)]

        with np.errstate(all="ignore"):
            tries = zip(*(differences() for _ in range(DOUBTS)), strict=True)
            spread = [np.nan_to_num(deviation(off), nan=0.0, posinf=0.0) for off in tries]
        return [sd + root_mean_square(sd) for sd in spread]

    def whole(self, leaves: tuple[Any, ...]) -> Seen | None:
        """The look at small whole numbers, in units of a power of 2, of what computes in a narrow
        dtype: where all that it must return can be written in it, it owes every digit."""
        target = self.target
        v, w = (tuple(map(np.rint, draw)) for draw in target.draws())
        args = target.flat, target.reference, leaves, target.others, (v, w), target.rng, 0.0
        seen = look(*args, UNIT, scaled=False)
        digits = round(-np.log2(target.unit))
        for a in (*seen.y_exact, *seen.exact):
            mantissa = np.ldexp(np.frexp(np.asarray(a))[0], digits)
            if not np.array_equal(mantissa, np.rint(mantissa)):
                return None
        return seen

    def kink(
        self, leaves: tuple[Any, ...], draws: Any, seen: Seen, i: int, wrong: np.ndarray
    ) -> str:
        """ "valid" for a slope between those around the point, "outside", or "wrong" around too."""
        # Where the choice made here is the one to make, should it be a slope at all; and at random.
        rng, hand = self.target.rng, seen.hand[i][wrong]
        if not np.isfinite(hand).all():
            return "wrong"
        chosen = [np.nan_to_num(h - e) for h, e in zip(seen.hand, seen.exact, strict=True)]
        low, high = np.full_like(hand, np.inf), np.full_like(hand, -np.inf)
        margin = CURVED * (typical(seen.exact[i]) + abs(hand))
        sums = []
        for sign in (1, -1, *[0] * NEARBY):
            near = tuple(
                jnp.asarray(a + NEAR * typical(a) * (sign * o / typical(o) + size * noise))
                for a, o in zip(map(np.asarray, leaves), chosen, strict=True)
                for size, noise in [(1 if sign == 0 else 0.1, rng.standard_normal(a.shape))]
            )
            there = self.look(near, draws, scaled=False)
            found, exact, allowed = (t[i] for t in there[:3])
            if not (abs(found - exact) <= allowed)[wrong].all():
                return "wrong"
            low, high = np.minimum(low, exact[wrong]), np.maximum(high, exact[wrong])
            sums.append(exact[wrong].sum())
            if len(sums) > 2 and ((low - margin <= hand) & (hand <= high + margin)).all():
                # What ties shares a sum that no choice between them changes.
                shared = np.ptp(sums) <= margin.sum()
                return "outside" if shared and abs(hand.sum() - sums[0]) > margin.sum() else "valid"
        return "outside"

    def outside(self, seen: Seen, i: int, wrong: np.ndarray, name: str) -> Finding:
        """The finding of what is right everywhere but on the kink itself."""
        words = "at a kink it lies outside of the slopes on its sides, so it is none of them"
        indices = seen.worst(i, wrong)
        return Finding(self.target.paths[i], "local-derivative", words, indices, "", name)


def _strength(seen: Seen) -> list[float]:
    """For each leaf the relative error that would have been found in any of its elements."""
    return [
        float(np.max(a, initial=0, where=np.isfinite(a))) / typical(e)
        for a, e in zip(seen.allowed, seen.exact, strict=True)
    ]
