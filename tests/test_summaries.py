"""Networks as tables."""

import jax
import jax.numpy as jnp
import pytest

import jnn
from jnn.summaries import summary

NET = jnn.Serial(
    jnn.Flatten(), ("body", jnn.Serial(jnn.Dense(6), jnn.ReLU())), jnn.Dense(3, bias=False)
)


def test_summary_has_a_row_for_each_leaf_with_path_shape_parameters_and_cache():
    rows = summary(NET, jnp.ones((7, 2, 5)))
    assert [row.path for row in rows] == ["flatten1", "body.dense1", "body.relu1", "dense1"]
    assert [row.shape for row in rows] == [(10,), (6,), (6,), (3,)]
    assert [row.parameters for row in rows] == [0, 66, 0, 18]
    # Dense keeps its input, ReLU its output, which is the next Dense's input and counted once.
    assert [row.flops for row in rows] == [0, 120, 0, 36]
    assert [row.cache_bytes for row in rows] == [0, 40, 24, 0]


def test_summary_counts_what_init_makes():
    params, _ = NET.init(jax.random.key(0), jnp.ones((1, 2, 5)))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(row.parameters for row in summary(NET, jnp.ones((1, 2, 5)))) == total


def test_the_table_fits_80_columns_and_has_totals():
    lines = str(summary(NET, jnp.ones((1, 2, 5)))).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["total", "of", "one", "example", "84", "156", "64"]


@pytest.mark.parametrize("x", [{"w": 1}, (1, 5)])
def test_a_summary_of_what_is_no_array_is_refused(x):
    with pytest.raises(ValueError, match="summary: x is a"):
        summary(NET, x)


def test_what_is_repeated_is_counted_as_often_and_what_is_shared_once():
    block = jnn.Residual(jnn.LayerNorm(), jnn.Attention(2, causal=True), jnn.Dense(8))
    net = jnn.Shared(
        jnn.Serial(jnn.Embedding(11, 8), jnn.Repeat(block, 3), jnn.Unembed(11)),
        {"unembed1.w": "embedding1.w"},
    )
    tokens = jnp.zeros((5, 7), jnp.int32)
    rows = {row.path: row for row in summary(net, tokens)}
    params, _ = net.init(jax.random.key(0), tokens)
    assert sum(row.parameters for row in rows.values()) == sum(
        p.size for p in jax.tree.leaves(params)
    )
    assert rows["unembed1"].parameters == 0 and rows["unembed1"].flops == 2 * 7 * 8 * 11
    dense = rows["repeat1.dense1"]
    assert (dense.uses, dense.parameters, dense.flops) == (3, 3 * 72, 3 * 2 * 7 * 8 * 8)
    # Four projections, scores and their product with the values.
    assert rows["repeat1.attention1"].flops == 3 * 2 * (4 * 7 * 8 * 8 + 2 * 7 * 7 * 8)
    assert "repeat1.dense1 x 3" in str(summary(net, tokens))


def test_what_is_mapped_is_counted_for_every_slice_and_its_parameters_once():
    frames = jnp.ones((2, 5, 3, 4))
    inner = jnn.Mapped(jnn.Repeat(jnn.Dense(4), 2))
    rows = summary(jnn.Serial(jnn.Mapped(inner), jnn.Flatten(), jnn.Dense(3)), frames)
    assert [row.path for row in rows] == ["mapped1", "flatten1", "dense1"]
    dense = rows[0]
    assert (dense.uses, dense.parameters, dense.shape) == (30, 2 * 20, (4,))
    assert (dense.flops, dense.cache_bytes) == (30 * 2 * 4 * 4, 30 * 4 * 4)
    assert "mapped1 x 30" in str(rows)


@pytest.mark.parametrize(
    "net, shape",
    [
        (jnn.Repeat(jnn.Serial(jnn.Dense(4), jnn.Tanh()), 3), (1, 4)),
        (jnn.Mapped(jnn.Serial(jnn.Dense(4), jnn.Tanh())), (1, 5, 4)),
        (jnn.Mapped(jnn.Dense(4), axis=-2), (1, 2, 5, 4)),
    ],
)
def test_cache_bytes_are_those_of_the_cache(net, shape):
    x = jnp.ones(shape)
    params, state = net.init(jax.random.key(0), x)
    _, cache = net.forward(params, x, jnn.Eval(state))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert sum(row.cache_bytes for row in summary(net, x)) == total


@pytest.mark.parametrize(
    "layer, x, flops",
    [
        (jnn.RNN(3), (1, 10, 4), 10 * 2 * (4 * 3 + 3 * 3)),
        (jnn.Conv(5, form="lax"), (1, 8, 6, 2), 2 * 8 * 6 * 9 * 2 * 5),
        (jnn.Conv(5, form="unfolded"), (1, 8, 6, 2), 2 * 8 * 6 * 9 * 2 * 5),
        (jnn.Conv(4, groups=2, stride=2, form="lax"), (1, 8, 6, 2), 2 * 4 * 3 * 9 * 4),
        (jnn.ConvTranspose(2, 2, stride=2, form="lax"), (1, 4, 3), 2 * 8 * 3 * 2),
    ],
)
def test_flops_are_two_for_each_multiply_and_add(layer, x, flops):
    (row,) = summary(layer, jnp.ones(x))
    assert row.flops == flops


def test_several_inputs_and_outputs_are_shown():
    net = jnn.LSTM(3, final=True)
    (row,) = summary(net, (jnp.ones((2, 5, 4)), jnp.ones((2, 5), bool)))
    assert row.shape == ((5, 3), (3,), (3,))
    assert "(5x3, 3, 3)" in str(summary(net, jnp.ones((2, 5, 4))))


def test_of_what_is_recomputed_the_input_is_kept_alone():
    net, x = (
        jnn.Repeat(jnn.Remat(jnn.Residual(jnn.Dropout(0.5), jnn.Dense(5))), 3),
        jnp.ones((4, 5)),
    )
    dropout, dense, remat = summary(net, x)
    assert (dropout.cache_bytes, dense.cache_bytes, remat.cache_bytes) == (0, 0, 3 * 5 * 4)
    assert (dense.parameters, dense.flops) == (3 * 30, 3 * 2 * 25) and remat.path == "remat"
