"""Slips that a backward pass can make, each made on purpose in the exact one.

The exact gradient is a program too, and a wrong one mostly that program with one thing about it
changed: a factor left out, a sum along another axis, one tensor taken for another. Every such edit
is made, and the gradients of all of them come from one compiled program, in which numbers, its
arguments, say what is edited.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.exact import exact_gradient
from jnn.gradcheck.flat import Flat
from jnn.gradcheck.primal import UNFUSED, Place, Walk, evaluated

MOST = 4000  # edits, and of numbers in the gradients of all of them
NUMBERS = 1e7
WORTH = 50  # edits at least, or none are made
FEW = 8  # turns that a loop may take beyond twice those that it did
EXCHANGED = " are exchanged"
CANDIDATES = 12  # tensors that may have been taken for another
TERMS = {"add", "sub", "add_any"}
CHOICES = {"select_n": 1, "max": 0, "min": 0, "clamp": 0}  # and their first operand to choose
PLACES = {"rev", "transpose", "conj"}  # operations of which a slip is one of places
SIBLINGS = {
    a.name: b
    for pair in (
        (jax.lax.max_p, jax.lax.min_p),
        (jax.lax.add_p, jax.lax.sub_p),
        (jax.lax.sin_p, jax.lax.cos_p),
        (jax.lax.argmax_p, jax.lax.argmin_p),
        (jax.lax.reduce_max_p, jax.lax.reduce_min_p),
    )
    for a, b in (pair, pair[::-1])
}
LEFT_OUT, ALONG, CHOSEN, TURNED, TAKEN, POWERS = range(6)  # kinds, the likelier first


class Edit(NamedTuple):
    """One change: how likely it is, the cause that it makes, a sentence, and where.

    Edits of one `group`, where that is not empty, are made together too, at one site each.
    """

    kind: int
    cause: str
    message: str
    source: Place
    group: str = ""


Option = tuple[Edit, Any]


@dataclass
class _Known:
    """A value of the program, kept that no other takes its place in memory."""

    value: Any
    name: str
    backward: bool  # whether it depends on the cotangent
    across: "_Across | None" = None


class _Across(NamedTuple):
    """What a value would be, had the sum that it comes from run along another axis.

    value   of full rank, 1 long along `axis`, which was summed instead of `lost`
    shape   of what was summed
    """

    value: Any
    lost: int
    axis: int
    shape: tuple[int, ...]

    def edit(self, where: Place) -> Edit:
        words = f"it is summed along axis {self.axis} where it must be along axis {self.lost}"
        return Edit(ALONG, "wrong-operand", words, where, "along")

    def instead(self, operand: Any, across: "_Across | None") -> Any:
        """What stands for an operand beside it; None where nothing can."""
        if across is not None:
            return across.value
        if jnp.ndim(operand) == 0:
            count = self.shape[self.lost]
            for given, other in (
                (count, self.shape[self.axis]),
                (1 / count, 1 / self.shape[self.axis]),
            ):
                if isinstance(operand, np.ndarray | float | int | np.generic) and operand == given:
                    return np.asarray(other, np.asarray(operand).dtype)
            return operand
        return (
            operand
            if jnp.ndim(operand) == len(self.shape)
            and operand.shape[self.lost] == self.shape[self.lost]
            else None
        )


class _Edited(Walk):
    """A walk that puts at each site the option that `picks` tells the number of."""

    once = True

    def __init__(self, names: Sequence[str], picks: Any = None):
        super().__init__()
        self.names, self.picks = names, picks or {}
        self.sites: dict[tuple[Any, ...], list[Edit]] = {}
        self.known: dict[int, _Known] = {}
        self.scope: list[_Known] = []
        self.uses: Counter[Any] = Counter()
        self.slopes: set[Place] = set()  # of elementwise functions, whose derivatives are there too
        self.inside = False  # a body, all of which is taken to depend on the cotangent

    def choose(self, key: tuple[Any, ...], value: Any, options: Sequence[Option]) -> Any:
        """The value, or the option that stands in its place."""
        site = (self.place, *key)
        if not options:
            return value
        self.sites[site] = [edit for edit, _ in options]
        if site not in self.picks:
            return value
        cases = [jnp.broadcast_to(v, jnp.shape(value)).astype(value.dtype) for _, v in options]
        return jax.lax.select_n(self.picks[site], value, *cases)

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        jaxpr = getattr(program, "jaxpr", program)
        self.uses.update(v for eqn in jaxpr.eqns for v in eqn.invars if not hasattr(v, "val"))
        if not self.place:
            args = [
                self.learned(a, name, name.startswith("the cotangent"), ("argument", i), Place())
                for i, (a, name) in enumerate(zip(args, self.names, strict=True))
            ]
            self.scope += map(self.of, args)
            consts = [
                self.learned(c, "a constant", False, ("constant", i), Place())
                for i, c in enumerate(program.consts)
            ]
            program = _Program(jaxpr, consts)
        return super().run(program, args)

    def within(self, eqn: Any, f: Callable[[], list[Any]]) -> list[Any]:
        outer, self.scope = self.scope, list(self.scope)
        was, self.inside = self.inside, True
        results = f()
        self.scope, self.inside = outer, was
        return results

    def of(self, value: Any) -> _Known:
        """What is known of a value."""
        return self.known.get(id(value)) or _Known(value, "a constant", self.inside)

    def learned(
        self, value: Any, name: str, backward: bool, key: tuple[Any, ...], where: Place
    ) -> Any:
        """A new value as it stands in the program, with all that may stand there instead."""
        known = _Known(value, name, backward)
        value = self.choose(key, value, list(self.instead(known, where)))
        self.known[id(value)] = _Known(value, name, backward)
        return value

    def _while(self, eqn: Any, values: list[Any]) -> list[Any]:
        plain = Walk()
        plain.wide, plain.around = self.wide, self.around
        *_, turns = plain.turned(eqn, values)
        return self.turned(eqn, values, 2 * turns + FEW)[:-1]  # an edited one may never end

    def given(self, eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        where, changed = self.where(eqn), list(values)
        backward = any(self.of(v).backward for v in values)
        for i, v in enumerate(values):
            if not hasattr(eqn.invars[i], "val") and self.uses[eqn.invars[i]] > 1:
                at = f" in `{eqn.primitive.name}`"
                options = list(self.instead(self.of(v), where, at, backward))
                changed[i] = self.choose(("operand", i), v, options)
        if eqn.primitive.name == "cond":
            count = len(eqn.params["branches"])
            options = [
                (Edit(CHOSEN, "other-branch", f"it is that of branch {i}", where), jnp.int32(i))
                for i in range(count)
            ]
            changed[0] = self.choose(("branch",), values[0], options)
        return changed

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        where = self.where(eqn)
        backward = self.inside or any(self.of(v).backward for v in values)
        found = []
        for k, y in enumerate(results):
            if not hasattr(y, "dtype"):
                found.append(y)
                continue
            if len(values) == 1 and not backward and jnp.shape(values[0]) == y.shape:
                self.slopes.add(where)
            options, known = [], _Known(y, "", backward)
            if len(results) == 1 and _floating(y):
                options = [
                    *self.left_out(eqn, values, y, backward),
                    *_otherwise(eqn, values, where, self.bind),
                ]
                options += self.along(eqn, values, known)
            y = self.choose(("result", k), y, options)
            y = self.learned(y, self.called(eqn), backward, ("value", k), where)
            self.of(y).across = known.across
            if not all(hasattr(v, "val") for v in eqn.invars):
                self.scope.append(self.of(y))
            found.append(y)
        return found

    # What may stand in place of a value.

    def instead(
        self, known: _Known, where: Place, at: str = "", paired: bool = False
    ) -> Iterator[Option]:
        """Something made from it, or another of its shape and dtype; with which it may be `paired`,
        each standing where the other belongs."""
        value, name = known.value, known.name
        shape = jnp.shape(value)
        if not shape or not hasattr(value, "dtype") or jnp.size(value) < 2:
            return
        if value.dtype == bool:
            words = f"{name} is taken for its opposite{at}"
            yield Edit(CHOSEN, "wrong-operand", words, where), ~value
        floating = _floating(value)
        if not (floating or value.dtype == bool or jnp.issubdtype(value.dtype, jnp.integer)):
            return
        for axis, n in enumerate(() if name.startswith("`") else shape):
            moved = [("reversed", jnp.flip(value, axis))] * (n > 1)
            moved += [(f"shifted by {by}", jnp.roll(value, by, axis)) for by in (1, -1)] * (n > 2)
            for how, v in moved:
                group = f"{how} {axis} {shape}" if name == "a constant" and not at else ""
                words = f"{name} is taken {how} along axis {axis}{at}"
                yield Edit(TURNED, "wrong-operand", words, where, group), v
        for axes in ((0, 1), (-2, -1), (1, 2)):
            if (
                len(shape) > max(axes)
                and len(shape) >= -min(axes)
                and shape[axes[0]] == shape[axes[1]]
            ):
                words = f"{name} is taken transposed{at}"
                yield Edit(TURNED, "wrong-operand", words, where), jnp.swapaxes(value, *axes)
                if len(shape) == 2:
                    break
        if jnp.iscomplexobj(value):
            yield Edit(TURNED, "wrong-operand", f"{name} is conjugated{at}", where), value.conj()
        if floating:
            cause = "local-derivative" if name.startswith("`") else "wrong-operand"
            yield Edit(POWERS, cause, f"{name} has the other sign{at}", where), -value
            if not known.backward:
                words = f"{name} is squared{at}"
                yield Edit(POWERS, "local-derivative", words, where), jnp.square(value)
            alike = [
                k
                for k in self.scope
                if k.value is not value
                and jnp.shape(k.value) == shape
                and k.value.dtype == value.dtype
                and k.backward == known.backward
            ]
            given = [k for k in alike if not k.name.startswith("`")]
            others = [k for k in alike if k.name.startswith("`")][-CANDIDATES:]
            for k in [*given, *others]:
                words = f"{k.name} stands where {name} belongs{at}"
                pair = " and ".join(sorted((k.name, name))) + EXCHANGED
                yield Edit(TAKEN, "wrong-operand", words, where, pair * paired), k.value

    def left_out(self, eqn: Any, values: Sequence[Any], y: Any, backward: bool) -> Iterator[Option]:
        """One of its operands, as if the operation with the others had been forgotten."""
        name, where = eqn.primitive.name, self.where(eqn)
        if name == "select_n":
            which, *cases = values
            if len(cases) == 2 and which.dtype == bool:
                words = "the two sides of a choice are exchanged"
                yield (
                    Edit(CHOSEN, "wrong-operand", words, where),
                    self.bind(eqn, [jnp.logical_not(which), *cases])[0],
                )
            for case in cases:
                words = "one side of a choice is taken everywhere"
                yield Edit(CHOSEN, "other-branch", words, where), case
            return
        if len(values) == 1:
            (v,) = values
            if jnp.shape(v) == y.shape and getattr(v, "dtype", None) == y.dtype:
                edge = name == "neg" and backward
                cause = (
                    "wrong-operand" if name in PLACES else "edge" if edge else "local-derivative"
                )
                yield Edit(LEFT_OUT, cause, f"`{name}` is missing", where), v
            return
        if name not in {*TERMS, "mul", "div", "max", "min", "pow"}:
            return
        what = "term" if name in TERMS else "factor"
        for v, var, lost in zip(values, eqn.invars, self.named(eqn, values)[::-1], strict=True):
            constant = name in ("mul", "div") and hasattr(eqn.invars[var is eqn.invars[0]], "val")
            cause = "missing-term" if name == "add" and not backward else "local-derivative"
            if backward and (name in TERMS or constant) and where not in self.slopes:
                cause = "edge"
            group = f"{name} {lost}" if backward and constant else ""
            words = f"the {what} {lost} of `{name}` is missing"
            v = 1 / v if name == "div" and var is eqn.invars[1] else v
            yield Edit(LEFT_OUT, cause, words, where, group), v

    def named(self, eqn: Any, values: Sequence[Any]) -> list[str]:
        """What its operands are called; scalars by what they are."""
        return [
            f"{np.asarray(var.val).item():.6g}"
            if hasattr(var, "val") and not np.ndim(var.val)
            else self.of(v).name
            for var, v in zip(eqn.invars, values, strict=True)
        ]

    def along(self, eqn: Any, values: Sequence[Any], y: _Known) -> Iterator[Option]:
        """The other axis for a sum: at once if its shape stays, else where it is spread again."""
        name, where, shape = eqn.primitive.name, self.where(eqn), y.value.shape
        if len(eqn.params.get("axes", ())) == 1 and len(values) == 1 and _floating(values[0]):
            (v,), (lost,) = values, eqn.params["axes"]
            for axis in {*range(v.ndim)} - {lost}:
                (other,) = self.bind(
                    _Other(eqn.primitive, {**eqn.params, "axes": (axis,)}, eqn.source_info), [v]
                )
                across = _Across(jnp.expand_dims(other, axis), lost, axis, v.shape)
                if other.shape == shape:
                    yield across.edit(where), other
                elif y.across is None:
                    y.across = across
            return
        across = next((a for v in values if (a := self.of(v).across)), None)
        if across is None:
            return
        made = across.value
        if name not in ("broadcast_in_dim", "reshape", "squeeze"):
            operands = [across.instead(v, self.of(v).across) for v in values]
            if any(v is None for v in operands):
                return
            try:
                made = self.bind(eqn, operands)[0]
            except Exception:  # JAX has many for an operation that fits no shape but its own
                return
        if made.shape == across.value.shape and made.shape != shape:
            y.across = across._replace(value=made)
        if made.ndim != len(across.shape) or made.ndim != len(shape):
            return
        fits = all(m in (1, n) for m, n in zip(made.shape, shape, strict=True))
        if fits and shape[across.lost] == across.shape[across.lost]:
            yield across.edit(where), jnp.broadcast_to(made, shape)


class _Program(NamedTuple):
    """A jaxpr with other constants."""

    jaxpr: Any
    consts: Sequence[Any]


class _Other(NamedTuple):
    """An equation with other parameters."""

    primitive: Any
    params: dict[str, Any]
    source_info: Any


def _otherwise(eqn: Any, values: Sequence[Any], where: Place, bind: Any) -> Iterator[Option]:
    """The result of an operation that is taken for this one."""
    name, params = eqn.primitive.name, eqn.params
    if name in SIBLINGS:
        other = _Other(SIBLINGS[name], params, eqn.source_info)
        words = f"`{other.primitive.name}` stands for `{name}`"
        yield Edit(LEFT_OUT, "local-derivative", words, where), bind(other, values)[0]
    if "reverse" in params and name.startswith("cum"):
        other = _Other(eqn.primitive, {**params, "reverse": not params["reverse"]}, eqn.source_info)
        words = f"`{name}` runs from the other end"
        yield Edit(ALONG, "wrong-operand", words, where), bind(other, values)[0]
    if name == "integer_pow":
        for y in (params["y"] - 1, params["y"] + 1):
            other = _Other(eqn.primitive, {**params, "y": y}, eqn.source_info)
            words = f"the power is {y} where it must be {params['y']}"
            yield Edit(POWERS, "local-derivative", words, where), bind(other, values)[0]


@dataclass(frozen=True)
class Edits:
    """All edits of the gradient of a reference at some arguments."""

    reference: Flat
    names: tuple[str, ...]

    def walked(self, walk: _Edited, leaves: Any, others: Any, v: Any) -> tuple[Any, ...]:
        """The gradient, by that walk."""

        def backward(*at: Any) -> Any:
            return exact_gradient(self.reference, *at)[1]

        return evaluated(backward, (leaves, others, v), walk)

    def gradients(
        self, leaves: Any, others: Any, v: Any
    ) -> tuple[list[Edit], tuple[np.ndarray, ...]]:
        """Each edit, and for each leaf the gradients that they make, stacked."""
        most = min(MOST, int(NUMBERS / sum(a.size for a in (*leaves, *v))))
        if most < WORTH:
            return [], ()
        walk = _Edited(self.names)
        jax.eval_shape(partial(self.walked, walk), leaves, others, v)
        sites = tuple(walk.sites)
        single = [
            (edit, ((k, n),))
            for k, site in enumerate(sites)
            for n, edit in enumerate(walk.sites[site], 1)
        ]
        groups: dict[str, list[tuple[int, int]]] = {}
        for edit, picks in single:
            if edit.group:
                groups.setdefault(edit.group, []).extend(picks)
        first = {edit.group: edit for edit, _ in reversed(single)}
        several = [
            (first[g]._replace(message=g) if g.endswith(EXCHANGED) else first[g], tuple(picks))
            for g, picks in groups.items()
            if len(picks) > 1
        ]
        made = sorted([*single, *several], key=lambda made: made[0].kind)[:most]
        rows = np.zeros((len(made), len(sites)), np.int32)
        for row, (_, picks) in zip(rows, made, strict=True):
            for k, n in picks:
                row[k] = n
        found = _gradients(self, sites, leaves, others, v, jnp.asarray(rows))
        return [edit for edit, _ in made], tuple(map(np.asarray, found))


@partial(jax.jit, static_argnums=(0, 1), compiler_options=UNFUSED)
def _gradients(of: Edits, sites: Any, leaves: Any, others: Any, v: Any, rows: jax.Array) -> Any:
    def gradient(row: jax.Array) -> Any:
        walk = _Edited(of.names, dict(zip(sites, row, strict=True)))
        return of.walked(walk, leaves, others, v)

    return jax.lax.map(gradient, rows)


def _floating(v: Any) -> bool:
    return hasattr(v, "dtype") and bool(jnp.issubdtype(v.dtype, jnp.inexact))
