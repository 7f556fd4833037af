"""The compiled part of a run: what a step does, and the loop that takes many."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.compose.base import Wrapper
from jnn.data.checking import Pair, transformed
from jnn.data.shuffle import shuffled
from jnn.diagnostics import measured
from jnn.gradients import ValueAndGrads
from jnn.layer import Cache, Layer, Mode, Params, State, Train, Tree
from jnn.losses import Loss
from jnn.optimizers import Optimizer, apply_updates
from jnn.optimizers.protocol import update_with
from jnn.penalties import Penalty
from jnn.precision import accumulator

Gradient = Callable[..., ValueAndGrads]  # (net, loss) or, where there is one, (net, loss, penalty)


class RunState(NamedTuple):
    """All that a run needs to go on: with the data, it determines every later step bit by bit."""

    params: Params
    state: State  # of the network, such as running moments
    optimizer: Any  # the optimizer's state
    step: jax.Array  # steps taken, () int32
    key: jax.Array  # the run's; every step's randomness follows from it and the step
    examples: jax.Array  # in the data, () int32: with the next, what an epoch is
    batch_size: jax.Array  # () int32; both 0 until a run begins
    loss: jax.Array  # summed over the steps of this epoch, () float
    penalty: jax.Array  # likewise, what of it the weights cost
    correct: jax.Array  # likewise, the fraction of right answers
    first_bad: jax.Array  # the first step that was not finite, or -1


class Recipe(NamedTuple):
    """What is fixed in a run, and so compiled into it. Equal recipes compile once."""

    net: Layer
    loss: Loss
    optimizer: Optimizer
    gradient: Gradient
    batch_size: int
    penalty: Penalty | None = None
    accumulate: int = 1
    watch: int | None = None


def streams(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The run's two keys: one for the shuffle, one that every step's is folded from."""
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def form_of_one(x: Any) -> Any:
    """One example of examples like x, as shapes and dtypes, which are hashable."""
    return jax.tree.map(
        lambda v: jax.ShapeDtypeStruct((1, *v.shape[1:]), jax.dtypes.canonicalize_dtype(v.dtype)),
        x,
    )


def fresh(net: Layer, optimizer: Optimizer, example: Any, key: jax.Array) -> RunState:
    """`start` for examples like one, to be traced."""
    # fold_in(k, i) equals split(k, n)[i], so the run's own key must not be the root.
    init_key, run_key = jax.random.split(key)
    params, state = net.init(init_key, example)
    zero, step = jnp.zeros((), float), jnp.zeros((), jnp.int32)
    opt = optimizer.init(params)
    sums = (zero, zero, zero)
    return RunState(params, state, opt, step, run_key, step, step, *sums, step - 1)


def advance(
    recipe: Recipe,
    data: Pair,
    transform: Any,
    state: RunState,
    seen: Tree,
    steps: jax.Array,
) -> tuple[RunState, Tree]:
    """`steps` steps of training, as one loop, and what was last seen of the layers."""
    n = len(data[1])
    per_epoch = n // recipe.batch_size
    shuffle_key, step_key = streams(state.key)
    seed = jax.random.bits(shuffle_key, (2,), jnp.uint32)

    def step(_: jax.Array, carry: tuple[RunState, Tree]) -> tuple[RunState, Tree]:
        s, seen = carry
        epoch, batch = s.step // per_epoch, s.step % per_epoch
        positions = batch * recipe.batch_size + jnp.arange(recipe.batch_size, dtype=jnp.int32)
        index = shuffled(seed, epoch, positions, n)
        xs, ys = jax.tree.map(lambda v: v.at[index].get(mode="promise_in_bounds"), data)
        xs, mode = transformed(transform, xs), Train(jax.random.fold_in(step_key, s.step))
        net_state, value, correct, grads = _gradients(recipe, s, xs, ys, mode)
        updates, opt = update_with(recipe.optimizer, grads, s.optimizer, s.params, value)
        if recipe.watch:
            seen = jax.lax.cond(
                s.step % recipe.watch == 0,
                lambda: _look(recipe, s.params, updates, xs, ys, Train(mode.key, s.state)),
                lambda: seen,
            )
        # The gradient has this number too, and XLA computes it once.
        cost = jnp.zeros(()) if recipe.penalty is None else recipe.penalty.value(s.params)

        def sum_of(total: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.where(batch == 0, 0, total) + v.astype(total.dtype)

        following = s._replace(
            params=apply_updates(s.params, updates),
            state=net_state,
            optimizer=opt,
            step=s.step + 1,
            loss=sum_of(s.loss, value),
            penalty=sum_of(s.penalty, cost),
            correct=sum_of(s.correct, correct),
            first_bad=jnp.where((s.first_bad < 0) & ~jnp.isfinite(value), s.step, s.first_bad),
        )
        return following, seen

    state, seen = jax.lax.fori_loop(0, steps, step, (state, seen))
    # The loss of the next step would tell, but there may be none.
    finite = jax.tree.map(lambda p: jnp.isfinite(p).all(), state.params)
    broken = ~jax.tree.reduce(jnp.logical_and, finite, jnp.array(True)) & (state.first_bad < 0)
    return state._replace(first_bad=jnp.where(broken, state.step - 1, state.first_bad)), seen


def _look(
    recipe: Recipe, params: Params, updates: Params, x: Any, y: Any, mode: Train
) -> dict[str, Tree]:
    """What is seen of the layers at one step, of as many examples as are in memory at once."""
    few = recipe.batch_size // recipe.accumulate
    x, y = jax.tree.map(lambda v: v[:few], (x, y))
    return measured(recipe.net, recipe.loss, params, updates, x, y, mode)


def unseen(recipe: Recipe, data: Pair, transform: Any, state: RunState) -> Tree:
    """What `advance` carries of the layers before anything was seen."""
    if not recipe.watch:
        return ()
    x, y = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct((recipe.batch_size, *v.shape[1:]), v.dtype), data
    )
    x = jax.eval_shape(transformed, transform, x)
    params, mode = state.params, Train(state.key, state.state)
    shapes = jax.eval_shape(partial(_look, recipe), params, params, x, y, mode)
    return jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes)


def gradient_of(recipe: Recipe) -> ValueAndGrads:
    """f(params, x, y, mode) -> ((value, (cache, prediction)), grads) of a recipe."""
    penalty = () if recipe.penalty is None else (recipe.penalty,)
    parts = (_Watched(recipe.net), recipe.loss, *penalty)
    try:
        inspect.signature(recipe.gradient).bind(*parts)
    except TypeError as error:
        raise ValueError(
            f"gradient is {recipe.gradient!r}, which cannot be called with "
            f"({', '.join(('net', 'loss', 'penalty')[: len(parts)])}): {error}"
        ) from None
    return recipe.gradient(*parts)


def _gradients(
    recipe: Recipe, s: RunState, x: Any, y: Any, mode: Train
) -> tuple[State, jax.Array, jax.Array, Params]:
    """The network's next state, the loss, the fraction of right answers, and the gradients."""
    value_and_grads = gradient_of(recipe)

    def part(net_state: State, x: Any, y: Any, mode: Train) -> tuple[State, Tree]:
        # The state is for layers that are frozen.
        mode = mode._replace(state=net_state)
        (value, (cache, prediction)), grads = value_and_grads(s.params, x, y, mode)
        return recipe.net.observe(net_state, cache), (
            value,
            _right(recipe.loss, prediction, y),
            grads,
        )

    if recipe.accumulate == 1:
        net_state, found = part(s.state, x, y, mode)
        return net_state, *found

    def add(carry: tuple[State, Tree], piece: Tree) -> tuple[tuple[State, Tree], None]:
        (net_state, total), (weighs, counts, *batch) = carry, piece
        net_state, (value, correct, grads) = part(net_state, *batch)

        def plus(total: jax.Array, share: jax.Array, v: jax.Array) -> jax.Array:
            return total + share.astype(total.dtype) * v.astype(total.dtype)

        shares = weighs, counts, jax.tree.map(lambda _: weighs, grads)
        return (net_state, jax.tree.map(plus, total, shares, (value, correct, grads))), None

    shares = (
        _shares(v, recipe.accumulate) for v in (recipe.loss.weight(y), recipe.loss.counted(y))
    )
    x, y = jax.tree.map(lambda v: v.reshape(recipe.accumulate, -1, *v.shape[1:]), (x, y))
    pieces = x, y, Train(jax.random.split(mode.key, recipe.accumulate))
    _, shapes = jax.eval_shape(part, s.state, *jax.tree.map(lambda v: v[0], pieces))
    zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, accumulator(v.dtype)), shapes)
    (net_state, total), _ = jax.lax.scan(add, (s.state, zeros), (*shares, *pieces))
    return net_state, *jax.tree.map(lambda t, v: t.astype(v.dtype), total, shapes)


def _shares(each: jax.Array | None, parts: int) -> jax.Array:
    """What every part of a batch weighs, (parts,), given what every example does; None: alike.

    They sum to 1 even where no example weighs anything, so that a penalty is there once.
    """
    each = jnp.zeros(parts) if each is None else each.reshape(parts, -1).sum(axis=1)
    total = each.sum()
    return jnp.where(total, each / jnp.where(total, total, 1), 1 / parts)


def _right(loss: Loss, prediction: Any, y: Any) -> jax.Array:
    """The fraction of right answers among those that count; 0 where the loss tells none."""
    correct, counted = loss.correct(prediction, y), loss.counted(y)
    if correct is None:
        return jnp.zeros(())
    if counted is None:
        return correct.mean()
    total = counted.sum()
    return correct.sum() / jnp.where(total, total, 1)


@dataclass(frozen=True)
class _Watched(Wrapper):
    """A network whose cache also holds its output, so that a run can score it."""

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        y, cache = super().forward(params, x, mode)
        return y, (cache, y)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        return super().backward(params, cache[0], dy)
