"""How a planted bug is written: a function with a right backward, and slips that exchange a part.

A backward is `backward(*args, dy)` and returns a gradient for each argument, None for integers. A
slip names the argument whose gradient it spoils by keyword, `w=lambda x, w, b, dy: ...`, or the
`backward` as a whole. What it says of itself is written from what was done, not from what a checker
calls it.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Callable_ = Callable[..., Any]


class Slip(NamedTuple):
    """A change of a function's backward: a bug, or if it has no causes a rewrite."""

    causes: frozenset[str]  # the words that are true of it, of `jnn.gradcheck.report.CAUSES`
    rules: Mapping[str, Callable_]
    words: str  # what the message should hold
    args: Mapping[str, Any]  # in place of the function's own
    backward: Callable_ | None
    under: Callable_ | None  # what the forward is under differentiation
    wrap: Callable_  # what is checked in place of the function, made from it


class Function(NamedTuple):
    """A function, its backward, and what is done to it."""

    name: str
    forward: Callable_
    backward: Callable_
    args: Mapping[str, Any]
    bugs: Mapping[str, Slip]
    rewrites: Mapping[str, Slip] = {}
    known: Mapping[str, float] = {}


class Case(NamedTuple):
    """One thing to check."""

    name: str
    f: Callable_  # with the hand-written backward
    plain: Callable_  # without
    args: tuple[Any, ...]
    causes: frozenset[str]
    words: str
    known: Mapping[str, float]
    spoiled: frozenset[str]  # the paths of the arguments whose gradients were spoiled, in a bug


def slip(
    *causes: str,
    words: str = "",
    args: Mapping[str, Any] | None = None,
    backward: Callable_ | None = None,
    under: Callable_ | None = None,
    wrap: Callable_ = lambda f: f,
    **rules: Callable_,
) -> Slip:
    """A bug that any of the causes names rightly."""
    return Slip(frozenset(causes), rules, words, args or {}, backward, under, wrap)


same = slip  # a rewrite, which has no causes


def part(rule: Callable_, number: int, **options: Any) -> Callable_:
    """One of the gradients that a rule with options returns."""
    return lambda *args_and_dy: rule(*args_and_dy, **options)[number]


def ruled(forward: Callable_, backward: Callable_, under: Callable_ | None = None) -> Callable_:
    """`forward`, with backward(*args, dy) as its derivative."""
    f = jax.custom_vjp(lambda *args: forward(*args))  # no defaults of its parameters
    f.defvjp(
        lambda *args: ((under or forward)(*args), args),
        lambda args, dy: tuple(backward(*args, dy)),
    )
    return f


def planted(functions: Iterable[Function]) -> list[Case]:
    """The bugs of these functions."""
    return [_case(f, name, s) for f in functions for name, s in f.bugs.items()]


def equivalents(functions: Iterable[Function]) -> list[Case]:
    """These functions as they are, and their rewrites."""
    return [
        _case(f, name, s)
        for f in functions
        for name, s in [("as it is", same()), *f.rewrites.items()]
    ]


def _case(function: Function, name: str, slip: Slip) -> Case:
    args = {**function.args, **slip.args}
    assert slip.rules.keys() | slip.args.keys() <= function.args.keys(), (function.name, name)
    right = slip.backward or function.backward

    def backward(*args_and_dy: Any) -> list[Any]:
        found = right(*args_and_dy)
        return [
            slip.rules[arg](*args_and_dy) if arg in slip.rules else part
            for arg, part in zip(args, found, strict=True)
        ]

    spoiled = frozenset(
        f"args[{i}]" for i, arg in enumerate(args) if not slip.rules or arg in slip.rules
    )
    return Case(
        f"{function.name}: {name}",
        slip.wrap(ruled(function.forward, backward, slip.under)),
        slip.wrap(function.forward),
        tuple(args.values()),
        slip.causes,
        slip.words,
        function.known,
        spoiled,
    )


def normal(name: str, *shape: int) -> np.ndarray:
    """A Gaussian float32 array, another one for each name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(shape).astype(np.float32)
