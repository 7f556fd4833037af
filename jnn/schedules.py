"""Schedules: functions of the step, for anything that anneals.

A schedule is any function step -> value that JAX can trace. The step counts the updates that were
made before, so update t takes value(t) and the first is update 0; a run of `steps` updates takes
the values 0 .. steps - 1.

Those made here are values: cosine(0.1, 100) == cosine(0.1, 100). They give a float32 (float64
where it is switched on) of the shape of `step`, an int32 that may be traced; the numbers that they
are made of may be traced too. Steps are compared as integers, so that joints and ends are exact
however far away they are. Nothing in them is about learning rates: momentum may follow
linear(0.5, steps, end=0.99).
"""
# ruff: noqa: N801  (they are written like functions, and are classes only to compare and to print)

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jnn.layer import Printed

Piece = float | Callable[[jax.Array], Any]  # a constant, or any schedule

LAST = 2**31 - 1  # the largest step there is: counters are int32 and stay there


class _Schedule(Printed):
    def __call__(self, step: Any) -> jax.Array:
        return jnp.asarray(self._value(jnp.asarray(step))).astype(float)

    def _value(self, step: jax.Array) -> jax.Array:
        """The formula."""
        raise NotImplementedError


@dataclass(frozen=True)
class constant(_Schedule):
    """The same at every update.

        value(t) = value

    Raises ValueError where `value` is not finite.

    >>> float(constant(0.5)(7))
    0.5
    """

    value: float

    def __post_init__(self) -> None:
        _check_numbers(self, "value")

    def _value(self, step: jax.Array) -> jax.Array:
        return jnp.full(step.shape, self.value)


@dataclass(frozen=True)
class step_decay(_Schedule):
    """Drops by a factor every so many steps, as from epoch to epoch in the lectures.

        value(t) = start factor^floor(t / every)

    Update t takes value(t): updates 0 .. every - 1 take `start`, the next ones start factor.
    Raises ValueError where `every` is not a positive integer, `factor` is negative or a number is
    not finite.

    >>> lr = step_decay(1.0, every=10, factor=0.5)
    >>> [float(lr(t)) for t in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """

    start: float
    every: int
    factor: float = 0.5

    def __post_init__(self) -> None:
        _check_numbers(self, "start", "factor")
        _check_not_negative(self, "factor")
        _check_steps(self, "every")

    def _value(self, step: jax.Array) -> jax.Array:
        return self.start * self.factor ** (step // self.every).astype(float)


@dataclass(frozen=True)
class exponential(_Schedule):
    """Decays by the same factor at every step; with rate < 0 it grows.

        value(t) = start exp(-rate t)

    Update t takes value(t), and update 0 `start` itself.
    Raises ValueError where a number is not finite.

    >>> import math
    >>> lr = exponential(1.0, rate=math.log(2))
    >>> [round(float(lr(t)), 6) for t in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    start: float
    rate: float

    def __post_init__(self) -> None:
        _check_numbers(self, "start", "rate")

    def _value(self, step: jax.Array) -> jax.Array:
        return self.start * jnp.exp(-self.rate * step.astype(float))


@dataclass(frozen=True)
class inverse(_Schedule):
    """Decays as one over time.

        value(t) = start / (1 + rate t)

    Update t takes value(t), and update 0 `start` itself.
    Raises ValueError where a number is not finite, or `rate` is negative.

    >>> lr = inverse(1.0, rate=1.0)
    >>> [float(lr(t)) for t in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """

    start: float
    rate: float

    def __post_init__(self) -> None:
        _check_numbers(self, "start", "rate")
        _check_not_negative(self, "rate")

    def _value(self, step: jax.Array) -> jax.Array:
        return self.start / (1 + self.rate * step.astype(float))


@dataclass(frozen=True)
class linear(_Schedule):
    """A straight line from `start` at step 0 to `end` at step `steps`, and `end` ever after.

        value(t) = start + (end - start) min(t, steps) / steps

    Update t takes value(t), so the last of `steps` updates is one short of `end`.
    Raises ValueError where `steps` is not a positive integer, or a number is not finite.

    >>> mu = linear(0.5, steps=4, end=1.0)
    >>> [float(mu(t)) for t in range(6)]
    [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    """

    start: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _check_numbers(self, "start", "end")
        _check_steps(self, "steps")

    def _value(self, step: jax.Array) -> jax.Array:
        return _between(self.start, self.end, _fraction(step, self.steps))


@dataclass(frozen=True)
class cosine(_Schedule):
    """Half a cosine from `start` at step 0 to `end` at step `steps`, and `end` ever after.

        value(t) = end + (start - end) (1 + cos(pi min(t, steps) / steps)) / 2

    Update t takes value(t), so the last of `steps` updates is one short of `end`.
    Source: Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    Raises ValueError where `steps` is not a positive integer, or a number is not finite.

    >>> lr = cosine(0.1, steps=100)
    >>> [round(float(lr(t)), 4) for t in (0, 50, 100, 1000)]
    [0.1, 0.05, 0.0, 0.0]
    """

    start: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _check_numbers(self, "start", "end")
        _check_steps(self, "steps")

    def _value(self, step: jax.Array) -> jax.Array:
        # sin^2(x / 2) = (1 - cos x) / 2, without the cancellation at the start.
        way = jnp.sin(jnp.pi / 2 * _fraction(step, self.steps)) ** 2
        return _between(self.start, self.end, jnp.where(step >= self.steps, 1.0, way))


@dataclass(frozen=True)
class warmup(_Schedule):
    """Rises in a straight line to where a schedule begins, and then follows that schedule.

        value(t) = start + (schedule(0) - start) t / steps   for t < steps,
                   schedule(t - steps)                       ever after

    Update t takes value(t): with start = 0, update 0 changes nothing, and update `steps` is the
    first with the full rate. `schedule` is any schedule, or a number.
    Source: Goyal et al. 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour".
    Raises ValueError where `steps` is not a positive integer, `start` is not finite, or `schedule`
    is neither.

    >>> lr = warmup(inverse(1.0, rate=1.0), steps=4)
    >>> [float(lr(t)) for t in (0, 1, 4, 5)]
    [0.0, 0.25, 1.0, 0.5]
    """

    schedule: Piece
    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_numbers(self, "start")
        _check_steps(self, "steps")
        object.__setattr__(self, "schedule", _piece("warmup", "schedule", self.schedule))

    def _value(self, step: jax.Array) -> jax.Array:
        # While it is warming up, this is schedule(0).
        aim = _at(self.schedule, jnp.maximum(step, self.steps) - self.steps)
        return _between(self.start, aim, _fraction(step, self.steps))


@dataclass(frozen=True)
class piecewise(_Schedule):
    """One piece after the other, changing at the given steps.

        value(t) = pieces[i](t - at[i - 1])   for at[i - 1] <= t < at[i],   at[-1] being 0

    A piece is a number or a schedule, whose own step 0 is where it begins. Update t takes
    value(t), so update at[0] is the first with the second piece.
    Raises ValueError where `at` does not hold integers that increase from 1 or more, one fewer
    than there are pieces, or a piece is neither of the two.

    >>> lr = piecewise((0.5, linear(0.25, steps=2)), at=(10,))
    >>> [float(lr(t)) for t in (0, 9, 10, 11, 12, 13)]
    [0.5, 0.5, 0.25, 0.125, 0.0, 0.0]
    """

    pieces: Sequence[Piece]
    at: Sequence[int]

    def __post_init__(self) -> None:
        pieces, at = tuple(self.pieces), tuple(self.at)
        if len(pieces) != len(at) + 1:
            raise ValueError(
                f"piecewise: there are {len(pieces)} pieces and at is {at!r}; it must hold one "
                "step fewer than there are pieces, those at which the next one begins"
            )
        ordered = all(a < b for a, b in pairwise(at))
        if not all(_is_step(t) for t in at) or not ordered:
            raise ValueError(
                f"piecewise: at is {at!r}; it must hold integers from 1 to 2^31 - 1 that increase"
            )
        pieces = tuple(_piece("piecewise", f"pieces[{i}]", p) for i, p in enumerate(pieces))
        object.__setattr__(self, "pieces", pieces)
        object.__setattr__(self, "at", at)

    def _value(self, step: jax.Array) -> jax.Array:
        value = _at(self.pieces[0], step)
        for begin, piece in zip(self.at, self.pieces[1:], strict=True):
            value = jnp.where(step >= begin, _at(piece, jnp.maximum(step, begin) - begin), value)
        return value


@dataclass(frozen=True)
class one_cycle(_Schedule):
    """Half a cosine up from `start` to `peak`, another down to `end`, and `end` ever after.

        top = round(rise steps)
        value(t) = cosine(start, top, peak)(t)             for t < top,
                   cosine(peak, steps - top, end)(t - top) ever after

    Update t takes value(t), so the last of `steps` updates is one short of `end`. Where momentum
    is to fall while the rate rises, it follows a cycle with its peak below.
    Source: Smith & Topin 2018, "Super-convergence"; the cosines are those of fastai.
    Raises ValueError where `steps` is not a positive integer, a number is not finite, or `rise`
    leaves either side without a step.

    >>> lr = one_cycle(0.0, 1.0, steps=10, rise=0.4)
    >>> [round(float(lr(t)), 6) for t in (0, 2, 4, 7, 10, 99)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    start: float
    peak: float
    steps: int
    end: float = 0.0
    rise: float = 0.3

    def __post_init__(self) -> None:
        _check_numbers(self, "start", "peak", "end")
        _check_steps(self, "steps")
        inside = isinstance(self.rise, Real) and 0 < self.rise < 1
        if not inside or not 0 < round(self.rise * self.steps) < self.steps:
            raise ValueError(
                f"one_cycle: rise is {self.rise!r} and steps is {self.steps}; it must be a share "
                "of the steps that leaves at least one to rise and one to fall"
            )

    def _value(self, step: jax.Array) -> jax.Array:
        top = round(self.rise * self.steps)
        up, down = cosine(self.start, top, self.peak), cosine(self.peak, self.steps - top, self.end)
        return piecewise((up, down), at=(top,))(step)


def _fraction(step: jax.Array, steps: int) -> jax.Array:
    """How much of `steps` is over: exactly 0 at step 0, and exactly 1 from `steps` on."""
    # A compiler may divide by multiplying with 1 / steps, which is not always 1 at the end.
    return jnp.where(step >= steps, 1.0, step.astype(float) / steps)


def _between(start: Any, end: Any, fraction: jax.Array) -> jax.Array:
    """From `start` to `end`, both exact, which start + (end - start) * 1 would not be."""
    return start * (1 - fraction) + end * fraction


def _at(piece: Piece, step: jax.Array) -> jax.Array:
    value = piece(step) if callable(piece) else jnp.full(step.shape, piece)
    return jnp.asarray(value).astype(float)


def _piece(schedule: str, name: str, piece: Any) -> Piece:
    return piece if callable(piece) else _number(schedule, name, piece, "a schedule or ")


def _number(schedule: str, name: str, value: Any, otherwise: str = "") -> Any:
    number = isinstance(value, Real | jax.Array) and not isinstance(value, bool)
    scalar = number and getattr(value, "ndim", 0) == 0
    if scalar and isinstance(value, Tracer):
        return value.astype(float)
    if not scalar or not math.isfinite(value):
        raise ValueError(f"{schedule}: {name} is {value!r}; it must be {otherwise}a finite number")
    return float(value)


def _is_step(value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 1 <= int(value) <= LAST


def _check_numbers(schedule: _Schedule, *names: str) -> None:
    for name in names:
        number = _number(type(schedule).__name__, name, getattr(schedule, name))
        object.__setattr__(schedule, name, number)


def _check_not_negative(schedule: _Schedule, name: str) -> None:
    value = getattr(schedule, name)
    if not isinstance(value, Tracer) and value < 0:
        raise ValueError(f"{type(schedule).__name__}: {name} is {value!r}; it must be at least 0")


def _check_steps(schedule: _Schedule, name: str) -> None:
    value = getattr(schedule, name)
    if not _is_step(value):
        raise ValueError(
            f"{type(schedule).__name__}: {name} is {value!r}; "
            "it must be a positive number of steps, an integer of at most 2^31 - 1"
        )
