"""The compiled run: a generator of progress around one loop on the device."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.data.checking import Pair, check_parts, checked_pair, transformed, whole
from jnn.diagnostics import LayerStats, named
from jnn.evaluation import Evaluation, evaluation, scores
from jnn.gradients import autodiff, backprop
from jnn.layer import Layer, Params, State, Tree, check_key, unlike
from jnn.losses import Loss
from jnn.optimizers import Optimizer
from jnn.optimizers.protocol import pair
from jnn.penalties import Penalty
from jnn.report import follow
from jnn.steps import (
    Gradient,
    Recipe,
    RunState,
    advance,
    form_of_one,
    fresh,
    unseen,
)

GRADIENTS: dict[str, Gradient] = {"backprop": backprop, "autodiff": autodiff}
CHUNK_SECONDS = 0.2  # long beside the cost of a chunk, short beside human patience


class Progress(NamedTuple):
    """Where a run stands at the end of a chunk.

    `loss` and `accuracy` are means over the steps of the current epoch so far, of the training
    batches as they were met. `loss` includes the penalty, of which `penalty` is the mean likewise;
    `validation` does not, and is None but at the end of an epoch of a run with validation data.
    `layers` is what a run with `watch` saw last, at the last multiple of it, None before it has.
    `state` is that after the last step, not the best so far.
    """

    step: int  # steps taken
    steps: int  # steps of the whole run
    epoch: float  # epochs done: 2.5 is half-way through the third
    loss: float
    accuracy: float | None
    examples_per_second: float  # since the run began or was resumed, compilation not counted
    validation: Evaluation | None  # at the end of an epoch, where validation data were given
    state: Any  # a RunState to save or to resume from; None in a history, which keeps none
    layers: list[LayerStats] | None = None  # as last measured; see `diagnostics.judge`
    penalty: float = 0.0

    def __str__(self) -> str:
        """One line.

        >>> print(Progress(90, 450, 2.0, 0.25, 0.9312, 51234.0, None, None))
        epoch 2/10  loss 0.2500  accuracy  93.12%  51,234 examples/s
        """
        epochs = round(self.epoch * self.steps / self.step)
        tenths = math.floor(10 * self.epoch) / 10  # 1.96 epochs are not yet 2
        done = f"{self.epoch:.0f}" if self.epoch.is_integer() else f"{tenths:.1f}"
        loss = f"{self.loss:.4f}" if self.loss < 1e4 else f"{self.loss:.2e}"
        parts = [f"epoch {done}/{epochs}", f"loss {loss}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:7.2%}")
        if self.validation is not None:
            parts.append(f"validation {self.validation}")
        parts.append(f"{self.examples_per_second:,.0f} examples/s")
        return "  ".join(parts)


class Fitted(NamedTuple):
    """What `fit` returns."""

    params: Params
    state: State
    history: list[Progress]


class Diverged(ArithmeticError):
    """Loss or parameters stopped being finite in step `step`; `state` is that just before it."""

    def __init__(self, step: int, state: RunState):
        super().__init__(step, state)  # as pickle will call it
        self.step, self.state = step, state

    def __str__(self) -> str:
        return (
            f"the loss or the parameters were not finite at step {self.step}: "
            "the learning rate is probably too large, try a tenth of it"
        )


def run(
    net: Layer,
    loss: Loss,
    optimizer: Optimizer,
    data: tuple[Any, Any],
    *,
    epochs: int,
    batch_size: int,
    key: jax.Array | None = None,
    resume: RunState | None = None,
    validation: tuple[Any, Any] | None = None,
    transform: Any = None,
    penalty: Penalty | None = None,
    gradient: str | Gradient = "backprop",
    accumulate: int = 1,
    watch: int | None = None,
    chunk: int | None = None,
) -> Iterator[Progress]:
    """Trains, and tells how it goes: a generator that yields a `Progress` after each chunk.

    Everything around the compiled steps is ordinary Python in the caller's loop: stop early by
    `break`, print, save `progress.state`. Every yielded state stays valid: nothing is donated.

    A chunk is one compiled loop, shuffling and gathering included, whose trip count is an argument,
    so that all chunk lengths share one compilation and give bit-identical parameters. With `chunk`
    steps a chunk, it may run across epochs. Without, its length adapts to about a fifth of a
    second and it ends with the epoch at the latest. With `validation` data chunks always end with
    the epoch, and those data are then evaluated exactly (`progress.validation`, None elsewhere).

    net, loss, optimizer   as everywhere; an optimizer is any (init, update) pair
    data, validation       (x, y) arrays of equal length n, put on the device once; x may be a
                           tuple of them, such as sequences and their mask
    epochs, batch_size     every epoch is a fresh shuffle of n // batch_size whole batches; the
                           n % batch_size examples left over are others each time
    key                    jax.random.key(seed), from which all that is random is drawn
    resume                 in place of `key`: the state that a run with the same arguments yielded,
                           to go on from to the end of `epochs` exactly as if it had never stopped;
                           or `training.start(..., params=mine)`, to begin from those
    transform              fitted preprocessing, whose apply(x) every batch passes through within
                           the compiled step (of a tuple the first entry); uint8 images can so
                           stay bytes on the device
    penalty                what the weights cost, such as jnn.penalties.L2(1e-4); part of the loss
    gradient               "backprop", "autodiff", or a function (net, loss) -> f with the
                           signature of those two; (net, loss, penalty) where there is a penalty
    accumulate             parts that a batch is cut into and whose gradients are averaged, to save
                           memory; the loss is then the mean of theirs
    watch                  measure every layer once in so many steps (`progress.layers`)
    chunk                  steps for each chunk, or None to adapt

    Raises ValueError (LayerError where a layer or the loss is at fault) at the call, before
    anything is compiled, where an argument or the data cannot be right: lengths, dtypes, labels out
    of range, numbers that are not finite. Raises Diverged where the loss or the parameters stop
    being finite.

    >>> import jnn
    >>> train, test = jnn.data.digits()[1:3]
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(32), jnn.ReLU(), jnn.Dense(10))
    >>> for progress in run(net, jnn.SoftmaxCrossEntropy(), jnn.optimizers.momentum(0.1), train,
    ...                     key=jax.random.key(0), epochs=4, batch_size=32):
    ...     if progress.accuracy > 0.9:
    ...         break
    >>> progress.accuracy > 0.9
    True
    """
    check_parts(net, loss)
    epochs, batch_size = whole("epochs", epochs), whole("batch_size", batch_size)
    accumulate = whole("accumulate", accumulate)
    watch = None if watch is None else whole("watch", watch)
    chunk = None if chunk is None else whole("chunk", chunk)
    if batch_size % accumulate:
        raise ValueError(
            f"accumulate is {accumulate}, which does not divide the batch_size of {batch_size}"
        )
    optimizer = pair("run", optimizer)
    recipe = Recipe(
        net,
        loss,
        optimizer,
        gradient_named(gradient),
        batch_size,
        checked_penalty(penalty),
        accumulate,
        watch,
    )
    arrays, held_out = checked_pair(net, loss, data, validation, transform, batch_size)
    n = len(arrays[1])
    if (key is None) == (resume is None):
        raise ValueError(
            f"key and resume are {'both' if resume else 'not'} given; give one of them: "
            "key=jax.random.key(seed) to begin, or resume=progress.state to go on"
        )
    x = jax.eval_shape(transformed, transform, arrays[0])
    state = resume if key is None else start(net, optimizer, x, key)
    if not isinstance(state, RunState):
        raise ValueError(f"resume is a {type(state).__name__}; give the .state of a Progress")
    fresh = jax.eval_shape(partial(start, net, optimizer, x), state.key)
    if problem := unlike(state, fresh):
        raise ValueError(f"resume is no state of this network and optimizer: {problem}")
    # numpy arrays are copied: JAX may go on reading what their owner has overwritten.
    state = jax.tree.map(lambda v: v if isinstance(v, jax.Array) else jnp.array(np.array(v)), state)
    if not all(bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(state.params)):
        raise ValueError("resume has parameters that are not finite; go on from an earlier state")
    if state.step == 0:
        state = state._replace(examples=jnp.int32(n), batch_size=jnp.int32(batch_size))
    if (state.examples, state.batch_size) != (n, batch_size):
        raise ValueError(
            f"resume is of a run on {state.examples} examples in batches of {state.batch_size}, "
            f"this is one on {n} in batches of {batch_size}; they must agree, for they are what "
            "its steps are counted in"
        )
    if epochs * (n // batch_size) >= 2**31:
        raise ValueError(f"epochs is {epochs}; steps are counted up to 2147483647: take fewer")
    if (steps := epochs * (n // batch_size)) <= state.step:
        raise ValueError(
            f"resume has taken {state.step} steps and {epochs} epochs are {steps}; raise epochs"
        )
    try:
        seen = unseen(recipe, arrays, transform, state)
    except NotImplementedError as error:
        raise ValueError(f"watch is {watch}, which needs the backward pass: {error}") from None
    # Traces a step, so that what any part of it refuses is refused at the call.
    _advance.eval_shape(recipe, arrays, transform, state, seen, 0)
    return _chunks(recipe, arrays, transform, state, seen, epochs, held_out, chunk)


def fit(
    net: Layer,
    loss: Loss,
    optimizer: Optimizer,
    data: tuple[Any, Any],
    *,
    epochs: int,
    batch_size: int,
    progress: bool = True,
    **options: Any,
) -> Fitted:
    """`run` to its end, with a live line on the terminal: returns params, state and history.

    `options` are those of `run` but `chunk`. The history holds the Progress at the end of each
    epoch, without its state. With `progress=False` nothing is shown. Ctrl-C leaves nothing in hand;
    where that matters, loop over `run` and keep its last record.

    >>> import jnn
    >>> train, test = jnn.data.digits()[1:3]
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(32), jnn.ReLU(), jnn.Dense(10))
    >>> params, state, history = fit(
    ...     net, jnn.SoftmaxCrossEntropy(), jnn.optimizers.momentum(0.1), train,
    ...     key=jax.random.key(0), epochs=5, batch_size=32, progress=False)
    >>> len(history), history[-1].accuracy > 0.9
    (5, True)
    """
    if "chunk" in options:
        raise ValueError("fit keeps a record of each epoch, which a chunk may skip: use run")
    records = run(net, loss, optimizer, data, epochs=epochs, batch_size=batch_size, **options)
    history: list[Progress] = []
    state: Any = None
    for record in follow(records) if progress else records:
        state = record.state
        if record.epoch.is_integer():
            history.append(record._replace(state=None))
    return Fitted(state.params, state.state, history)


def start(
    net: Layer,
    optimizer: Optimizer,
    x: Any,
    key: jax.Array,
    params: Params | None = None,
    state: State | None = None,
) -> RunState:
    """The state before the first step, with parameters fresh from `key`, for examples like `x`.

    With `params`, and `state` where the network has one, it is that of a run that begins from
    these: `run(..., resume=start(net, optimizer, x, key, params))` trains them further.
    Raises ValueError where one of them is not this network's, or the state is left out.
    """
    check_key(key)
    optimizer = pair("start", optimizer)
    made = _fresh(net, optimizer, form_of_one(x), key)
    if params is not None and state is None and jax.tree.leaves(made.state):
        raise ValueError(
            "state is None; with params that were trained, what this network's layers keep of a "
            "run (such as running moments) would begin anew: give the state that belongs to them"
        )
    for name, given, like in (("params", params, made.params), ("state", state, made.state)):
        if given is not None and (problem := unlike(given, like)):
            raise ValueError(f"{name} is not this network's: {problem}")
    if params is not None:
        begun = jax.tree.map(jnp.asarray, optimizer.init(params))  # a count may be a Python number
        made = made._replace(params=params, optimizer=begun)
    return made if state is None else made._replace(state=state)


def _chunks(
    recipe: Recipe,
    data: Pair,
    transform: Any,
    state: RunState,
    seen: Tree,
    epochs: int,
    validation: Pair | None,
    chunk: int | None,
) -> Iterator[Progress]:
    net, loss = recipe.net, recipe.loss
    per_epoch = len(data[1]) // recipe.batch_size
    first = step = int(state.step)
    steps, total, layers = epochs * per_epoch, 0.0, None
    # Compiles, so that the first chunk's speed is that of the steps.
    _advance(recipe, data, transform, state, seen, 0)
    length = chunk or 1
    while step < steps:
        left = steps - step
        if chunk is None or validation is not None:
            left = per_epoch - step % per_epoch
        began = time.perf_counter()
        following, seen = _advance(recipe, data, transform, state, seen, min(length, left))
        told = following.step, following.loss, following.penalty, following.correct
        now, loss_sum, penalty_sum, correct_sum, first_bad = (
            v.item() for v in jax.device_get((*told, following.first_bad))
        )
        seconds = time.perf_counter() - began
        if first_bad >= 0:
            raise _diverged(partial(_advance, recipe, data, transform), state, seen, now - step)
        if recipe.watch and (layers is not None or -(-step // recipe.watch) * recipe.watch < now):
            layers = named(net, jax.device_get(seen))
        done, total = now - step, total + seconds
        step, state = now, following
        in_epoch = (step - 1) % per_epoch + 1
        yield Progress(
            step=step,
            steps=steps,
            epoch=step / per_epoch,
            loss=loss_sum / in_epoch,
            accuracy=correct_sum / in_epoch if scores(loss) else None,
            examples_per_second=(step - first) * recipe.batch_size / total,
            validation=evaluation(net, loss, state.params, state.state, validation, transform)
            if in_epoch == per_epoch and validation is not None
            else None,
            layers=layers,
            penalty=penalty_sum / in_epoch,
            state=state,
        )
        if chunk is None:
            length = max(1, min(4 * length, int(done * CHUNK_SECONDS / seconds)))


def _diverged(
    advance: Callable[..., tuple[RunState, Tree]], good: RunState, seen: Tree, steps: int
) -> Diverged:
    """The error for a chunk that went wrong somewhere in `steps` steps, with the step it did.

    The chunk is halved again and again: to look at every parameter at every step would cost all
    runs what only this one needs.
    """
    while steps > 1:
        half, _ = advance(good, seen, steps // 2)
        if half.first_bad < 0:
            good, steps = half, steps - steps // 2
        else:
            steps //= 2
    return Diverged(int(good.step), good)


def gradient_named(gradient: str | Gradient) -> Gradient:
    """The gradient of that name, or the function itself."""
    if isinstance(gradient, str) and gradient in GRADIENTS:
        return GRADIENTS[gradient]
    if isinstance(gradient, str) or not callable(gradient):
        raise ValueError(
            f"gradient is {gradient!r}; it must be one of {sorted(GRADIENTS)}, or a function such "
            "as jnn.backprop"
        )
    return gradient


def checked_penalty(penalty: Any) -> Penalty | None:
    """The penalty, if it is one or None."""
    if not isinstance(penalty, Penalty | None):
        raise ValueError(
            f"penalty is {penalty!r}; it must be a penalty such as jnn.penalties.L2(1e-4)"
        )
    return penalty


_fresh = jax.jit(fresh, static_argnums=(0, 1, 2))


_advance = jax.jit(advance, static_argnums=0)
