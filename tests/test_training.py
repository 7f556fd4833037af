"""The compiled run: repeatable, resumable, compiled once, and defended against wrong input."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jnn
from jnn.data.shuffle import shuffled
from jnn.evaluation import evaluate
from jnn.steps import Recipe, streams
from jnn.training import Diverged, fit, run, start

NET = jnn.Serial(jnn.Dense(5), jnn.Tanh(), jnn.Dense(3))
LOSS = jnn.SoftmaxCrossEntropy()
OPTIMIZER = jnn.optimizers.momentum(0.1)  # one object, so that all tests share a compilation
RNG = np.random.default_rng(0)
X = RNG.standard_normal((23, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 23).astype(np.int32)
OPTIONS = {"epochs": 3, "batch_size": 5}  # 4 whole batches an epoch, 3 left over


def key():
    """The same key anew: one that was used before is refused throughout the tests."""
    return jax.random.key(0)


def records(data=(X, Y), net=NET, loss=LOSS, optimizer=OPTIMIZER, **options):
    options = {**OPTIONS, **options}
    return run(
        net, loss, optimizer, data, **({} if "resume" in options else {"key": key()}) | options
    )


def last(records):
    *_, record = records
    return record


@jax.jit
def batch(step, run_key):
    """Which examples a run takes at a step."""
    seed = jax.random.bits(streams(run_key)[0], (2,), jnp.uint32)
    return shuffled(seed, step // 4, step % 4 * 5 + jnp.arange(5), len(X))


def train(data=(X, Y), net=NET, loss=LOSS, optimizer=OPTIMIZER, **options):
    return last(records(data, net, loss, optimizer, **options))


@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
def test_the_chunk_length_changes_no_bit(chunk):
    chex.assert_trees_all_equal(train(chunk=chunk).state, train().state)


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_resumed_run_is_the_run_that_never_stopped(stop):
    resumed = train(resume=next(records(chunk=stop)).state)
    chex.assert_trees_all_equal(resumed.state, train().state)


def test_every_yielded_state_stays_valid_and_the_callers_arrays_are_left_alone():
    x, y = jnp.asarray(X), jnp.asarray(Y)
    first = start(NET, OPTIMIZER, x, key())
    seen = list(records((x, y), resume=first, chunk=4))
    assert [int(record.state.step) for record in seen] == [4, 8, 12]
    chex.assert_tree_all_finite([first.params, seen[0].state.params, x])


def test_the_run_keeps_its_own_copy_of_numpy_data():
    x, y = X.copy(), Y.copy()
    waiting = records((x, y))
    x[:], y[:] = np.nan, 0
    chex.assert_trees_all_equal(last(waiting).state, train().state)


def test_both_gradients_train_alike():
    chex.assert_trees_all_close(
        train(gradient="autodiff").state.params, train().state.params, atol=1e-6
    )


def test_any_function_with_the_signature_of_backprop_is_a_gradient():
    chex.assert_trees_all_equal(train(gradient=jnn.backprop).state, train().state)


def test_a_run_does_what_a_plain_loop_does():
    @jax.jit
    def step(i, params, opt):
        index = batch(i, state.key)
        _, grads = jnn.autodiff(NET, LOSS)(
            params, jnp.asarray(X)[index], jnp.asarray(Y)[index], jnn.Eval()
        )
        updates, opt = OPTIMIZER.update(grads, opt, params)
        return jnn.optimizers.apply_updates(params, updates), opt

    state = start(NET, OPTIMIZER, X, key())
    params, opt = state.params, state.optimizer
    for i in range(12):
        params, opt = step(i, params, opt)
    chex.assert_trees_all_close(train().state.params, params, atol=1e-6)


def test_loss_and_accuracy_are_means_over_the_epoch_so_far():
    steps, epochs = list(records(chunk=1)), list(records(chunk=4))
    assert [record.step for record in steps] == list(range(1, 13))
    assert [record.epoch for record in epochs] == [1, 2, 3]
    for end, epoch in zip(steps[3::4], epochs, strict=True):
        assert end[:5] == epoch[:5]
    for step in (3, 7, 11):  # the last of each epoch
        index = batch(step, steps[0].state.key)
        scores = NET.forward(steps[step - 1].state.params, X[index], jnn.Eval())[0]
        own = 4 * steps[step].loss - 3 * steps[step - 1].loss
        assert own == pytest.approx(float(LOSS.forward(scores, Y[index])[0]), abs=1e-5)


def test_a_loss_without_accuracy_reports_none():
    y = RNG.standard_normal((23, 3)).astype(np.float32)
    record = train((X, y), loss=jnn.SquaredError(), validation=(X, y))
    assert record.accuracy is None
    assert record.validation.accuracy is None


def test_validation_is_evaluated_at_each_epochs_end():
    seen = list(records(chunk=3, validation=(X, Y)))
    assert [r.validation is not None for r in seen] == [r.epoch.is_integer() for r in seen]
    assert seen[-1].validation == evaluate(NET, LOSS, seen[-1].state.params, {}, (X, Y))


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 500])
def test_evaluation_is_exact_for_any_batch_size(batch_size):
    params, state = NET.init(key(), X)
    scores = NET.forward(params, X, jnn.Eval(state))[0]
    result = evaluate(NET, LOSS, params, state, (X, Y), batch_size=batch_size)
    assert result.loss == pytest.approx(float(LOSS.forward(scores, Y)[0]), rel=1e-6)
    assert result.accuracy == pytest.approx(float((scores.argmax(-1) == Y).mean()), rel=1e-6)
    assert result.examples == 23


def test_accuracy_of_parameters_that_are_nan_is_nan_and_not_the_share_of_class_0():
    params, state = NET.init(key(), X)
    broken = jax.tree.map(lambda p: p * jnp.nan, params)
    assert np.isnan(evaluate(NET, LOSS, broken, state, (X, Y)).accuracy)


def test_an_epoch_is_a_fresh_shuffle_of_all_but_the_remainder():
    run_key = start(NET, OPTIMIZER, X, key()).key
    epochs = [np.concatenate([batch(4 * e + b, run_key) for b in range(4)]) for e in (0, 1)]
    for epoch in epochs:
        assert len(set(epoch)) == 20
    assert list(epochs[0]) != list(epochs[1])


@dataclasses.dataclass(frozen=True)
class Counted(jnn.Dense):
    """A Dense that counts how often it is traced."""

    traces: list = dataclasses.field(default_factory=list, compare=False)

    def pull(self, params, cache, dy):
        self.traces.append(dy.shape)
        return super().pull(params, cache, dy)


def test_all_chunk_lengths_and_all_runs_share_one_compilation():
    net = jnn.Serial(Counted(3))
    for chunk in (1, 3, 7, None):
        train(net=net, chunk=chunk, validation=(X, Y))
    assert len(net.layers[0][1].traces) == 1


def test_the_program_does_not_grow_with_the_data():
    def size(n):
        x, y = jnp.zeros((n, 4)), jnp.zeros(n, jnp.int32)
        state = jax.eval_shape(lambda k: start(NET, OPTIMIZER, x, k), key())
        recipe = Recipe(NET, LOSS, OPTIMIZER, jnn.backprop, batch_size=5)
        arguments = (recipe, (x, y), None, state, (), 1)
        return len(jnn.training._advance.lower(*arguments).as_text())

    assert abs(size(100_000) - size(1000)) < 200  # the digits of n itself


def test_no_two_streams_of_random_numbers_share_a_key():
    init_key, run_key = jax.random.split(key())
    shuffle_key, step_key = streams(run_key)
    steps = [jax.random.fold_in(step_key, i) for i in range(9)]
    named = [init_key, run_key, shuffle_key, step_key, *steps]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in named}) == len(named)


def test_divergence_stops_the_run_and_keeps_the_last_good_state():
    y = np.ones((23, 3), np.float32)
    options = {"loss": jnn.SquaredError(), "net": jnn.Serial(jnn.Dense(3)), "chunk": 1}
    with pytest.raises(Diverged, match="not finite at step 1") as caught:
        train((X, y), optimizer=jnn.optimizers.sgd(1e30), **options)  # the loss is about 1e60
    assert int(caught.value.state.step) == 1
    chex.assert_tree_all_finite(caught.value.state.params)
    with pytest.raises(Diverged, match="not finite at step 3"):  # the last: no loss will tell
        train((X, y), optimizer=jnn.optimizers.sgd(poison_at_step_3), epochs=1, **options)


def poison_at_step_3(step):
    return jnp.where(step == 3, jnp.inf, 0.1)


def test_fit_returns_parameters_state_and_a_record_for_each_epoch(capsys):
    params, state, history = fit(NET, LOSS, OPTIMIZER, (X, Y), key=key(), **OPTIONS)
    chex.assert_trees_all_equal(params, train().state.params)
    assert state == {}
    assert [record.epoch for record in history] == [1, 2, 3]
    assert all(record.state is None for record in history)
    assert capsys.readouterr().err.count("epoch") == 3
    fit(NET, LOSS, OPTIMIZER, (X, Y), key=key(), progress=False, **OPTIONS)
    assert capsys.readouterr().err == ""


def test_float64_data_train_in_float64_where_it_is_switched_on(x64):
    params = train((X.astype(np.float64), Y), optimizer=jnn.optimizers.sgd(0.1)).state.params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}


def test_float64_data_are_narrowed_where_it_is_not():
    state = train((X.astype(np.float64), Y.astype(np.int64))).state
    chex.assert_trees_all_equal(state, train().state)


def planted(value, index=7):
    x = X.copy()
    x[index, 2] = value
    return x


WRONG = {
    "labels too large": (((X, Y + 1)), r"lie outside 0\.\.2.*start at 1"),
    "a negative label": ((X, np.where(Y == 2, -1, Y)), r"lie outside 0\.\.2"),
    "float labels": ((X, Y.astype(np.float32)), "must be integers"),
    "one-hot labels": ((X, np.eye(3, dtype=np.float32)[Y]), r"argmax"),
    "labels in a column": ((X, Y[:, None]), "shapes must be equal"),
    "unequal lengths": ((X, Y[:-1]), "23 examples in x and 22 in y"),
    "no data": ((X[:0], Y[:0]), "no examples"),
    "nan in x": ((planted(np.nan), Y), r"nan at index \(7, 2\)"),
    "infinity in x": ((planted(np.inf), Y), r"inf at index \(7, 2\)"),
    "uint8 images": (((X * 10).astype(np.uint8), Y), r"uint8.*scale it"),
    "labels beyond int32": ((X, Y.astype(np.int64) + 2**40), r"which int32 cannot"),
    "text": ((X.astype(str), Y), "array of numbers"),
    "no pair": (X, "pair of arrays"),
    "a smaller data set than the batch": ((X[:4], Y[:4]), "only 4 examples"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_are_refused_at_the_call_and_before_compilation(name):
    data, message = WRONG[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        records(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"chunk": -1}, "chunk is -1"),
        ({"gradient": "numeric"}, r"\['autodiff', 'backprop'\]"),
        ({"key": 0}, r"jax\.random\.key\(0\)"),
        ({"key": jax.random.split(jax.random.key(0))}, r"key<fry> \(2,\); it must be one JAX key"),
        ({"key": None}, "not given"),
        ({"optimizer": 0.1}, "pair of functions"),
        ({"validation": (X, Y + 1)}, "lie outside"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        records(**options)


def test_a_state_of_another_network_or_of_a_finished_run_is_refused():
    with pytest.raises(ValueError, match=r"give the \.state"):
        records(resume=next(records(chunk=1)))
    with pytest.raises(ValueError, match="batches of 5, this is one on 23 in batches of 4"):
        records(resume=next(records(chunk=1)).state, batch_size=4)
    other = start(jnn.Serial(jnn.Dense(3)), OPTIMIZER, X, key())
    with pytest.raises(ValueError, match="resume is no state of this network"):
        records(resume=other)
    with pytest.raises(ValueError, match="raise epochs"):
        records(resume=train().state)


def test_a_run_may_begin_from_parameters_that_came_from_elsewhere():
    optimizer = jnn.optimizers.freeze(jnn.optimizers.average(OPTIMIZER, 0.9), "dense1.*")
    params = train().state.params
    begun = start(NET, optimizer, X, key(), params)
    chex.assert_trees_all_equal(begun.optimizer, optimizer.init(params))
    tuned = train(optimizer=optimizer, resume=begun).state.params
    chex.assert_trees_all_equal(tuned["dense1"], params["dense1"])
    assert (tuned["dense2"]["w"] != params["dense2"]["w"]).any()
    with pytest.raises(ValueError, match="params is not this network's"):
        start(NET, optimizer, X, key(), params["dense1"])
    normed = jnn.Serial(jnn.Dense(3), jnn.BatchNorm())
    made = start(normed, OPTIMIZER, X, key())
    with pytest.raises(ValueError, match="state is None; with params that were trained"):
        start(normed, OPTIMIZER, X, key(), made.params)
    assert start(normed, OPTIMIZER, X, key(), made.params, made.state).state == made.state


class Halved:
    """A transform in the form that a run takes it: a pytree with `apply`."""

    def __init__(self, by):
        self.by = by

    def apply(self, x):
        return x.astype(jnp.float32) / self.by


jax.tree_util.register_pytree_node(Halved, lambda t: ((t.by,), None), lambda _, by: Halved(*by))
BYTES = RNG.integers(0, 256, (23, 4)).astype(np.uint8)


def test_a_transform_runs_within_the_step_and_in_evaluation():
    halved = Halved(jnp.float32(255))
    x = BYTES.astype(np.float32) / 255
    inside = train((BYTES, Y), transform=halved, validation=(BYTES, Y))
    outside = train((x, Y), validation=(x, Y))
    chex.assert_trees_all_close(inside.state.params, outside.state.params, rtol=1e-5)
    assert inside.validation.loss == pytest.approx(outside.validation.loss, rel=1e-5)
    judged = evaluate(NET, LOSS, inside.state.params, {}, (BYTES, Y), transform=halved)
    assert judged == inside.validation


class Opaque:
    """A transform that is no pytree."""

    def apply(self, x):
        return x


@pytest.mark.parametrize(
    "transform, words",
    [
        (lambda x: x, "must be a fitted transform"),
        (jnn.preprocessing.Standardize, "must be a fitted transform"),
        (Opaque(), "transform is a Opaque, which JAX cannot look into"),
    ],
    ids=["function", "class", "opaque"],
)
def test_what_is_no_transform_is_refused(transform, words):
    with pytest.raises(ValueError, match=words):
        records(transform=transform)


@dataclasses.dataclass(frozen=True)
class Forward(jnn.Layer):
    """Knows no way back."""

    def forward(self, params, x, mode):
        return jnp.sin(x), None


@pytest.mark.parametrize(
    "options, words",
    [
        ({"net": jnn.Serial(jnn.Dense(3), jnn.BatchNorm()), "batch_size": 1}, "at least 2"),
        ({"optimizer": jnn.optimizers.adamw(1e-3, where="nope")}, "where is 'nope'"),
        ({"net": jnn.Serial(Forward(), jnn.Dense(3))}, "Forward must define pull"),
        (
            {"net": jnn.Serial(Forward(), jnn.Dense(3)), "gradient": "autodiff", "watch": 2},
            "watch is 2, which needs the backward pass",
        ),
        (
            {"gradient": lambda net, loss: jnn.backprop(net, loss), "penalty": jnn.L2(1)},
            r"cannot be called with \(net, loss, penalty\)",
        ),
    ],
    ids=["batch norm", "where", "no backward", "watched", "penalty"],
)
def test_what_a_step_would_refuse_is_refused_at_the_call(options, words):
    with pytest.raises((ValueError, NotImplementedError), match=words):
        records(**options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "net", [NET, jnn.Serial(jnn.Dense(3), toys.Noise())], ids=["same", "drawn"]
)
def test_accumulated_parts_give_the_gradient_of_the_batch(net):
    whole, parts = (train(net=net, batch_size=6, accumulate=a).state for a in (1, 3))
    close = net is NET  # parts draw other numbers than the batch would
    far = jax.tree.map(lambda a, b: float(abs(a - b).max()), whole.params, parts.params)
    assert (max(jax.tree.leaves(far)) < 1e-6) == close
    assert (whole.loss == pytest.approx(float(parts.loss), rel=1e-5)) == close


def test_accumulated_parts_with_a_penalty_are_the_batch_whatever_counts_in_them():
    loss = jnn.SoftmaxCrossEntropy(ignore=-1, weights=(1.0, 2.0, 5.0))
    y = np.where(np.arange(23) < 22, -1, Y)  # so that most batches hold nothing that counts
    options = {"batch_size": 6, "penalty": jnn.L2(0.1), "loss": loss}
    whole, parts = (train((X, y), accumulate=a, **options) for a in (1, 3))
    chex.assert_trees_all_close(whole.state.params, parts.state.params, atol=1e-6)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-6)
    assert whole.accuracy == pytest.approx(parts.accuracy)


def test_running_state_sees_every_part_in_turn():
    net = jnn.Serial(toys.Centre(), jnn.Dense(3))
    state = train(net=net, batch_size=6, epochs=1, accumulate=3, chunk=1).state
    moved = jnp.zeros(4)
    run_key = jax.random.split(key())[1]
    seed = jax.random.bits(streams(run_key)[0], (2,), jnp.uint32)
    for step in range(3):
        index = shuffled(seed, jnp.array(0), step * 6 + jnp.arange(6), len(X))
        for part in X[index].reshape(3, 2, 4):
            moved = 0.75 * moved + 0.25 * part.mean(axis=0)
    np.testing.assert_allclose(state.state["centre1"]["mean"], moved, rtol=1e-5, atol=1e-6)


def test_a_batch_that_parts_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="accumulate is 2, which does not divide the batch_size"):
        records(accumulate=2)


def test_a_penalty_is_part_of_the_loss_and_of_both_gradients():
    penalty = jnn.L2(0.1)
    hand, auto = (train(penalty=penalty, gradient=g) for g in ("backprop", "autodiff"))
    chex.assert_trees_all_close(hand.state.params, auto.state.params, atol=1e-6)
    start, plain = (next(records(chunk=1, **o)) for o in ({"penalty": penalty}, {}))
    fresh = jnn.training.start(NET, OPTIMIZER, X, key()).params
    assert start.loss - plain.loss == pytest.approx(float(penalty.value(fresh)), rel=1e-4)
    assert start.penalty == pytest.approx(float(penalty.value(fresh))) and plain.penalty == 0
    assert hand.penalty == pytest.approx(np.mean([r.penalty for r in steps(penalty)][-4:]))


def steps(penalty):
    """The records of single steps, with what each alone adds to the means."""
    told, total = [], 0.0
    for record in records(chunk=1, penalty=penalty):
        i = (record.step - 1) % 4
        before, total = (total if i else 0.0), record.penalty * (i + 1)
        told.append(record._replace(penalty=total - before))
    return told
