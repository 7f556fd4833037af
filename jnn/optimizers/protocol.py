"""The protocol: an optimizer is a pair of pure functions, and equal pairs come of equal calls."""

import inspect
from collections.abc import Callable
from functools import update_wrapper, wraps
from typing import Any, NamedTuple, ParamSpec

import jax

from jnn.layer import Params, shape_of
from jnn.precision import accumulator

P = ParamSpec("P")
Schedule = Callable[[jax.Array], Any]  # the step, from 0 -> the value for that step


class Optimizer(NamedTuple):
    """A pair of pure functions; any pair with these signatures will do, from whichever library.

    init(params) -> state
    update(grads, state, params) -> (updates, state)

    An update may take the keyword `value` as well, the loss at these parameters (see
    `takes_value`). Where a gradient is None, as within `freeze`, its update is None too.
    """

    init: Callable[[Params], Any]
    update: Callable[..., tuple[Params, Any]]


def apply_updates(params: Params, updates: Params) -> Params:
    """`params + updates`, leaf by leaf, in the dtypes of the parameters.

    Raises ValueError where the trees or a shape differ: nothing is broadcast.

    >>> import jax.numpy as jnp
    >>> apply_updates({"w": jnp.ones(2)}, {"w": jnp.array([0.5, -0.5])})["w"].tolist()
    [1.5, 0.5]
    """

    def add(p: jax.Array, u: jax.Array) -> jax.Array:
        if p.shape != u.shape:
            raise ValueError(
                f"apply_updates: an update is {shape_of(u)} and its parameter {shape_of(p)}; "
                "their shapes must be equal"
            )
        wide = accumulator(p.dtype)
        return (p.astype(wide) + u.astype(wide)).astype(p.dtype)

    return jax.tree.map(add, params, updates)


def takes_value(optimizer: Any) -> bool:
    """Whether `optimizer.update` takes the loss as a keyword, `value`, or any keyword at all.

    >>> from jnn.optimizers import adam, reduce_on_plateau
    >>> takes_value(adam(0.1)), takes_value(reduce_on_plateau(adam(0.1)))
    (False, True)
    """
    parameters = inspect.signature(optimizer.update).parameters
    return "value" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def update_with(
    optimizer: Any, grads: Params, state: Any, params: Params, value: Any
) -> tuple[Params, Any]:
    """`optimizer.update`, with `value` where there is one and the optimizer takes it."""
    given = {} if value is None or not takes_value(optimizer) else {"value": value}
    try:
        return optimizer.update(grads, state, params, **given)
    except TypeError as error:
        error.add_note(
            "an optimizer's update is given (grads, state, params) and, where it takes it, value; "
            "what needs more, as a line search its value_fn, is for a loop of your own"
        )
        raise


def pair(name: str, optimizer: Any) -> Any:
    """`optimizer`, refused unless it has init and update; a bare tuple of two becomes a pair."""
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        return optimizer
    if isinstance(optimizer, tuple) and len(optimizer) == 2 and all(map(callable, optimizer)):
        return Optimizer(*optimizer)
    if callable(optimizer):
        made = getattr(optimizer, "__name__", "it")
        raise ValueError(
            f"the optimizer of {name} is the function {made}; call it, as in {made}(1e-3)"
        )
    raise ValueError(
        f"the optimizer of {name} is {optimizer!r}; it must be a pair of functions (init, update), "
        "such as jnn.optimizers.sgd(0.1)"
    )


class _Made:
    """A function that equals, in hash too, the one that any equal call has made."""

    def __init__(self, function: Callable[..., Any], call: tuple[Any, ...]):
        update_wrapper(self, function)
        self._function, self._call = function, call

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function(*args, **options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Made) and self._call == other._call

    def __hash__(self) -> int:
        return hash(self._call)


def by_value(make: Callable[P, Optimizer]) -> Callable[P, Optimizer]:
    """A maker of optimizers whose equal calls return equal ones.

    An optimizer is a static argument of jit, which would compile again for one that is new. The
    types of arguments count as well, for 1, 1.0 and True are equal. Where an argument has no hash,
    as a traced learning rate, the optimizer is equal to itself alone.
    """
    signature = inspect.signature(make)

    @wraps(make)
    def call(*args: P.args, **options: P.kwargs) -> Optimizer:
        made = make(*args, **options)
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        given = tuple(bound.arguments.values())
        key = (make, given, tuple(map(type, given)))
        try:
            hash(key)
        except TypeError:
            return made
        return Optimizer(_Made(made.init, (*key, "init")), _Made(made.update, (*key, "update")))

    return call
