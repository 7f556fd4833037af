"""What is said of the layers, and that watching a run does not disturb it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.diagnostics import LayerStats, judge, measure, table

LOSS = jnn.SoftmaxCrossEntropy()
NET = jnn.Serial(jnn.Dense(4), jnn.ReLU(), jnn.Dense(5), jnn.Tanh(), jnn.Dense(3))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40).astype(np.int32)
OPTIMIZER = jnn.optimizers.sgd(0.1)


def stats(**changed):
    fields = {"mean": 0.0, "spread": 1.0, "dead": None, "saturated": None, "cotangent": 1e-3}
    fields |= {"gradient": 1.0, "update": 1e-3} | changed
    return LayerStats("dense1", jnn.Dense(3), **fields)


@pytest.fixture(scope="module")
def params():
    return NET.init(jax.random.key(0), X)[0]


def test_the_numbers_are_what_their_names_say(params):
    mode = jnn.Eval()
    layers = {layer.path: layer for layer in measure(NET, LOSS, params, X, Y, mode)}
    assert list(layers) == ["dense1", "relu1", "dense2", "tanh1", "dense3"]
    hidden = X @ params["dense1"]["w"] + params["dense1"]["b"]
    relu = np.maximum(hidden, 0)
    tanh = np.tanh(relu @ params["dense2"]["w"] + params["dense2"]["b"])
    _, grads = jnn.backprop(NET, LOSS)(params, X, Y, mode)
    assert layers["relu1"].mean == pytest.approx(relu.mean(), rel=1e-5)
    assert layers["relu1"].spread == pytest.approx(relu.std(), rel=1e-5)
    assert layers["relu1"].dead == (relu == 0).all(axis=0).mean()
    assert layers["tanh1"].saturated == pytest.approx((np.abs(tanh) > 0.95).mean(), abs=1e-6)
    for name in ("dense1", "dense2", "dense3"):
        gradient = np.linalg.norm(grads[name]["w"])
        assert layers[name].gradient == pytest.approx(gradient, rel=1e-5)
    assert layers["relu1"].gradient is layers["dense1"].dead is layers["relu1"].saturated is None


def test_units_that_never_fire_are_counted(params):
    low = params | {"dense1": params["dense1"] | {"b": jnp.array([-99.0, 0, -99, -99])}}
    layers = measure(NET, LOSS, low, X, Y, jnn.Eval())
    assert layers[1].dead == 0.75
    assert judge(layers)[0].startswith("relu1: 75% of its units never fire")
    assert "relu1: 75%" in table(layers)


@pytest.mark.parametrize(
    "layer, words",
    [
        (stats(saturated=0.9), "90% of its outputs are saturated"),
        (stats(update=0.5), r"updates are 5e-01 of its weights.* lower the learning rate"),
        (stats(update=1e-7), r"updates are only 1e-07 of its weights.* raise the learning rate"),
        (stats(spread=float("nan")), "not finite"),
    ],
)
def test_what_is_wrong_is_said(layer, words):
    with pytest.raises(AssertionError, match=words):
        assert not judge([layer])


def test_what_is_right_is_passed_over():
    assert judge([stats(dead=0.2, saturated=0.1), stats(cotangent=1e-4)]) == []
    assert judge([stats(update=0.0)]) == []  # frozen


def test_before_anything_was_measured_there_is_nothing_to_judge():
    with pytest.raises(ValueError, match="layers is None: nothing was measured yet"):
        table(None)


@pytest.mark.parametrize(
    "first, last, words",
    [
        ({"cotangent": 1e-9}, {}, "the gradient vanishes: its cotangent is 1e-03 at dense1 and"),
        ({"cotangent": 1e3}, {}, "the gradient explodes"),
        ({}, {"spread": 1e-6}, "the signal vanishes"),
        ({}, {"spread": 1e6}, "the signal explodes"),
    ],
)
def test_journeys_through_the_network_are_judged(first, last, words):
    (said,) = judge([stats(**first), stats(**last)])
    assert said.startswith(words)


def run(**options):
    options = {"epochs": 3, "batch_size": 8, "key": jax.random.key(0)} | options
    return list(jnn.run(NET, LOSS, OPTIMIZER, (X, Y), **options))


@pytest.mark.slow
def test_watching_changes_no_bit_of_a_run():
    watched, alone = run(watch=4, chunk=5), run(chunk=5)
    chex.assert_trees_all_equal(watched[-1].state, alone[-1].state)
    assert alone[-1].layers is None


def test_a_watched_run_reports_what_the_layers_did_at_the_last_measured_step():
    records = run(watch=4, chunk=1)
    assert [record.layers is None for record in records] == [False] * 15
    # Measured at steps 0, 4, 8, 12.
    assert all(record.layers == records[4].layers for record in records[4:8])
    assert records[8].layers != records[4].layers
    before, after = records[3].state.params, records[4].state.params
    for layer in records[4].layers[::2]:
        w, moved = (np.asarray(p[layer.path]["w"]) for p in (before, after))
        want = np.linalg.norm(moved - w) / np.linalg.norm(w)
        assert layer.update == pytest.approx(want, rel=1e-4)


def test_a_resumed_run_reports_nothing_before_it_has_measured():
    first = run(chunk=5)[0].state
    records = run(watch=100, chunk=1, resume=first, key=None)
    assert all(record.layers is None for record in records)


@dataclasses.dataclass(frozen=True)
class Split(jnn.Layer):
    """Hands on two halves."""

    def forward(self, params, x, mode):
        return tuple(jnp.split(x, 2, axis=-1)), None

    def pull(self, params, cache, dy):
        return jnp.concatenate(dy, axis=-1)


@dataclasses.dataclass(frozen=True)
class Join(jnn.Layer):
    """Puts two halves together."""

    def forward(self, params, x, mode):
        return jnp.concatenate(x, axis=-1), None

    def pull(self, params, cache, dy):
        return tuple(jnp.split(dy, 2, axis=-1))


def test_an_output_of_several_arrays_counts_with_all_its_numbers():
    x = jnp.arange(12.0).reshape(2, 6)
    net = jnn.Serial(Split(), Join(), jnn.Dense(3))
    first, *_ = measure(net, jnn.SoftmaxCrossEntropy(), *args(net, x))
    assert first.mean == pytest.approx(5.5) and first.spread == pytest.approx(float(x.std()))


def args(net, x):
    params, state = net.init(jax.random.key(0), x)
    return params, x, jnp.array([0, 2]), jnn.Eval(state)


@dataclasses.dataclass(frozen=True)
class Breaks(jnn.Elementwise):
    """Not finite in its output, or only in its cotangent."""

    backward_only: bool = False
    keeps = "x"

    def f(self, x):
        return x if self.backward_only else x / 0

    def df(self, kept, dy):
        return dy / 0


@pytest.mark.parametrize(
    "broken, words",
    [
        (Breaks(), "breaks1: the first whose output is not finite"),
        (Breaks(backward_only=True), "breaks1: the first, going back, whose backward pass is not"),
    ],
)
def test_the_layer_is_named_with_which_numbers_stop_being_finite(broken, words):
    net = jnn.Serial(jnn.Dense(4), jnn.Tanh(), broken, jnn.Dense(4), jnn.Dense(3))
    params, _ = net.init(jax.random.key(0), X)
    (said,) = [s for s in judge(measure(net, LOSS, params, X, Y, jnn.Eval())) if "first" in s]
    assert said.startswith(words)


def test_noise_is_the_variance_of_the_gradients_of_examples(params):
    def one(x, y):
        return jax.grad(lambda p: LOSS.forward(NET.forward(p, x[None], jnn.Eval())[0], y[None])[0])(
            params
        )

    each = jax.vmap(one)(X, Y)
    for layer in measure(NET, LOSS, params, X, Y, jnn.Eval()):
        if layer.path not in each:
            assert layer.signal is layer.variance is None
            continue
        flat = np.concatenate([g.reshape(40, -1) for g in jax.tree.leaves(each[layer.path])], 1)
        variance = flat.var(axis=0, ddof=1).sum()
        assert layer.variance == pytest.approx(variance, rel=1e-4)
        assert layer.signal == pytest.approx((flat.mean(0) ** 2).sum() - variance / 40, rel=1e-3)


def test_the_noise_of_a_run_is_a_quotient_of_means():
    records = list(
        jnn.run(
            *(NET, LOSS, OPTIMIZER, (X, Y)),
            key=jax.random.key(0),
            epochs=3,
            batch_size=8,
            watch=2,
            chunk=3,
        )
    )
    steps, scales = jnn.diagnostics.noise_scales(records, fade=0.5)
    assert list(scales) == ["dense1", "dense2", "dense3", "all"] and len(steps) == 5
    first = [layer for layer in records[0].layers if layer.signal is not None]
    total = sum(layer.variance for layer in first) / sum(layer.signal for layer in first)
    assert scales["all"][0] == pytest.approx(total if total > 0 else np.nan, nan_ok=True)
    with pytest.raises(ValueError, match="holds no noise of gradients"):
        jnn.diagnostics.noise_scales([record._replace(layers=None) for record in records])
