"""The compiled run: a generator of progress around one loop on the device."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.data.checking import checked
from jnn.data.shuffle import shuffled
from jnn.gradients import ValueAndGrads, autodiff, backprop
from jnn.layer import Cache, Eval, Layer, Mode, Params, State, Train, unlike
from jnn.losses import Loss
from jnn.optimizers import Optimizer, apply_updates
from jnn.report import follow

Gradient = Callable[[Layer, Loss], ValueAndGrads]
GRADIENTS: dict[str, Gradient] = {"backprop": backprop, "autodiff": autodiff}
CHUNK_SECONDS = 0.2  # long beside the cost of a chunk, short beside human patience


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
    correct: jax.Array  # likewise, the fraction of right answers
    first_bad: jax.Array  # the first step that was not finite, or -1


class Evaluation(NamedTuple):
    """The mean over a whole data set; accuracy is None where the loss does not define it."""

    loss: float
    accuracy: float | None
    examples: int


class Progress(NamedTuple):
    """Where a run stands at the end of a chunk.

    `validation` is None but at the end of an epoch of a run with validation data. `state` is that
    after the last step, not the best so far.
    """

    step: int  # steps taken
    steps: int  # steps of the whole run
    epoch: float  # epochs done: 2.5 is half-way through the third
    loss: float  # the mean over the steps of the current epoch so far
    accuracy: float | None  # likewise, of the training batches as they were met
    examples_per_second: float  # since the run began or was resumed, compilation not counted
    validation: Evaluation | None  # at the end of an epoch, where validation data were given
    state: Any  # a RunState to save or to resume from; None in a history, which keeps none


class Fitted(NamedTuple):
    """What `fit` returns."""

    params: Params
    state: State
    history: list[Progress]


class Diverged(ArithmeticError):
    """Loss or parameters stopped being finite numbers; `state` is the last that was good."""

    def __init__(self, step: int, state: RunState):
        super().__init__(
            f"the loss or the parameters were not finite at step {step}: "
            "the learning rate is probably too large, try a tenth of it"
        )
        self.step, self.state = step, state


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
    gradient: str | Gradient = "backprop",
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
    data, validation       (x, y) arrays of equal length n, put on the device once
    epochs, batch_size     every epoch is a fresh shuffle of n // batch_size whole batches; the
                           n % batch_size examples left over are others each time
    key                    jax.random.key(seed), from which all that is random is drawn
    resume                 in place of `key`: the state that a run with the same arguments yielded,
                           to go on from to the end of `epochs` exactly as if it had never stopped
    gradient               "backprop", "autodiff", or a function (net, loss) -> f with the
                           signature of those two
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
    _check_whole("epochs", epochs)
    _check_whole("batch_size", batch_size)
    if chunk is not None:
        _check_whole("chunk", chunk)
    if isinstance(gradient, str) and gradient not in GRADIENTS:
        raise ValueError(f"gradient is {gradient!r}; it must be one of {sorted(GRADIENTS)}")

    epochs, batch_size = int(epochs), int(batch_size)
    gradient = GRADIENTS[gradient] if isinstance(gradient, str) else gradient
    gradient(net, loss)  # refuses at once what it would refuse under jit
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        if not (isinstance(optimizer, tuple) and len(optimizer) == 2):
            raise ValueError(
                f"optimizer is {optimizer!r}; it must be a pair of functions (init, update), "
                "such as jnn.optimizers.sgd(0.1)"
            )
        optimizer = Optimizer(*optimizer)

    arrays = checked("data", net, loss, data)
    held_out = None if validation is None else checked("validation", net, loss, validation)
    n = len(arrays[0])
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size}; the data hold only {n} examples")
    if (key is None) == (resume is None):
        raise ValueError(
            f"key and resume are {'both' if resume else 'not'} given; give one of them: "
            "key=jax.random.key(seed) to begin, or resume=progress.state to go on"
        )
    state = resume if key is None else start(net, optimizer, arrays[0], key)
    if not isinstance(state, RunState):
        raise ValueError(f"resume is a {type(state).__name__}; give the .state of a Progress")
    fresh = jax.eval_shape(partial(start, net, optimizer, arrays[0]), state.key)
    if problem := unlike(state, fresh):
        raise ValueError(f"resume is no state of this network and optimizer: {problem}")
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
    advance = partial(
        _advance,
        net,
        loss,
        optimizer,
        gradient,
        batch_size,
        arrays,
    )
    return _chunks(net, loss, advance, state, epochs, batch_size, n, held_out, chunk)


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


def start(net: Layer, optimizer: Optimizer, x: Any, key: jax.Array) -> RunState:
    """The state before the first step, with parameters fresh from `key`, for examples like `x`.

    `run(resume=start(...)._replace(params=mine))` trains parameters that came from elsewhere.
    """
    if not hasattr(key, "dtype") or not hasattr(key, "shape"):
        raise ValueError(f"key is {key!r}; it must be a JAX key: jax.random.key({key!r})")
    return _fresh(net, optimizer, tuple(x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype), key)


def streams(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The run's two keys: one for the shuffle, one that every step's is folded from."""
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def evaluate(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: tuple[Any, Any],
    *,
    batch_size: int = 500,
) -> Evaluation:
    """The exact mean of loss and accuracy over any number of examples, in evaluation mode.

    The last batch is filled up and what fills it weighs nothing, so the result does not depend on
    `batch_size` but for rounding. Accuracy is NaN where a prediction is not finite.
    Raises ValueError as `run` does.

    >>> import jnn
    >>> net, loss = jnn.Serial(jnn.Dense(2)), jnn.SoftmaxCrossEntropy()
    >>> x, y = jnp.ones((7, 3)), jnp.zeros(7, int)
    >>> params, state = net.init(jax.random.key(0), x)
    >>> evaluate(net, loss, jax.tree.map(jnp.zeros_like, params), state, (x, y)).accuracy
    1.0
    """
    _check_whole("batch_size", batch_size)
    return _evaluate(net, loss, params, state, checked("data", net, loss, data), batch_size)


def _chunks(
    net: Layer,
    loss: Loss,
    advance: Callable[[RunState, int], RunState],
    state: RunState,
    epochs: int,
    batch_size: int,
    n: int,
    validation: tuple[jax.Array, jax.Array] | None,
    chunk: int | None,
) -> Iterator[Progress]:
    per_epoch = n // batch_size
    first = step = int(state.step)
    steps, total = epochs * per_epoch, 0.0
    advance(state, 0)  # compiles, so that the first chunk's speed is that of the steps
    length = chunk or 1
    while step < steps:
        left = steps - step
        if chunk is None or validation is not None:
            left = per_epoch - step % per_epoch
        began = time.perf_counter()
        following = advance(state, min(length, left))
        now, loss_sum, correct_sum, first_bad = (
            v.item()
            for v in jax.device_get(
                (following.step, following.loss, following.correct, following.first_bad)
            )
        )
        seconds = time.perf_counter() - began
        if first_bad >= 0:
            raise Diverged(first_bad, state)
        done, total = now - step, total + seconds
        step, state = now, following
        in_epoch = (step - 1) % per_epoch + 1
        at_end = in_epoch == per_epoch
        yield Progress(
            step=step,
            steps=steps,
            epoch=step / per_epoch,
            loss=loss_sum / in_epoch,
            accuracy=correct_sum / in_epoch if _scores(loss) else None,
            examples_per_second=(step - first) * batch_size / total,
            validation=_evaluate(net, loss, state.params, state.state, validation, 500)
            if at_end and validation is not None
            else None,
            state=state,
        )
        if chunk is None:
            length = max(1, min(4 * length, int(done * CHUNK_SECONDS / seconds)))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fresh(
    net: Layer, optimizer: Optimizer, shape: tuple[int, ...], dtype: Any, key: jax.Array
) -> RunState:
    # fold_in(k, i) equals split(k, n)[i], so the run's own key must not be the root.
    init_key, run_key = jax.random.split(key)
    params, state = net.init(init_key, jax.ShapeDtypeStruct((1, *shape), dtype))
    zero, step = jnp.zeros((), float), jnp.zeros((), jnp.int32)
    opt = optimizer.init(params)
    return RunState(params, state, opt, step, run_key, step, step, zero, zero, step - 1)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _advance(
    net: Layer,
    loss: Loss,
    optimizer: Optimizer,
    gradient: Gradient,
    batch_size: int,
    data: tuple[jax.Array, jax.Array],
    state: RunState,
    steps: jax.Array,
) -> RunState:
    """`steps` steps of training, as one loop."""
    n = len(data[0])
    per_epoch = n // batch_size
    value_and_grads = gradient(_Watched(net), loss)
    shuffle_key, step_key = streams(state.key)
    seed = jax.random.bits(shuffle_key, (2,), jnp.uint32)

    def step(_: jax.Array, s: RunState) -> RunState:
        epoch, batch = s.step // per_epoch, s.step % per_epoch
        positions = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
        index = shuffled(seed, epoch, positions, n)
        xs, ys = (v.at[index].get(mode="promise_in_bounds") for v in data)
        mode = Train(jax.random.fold_in(step_key, s.step))
        (value, (cache, prediction)), grads = value_and_grads(s.params, xs, ys, mode)
        updates, opt = optimizer.update(grads, s.optimizer, s.params)
        correct = loss.correct(prediction, ys)
        correct = jnp.zeros(()) if correct is None else correct.mean()
        fresh = batch == 0
        return RunState(
            params=apply_updates(s.params, updates),
            state=net.observe(s.state, cache),
            optimizer=opt,
            step=s.step + 1,
            key=s.key,
            examples=s.examples,
            batch_size=s.batch_size,
            loss=jnp.where(fresh, 0, s.loss) + value.astype(s.loss.dtype),
            correct=jnp.where(fresh, 0, s.correct) + correct.astype(s.correct.dtype),
            first_bad=jnp.where((s.first_bad < 0) & ~jnp.isfinite(value), s.step, s.first_bad),
        )

    state = jax.lax.fori_loop(0, steps, step, state)
    # The loss of the next step would tell, but there may be none.
    finite = jax.tree.map(lambda p: jnp.isfinite(p).all(), state.params)
    broken = ~jax.tree.reduce(jnp.logical_and, finite, jnp.array(True)) & (state.first_bad < 0)
    return state._replace(first_bad=jnp.where(broken, state.step - 1, state.first_bad))


@partial(jax.jit, static_argnums=(0, 1, 5))
def _sums(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: tuple[jax.Array, jax.Array],
    batch: int,
) -> tuple[jax.Array, jax.Array]:
    """Loss and right answers summed over a data set, batch by batch."""
    n = len(data[0])

    def add(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position = i * batch + jnp.arange(batch, dtype=jnp.int32)
        xs, ys = (v[jnp.minimum(position, n - 1)] for v in data)
        prediction, _ = net.forward(params, xs, Eval(state))
        values, _ = loss.each().forward(prediction, ys)
        correct = loss.correct(prediction, ys)
        value, right = (
            jnp.where(position < n, v, 0).sum(dtype=float)
            for v in (values, 0 if correct is None else correct)
        )
        return sums[0] + value, sums[1] + right

    zero = jnp.zeros((), float)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(-(-n // batch)), add, (zero, zero))


def _evaluate(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: tuple[jax.Array, jax.Array],
    batch: int,
) -> Evaluation:
    n = len(data[0])
    value, correct = jax.device_get(_sums(net, loss, params, state, data, min(batch, n)))
    return Evaluation(float(value) / n, float(correct) / n if _scores(loss) else None, n)


def _scores(loss: Loss) -> bool:
    return type(loss).correct is not Loss.correct


@dataclass(frozen=True)
class _Watched(Layer):
    """A network whose cache also holds its output, so that a run can score it."""

    net: Layer

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        y, cache = self.net.forward(params, x, mode)
        return y, (cache, y)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        return self.net.backward(params, cache[0], dy)


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
