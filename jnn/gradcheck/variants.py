"""Slips that a backward pass can make, each made on purpose in the derivative of a primal.

Every variant is the primal with one thing about its derivative changed, or one choice of its
forward forced. The gradients of all of them come from one compiled program, in which a vector of
switches, an argument, says what is changed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.flat import Flat, floats
from jnn.gradcheck.primal import BRIEFLY, Place, Walk

LINEAR = {"neg", "convert_element_type", "transpose", "rev", "copy", "reduce_precision"}
BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
CHOICES = {"select_n": 1, "max": 0, "min": 0}  # and their first operand that may be chosen
CANDIDATES = 16  # tensors that may have been taken for another, for each operand
MOST = 600  # variants, and of numbers in the gradients of all of them
NUMBERS = 2e7
# What the derivative of y = f(x) is, and what else than y it is taken for.
SLIPS: dict[str, tuple[str, dict[str, Callable[[Any, Any], Any]]]] = {
    "tanh": (
        "1 - y^2",
        {
            "1 - y": lambda x, y: 1 - y,
            "1 + y^2": lambda x, y: 1 + y * y,
            "1 - x^2": lambda x, y: 1 - x * x,
            "y^2": lambda x, y: y * y,
        },
    ),
    "logistic": (
        "y (1 - y)",
        {
            "1 - y": lambda x, y: 1 - y,
            "y (1 + y)": lambda x, y: y * (1 + y),
            "x (1 - x)": lambda x, y: x * (1 - x),
        },
    ),
    "exp": ("y", {"x": lambda x, y: x}),
}
NEAR = 10  # values of the primal that may have been kept for another, for each value
# The likelier first.
KINDS = "edge", "own", "output", "formula", "branch", "forced", "operand", "kept"


class Variant(NamedTuple):
    """One change.

    kind   "edge": the derivative along one operand is cut; "line": along all operands of one line
           "own": the derivative of an elementwise function is 1
           "output": it is taken at its output; "formula": it is one of SLIPS
           "operand": a product's derivative takes `other` for its other factor
           "branch": the derivative of a choice goes one way everywhere; "forced": so does its value
           "kept": all that follows is differentiated where the value is `other`
    """

    kind: str
    primitive: str
    operand: int
    source: Place
    other: str = ""
    meant: str = ""  # what `other` stands in place of


Key = tuple[Any, ...]


class _Kept(Walk):
    """A walk that keeps what is computed outside of loops, by its place and with its name."""

    once = True

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = names
        self.values: dict[Key, tuple[str, Any]] = {}

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        if not self.place:
            for i, named in enumerate(zip(self.names, args, strict=True)):
                self.values["argument", i] = named
        return super().run(program, args)

    def within(self, eqn: Any, f: Callable[[], list[Any]]) -> list[Any]:
        outer, self.values = self.values, {}
        results = f()
        self.values = outer
        return results

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        if len(results) == 1:
            self.values[self.place] = self.called(eqn), results[0]
        return results


class _Changes(Walk):
    """A walk that makes the changes that are `on`, by their key; with None it only lists them."""

    once = True

    def __init__(self, names: Sequence[str], on: dict[Key, Any] | None = None):
        super().__init__()
        self.on, self.listed = on, {}
        self.kept: dict[Key, tuple[str, Any]] = {}
        self.scope: list[tuple[str, Any]] = []
        self.names = names

    def change(
        self, kind: str, eqn: Any, operand: int, other: str = "", meant: str = "", number: int = 0
    ) -> Any:
        """Whether it is on, a traced bool; None where it cannot be."""
        key = (self.place, kind, operand, number)
        where = Variant(kind, eqn.primitive.name, operand, self.where(eqn), other, meant)
        self.listed.setdefault(key, where)
        return None if self.on is None else self.on.get(key)

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        if not self.place:
            args = [self.instead(("argument", i), v, Place()) for i, v in enumerate(args)]
            self.scope += zip(self.names, args, strict=True)
        return super().run(program, args)

    def within(self, eqn: Any, f: Callable[[], list[Any]]) -> list[Any]:
        outer, self.scope = self.scope, list(self.scope)  # what is computed inside stays there
        kept, self.kept = self.kept, {}
        results = f()
        self.scope, self.kept = outer, kept
        return results

    def instead(self, at: Key, value: Any, where: Place) -> Any:
        """The value, or what may have been kept for it; its own derivative stays."""
        if at not in self.kept or not _floating(value) or jnp.size(value) < 2:
            return value
        all_kept, here = list(self.kept.values()), list(self.kept).index(at)
        outwards = sorted(range(len(all_kept)), key=lambda i: abs(i - here))[1:]
        alike = (
            all_kept[i]
            for i in outwards
            if jnp.shape(all_kept[i][1]) == jnp.shape(value) and all_kept[i][1].dtype == value.dtype
        )
        off, still = None, jax.lax.stop_gradient(value)
        for number, (name, other) in enumerate(islice(alike, NEAR)):
            key = at, "kept", 0, number
            self.listed.setdefault(key, Variant("kept", "", 0, where, name, self.kept[at][0]))
            if self.on is not None and (on := self.on.get(key)) is not None:
                off = jnp.where(on, other - still, 0 if off is None else off)
        return value if off is None else value + off

    def given(self, eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        changed = list(values)
        for i, v in enumerate(values):
            first = next(j for j, w in enumerate(values) if w is v)  # of x * x both are one edge
            if _floating(v) and (on := self.change("edge", eqn, first)) is not None:
                changed[i] = jnp.where(on, jax.lax.stop_gradient(v), v)
        return changed

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        if len(results) == 1 and _floating(results[0]):
            y, name = results[0], eqn.primitive.name
            if len(values) == 1:
                y = self.slopes(eqn, name, values[0], y, lambda v: self.bind(eqn, [v])[0])
            if name in BILINEAR:
                y = self.operands(eqn, values, y)
            if name in CHOICES:
                y = self.branches(eqn, values, y, CHOICES[name])
            results = [self.instead(self.place, y, self.where(eqn))]
        self.scope += [(self.called(eqn), r) for r in results if _floating(r) and jnp.ndim(r)]
        return results

    def called_for(self, eqn: Any, values: Sequence[Any], f: Any) -> list[Any]:
        results, name = f(self, values), eqn.params.get("name")
        varying = [i for i, v in enumerate(eqn.invars) if not hasattr(v, "val")]
        if name is None or len(results) != 1 or len(varying) != 1:
            return results

        def plainly(v: Any) -> Any:
            walk, at = Walk(), list(values)
            walk.wide, at[varying[0]] = self.wide, v
            return f(walk, at)[0]

        (y,), x = results, values[varying[0]]
        changed = self.slopes(eqn, name, x, y, plainly)
        self.scope = [(called, changed if v is y else v) for called, v in self.scope]
        return [changed]

    def slopes(self, eqn: Any, name: str, x: Any, y: Any, f: Callable[[Any], Any]) -> Any:
        """The derivative of y = f(x) is another function."""
        if not (_floating(x) and _floating(y)) or jnp.shape(x) != y.shape or x.dtype != y.dtype:
            return y
        still, start = jax.lax.stop_gradient(y), jax.lax.stop_gradient(x)
        moving = x - start
        if (on := self.change("own", eqn, 0, name)) is not None:
            y = jnp.where(on, still + moving, y)
        if name in LINEAR:
            return y
        if (on := self.change("output", eqn, 0, name)) is not None:
            at = jnp.where(on, still, start)  # NaN at the other would spoil what is not even on
            y = jnp.where(on, still + jax.jvp(f, (at,), (moving,))[1], y)
        right, slips = SLIPS.get(name, ("", {}))
        for number, (slip, slope) in enumerate({"y": lambda x, y: y, **slips}.items()):
            words = f"{slip}, where it is {right}" if right else slip
            if (on := self.change("formula", eqn, 0, name, words, number)) is not None:
                y = jnp.where(on, still + slope(start, still) * moving, y)
        return y

    def operands(self, eqn: Any, values: Sequence[Any], y: Any) -> Any:
        """The derivative with respect to one factor of a product takes another for the other."""
        for i, meant in enumerate(values):
            factor = values[1 - i]
            if not _floating(meant) or not _floating(factor) or not jnp.size(meant) > 1:
                continue
            taken = None
            called = next((n for n, v in reversed(self.scope) if v is meant), "the other factor")
            for number, (name, other) in enumerate(self._alike(meant)):
                on = self.change("operand", eqn, 1 - i, name, called, number)
                if on is not None:
                    taken = jnp.where(on, other, meant if taken is None else taken)
            if taken is None:
                continue
            # inf - inf would spoil what is not even on.
            off = jax.lax.stop_gradient(jnp.where(taken == meant, 0, taken - meant))
            moving = factor - jax.lax.stop_gradient(factor)
            pair = (off, moving) if i == 0 else (moving, off)
            y += self.bind(eqn, pair)[0]
        return y

    def branches(self, eqn: Any, values: Sequence[Any], y: Any, first: int) -> Any:
        for i, v in enumerate(values[first:], first):
            if jnp.shape(v) != y.shape or not _floating(v):
                continue
            if (on := self.change("branch", eqn, i)) is not None:
                y = jnp.where(on, jax.lax.stop_gradient(y) + v - jax.lax.stop_gradient(v), y)
            if (on := self.change("forced", eqn, i)) is not None:
                y = jnp.where(on, v, y)
        return y

    def _alike(self, meant: Any) -> Iterator[tuple[str, Any]]:
        """What could have been taken for a factor: transposed, 1, or another of its shape."""
        if jnp.ndim(meant) == 2 and len({*meant.shape}) == 1:
            yield "its transpose", meant.T
        yield "1", jnp.ones_like(meant)
        last = [
            (name, v)
            for name, v in self.scope
            if v is not meant and jnp.shape(v) == jnp.shape(meant) and v.dtype == meant.dtype
        ]
        yield from last[:CANDIDATES]


@dataclass(frozen=True)
class Variants:
    """All changes to a primal at some arguments, and the gradients that they give."""

    primal: Flat
    names: tuple[str, ...]

    def listed(self, leaves: Any, others: Any) -> dict[Key, Variant]:
        """What can be changed."""
        walk = _Changes(self.names)

        def walked(leaves: Any, others: Any) -> Any:
            walk.kept = self.kept(leaves, others)
            return self.primal.walked(walk, leaves, others)

        jax.eval_shape(walked, leaves, others)
        return walk.listed

    def kept(self, leaves: Any, others: Any) -> dict[Key, tuple[str, Any]]:
        """What may have been kept, with its name, in the order in which it is computed."""
        walk = _Kept(self.names)
        self.primal.walked(walk, leaves, others)
        return {at: named for at, named in walk.values.items() if _floating(named[1])}

    def gradients(
        self, leaves: Any, others: Any, v: Any
    ) -> tuple[list[Variant], tuple[np.ndarray, ...]]:
        """Each variant, and for each leaf the gradients that they give, stacked."""
        listed = self.listed(leaves, others)
        size = sum(a.size for a in (*leaves, *v))
        keys = sorted(listed, key=lambda key: KINDS.index(key[1]))
        keys = keys[: min(MOST, int(NUMBERS / size))]
        variants = [listed[key] for key in keys]
        rows = [np.arange(len(keys)) == k for k in range(len(keys))]
        lines: dict[str, list[int]] = {}
        for k, variant in enumerate(variants):
            if variant.kind == "edge" and variant.source.line:
                lines.setdefault(variant.source.line, []).append(k)
        for line, members in lines.items():
            if len(members) > 1:
                rows.append(np.isin(np.arange(len(keys)), members))
                variants.append(Variant("line", "", 0, Place(line)))
        if not rows:
            return [], ()
        found = _gradients(self, tuple(keys), leaves, others, v, jnp.asarray(np.stack(rows)))
        return variants, tuple(map(np.asarray, found))


@partial(jax.jit, static_argnums=(0, 1), compiler_options=BRIEFLY)
def _gradients(
    of: Variants, keys: tuple[Key, ...], leaves: Any, others: Any, v: Any, rows: jax.Array
) -> Any:
    kept = of.kept(leaves, others)

    def gradient(row: jax.Array) -> Any:
        def primal(*leaves: Any) -> Any:
            walk = _Changes(of.names, dict(zip(keys, row, strict=True)))
            walk.kept = kept
            return floats(of.primal.walked(walk, leaves, others))

        return jax.vjp(primal, *leaves)[1](v)

    return jax.lax.map(gradient, rows)


def _floating(v: Any) -> bool:
    dtype = v.dtype if hasattr(v, "dtype") else np.asarray(v).dtype
    return bool(jnp.issubdtype(dtype, jnp.floating))
