"""What a check found, to be read by people and by programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

CAUSES = {
    "scale": "the gradient is a constant times what it must be",
    "sign": "it has the wrong sign",
    "transpose": "it is transposed",
    "permutation": "its entries are in another order",
    "swapped": "it is the gradient of another argument",
    "zero": "it is 0",
    "extra-term": "something that is known by name has been added",
    "missing-term": "something that is known by name has been left out",
    "some-examples": "only some of the examples count",
    "some-elements": "it is wrong at some elements and right at all others",
    "wrong-operand": "the backward pass used another tensor than it must, or a transposed one",
    "other-branch": "it is the gradient of the forward with one branch taken everywhere",
    "edge": "the derivative along one path of the forward is cut or scaled",
    "local-derivative": "the derivative of one operation is another function",
    "nonlinear": "it is not linear in the cotangent",
    "ignores-cotangent": "it does not depend on the cotangent",
    "constant-term": "it is not 0 where the cotangent is",
    "precision": "more digits are lost than need be",
    "nonfinite": "it holds NaN or infinity",
    "structure": "what comes back has not the structure, shapes or dtypes of the arguments, or an "
    "example moves what comes of another",
    "nondeterministic": "a second call, a compiled or a vmapped one gives something else",
    "primal-mismatch": "the forward under differentiation returns something else",
    "unexplained": "it is wrong in none of these ways",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one gradient."""

    path: str  # such as args[0]['w']; "" where it concerns no argument
    cause: str  # a key of CAUSES
    message: str
    indices: tuple[tuple[int, ...], ...] = ()  # of wrong elements, the worst first
    source: str = ""  # file:line of the forward expression whose derivative is wrong
    regime: str = "given"
    code: str = ""  # that expression, where the file can be read


class WrongGradient(AssertionError):
    """What `Report.raise_if_failed` raises; its text is the report."""


@dataclass(frozen=True)
class Report:
    """The verdict on a function's gradients: true where nothing is wrong, and readable as a page.

    findings     what is wrong
    power        for each argument, the smallest relative error that would have been found
    regimes      at which kinds of values it was looked at
    notes        what is not wrong but worth knowing, such as the choice at a kink
    example      small arguments at which it is wrong too, where such were found
    """

    findings: tuple[Finding, ...]
    power: Mapping[str, float]
    regimes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    example: tuple[Any, ...] | None = None

    def __bool__(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        if self:
            weakest = max(self.power.values(), default=0.0)
            lines = [
                f"gradients right: all {len(self.power)}, at {self._where()} values; "
                f"a relative error of {weakest:.0e} in any of them would have been found"
            ]
        else:
            n = len(self.findings)
            lines = [f"gradients WRONG: {n} finding" + "s" * (n > 1)]
        alike: dict[Any, list[Finding]] = {}
        for f in self.findings:
            alike.setdefault((f.cause, f.regime, f.code, f.message, f.source), []).append(f)
        for (cause, regime, code, message, source), several in alike.items():
            names = ", ".join(f.path or "the function" for f in several)
            lines.append(f"  {names}: {self._called(cause)}, at {regime} values")
            place = f"in the derivative of `{code}`: " if code else ""
            lines.append(f"    {place}{message}" + (f" ({source})" if source else ""))
            for f in several:
                of = f" of {f.path}" if len(several) > 1 else ""
                shown = ", ".join(str(list(i)) for i in f.indices[:5])
                more = " ..." if len(f.indices) > 5 else ""
                lines += [f"    worst{of} at {shown}{more}"] * bool(f.indices)
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _called(self, cause: str) -> str:
        return f"{cause} ({CAUSES[cause]})"

    def _where(self) -> str:
        """The regimes, what several of them share said once."""
        told: dict[str, list[str]] = {}
        for regime in self.regimes:
            name, _, where = regime.partition(" (")
            told.setdefault(where.rstrip(")"), []).append(name)
        return "; ".join(
            f"{where}: {', '.join(names)}" if where else ", ".join(names)
            for where, names in told.items()
        )

    def at(self, where: str) -> "Report":
        """The same, its regimes told by where as well."""
        return replace(
            self,
            findings=tuple(replace(f, regime=f"{f.regime} ({where})") for f in self.findings),
            regimes=tuple(f"{regime} ({where})" for regime in self.regimes),
        )

    def raise_if_failed(self) -> None:
        """Raises WrongGradient, whose text is the report, where there are findings."""
        if not self:
            raise WrongGradient(str(self))


def together(reports: Sequence[Report]) -> Report:
    """One report of several."""
    power: dict[str, float] = {}
    for report in reports:
        for path, p in report.power.items():
            power[path] = max(p, power.get(path, 0.0))

    def joined(what: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(v for report in reports for v in getattr(report, what)))

    return Report(joined("findings"), power, joined("regimes"), joined("notes"))
