"""What the checker reaches: narrow dtypes, callbacks, other shapes, the least example, order 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.gradcheck import check_gradients

X = jax.random.normal(jax.random.key(0), (5, 7))
W = jax.random.normal(jax.random.key(1), (7,))


def ruled(forward, backward):
    f = jax.custom_vjp(forward)
    f.defvjp(lambda *args: (forward(*args), args), backward)
    return f


def normed(x):
    wide = x.astype(jnp.float32)
    root = jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + 1e-6)
    return wide * root, root


def rms_norm(x, w):
    return normed(x)[0].astype(x.dtype) * w


def rms_norm_rule(inner):
    def backward(args, dy):
        x, w = args
        unit, root = normed(x)
        g = (dy * w).astype(jnp.float32)
        dx = root * (g - inner * unit * (g * unit).mean(axis=-1, keepdims=True))
        return dx.astype(x.dtype), (dy.astype(jnp.float32) * unit).sum(axis=0).astype(w.dtype)

    return ruled(rms_norm, backward)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_what_computes_in_float32_within_is_checked_in_float64(dtype):
    x, w = X.astype(dtype), W.astype(dtype)
    report = check_gradients(rms_norm_rule(1), x, w, regimes="given")
    report.raise_if_failed()
    assert max(report.power.values()) < 1e-11


def test_what_takes_float32_alone_is_checked_in_float64():
    def only_float32(x, w):
        assert x.dtype == jnp.float32
        return x * w

    def rule(by):
        return ruled(only_float32, lambda args, dy: (by * dy * args[1], (dy * args[0]).sum(axis=0)))

    assert check_gradients(rule(1), X, W, regimes="given")
    (finding,) = check_gradients(rule(3), X, W, regimes="given").findings
    assert (finding.path, finding.cause) == ("args[0]", "scale")


def called_back(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda x: np.tanh(np.asarray(x)), shape, x, vmap_method="sequential")


@pytest.mark.slow
def test_finite_differences_stand_in_where_jax_cannot_differentiate():
    def rule(by):
        return ruled(called_back, lambda args, dy: (by * dy * (1 - called_back(args[0]) ** 2),))

    report = check_gradients(rule(1), X[:2, :2], regimes="given")
    report.raise_if_failed()
    assert "finite differences stand in" in report.notes[0]
    assert not check_gradients(rule(2), X[:2, :2], regimes="given")


def test_too_many_numbers_for_finite_differences_are_refused():
    f = ruled(called_back, lambda args, dy: (dy,))
    with pytest.raises(ValueError, match="give reference="):
        check_gradients(f, jnp.ones((100, 100)))


@pytest.mark.slow
def test_the_least_failing_example_is_given_and_fails():
    def backward(args, dy):
        x, w = args
        return dy * w, (dy * x).mean(axis=0)

    f = ruled(lambda x, w: x * w, backward)
    report = check_gradients(f, X, W, regimes="given")
    assert report.findings[0].cause == "scale"
    x, w = report.example
    assert x.shape == (2, 2) and w.shape == (2,)
    assert np.array_equal(2 * x, np.rint(2 * x))
    assert "the smallest that is wrong too: args[0] = [[" in str(report)
    assert not check_gradients(f, x, w, regimes="given")


@pytest.mark.slow
def test_what_is_too_large_for_all_hypotheses_is_told_with_shorter_axes():
    def f(x, w):
        return jnp.cos(x * w)

    def backward(args, dy):
        x, w = args
        slope = -jnp.cos(x * w)
        return dy * slope * w, (dy * slope * x).sum(axis=0)

    x = np.random.default_rng(1).standard_normal((450, 500), np.float32)
    report = check_gradients(ruled(f, backward), x, x[0], regimes="given")
    assert [(f.path, f.cause) for f in report.findings] == [
        ("args[0]", "local-derivative"),
        ("args[1]", "local-derivative"),
    ]
    assert "`cos` stands for `sin`" in report.findings[0].message
    assert max(report.findings[0].indices)[0] > 7  # of the arguments as they were given
    assert "args[0], args[1] was found with shorter axes: args[0] = float32[5, 7]" in str(report)


@pytest.mark.slow
def test_slips_at_other_shapes_are_found_where_asked():
    def backward(args, dy):
        x, w = args
        dw = (dy * x).sum(axis=0)
        return dy * w, dw if len(x) > 1 else 2 * dw

    f = ruled(lambda x, w: x * w, backward)
    assert check_gradients(f, X, W)
    report = check_gradients(f, X, W, regimes="all")
    assert [(f.path, f.cause, f.regime) for f in report.findings] == [
        ("args[1]", "scale", "given (one example)")
    ]


@pytest.mark.slow
def test_a_gradient_that_is_right_may_have_a_wrong_one():
    def rule(kept):
        return ruled(jnp.tanh, lambda args, dy: (dy * (1 - kept(jnp.tanh(args[0])) ** 2),))

    assert check_gradients(rule(lambda y: y), X, regimes="given", order=2)
    held = rule(jax.lax.stop_gradient)
    assert check_gradients(held, X, regimes="given")
    (finding,) = check_gradients(held, X, regimes="given", order=2).findings
    assert (finding.path, finding.regime) == ("args[0]", "given (of second order)")


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="order is 3"):
        check_gradients(ruled(jnp.tanh, lambda args, dy: (dy,)), X, order=3)
