"""Every property that all layers have, each tested over the whole table."""

import copy
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from agreement import assert_agree
from jax.test_util import check_vjp
from row import example, form
from table import ROWS

import jnn
from jnn.layer import Eval, Layer, LayerError, Train, unlike

# Two float64 evaluations of one formula: some hundred roundings of 1.1e-16.
FLOAT64 = 1e-13

over_table = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
over_hand_written = pytest.mark.parametrize(
    "row", [row for row in ROWS if not row.lifted], ids=lambda row: row.name
)
LOW_PRECISION = jnp.bfloat16, jnp.float16
over_low_precision = pytest.mark.parametrize(
    "dtype", LOW_PRECISION, ids=lambda dtype: dtype.__name__
)


def train(state=(), seed: int = 1) -> Train:
    """The counterpart of Eval(state), which reads no state."""
    return Train(jax.random.key(seed))


over_modes = pytest.mark.parametrize(
    "row, mode",
    [(row, mode) for row in ROWS for mode in (train, Eval)[: 1 + row.two_modes]],
    ids=lambda v: v.name if isinstance(v, tuple) else v.__name__,
)


def passes(layer, params, x, dy, mode):
    """Forward, then the hand-written backward: (y, grads, dx)."""
    y, cache = layer.forward(params, x, mode)
    return y, *layer.backward(params, cache, dy)


# One function for most tests: layers are static, so that each compiles once for all of them.
compiled = jax.jit(passes, static_argnums=0)


def by_vjp(function, params, x, dy, mode):
    """What `passes` returns, by jax.vjp of function(params, x, mode) -> y."""
    y, vjp = jax.vjp(lambda params, x: function(params, x, mode), params, x)
    return y, *jax.tree.map(lambda v: None if v.dtype == jax.dtypes.float0 else v, vjp(dy))


def outputs(layer):
    """The layer as a function that autodiff sees through."""
    return lambda params, x, mode: layer.forward(params, x, mode)[0]


def is_floating(v):
    return jnp.issubdtype(v.dtype, jnp.floating)


def is_none(v):
    return v is None


def three(tree):
    """Three different trees like this one, stacked."""

    def stack(v):
        return np.stack([v, -v, 2 * v] if is_floating(v) else [v, np.flip(v), np.roll(v, 1)])

    return jax.tree.map(stack, tree)


def at(i, tree):
    return jax.tree.map(lambda v: v[i], tree)


@partial(jax.jit, static_argnums=0)
def autodiff(layer, params, x, dy, mode):
    """jax.vjp of the forward pass; and of the layer as a function with a rule of its own."""
    with_rule = jax.checkpoint(jnn.as_function(layer))
    return [by_vjp(f, params, x, dy, mode) for f in (outputs(layer), with_rule)]


@over_modes
def test_backward_is_the_vjp_of_forward(row, mode, x64):
    params, state, x, dy = example(row, jnp.float64)
    want, _ = autodiff(row.layer, params, x, dy, mode(state))
    assert_agree(compiled(row.layer, params, x, dy, mode(state)), want, FLOAT64)


@over_modes
def test_jax_vjp_takes_the_hand_written_rule_under_remat(row, mode, x64):
    params, state, x, dy = example(row, jnp.float64)
    want, with_rule = autodiff(row.layer, params, x, dy, mode(state))
    assert_agree(with_rule, want, FLOAT64)


@over_modes
def test_backward_agrees_with_finite_differences(row, mode, x64):
    params, state, x, _ = example(row, jnp.float64)
    entries, structure = jax.tree.flatten(x)

    def forward(*args):
        return vjp(*args)[0]

    def vjp(params, *floats):
        """As jax.vjp(forward, params, *floats), but by the hand-written backward."""
        given = iter(floats)
        x = structure.unflatten([next(given) if is_floating(v) else v for v in entries])
        dy = example(row, jnp.float64).dy
        y, *_ = compiled(row.layer, params, x, dy, mode(state))

        def pull(dy):
            _, grads, dx = compiled(row.layer, params, x, dy, mode(state))
            return grads, *jax.tree.leaves(dx)

        return y, pull

    floats = [v for v in entries if is_floating(v)]
    # The differences err by about eps^2, and at a kink only within eps of it.
    check_vjp(forward, vjp, (params, *floats), rtol=1e-7, atol=1e-7, eps=1e-5)


@over_hand_written
def test_the_cache_has_one_structure_so_that_cond_can_choose_the_mode(row):
    params, state, x, _ = example(row, jnp.float32)

    def forward(training, params, x, key, state):
        return jax.lax.cond(
            training,
            lambda: row.layer.forward(params, x, Train(key)),
            lambda: row.layer.forward(params, x, Eval(state)),
        )

    jax.eval_shape(forward, True, params, x, jax.random.key(1), state)


@pytest.mark.slow
@over_table
def test_jit_changes_nothing(row, x64):
    params, _, x, dy = jax.device_put(example(row, jnp.float64))
    eager = passes(row.layer, params, x, dy, train())
    assert_agree(compiled(row.layer, params, x, dy, train()), eager, FLOAT64)


@pytest.mark.slow
@over_table
def test_vmap_is_a_loop(row, x64):
    params, _, x, dy = three(example(row, jnp.float64))
    keys = jax.random.split(jax.random.key(1), 3)
    got = jax.jit(jax.vmap(partial(passes, row.layer)))(params, x, dy, Train(keys))
    for i in range(3):
        want = compiled(row.layer, *at(i, (params, x, dy)), Train(keys[i]))
        assert_agree(at(i, got), want, FLOAT64)


@partial(jax.jit, static_argnums=0)
def scanned(layer, params, x, dy, keys):
    """Forward by a scan that stacks the caches, backward by a scan in reverse."""

    def forth(_, step):
        x, key = step
        return None, layer.forward(params, x, Train(key))

    def back(total, step):
        cache, dy = step
        grads, dx = layer.backward(params, cache, dy)
        return jax.tree.map(jnp.add, total, grads), dx

    _, (y, caches) = jax.lax.scan(forth, None, (x, keys))
    zero = jax.tree.map(jnp.zeros_like, params)
    grads, dx = jax.lax.scan(back, zero, (caches, dy), reverse=True)
    return y, grads, dx


@pytest.mark.slow
@over_table
def test_scan_is_a_loop_and_stacks_caches(row, x64):
    params, _, x, dy = example(row, jnp.float64)
    x, dy = three((x, dy))
    keys = jax.random.split(jax.random.key(1), 3)
    steps = [compiled(row.layer, params, *at(i, (x, dy)), Train(keys[i])) for i in range(3)]
    y, grads, dx = jax.tree.map(lambda *v: np.stack(v), *steps)
    want = y, jax.tree.map(lambda g: g.sum(axis=0), grads), dx
    assert_agree(scanned(row.layer, params, x, dy, keys), want, FLOAT64)


@over_hand_written
def test_the_cache_is_arrays_and_holds_no_parameter(row, x64):
    params, state, x, _ = jax.device_put(example(row, jnp.float64))
    for mode in (train(state), Eval(state)):
        _, cache = row.layer.forward(params, x, mode)
        for path, kept in jax.tree.leaves_with_path(cache):
            assert isinstance(kept, jax.Array), path
            assert not any(np.array_equal(kept, p) for p in jax.tree.leaves(params)), path


@over_table
def test_the_table_says_which_layers_have_two_modes(row, x64):
    params, state, x, _ = jax.device_put(example(row, jnp.float64))
    one, other = (row.layer.forward(params, x, mode)[0] for mode in (train(state), Eval(state)))
    assert np.array_equal(one, other) != row.two_modes


@over_low_precision
@over_table
def test_low_precision_keeps_its_dtype(row, dtype):
    params, state, x, dy = example(row, dtype)
    for mode in (train(state), Eval(state)):
        for v in jax.tree.leaves(jax.eval_shape(partial(passes, row.layer), params, x, dy, mode)):
            assert v.dtype == dtype and not v.weak_type


@over_low_precision
@over_hand_written
def test_low_precision_is_summed_in_float32(row, dtype):
    # Read off the program, for a CPU sums in float32 unasked.
    params, _, x, dy = example(row, dtype)
    program = str(jax.make_jaxpr(partial(passes, row.layer))(params, x, dy, train()))
    assert not re.search(r"f16\[[\d,]*\] = (dot_general|reduce_sum)\[", program)


@partial(jax.jit, static_argnums=0)
def compiled_for_all(layer, given):
    return [passes(layer, *each, train()) for each in given]


@pytest.mark.parametrize("row", [row for row in ROWS if row.rounding], ids=lambda row: row.name)
def test_low_precision_is_wrong_by_rounding_only(row, x64):
    given = [(e.params, e.x, e.dy) for e in (example(row, dtype) for dtype in LOW_PRECISION)]
    for dtype, low, got in zip(
        LOW_PRECISION, given, compiled_for_all(row.layer, given), strict=True
    ):
        params, x, dy = jax.tree.map(lambda v: np.float64(v) if is_floating(v) else v, low)
        want = jax.device_get(compiled(row.layer, params, x, dy, train()))
        limits = jnp.finfo(dtype)
        allowed = row.rounding(params, x, dy, want[0], float(limits.eps) / 2)
        for g, w, a in zip(*map(jax.tree.leaves, (got, want, allowed)), strict=True):
            # Below the smallest normal number the spacing is fixed.
            assert (np.abs(np.float64(g) - w) <= a + float(limits.smallest_subnormal)).all()


@over_table
def test_what_comes_out_goes_in_again_without_a_retrace(row):
    params, _, x, dy = example(row, jnp.float32)
    traces = []

    @jax.jit
    def step(params, x, dy, mode):
        traces.append(mode)
        y, grads, dx = passes(row.layer, params, x, dy, mode)
        x = jax.tree.map(lambda dx, x: x if dx is None else dx, dx, x, is_leaf=is_none)
        return jax.tree.map(jnp.subtract, params, grads), x, y

    for seed in range(2):
        params, x, dy = jax.eval_shape(step, params, x, dy, train(seed=seed))
    assert len(traces) == 1


@over_table
def test_equal_layers_are_one_static_argument(row):
    twin = copy.deepcopy(row.layer)
    assert twin is not row.layer and twin == row.layer and hash(twin) == hash(row.layer)
    params, _, x, _ = example(row, jnp.float32)
    traces = []

    @partial(jax.jit, static_argnums=0)
    def forward(layer, params, x, mode):
        traces.append(layer)
        return layer.forward(params, x, mode)[0]

    for layer in (row.layer, twin):
        jax.eval_shape(partial(forward, layer), params, x, train())
    assert len(traces) == 1


@over_table
def test_no_tracer_leaks(row):
    params, _, x, dy = example(row, jnp.float32)
    with jax.checking_leaks():
        jax.make_jaxpr(partial(passes, row.layer))(params, x, dy, train())


@over_hand_written
def test_the_repr_is_the_layer(row):
    names = vars(jnn) | vars(jnn.initializers) | vars(toys)
    assert eval(repr(row.layer), names) == row.layer


@over_table
def test_the_identity_mapped_over_the_children_changes_nothing(row):
    assert row.layer.map(lambda name, child: child) == row.layer


@over_table
def test_the_shape_of_x_is_enough_for_init(row):
    array = example(row, jnp.float32).x
    shape = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), array)
    of_shape, of_array = (
        jax.make_jaxpr(partial(lambda x, key: row.layer.init(key, x), x)) for x in (shape, array)
    )
    key = jax.random.key(0)
    assert of_shape(key).out_avals == of_array(key).out_avals


@over_table
def test_observe_keeps_the_form_of_the_state(row):
    params, state, x, _ = example(row, jnp.float32)

    def observe(params, state, x, mode):
        return row.layer.observe(state, row.layer.forward(params, x, mode)[1])

    assert unlike(jax.eval_shape(observe, params, state, x, train()), state) is None


def last_leaf(layer: Layer) -> Layer:
    return last_leaf(layer.children[-1][1]) if layer.children else layer


@pytest.mark.parametrize("wrong", ["one example more", "an axis more", "another dtype"])
@over_table
def test_a_dy_unlike_y_is_refused_by_name_at_trace_time(row, wrong):
    params, _, x, dy = example(row, jnp.float32)
    n, *rest = dy.shape
    bad = {
        "one example more": jax.ShapeDtypeStruct((n + 1, *rest), dy.dtype),
        "an axis more": jax.ShapeDtypeStruct((1, n, *rest), dy.dtype),
        "another dtype": jax.ShapeDtypeStruct(dy.shape, jnp.float16),
    }[wrong]
    message = f"{last_leaf(row.layer)!r}: dy is {bad.dtype} {bad.shape}"
    with pytest.raises(LayerError, match=re.escape(message)):
        jax.eval_shape(partial(passes, row.layer), params, x, bad, train())


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize(
    "row",
    [
        row
        for row in ROWS
        if not row.lifted and isinstance(form(row, jnp.float32), jax.ShapeDtypeStruct)
    ],
    ids=lambda row: row.name,
)
def test_x_that_is_not_floating_point_is_refused_at_trace_time(row, dtype):
    params, _, x, _ = example(row, jnp.float32)
    bad = jax.ShapeDtypeStruct(x.shape, dtype)
    with pytest.raises(LayerError, match="must hold floating-point numbers: cast it first"):
        jax.eval_shape(outputs(row.layer), params, bad, train())


@over_table
def test_backward_twice_gives_the_same_and_mutates_nothing(row, x64):
    params, _, x, dy = jax.device_put(example(row, jnp.float64))
    _, cache = row.layer.forward(params, x, train())
    given = params, cache, dy
    leaves, structure = jax.tree.flatten(given)
    first, second = (row.layer.backward(*given) for _ in range(2))
    assert_agree(first, second)
    assert jax.tree.structure(given) == structure
    assert all(a is b for a, b in zip(jax.tree.leaves(given), leaves, strict=True))


@over_table
def test_numpy_arrays_will_do(row, x64):
    params, _, x, dy = example(row, jnp.float64)
    want = passes(row.layer, *jax.device_put((params, x, dy)), train())
    assert_agree(passes(row.layer, params, x, dy, train()), want)


@over_table
def test_a_batch_of_no_examples_passes(row):
    params, _, x, dy = example(row, jnp.float32)
    x, dy = jax.tree.map(lambda v: v[:0], (x, dy))
    y, grads, dx = jax.eval_shape(partial(passes, row.layer), params, x, dy, train())
    assert unlike(y, dy) is None and unlike(grads, params) is None
    floats = jax.tree.map(lambda v: v if is_floating(v) else None, x)
    assert unlike(dx, floats) is None
