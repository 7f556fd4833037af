"""What optimizers share: hyper-parameters, the count of steps, and arithmetic leaf by leaf."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.layer import Params, Tree, shape_of
from jnn.optimizers.protocol import Optimizer, Schedule
from jnn.precision import accumulator

Rate = Callable[[jax.Array], jax.Array]  # the step -> a float scalar
Rule = Callable[..., tuple[jax.Array, ...]]  # (scalars, g, moments) -> (update, moments)

# What is positive in float32; a smaller epsilon would be flushed to 0, and 0/0 is NaN.
TINY = float(np.finfo(np.float32).tiny)


def number(
    name: str, value: Any, least: float = 0.0, below: float = math.inf, kind: str = "a number"
) -> Any:
    """`value`, refused unless it is a number in [least, below); a traced one is taken on trust."""
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}; it must be {kind}")
    if not isinstance(value, Tracer) and not least <= value < below:
        raise ValueError(f"{name} is {value!r}; it must lie in [{least:g}, {below:g})")
    return value


def fixed(name: str, value: Any, least: float = 0.0, below: float = math.inf) -> float:
    """`number` as a Python float, which keeps 1 - 0.999 exact and decides no dtype."""
    if isinstance(value, Tracer):
        raise ValueError(f"{name} is traced; it must be a Python number: vary a rate in its place")
    return float(number(name, value, least, below))


def whole(name: str, value: Any) -> int:
    """`value`, refused unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def schedule(name: str, value: Any, below: float = math.inf) -> Rate:
    """A number or a function of the step, as a function that returns a float scalar."""
    if not callable(value):
        number(name, value, below=below, kind="a number or a function of the step")

    def at(step: jax.Array) -> jax.Array:
        result = jnp.asarray(value(step) if callable(value) else value).astype(float)
        if result.ndim:
            raise ValueError(f"{name} of the step is {shape_of(result)}; it must be one number")
        return result

    return at


def following(step: jax.Array) -> jax.Array:
    """The step after `step`, which stays at its greatest for ever rather than turn negative."""
    last = jnp.iinfo(step.dtype).max
    return jnp.where(step == last, last, step + 1)


def descent(state_type: Any, rule: Rule, lr: float | Schedule, *others: Rate) -> Optimizer:
    """The optimizer of a rule for one array.

        rule(t, lr, *others, g, *moments) -> (update, *moments)

    `state_type` names the moments after `step` and `lr`; they start at zero. `t` is 1 at the first
    update, where schedules see 0.
    """
    rates = (schedule("lr", lr), *others)
    names = state_type._fields[2:]

    def init(params: Params) -> Any:
        def zero(p: jax.Array) -> jax.Array:
            return jnp.zeros_like(p, accumulator(p.dtype))

        step = jnp.zeros((), jnp.int32)
        return state_type(step, rates[0](step), *(jax.tree.map(zero, params) for _ in names))

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        del params
        step, _, *moments = state
        values = [rate(step) for rate in rates]

        def counted(t: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
            return rule(t + 1, *rest)  # here, where it is a float and cannot wrap around

        leaf = widely(counted, step, *values)
        leaves, form = jax.tree.flatten(grads)
        columns = (form.flatten_up_to(moment) for moment in moments)
        results = [leaf(*row) for row in zip(leaves, *columns, strict=True)]
        updates, *moments = (form.unflatten([r[i] for r in results]) for i in range(1 + len(names)))
        return updates, state_type(following(step), values[0], *moments)

    return Optimizer(init, update)


def widely(rule: Rule, *scalars: jax.Array) -> Callable[..., tuple[jax.Array, ...]]:
    """rule(*scalars, a, b, ...) -> (a, b, ...) in float32 at least, each in its own dtype again.

    The rule may return fewer than it is given. Raises ValueError where the shapes of a, b, ...
    differ: nothing is broadcast.
    """

    def leaf(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        if len({a.shape for a in arrays}) > 1:
            raise ValueError(
                f"a gradient is {shape_of(arrays[0])}, what goes with it is "
                f"{', '.join(map(shape_of, arrays[1:]))}; their shapes must be equal"
            )
        wide = widest(*arrays)
        results = rule(*(jnp.asarray(v).astype(wide) for v in (*scalars, *arrays)))
        return tuple(r.astype(a.dtype) for r, a in zip(results, arrays, strict=False))

    return leaf


def widest(*arrays: jax.Array) -> np.dtype:
    """The dtype to compute in: float32, or float64 where an array has it."""
    return np.result_type(np.float32, *(accumulator(a.dtype) for a in arrays))


def each(rule: Callable[..., jax.Array], scalars: tuple[Any, ...], tree: Tree, *rest: Tree) -> Tree:
    """rule(*scalars, a, b, ...) -> a for every leaf of `tree`, computed as by `widely`."""
    leaf = widely(lambda *given: (rule(*given),), *scalars)
    return jax.tree.map(lambda *arrays: leaf(*arrays)[0], tree, *rest)


def part(marks: Tree, tree: Tree, chosen: bool = True) -> Tree:
    """`tree` with None where `marks` is not `chosen`."""
    return jax.tree.map(lambda mark, leaf: leaf if mark is chosen else None, marks, tree)


def merge(marks: Tree, chosen: Tree, others: Tree) -> Tree:
    """A leaf of `chosen` where `marks` is True and of `others` where it is False."""
    return jax.tree.map(lambda mark, a, b: a if mark else b, marks, chosen, others)


def _is_number(value: Any) -> bool:
    kind = isinstance(value, Real | jax.Array) and not isinstance(value, bool)
    return kind and getattr(value, "ndim", 0) == 0
