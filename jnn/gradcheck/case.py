"""One wrong gradient, and when two numbers or tensors are taken for the same."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jnn.gradcheck.edits import Edit
from jnn.gradcheck.primal import Place
from jnn.gradcheck.variants import Variant

EXPLAINED = 1e-7  # of the gradient's norm may be left over
ENOUGH = 12  # elements, to tell a factor of each by


class Cause(NamedTuple):
    """A key of `report.CAUSES`, and the sentence that says more."""

    cause: str
    message: str
    source: Place = Place()


class Case(NamedTuple):
    """One leaf whose gradient is wrong, and what is known around it."""

    path: str
    hand: np.ndarray
    exact: np.ndarray
    wrong: np.ndarray  # which elements
    rounded: bool  # whether twice the cotangent gives twice of it, and sums not quite their sum
    others: Mapping[str, np.ndarray]  # the exact gradients of the other leaves
    known: Mapping[str, np.ndarray]  # arguments, outputs, cotangents by name
    constants: Mapping[str, float]  # by name, to recognise a factor by
    integers: Mapping[str, np.ndarray]  # the arguments that hold integers, by name
    # What each example adds to the exact gradient, or each place along another axis of the output.
    examples: Callable[[int], np.ndarray | None]
    # The primal's variants, the gradient that each gives, and whether those of the other leaves
    # are what the function gives too.
    variants: Callable[[], list[tuple[Variant, np.ndarray, bool]]]
    edits: Callable[[], list[tuple[Edit, np.ndarray, bool]]]  # likewise of the exact gradient
    # Of what, along which axis, elements depend on what stands elsewhere, and whether they must.
    mixed: Callable[[], list[tuple[str, int, bool, bool]]]
    depends: Callable[[], Mapping[str, tuple[bool, bool]]]  # does and must it, by argument
    values: Callable[[], Mapping[str, np.ndarray]]  # what the primal computes on its way, by name


def multiple(hand: np.ndarray, exact: np.ndarray) -> float | None:
    """k where hand = k exact, neither being 0."""
    square = float(np.vdot(exact, exact))
    if not square:
        return None
    k = float(np.vdot(hand, exact)) / square
    return k if k and norm(hand - k * exact) <= EXPLAINED * norm(hand) else None


def same(hand: np.ndarray, guess: np.ndarray) -> bool:
    """Whether a guess leaves next to nothing of it."""
    return hand.shape == guess.shape and norm(hand - guess) <= EXPLAINED * norm(guess)


def norm(v: np.ndarray) -> float:
    """The Euclidean norm of all elements."""
    return float(np.linalg.norm(v))


def named(k: float, constants: Mapping[str, float]) -> str:
    """The number, and what it is recognised as."""
    for name, value in constants.items():
        if math.isclose(k, value, rel_tol=EXPLAINED):
            return f"{k:.6g} ({name})"
    return f"{k:.6g}"


def listed(numbers: Sequence[int] | np.ndarray) -> str:
    """The first few of them."""
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
    root = math.sqrt(2 * math.pi)
    found |= {"1/2": 0.5, "sqrt(2 pi)": root, "1/sqrt(2 pi)": 1 / root, "ln 2": math.log(2)}
    sizes: dict[int, str] = {}
    for name, shape in shapes.items():
        for axis, n in enumerate(shape):
            sizes.setdefault(n, f"axis {axis} of {name}")
        sizes.setdefault(math.prod(shape), f"all of {name}")
    for n, name in sizes.items():
        if n > 2:
            forms = {f"{n}": n, f"1/{n}": 1 / n, f"{n}/{n - 1}": n / (n - 1)}
            if math.isqrt(n) ** 2 != n:
                forms |= {f"sqrt({n})": math.sqrt(n), f"1/sqrt({n})": 1 / math.sqrt(n)}
            forms |= {f"{n - 1}/{n}": (n - 1) / n}
            for form, value in forms.items():
                of = f"the length of {name}"
                found.setdefault(of if value == n else f"{form}, {n} being {of}", value)
    for n, name in sizes.items():
        # Last, for 4 is more likely an axis of 4 than the root of one of 16.
        if n > 2 and (root := math.isqrt(n)) ** 2 == n:
            for form, value in ((f"sqrt({n})", root), (f"1/sqrt({n})", 1 / root)):
                found.setdefault(f"perhaps {form}, {n} being the length of {name}", value)
    found |= {f"-{name}": -value for name, value in found.items()}
    return found
