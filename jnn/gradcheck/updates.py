"""An optimizer's updates beside its formula's, and beside those of other formulas."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jnn.gradcheck.case import constants

FITS = 1e-6  # of an update a guess may be off; the verdict is stricter
ALIKE = 1e-5  # a ratio may vary that is called the same: eps moves it a little
USUAL = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)  # what moments fade by
SHORT = ("changing", "tiny", "zero")


class Variant(NamedTuple):
    """What the formula is given for t, g and x, and whether it forgets what it remembers."""

    time: Callable[[Any], Any] = lambda t: t
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, g: g
    parameter: Callable[[np.ndarray], np.ndarray] = lambda x: x
    forgets: bool = False


class Formula:
    """formula(t, x, g, *memory) -> (dx, *memory), for one array."""

    def __init__(self, formula: Any):
        if not callable(formula):
            raise ValueError(
                f"formula is {formula!r}; it must be formula(t, x, g, *memory) -> (dx, *memory)"
            )
        try:
            inspect.signature(formula).bind(1, 0, 0)
        except TypeError as error:
            raise ValueError(
                f"formula must take (t, x, g, *memory), memory with defaults to start from: {error}"
            ) from None
        self.formula = formula

    def follow(self, x: np.ndarray, gs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(xs, dxs), steps along the first axis, of a run that takes its own steps."""
        xs, dxs, memory = [], [], []
        for t, g in enumerate(gs, 1):
            dx, memory = self.step(t, x, g, memory)
            xs.append(x)
            dxs.append(dx)
            x = x + dx
        return np.stack(xs), np.stack(dxs)

    def again(self, xs: np.ndarray, gs: np.ndarray, variant: Variant) -> np.ndarray:
        """dxs for given parameters and gradients, were the formula another."""
        dxs, memory = [], []
        for t, (x, g) in enumerate(zip(xs, gs, strict=True), 1):
            given = variant.time(t), variant.parameter(x), variant.gradient(x, g)
            dx, memory = self.step(*given, [] if variant.forgets else memory)
            dxs.append(dx)
        return np.stack(dxs)

    def step(self, t: Any, x: np.ndarray, g: np.ndarray, memory: Sequence[Any]) -> Any:
        with np.errstate(all="ignore"):
            given: Any = self.formula(np.float64(t), x, g, *memory)
        dx, *memory = given if isinstance(given, tuple) else (given,)
        if np.shape(dx) != x.shape:
            raise ValueError(
                f"formula returned {np.shape(dx)} for an array of shape {x.shape}; it must return "
                "(dx, *memory), with dx of the shape of x, or dx alone"
            )
        return np.asarray(dx, np.float64), memory


class Run(NamedTuple):
    """One parameter in one run, steps along the first axis."""

    x: np.ndarray
    g: np.ndarray
    mine: np.ndarray
    right: np.ndarray
    allowed: np.ndarray  # the difference that rounding accounts for

    @property
    def off(self) -> np.ndarray:
        """Where it is wrong, for each step."""
        off = ~(abs(self.mine - self.right) <= self.allowed)
        return off.reshape(len(off), -1)

    def agrees(self, guess: np.ndarray, field: str = "mine") -> bool:
        """Whether the updates are all but a guess, and finite where that is."""
        of = getattr(self, field)
        near = abs(of - guess) <= self.allowed + FITS * (abs(of) + abs(guess))
        finite, guessed = np.isfinite(of), np.isfinite(guess)
        return bool(np.where(finite, near & guessed, ~guessed).all())


class Case:
    """One parameter whose updates are wrong, in `run` first, from step `first` on."""

    def __init__(self, formula: Formula, runs: Mapping[str, Run], known: Mapping[str, float]):
        self.formula, self.runs, self.known = formula, runs, known
        self.run = next(name for name, run in runs.items() if run.off.any())
        self.first = int(np.argmax(runs[self.run].off.any(axis=1))) + 1
        self.named_rates = [v for v in known.values() if USUAL[0] <= v < 1]
        self.rates = tuple(dict.fromkeys((*self.named_rates, *USUAL)))

    @property
    def changing(self) -> Run:
        return self.runs["changing"]

    def again(self, name: str, **changes: Any) -> np.ndarray:
        """The formula's updates in a run, were it another."""
        run = self.runs[name]
        return self.formula.again(run.x, run.g, Variant(**changes))

    def still(self, name: str, **changes: Any) -> np.ndarray:
        """The same for parameters that are 0, so that none decays."""
        return self.again(name, parameter=np.zeros_like, **changes)

    def fits(self, names: Sequence[str] = SHORT, field: str = "mine", **changes: Any) -> bool:
        """Whether the updates are those of this formula."""
        return all(self.runs[n].agrees(self.again(n, **changes), field) for n in names)

    @cached_property
    def decay(self) -> np.ndarray:
        """The formula's, with changing gradients; 0 where there is none."""
        decay = self.changing.right - self.still("changing")
        return decay if norm(decay) > FITS * norm(self.changing.right) else 0 * decay

    def named(self, k: float) -> str:
        """The number, and all that it is recognised as."""
        known = dict(self.known)
        if "lr" in known and "decay" in known:
            known["lr decay"] = known["lr"] * known["decay"]
        hits = [name for name, c in constants({}, known).items() if alike(k, c)]
        return f"{k:.6g}" + (f" = {' or '.join(hits)}" if hits else "")


def factors(mine: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """For each step the k of mine = k right, NaN where none is to be had; None if there is none."""
    k = np.full(len(mine), np.nan)
    for t, (a, b) in enumerate(zip(mine, right, strict=True)):
        if np.isfinite(a).all() and np.isfinite(b).all() and b.any():
            k[t] = np.vdot(a, b) / np.vdot(b, b)
            if norm(a - k[t] * b) > ALIKE * norm(a):
                return None
    return k if np.isfinite(k).sum() > 1 else None


def constant(k: np.ndarray) -> bool:
    """Whether all are there, and one number."""
    return bool(np.isfinite(k).all() and np.ptp(k) <= ALIKE * abs(k).max())


def alike(a: float, b: float) -> bool:
    """Whether two numbers are one, for whoever reads them."""
    return math.isclose(a, b, rel_tol=ALIKE)


def norm(a: np.ndarray) -> float:
    """The Euclidean one, of all elements."""
    return float(np.linalg.norm(a))
