"""Right gradients pass, wrong ones are caught, and the cause is named."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.gradcheck import WrongGradient, check_gradients
from jnn.gradcheck.primal import Census, evaluated, stripped

X = jax.random.normal(jax.random.key(0), (11, 7))
P = {
    "w": jax.random.normal(jax.random.key(1), (7, 5)),
    "b": jax.random.normal(jax.random.key(2), (5,)),
}
SQUARE = jax.random.normal(jax.random.key(3), (5, 5))
LABELS = jnp.arange(11) % 7


def ruled(forward, backward):
    """A function with a backward(args, dy) of its own."""
    f = jax.custom_vjp(forward)
    f.defvjp(lambda *args: (forward(*args), args), backward)
    return f


def elementwise(forward, slope):
    return ruled(forward, lambda args, dy: (dy * slope(*args),))


def dense(dx=None, dw=None, db=None):
    """x w + b, with any of its three rules exchanged."""

    def backward(args, dy):
        x, p = args
        w = (dw or (lambda x, w, dy: x.T @ dy))(x, p["w"], dy)
        b = (db or (lambda dy: dy.sum(axis=0)))(dy)
        return (dx or (lambda x, w, dy: dy @ w.T))(x, p["w"], dy), {"w": w, "b": b}

    return ruled(lambda x, p: x @ p["w"] + p["b"], backward)


def cross_entropy(z, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1).mean()


def cross_entropy_rule(share):
    def backward(args, dy):
        z, y = args
        one_hot = jax.nn.one_hot(y, z.shape[1], dtype=z.dtype)
        return (jax.nn.softmax(z) - one_hot) * dy * share(len(y)), None

    return ruled(cross_entropy, backward)


def three_times(x):
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x), x)


def while_loop(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


def while_slope(x):
    return jnp.cos(x) * jnp.cos(jnp.sin(x)) * jnp.cos(jnp.sin(jnp.sin(x)))


def first_greatest(args, dy):
    (x,) = args
    return (jax.nn.one_hot(x.argmax(axis=1), x.shape[1], dtype=x.dtype) * dy[:, None],)


def residual(skip):
    def backward(args, dy):
        x, w = args
        inner = dy * (1 - jnp.tanh(x @ w) ** 2)
        return skip * dy + inner @ w.T, x.T @ inner

    return ruled(lambda x, w: x + jnp.tanh(x @ w), backward)


RIGHT = {
    "dense": (dense(), X, P),
    "integer labels": (cross_entropy_rule(lambda n: 1 / n), X, LABELS),
    "relu": (elementwise(lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype)), X),
    "abs": (elementwise(jnp.abs, jnp.sign), X),
    "greatest": (ruled(lambda x: x.max(axis=1), first_greatest), X),
    "infinite at 0": (elementwise(jnp.log, lambda x: 1 / x), abs(X) + 0.1),
    "while": (elementwise(while_loop, while_slope), X),
    "bfloat16": (elementwise(jnp.tanh, lambda x: 1 - jnp.tanh(x) ** 2), X.astype(jnp.bfloat16)),
    "residual": (residual(1), SQUARE, SQUARE.T),
    "batch norm": (
        lambda p, x: jnn.as_function(jnn.BatchNorm())(p, x, jnn.Train(jax.random.key(0))),
        {"scale": jnp.full(7, 1.5), "shift": jnp.full(7, 0.5)},
        X,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass_everywhere_with_power(name):
    f, *args = RIGHT[name]
    report = check_gradients(f, *args)
    assert report, str(report)
    assert max(report.power.values()) < 1e-11
    assert "given" in report.regimes and len(report.regimes) >= 3
    report.raise_if_failed()


WRONG = {
    "twice": (dense(dx=lambda x, w, dy: 2 * dy @ w.T), (X, P), "scale", "it is 2 times"),
    "mean": (
        dense(db=lambda dy: dy.mean(axis=0)),
        (X, P),
        "scale",
        "1/11, 11 being the length of axis 0 of",
    ),
    "no mean": (
        cross_entropy_rule(lambda n: 1),
        (X, LABELS),
        "scale",
        r"11 \(the length of axis 0 of args\[0\]\) times",
    ),
    "keep": (dense(dx=lambda x, w, dy: 0.9 * dy @ w.T), (X, P), "scale", r"0.9 \(1 - rate\) times"),
    "minus": (dense(dw=lambda x, w, dy: -x.T @ dy), (X, P), "sign", "minus"),
    "none": (dense(db=lambda dy: 0 * dy[0]), (X, P), "zero", "0 everywhere"),
    "transposed": (
        dense(dw=lambda x, w, dy: dy.T @ x),
        (SQUARE, {"w": SQUARE + 1, "b": P["b"]}),
        "transpose",
        r"\(1, 0\)",
    ),
    "rolled": (
        dense(dw=lambda x, w, dy: jnp.roll(x.T @ dy, 1, 0)),
        (X, P),
        "permutation",
        "shifted by 1 along axis 0",
    ),
    "other": (
        dense(dw=lambda x, w, dy: dy @ w.T),
        (SQUARE, {"w": SQUARE + 1, "b": P["b"]}),
        "swapped",
        r"gradient of args\[0\]",
    ),
    "first": (dense(db=lambda dy: dy[0]), (X, P), "some-examples", "only 0 counts"),
    "but last": (dense(db=lambda dy: dy[:-1].sum(0)), (X, P), "some-examples", "all count but 10"),
    "element": (
        dense(dw=lambda x, w, dy: (x.T @ dy).at[2, 3].mul(2)),
        (X, P),
        "some-elements",
        "1 of 35 elements are wrong: they are 2 times",
    ),
    "decay": (
        dense(dw=lambda x, w, dy: x.T @ dy + 0.01 * w),
        (X, P),
        "constant-term",
        "not 0 where the cotangent is",
    ),
    "clipped": (dense(dx=lambda x, w, dy: jnp.clip(dy, -1, 1) @ w.T), (X, P), "nonlinear", "sum"),
    "deaf": (
        dense(dx=lambda x, w, dy: jnp.ones_like(dy) @ w.T),
        (X, P),
        "ignores-cotangent",
        "twice the cotangent",
    ),
    "float32": (
        dense(dw=lambda x, w, dy: (x.T.astype("float32") @ dy.astype("float32")).astype(dy.dtype)),
        (X, P),
        "precision",
        "by way of float32",
    ),
    "nan": (
        dense(dw=lambda x, w, dy: (x.T @ dy).at[0, 0].set(jnp.nan)),
        (X, P),
        "nonfinite",
        "1 of 35 elements",
    ),
    "not summed": (dense(db=lambda dy: dy), (X, P), "structure", "shapes do not match"),
    "no skip": (residual(0), (SQUARE, SQUARE.T), "edge", "operand 0 of `add` is missing"),
    "two skips": (residual(2), (SQUARE, SQUARE.T), "edge", "operand 0 of `add` is multiplied by 2"),
    "no tanh": (
        ruled(lambda x, w: jnp.tanh(x) * w, lambda a, dy: (dy * a[1], dy * jnp.tanh(a[0]))),
        (SQUARE, SQUARE.T),
        "local-derivative",
        "that of `tanh` is missing",
    ),
    "half a sigmoid": (
        elementwise(jax.nn.sigmoid, jax.nn.sigmoid),
        (X,),
        "local-derivative",
        "that of `logistic` is taken for y, where it is y",
    ),
    "leak": (
        elementwise(lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x: jnp.where(x > 0, 1, 0.11)),
        (X,),
        "some-elements",
        r"1.1 times what they must be; they are those where args\[0\] is < 0",
    ),
    "in a loop": (
        lambda x: jax.lax.scan(lambda c, _: (DOUBLED(c), None), x, None, length=3)[0],
        (X,),
        "scale",
        "it is 8 times",
    ),
}
DOUBLED = elementwise(jnp.sin, lambda x: 2 * jnp.cos(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradients_are_caught_and_their_cause_is_named(name):
    f, args, cause, words = WRONG[name]
    report = check_gradients(f, *args, known={"rate": 0.1}, regimes="given")
    assert not report
    (finding,) = report.findings
    assert (finding.cause, finding.regime) == (cause, "given")
    with pytest.raises(WrongGradient, match=words):
        report.raise_if_failed()


def test_an_edge_is_found_with_its_line():
    (finding,) = check_gradients(residual(0), SQUARE, SQUARE.T, regimes="given").findings
    path, line = finding.source.rsplit(":", 1)
    assert path == __file__
    source = Path(__file__).read_text().splitlines()
    assert "x + jnp.tanh(x @ w)" in source[int(line) - 1]


@pytest.mark.slow
def test_no_slope_at_a_kink_is_wrong_and_any_between_is_noted():
    def relu(at_0):
        return elementwise(
            lambda x: jnp.maximum(x, 0),
            lambda x: jnp.where(x == 0, at_0, (x > 0).astype(x.dtype)),
        )

    for slope in (0.0, 0.3, 1.0):
        assert "sits on a kink" in str(check_gradients(relu(slope), X, regimes="zero"))
    (finding,) = check_gradients(relu(2.0), X).findings
    assert (finding.cause, finding.regime) == ("local-derivative", "zero")


@pytest.mark.slow
def test_every_element_of_a_million_in_a_mean_counts():
    x = jax.random.normal(jax.random.key(0), (1000, 1000))

    def slope(wrong):
        return lambda args, dy: ((2 * args[0] * dy / args[0].size).at[3, 4].mul(wrong),)

    def mean(x):
        return jnp.square(x).mean()

    assert check_gradients(ruled(mean, slope(1.0)), x, regimes="given")
    report = check_gradients(ruled(mean, slope(1.001)), x, regimes="given")
    (finding,) = report.findings
    assert finding.indices == ((3, 4),)


def test_a_forward_that_changes_under_differentiation_is_found():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (1.001 * jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x),))
    assert check_gradients(f, X, regimes="given").findings[0].cause == "primal-mismatch"


def test_digits_lost_in_low_precision_are_found():
    def careless(args, dy):
        (x,) = args
        nothing = jnp.square(x + 300) - jnp.square(x) - 600 * x - 90_000
        return (dy * (2 * x + nothing),)

    f = ruled(jnp.square, careless)
    report = check_gradients(f, X, regimes="given")
    assert [finding.cause for finding in report.findings] == ["precision"]
    assert "in float32 it loses" in str(report)


def test_a_reference_stands_in_for_the_primal():
    f = elementwise(while_loop, while_slope)
    assert check_gradients(f, X, reference=three_times, regimes="given")
    (finding,) = check_gradients(f, X, reference=jnp.sin, regimes="given").findings
    assert finding.cause == "primal-mismatch"


def test_x64_is_left_as_it_was():
    check_gradients(jnp.sin, X, regimes="given")
    assert jnp.ones(()).dtype == jnp.float32


def test_what_has_no_rule_of_its_own_is_said_to():
    assert "no custom_vjp" in str(check_gradients(jnp.sin, X, regimes="given"))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.vmap(f)])
def test_rules_are_stripped_wherever_they_are(wrap):
    f = wrap(DOUBLED)
    met = Census()
    jax.eval_shape(lambda x: evaluated(f, [x], met), X)
    assert len(met.rules) == 1
    np.testing.assert_allclose(stripped(f)(X), jnp.sin(X), rtol=1e-6)
    got = jax.grad(lambda x: stripped(f)(x).sum())(X)
    np.testing.assert_allclose(got, jnp.cos(X), rtol=1e-5)


@pytest.mark.parametrize(
    "args, options, words",
    [
        ((jnp.arange(3),), {}, "hold no floats"),
        ((X,), {"regimes": "usual"}, "regimes names"),
    ],
)
def test_what_cannot_be_checked_is_refused(args, options, words):
    with pytest.raises(ValueError, match=words):
        check_gradients(jnp.sin, *args, **options)


def test_a_function_of_one_number_has_a_least_example_too():
    report = check_gradients(elementwise(jnp.sin, jnp.sin), jnp.float32(0.7), regimes="given")
    assert not report
    assert report.example is not None


def test_the_file_is_named_though_another_holds_the_same_code():
    text = "import jax.numpy as jnp\ndef forward(x):\n    return jnp.sin(x) * x\n"
    for file in ("one.py", "two.py"):
        names = {}
        exec(compile(text, file, "exec"), names)
        report = check_gradients(elementwise(names["forward"], jnp.sin), X, regimes="given")
        assert report.findings[0].source == f"{file}:3"


def test_where_autodiff_is_not_finite_the_right_gradient_passes():
    x = jnp.array([-0.5, 0.25, 1.0, 0.75])
    edge = elementwise(lambda x: (1 - x) ** 1.5, lambda x: -1.5 * (1 - x) ** 0.5)
    assert check_gradients(edge, x, regimes="given")

    def whole(x):
        return (1 - x * x) * jnp.sqrt(1 - x * x)

    report = check_gradients(
        elementwise(whole, lambda x: -3 * x * jnp.sqrt(1 - x * x)), x, regimes="given"
    )
    assert report and "JAX's own gradient of args[0] is not finite" in str(report)
    wrong = elementwise(whole, lambda x: -3 * jnp.sqrt(1 - x * x))
    assert not check_gradients(wrong, x, regimes="given")
    undefined = elementwise(whole, jax.grad(lambda x: whole(x).sum()))
    assert not check_gradients(undefined, x, regimes="given")


def test_complex_outputs_are_said_to_be_unchecked():
    f = ruled(
        lambda x: (jnp.sin(x), x.astype(complex)), lambda args, dy: (dy[0] * jnp.cos(args[0]),)
    )
    assert "complex" in str(check_gradients(f, X, regimes="given"))


def test_tracers_are_refused():
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda x: bool(check_gradients(jnp.sin, x)))(X)


@pytest.mark.slow
def test_the_diagnosis_of_a_loop_whose_edits_never_end_ends():
    def shrunk(x):
        return jax.lax.while_loop(lambda c: abs(c).max() > 0.5, lambda c: c * 0.9, x)

    f = ruled(shrunk, lambda args, dy: (dy * (2 * shrunk(*args) / args[0] + 0.1),))
    assert not check_gradients(f, jnp.linspace(-1.0, 2.0, 6), regimes="given")


@pytest.mark.slow
def test_sums_of_any_shape_are_diagnosed():
    def off(f):
        def backward(args, dy):
            (x,) = args
            return (jax.vjp(f, x)[1](dy)[0] * (1 + 0.1 * jnp.cos(x)),)

        return ruled(f, backward)

    for f, x in (
        (lambda x: jax.nn.softmax(x, 0), X[:, :1]),
        (lambda x: x * x.sum(0), X[:1]),
        (lambda x: jnp.sin(x.sum(0))[1:], X),
        (lambda x: jnp.roll(x.sum(0), 1) * x, X),
    ):
        assert not check_gradients(off(f), x, regimes="given")


def test_a_hypothesis_that_fails_does_not_hide_the_verdict(monkeypatch):
    def broken(case):
        raise ValueError("no such axis")

    monkeypatch.setattr("jnn.gradcheck.causes.changes.edit", broken)
    f = elementwise(jnp.sin, lambda x: jnp.cos(x) + jnp.sin(1000 * x))
    (finding,) = check_gradients(f, X, regimes="given").findings
    assert finding.cause == "unexplained"
    assert "`broken` stopped at ValueError('no such axis')" in finding.message
