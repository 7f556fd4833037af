"""Serial: names, structure, keys, state, and errors that say where."""

import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Centre, Noise

import jnn
from jnn import Dense, Eval, LeakyReLU, ReLU, Serial, Tanh, Train
from jnn.layer import Layer, LayerError

X = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)


def train(seed: int = 1) -> Train:
    return Train(jax.random.key(seed))


def names(net):
    return [name for name, _ in net.children]


def begin(net):
    """Params and state."""
    return net.init(jax.random.key(0), X)


def cheap(key, shape, dtype):
    """Weights that tell keys apart and take no time to compile: the key's two words, repeated."""
    return jnp.resize(jax.random.key_data(key), shape).astype(dtype)


# Names


def test_names_are_derived_from_the_type_and_counted():
    net = Serial(Dense(3), ReLU(), Dense(2), LeakyReLU(), Serial(ReLU()), ReLU())
    assert names(net) == ["dense1", "relu1", "dense2", "leakyrelu1", "serial1", "relu2"]


def test_given_names_are_kept_and_derived_ones_step_aside():
    net = Serial(Dense(3), ("dense1", Dense(4)), Dense(5), ("head", Dense(6)))
    assert names(net) == ["dense2", "dense1", "dense3", "head"]


layers = st.sampled_from([Dense(2), Dense(3), ReLU(), Serial(ReLU()), Serial(("a", Tanh()))])
entries = st.one_of(layers, st.tuples(st.sampled_from(["a", "b", "dense1", "relu2"]), layers))


@settings(deadline=None)
@given(st.lists(entries, max_size=5, unique_by=lambda e: e[0] if isinstance(e, tuple) else id(e)))
def test_the_repr_is_the_network_whatever_the_names(entries):
    net = Serial(*entries)
    assert eval(repr(net), vars(jnn)) == net
    assert len(set(names(net))) == len(entries)


REFUSED = {
    "a class": ([Dense], "Dense'> is no layer but a type; perhaps you meant Dense(...)"),
    "a class with a name": ([("a", Dense)], "perhaps you meant Dense(...)"),
    "a function": ([jnp.tanh], "jnn.lift(init, fn) makes a layer of a function"),
    "a list": ([[Dense(2), ReLU()]], "is no layer but a list; give layers one by one"),
    "nothing": ([None], "None is no layer but a NoneType"),
    "a name alone": (["dense"], "'dense' is no layer but a str"),
    "a name twice": ([("a", ReLU()), ("a", Tanh())], "the names ['a'] are given twice"),
    "a name with a blank": ([("my layer", ReLU())], "'my layer' cannot name a layer; use letters"),
    "a name with a dot": ([("a.b", ReLU())], "'a.b' cannot name a layer"),
    "an empty name": ([("", ReLU())], "'' cannot name a layer"),
    "a number for a name": ([(3, ReLU())], "3 cannot name a layer"),
    "a triple": ([("a", ReLU(), 3)], "(name, layer)"),
}


@pytest.mark.parametrize("arguments, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_layer_is_refused_with_the_mend(arguments, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        Serial(*arguments)


# Structure


def test_params_state_and_cache_are_dicts_by_name_and_what_is_empty_is_left_out():
    net = Serial(Dense(3), ReLU(), Serial(Tanh(), ("norm", Centre())), Serial(Tanh()))
    params, state = begin(net)
    assert jax.tree.map(jnp.shape, params) == {"dense1": {"w": (5, 3), "b": (3,)}}
    assert jax.tree.map(jnp.shape, state) == {"serial1": {"norm": {"mean": (3,)}}}
    y, cache = net.forward(params, X, Eval(state))
    assert list(cache) == names(net)
    grads, _ = net.backward(params, cache, y)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert jax.tree.structure(net.observe(state, cache)) == jax.tree.structure(state)


def test_it_calls_its_children_in_turn_and_changes_nothing_between():
    first, second = Dense(3), Tanh()
    net = Serial(first, second)
    params, _ = begin(net)
    h, kept_first = first.forward(params["dense1"], X, Eval())
    want, kept_second = second.forward({}, h, Eval())
    y, cache = net.forward(params, X, Eval())
    np.testing.assert_array_equal(y, want)
    _, dh = second.backward({}, kept_second, y)
    grads, dx = net.backward(params, cache, y)
    assert_agree((grads["dense1"], dx), first.backward(params["dense1"], kept_first, dh))


def test_without_layers_it_is_the_identity():
    net = Serial()
    assert begin(net) == ({}, {})
    y, cache = net.forward({}, X, Eval())
    assert y is X and net.backward({}, cache, X)[1] is X


MODES = {
    "none": (None, "mode is None; it must be jnn.Train(key) or jnn.Eval(state)"),
    "the class": (Eval, "it must be jnn.Train(key) or jnn.Eval(state)"),
    "a string": ("train", "mode is 'train'; it must be jnn.Train(key) or jnn.Eval(state)"),
    "no state": (Eval(None), "the state of mode is a NoneType"),
    "a stranger's state": (Eval({"norm": {}}), "['norm']"),
}


@pytest.mark.parametrize("mode, message", MODES.values(), ids=MODES)
def test_a_bad_mode_is_refused(mode, message):
    net = Serial(Dense(3))
    params, _ = begin(net)
    with pytest.raises(LayerError, match=re.escape(message)):
        net.forward(params, X, mode)


PARAMS = {
    "params and state": lambda p: (p, {}),
    "a list": lambda p: [p],
    "a stranger": lambda p: p | {"dense7": {}},
    "none for a layer": lambda p: {},
}


@pytest.mark.parametrize("spoil", PARAMS.values(), ids=PARAMS)
def test_params_of_another_network_are_refused(spoil):
    net = Serial(Dense(3))
    params, _ = begin(net)
    with pytest.raises(LayerError, match=r"params (is|has)"):
        net.forward(spoil(params), X, Eval())


# Errors


@dataclass(frozen=True)
class Broken(Layer):
    def forward(self, params, x, mode):
        raise ZeroDivisionError("an error of its own")


def test_an_error_carries_the_path_two_levels_deep():
    net = Serial(("encoder", Serial(Tanh(), ("project", Dense(3)))), ("head", Dense(2)))
    params, _ = begin(net)
    wrong = jnp.ones((4, 6))
    with pytest.raises(LayerError, match=r"^encoder\.project = Dense\(3\): x is float32 \(4, 6\)"):
        net.forward(params, wrong, Eval())
    _, cache = net.forward(params, X, Eval())
    with pytest.raises(LayerError, match=r"^head = Dense\(2\): dy is float32 \(4, 3\)"):
        net.backward(params, cache, jnp.ones((4, 3)))
    with pytest.raises(LayerError, match=r"^encoder\.project = Dense\(3\): x is float32 \(\)"):
        net.init(jax.random.key(0), jnp.float32(1))


def test_an_error_of_another_kind_keeps_its_type_and_gets_notes():
    net = Serial(("outer", Serial(Tanh(), ("inner", Broken()))))
    with pytest.raises(ZeroDivisionError, match="an error of its own") as error:
        net.forward({}, X, Eval())
    assert error.value.__notes__[0] == "in layer inner = Broken()"
    assert error.value.__notes__[1].startswith("in layer outer = Serial(")


# Keys


def test_inserting_an_activation_leaves_the_other_layers_as_they_were():
    shallow = Serial(Dense(5, cheap), ("head", Dense(2, cheap)))
    deep = Serial(Dense(5, cheap), ReLU(), Serial(Tanh()), ("head", Dense(2, cheap)))
    assert_agree(begin(deep)[0], begin(shallow)[0])


def test_initial_values_belong_to_the_name_and_not_to_the_place():
    a, b = ("a", Dense(5, cheap)), ("b", Dense(5, cheap))
    assert_agree(begin(Serial(a, b))[0], begin(Serial(b, a))[0])
    assert_agree(begin(Serial(a, b))[0]["b"], begin(Serial(b))[0]["b"])


def test_inserting_an_activation_leaves_the_randomness_as_it_was():
    shallow, deep = Serial(Noise(), Noise()), Serial(ReLU(), Noise(), ReLU(), Noise())
    x = np.abs(X)
    want, _ = shallow.forward({}, x, train())
    np.testing.assert_array_equal(deep.forward({}, x, train())[0], want)


def weights(net):
    return [np.ravel(w) for w in jax.tree.leaves(begin(net)[0]) if w.ndim == 2]


@pytest.mark.parametrize(
    "net",
    [
        Serial(Dense(5, cheap), Dense(5, cheap)),
        Serial(Dense(5, cheap), Serial(Dense(5, cheap), Dense(5, cheap)), Serial(Dense(5, cheap))),
        Serial(("plumless", Dense(5, cheap)), ("buckeroo", Dense(5, cheap))),
    ],
    ids=["siblings", "cousins", "names of one CRC-32"],
)
def test_no_two_layers_start_alike(net):
    every = weights(net)
    assert len({tuple(w) for w in every}) == len(every)


def test_no_two_layers_draw_alike():
    net = Serial(Noise(), Serial(Noise(), Noise()), Noise())
    _, cache = net.forward({}, X, train())
    drawn = [tuple(np.ravel(v)) for v in jax.tree.leaves(cache)]
    assert len(set(drawn)) == len(drawn) == 4


def test_the_same_key_gives_the_same_and_another_key_another():
    net = Serial(Noise(), Tanh())
    same, again, other = (net.forward({}, X, train(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_evaluation_is_not_random():
    net = Serial(Noise())
    np.testing.assert_array_equal(net.forward({}, X, Eval())[0], X)


# State


def test_training_never_reads_the_state_and_evaluation_reads_what_was_observed():
    net = Serial(Tanh(), ("deep", Serial(("norm", Centre(keep=0.75)))))
    params, state = begin(net)
    h = np.tanh(X)
    for _ in range(2):
        y, cache = net.forward(params, X, train())
        np.testing.assert_allclose(y, h - h.mean(0), atol=1e-6)
        state = net.observe(state, cache)
    mean = (0.75 * 0.25 + 0.25) * h.mean(0)
    np.testing.assert_allclose(state["deep"]["norm"]["mean"], mean, atol=1e-6)
    y, _ = net.forward(params, X, Eval(state))
    np.testing.assert_allclose(y, h - mean, atol=1e-6)


def test_a_stateful_leaf_shown_no_state_is_named():
    net = Serial(Tanh(), ("norm", Centre()))
    with pytest.raises(Exception, match="mean") as error:
        net.forward({}, X, Eval())
    assert "in layer norm = Centre()" in error.value.__notes__


# Rewriting


def test_map_replaces_leaves_at_any_depth_and_keeps_names_and_params():
    net = Serial(Dense(3), ReLU(), Serial(("act", ReLU()), Dense(2)))

    def leaky(name, layer):
        return LeakyReLU(0.5) if layer == ReLU() else layer.map(leaky)

    new = net.map(leaky)
    assert new == Serial(
        Dense(3), ("relu1", LeakyReLU(0.5)), Serial(("act", LeakyReLU(0.5)), Dense(2))
    )
    assert net.children[1] == ("relu1", ReLU())


def test_children_are_seen_by_name():
    seen = []
    Serial(Dense(3), ("act", ReLU())).map(lambda name, layer: seen.append((name, layer)) or layer)
    assert seen == [("dense1", Dense(3)), ("act", ReLU())]


def test_lean_keeps_less_than_what_the_backward_pass_would_find_computed():
    block = jnn.Residual(jnn.Dense(64), jnn.GELU(), jnn.Dense(32))
    net = jnn.Serial(*[block] * 3)
    x = jax.ShapeDtypeStruct((256, 32), jnp.float32)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), x)

    def gradient(net, params, x):
        y, cache = net.forward(params, x, jnn.Eval())
        return net.backward(params, cache, y)

    memory = {}
    for name, kind in (
        ("plain", net),
        ("lean", jnn.Lean(net)),
        ("by rule", jnn.rewrite(net, {jnn.GELU: jnn.Lean})),
    ):
        lowered = jax.jit(partial(gradient, kind)).lower(params, x)
        memory[name] = lowered.compile().memory_analysis().temp_size_in_bytes
    assert max(memory["lean"], memory["by rule"]) < 0.7 * memory["plain"]
