"""Hyper-parameters: many small runs as one compiled program, and ensembles of their networks."""

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.data.checking import checked_pair, transformed, whole
from jnn.evaluation import means, scores
from jnn.layer import Eval, Layer, Params, State, Tree, check_key, unlike
from jnn.losses import Loss
from jnn.optimizers.protocol import pair
from jnn.report import follow
from jnn.steps import Gradient, Recipe, RunState, advance, form_of_one, fresh
from jnn.tables import table
from jnn.training import Progress, checked_penalty, gradient_named

BORDER = 0.05  # of a range: a best value nearer to an end suggests that better ones lie beyond


@dataclass(frozen=True)
class Range:
    """Values from `low` to `high`, drawn evenly in their logarithm, or in themselves."""

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        ends = self.low, self.high
        if not all(isinstance(v, Real) and math.isfinite(v) for v in ends) or self.low >= self.high:
            raise ValueError(f"{self!r}: low must be below high, and both finite numbers")
        if self.log and self.low <= 0:
            raise ValueError(
                f"{self!r}: a logarithmic range begins above 0; use uniform(low, high)"
            )

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """`n` values, (n,)."""
        return self.at(jax.random.uniform(key, (n,)))

    def at(self, place: Any) -> Any:
        """The value at a place from 0, which is `low`, to 1."""
        if self.log:
            return self.low * (self.high / self.low) ** place
        return self.low + (self.high - self.low) * place

    def place(self, value: Any) -> Any:
        """The place of a value: the inverse of `at`."""
        if self.log:
            return np.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def log_uniform(low: float, high: float) -> Range:
    """Values spread evenly over the decades, as learning rates and penalties are searched.

    >>> log_uniform(1e-4, 1e-2).at(0.5)
    0.001
    """
    return Range(low, high)


def uniform(low: float, high: float) -> Range:
    """Values spread evenly.

    >>> uniform(0.5, 1.0).at(0.5)
    0.75
    """
    return Range(low, high, log=False)


@dataclass(frozen=True)
class Sweep:
    """What `sweep` found, best trial first; prints itself as a table, with warnings.

    points           the trials' hyper-parameters by name, each (trials,)
    loss, accuracy   on the validation data, (trials,); NaN where a trial diverged; accuracy is None
                     where the loss does not define it
    params, state    the trained networks, stacked: leaves are (trials, ...)
    """

    space: Mapping[str, Range]
    points: Mapping[str, np.ndarray]
    loss: np.ndarray
    accuracy: np.ndarray | None
    params: Params
    state: State

    @property
    def best(self) -> dict[str, float]:
        """The hyper-parameters of the best trial."""
        return {name: float(values[0]) for name, values in self.points.items()}

    @property
    def warnings(self) -> list[str]:
        """Whether the best trial lies on the border of the space, a sentence for each side."""
        if np.isnan(self.loss[0]):
            return ["every trial diverged; search smaller learning rates"]
        words = []
        for name, value in self.best.items():
            place = self.space[name].place(value)
            if not BORDER <= place <= 1 - BORDER:
                end = "low" if place < 0.5 else "high"
                words.append(
                    f"the best {name}, {value:.2e}, lies on the {end} border of its range: better "
                    "ones may lie beyond, search there (zoom does)"
                )
        return words

    def zoom(self, factor: float = 3) -> dict[str, Range]:
        """A space of the same ranges, each `factor` times narrower, around the best trial.

        Logarithmic ranges may reach beyond their old ends, the others, such as of a rate, do not.
        """
        if not factor > 0:
            raise ValueError(f"factor is {factor!r}; it must be above 0, and above 1 to narrow")
        if np.isnan(self.loss[0]):
            raise ValueError("every trial diverged, so there is none to zoom in on")
        narrowed = {}
        for name, value in self.best.items():
            old, half = self.space[name], 0.5 / factor
            place = old.place(value)
            ends = (place - half, place + half)
            low, high = map(old.at, ends if old.log else np.clip(ends, 0, 1))
            narrowed[name] = Range(float(low), float(high), old.log)
        return narrowed

    def member(self, trial: int) -> tuple[Params, State]:
        """The trained network of one trial, 0 being the best."""
        if not -len(self.loss) <= trial < len(self.loss):
            raise IndexError(f"trial is {trial}; there are {len(self.loss)}, 0 being the best")
        return jax.tree.map(lambda v: v[trial], (self.params, self.state))

    def __str__(self) -> str:
        names = list(self.points)
        head = ("rank", *names, "loss", *(("accuracy",) if self.accuracy is not None else ()))
        rows = [
            (
                str(i + 1),
                *(f"{self.points[name][i]:.3e}" for name in names),
                "diverged" if np.isnan(self.loss[i]) else f"{self.loss[i]:.4f}",
                *(() if self.accuracy is None else (_percent(self.accuracy[i]),)),
            )
            for i in range(len(self.loss))
        ]
        return "\n".join([table(head, rows), *self.warnings])


def sweep(
    net: Layer,
    loss: Loss,
    make: Callable[..., Any],
    data: tuple[Any, Any],
    *,
    space: Mapping[str, Range],
    trials: int,
    key: jax.Array,
    epochs: int,
    batch_size: int,
    validation: tuple[Any, Any],
    transform: Any = None,
    gradient: str | Gradient = "backprop",
    progress: bool = True,
) -> Sweep:
    """Trains one network with many hyper-parameters and seeds at once, as one compiled program.

    `space` has a range for each argument of `make`, such as {"lr": log_uniform(1e-4, 1)};
    `make(**point)` returns an optimizer, or a pair (optimizer, penalty), from one value of each,
    and is traced: its values are arrays. Every trial starts from parameters of its own and goes
    through the data in an order of its own. The trials are ranked on the `validation` data, by
    accuracy where the loss defines it, then by loss. Everything else is as in `run`.

    It is quicker than one run after another while the networks are small.
    Source: Bergstra & Bengio 2012, "Random search for hyper-parameter optimization".
    Raises ValueError as `run` does, and where `space` holds no ranges.

    >>> import jnn
    >>> train, test = jnn.data.digits()[1:3]
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(10))
    >>> result = sweep(net, jnn.SoftmaxCrossEntropy(), jnn.optimizers.sgd, train, trials=3,
    ...                space={"lr": log_uniform(1e-3, 1)}, key=jax.random.key(0), epochs=1,
    ...                batch_size=64, validation=test, progress=False)
    >>> bool(result.accuracy[0] >= result.accuracy[1])
    True
    """
    trials, epochs = whole("trials", trials), whole("epochs", epochs)
    batch_size = whole("batch_size", batch_size)
    check_key(key)
    ranges = isinstance(space, Mapping) and all(isinstance(r, Range) for r in space.values())
    if not ranges or not space:
        raise ValueError(
            f"space is {space!r}; it must be a dict of ranges by name, such as "
            "{'lr': jnn.search.log_uniform(1e-4, 1)}"
        )
    try:
        inspect.signature(make).bind(**space)
    except TypeError as error:
        raise ValueError(
            f"make is {make!r}, which cannot be called with what space names, "
            f"{sorted(space)}: {error}"
        ) from None
    arrays, held_out = checked_pair(net, loss, data, validation, transform, batch_size)
    if held_out is None:
        raise ValueError("validation is None; trials are ranked on it: give (x, y)")
    program = _Program(net, loss, make, gradient_named(gradient), batch_size)
    point_key, run_key = jax.random.split(key)
    point_keys = jax.random.split(point_key, len(space))
    points = {
        name: values.sample(k, trials)
        for (name, values), k in zip(space.items(), point_keys, strict=True)
    }
    x = jax.eval_shape(transformed, transform, arrays[0])
    states = _begin(program, form_of_one(x), points, jax.random.split(run_key, trials))
    records = _epochs(program, arrays, transform, points, states, epochs)
    for record in follow(records) if progress else records:
        states = record.state
    value, right = _judge(program, states.params, states.state, held_out, transform)
    value, right = (np.asarray(v, np.float64) for v in (value, right))
    value = np.where(np.asarray(states.first_bad) >= 0, np.nan, value)
    accuracy = np.where(np.isnan(value), np.nan, right) if scores(loss) else None
    rank = (value,) if accuracy is None else (value, -accuracy)
    order = np.lexsort(rank)  # NaN last
    points, params, state = jax.tree.map(
        lambda v: v[order], (jax.device_get(points), states.params, states.state)
    )
    points = {name: points[name] for name in space}  # jax.tree.map has sorted them
    accuracy = None if accuracy is None else accuracy[order]
    return Sweep(dict(space), points, value[order], accuracy, params, state)


def ensemble(
    net: Layer,
    params: Params | Sequence[Params],
    state: State | Sequence[State],
    x: Any,
    *,
    transform: Any = None,
    probabilities: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> jax.Array:
    """The mean of the predictions of several networks of one architecture, in evaluation mode.

        p = mean_m probabilities(net(params_m, x))

    `params` and `state` are stacked, with members first, as a `Sweep` holds them, or lists of one
    for each member; `transform` is that of their run. Shapes: x (n, ...), result (n, k).
    Source: Hansen & Salamon 1990, "Neural network ensembles".

    >>> import jnn
    >>> net, x = jnn.Dense(2), jnp.ones((3, 4))
    >>> members = [net.init(jax.random.key(i), x)[0] for i in range(5)]
    >>> ensemble(net, members, [{}] * 5, x).shape
    (3, 2)
    """
    if isinstance(params, list | tuple):
        if not params or not isinstance(state, list | tuple) or len(state) != len(params):
            raise ValueError(
                f"params is a list of {len(params)}, and state must be one of as many, at least 1"
            )
        for i, member in enumerate(params):
            if problem := unlike(member, params[0]):
                raise ValueError(f"params[{i}] is of another network than params[0]: {problem}")
        params = jax.tree.map(lambda *v: jnp.stack(v), *params)
        state = jax.tree.map(lambda *v: jnp.stack(v), *state)
    members = {v.shape[:1] for v in jax.tree.leaves((params, state))}
    if len(members) != 1 or () in members:
        raise ValueError(
            "params and state are not stacked: their leaves must all begin with the same axis, one "
            "entry for each member; or give lists of them"
        )
    return _mean_prediction(net, probabilities, params, state, transformed(transform, x))


class _Program(NamedTuple):
    """What is fixed in a sweep, and so compiled into it."""

    net: Layer
    loss: Loss
    make: Callable[..., Any]
    gradient: Gradient
    batch_size: int

    def recipe(self, point: Mapping[str, jax.Array]) -> Recipe:
        made = self.make(**point)
        # An optimizer is a pair as well, but its first is a function.
        both = isinstance(made, tuple) and len(made) == 2 and not callable(made[0])
        optimizer, penalty = made if both else (made, None)
        optimizer, penalty = pair("make", optimizer), checked_penalty(penalty)
        return Recipe(self.net, self.loss, optimizer, self.gradient, self.batch_size, penalty)


@partial(jax.jit, static_argnums=(0, 1))
def _begin(program: _Program, example: Any, points: Tree, keys: jax.Array) -> RunState:
    def one(point: Tree, key: jax.Array) -> RunState:
        return fresh(program.net, program.recipe(point).optimizer, example, key)

    return jax.vmap(one)(points, keys)


@partial(jax.jit, static_argnums=0)
def _advance(
    program: _Program, data: Any, transform: Any, points: Tree, states: RunState, steps: jax.Array
) -> RunState:
    def one(point: Tree, state: RunState) -> RunState:
        return advance(program.recipe(point), data, transform, state, (), steps)[0]

    return jax.vmap(one)(points, states)


@partial(jax.jit, static_argnums=0)
def _judge(
    program: _Program, params: Params, state: State, data: Any, transform: Any
) -> tuple[jax.Array, jax.Array]:
    def one(params: Params, state: State) -> tuple[jax.Array, jax.Array]:
        batch = min(500, len(data[1]))
        return means(program.net, program.loss, params, state, data, transform, batch)

    return jax.vmap(one)(params, state)


def _epochs(
    program: _Program, data: Any, transform: Any, points: Tree, states: RunState, epochs: int
) -> Iterator[Progress]:
    """A record for each epoch, of the trial that does best on the training batches."""
    per_epoch = len(data[1]) // program.batch_size
    trials = len(states.step)
    jax.block_until_ready(_advance(program, data, transform, points, states, 0))  # compiles
    began = time.perf_counter()
    for epoch in range(1, epochs + 1):
        states = _advance(program, data, transform, points, states, per_epoch)
        loss, correct = (np.asarray(v) / per_epoch for v in (states.loss, states.correct))
        seen = epoch * per_epoch * program.batch_size * trials
        yield Progress(
            step=epoch * per_epoch,
            steps=epochs * per_epoch,
            epoch=float(epoch),
            loss=float(np.min(np.where(np.isfinite(loss), loss, np.inf))),
            accuracy=float(np.max(np.nan_to_num(correct))) if scores(program.loss) else None,
            examples_per_second=seen / (time.perf_counter() - began),
            validation=None,
            state=states,
        )


def _percent(fraction: float) -> str:
    return "" if np.isnan(fraction) else f"{fraction:.2%}"


@partial(jax.jit, static_argnums=(0, 1))
def _mean_prediction(
    net: Layer,
    probabilities: Callable[[jax.Array], jax.Array],
    params: Params,
    state: State,
    x: Any,
) -> jax.Array:
    def one(params: Params, state: State) -> jax.Array:
        return probabilities(net.forward(params, x, Eval(state))[0])

    return jax.vmap(one)(params, state).mean(axis=0)
