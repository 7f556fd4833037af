"""Layers, losses and bare pairs are checked, and of a network the wrong leaf is named."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.gradcheck import check_layer, check_loss, check_pair

X = jax.random.normal(jax.random.key(3), (11, 7))
W = jax.random.normal(jax.random.key(4), (7, 5))


@dataclass(frozen=True)
class Scale(jnn.Layer):
    """y = s x, with a gradient that is the mean over the examples where it must be their sum."""

    mean: bool = True

    def init(self, key, x):
        return {"s": jnp.ones(x.shape[-1], x.dtype)}, {}

    def forward(self, params, x, mode):
        return params["s"] * x, x

    def backward(self, params, x, dy):
        ds = (x * dy).mean(0) if self.mean else (x * dy).sum(0)
        return {"s": ds}, params["s"] * dy


@dataclass(frozen=True)
class Centred(jnn.Layer):
    """Takes the mean over the examples away, in evaluation too."""

    def init(self, key, x):
        return {}, {}

    def forward(self, params, x, mode):
        return x - x.mean(0), None

    def backward(self, params, cache, dy):
        return {}, dy - dy.mean(0)


@pytest.mark.slow
def test_a_right_layer_passes_in_one_program_where_both_modes_are_one():
    report = check_layer(jnn.Dense(5), X, regimes="given")
    assert report, str(report)
    assert report.regimes == ("given (both modes)", "given (both modes, one example)")
    assert max(report.power.values()) < 1e-11


@pytest.mark.slow
def test_batch_norm_passes_in_both_modes_and_takes_no_batch_of_one():
    report = check_layer(jnn.BatchNorm(), X)
    assert report, str(report)
    assert "moved (evaluation)" in report.regimes
    assert any("takes no batch of one" in note for note in report.notes)


@pytest.mark.slow
def test_the_wrong_leaf_of_a_network_is_named():
    net = jnn.Serial(jnn.Dense(5), jnn.Tanh(), Scale(), jnn.Dense(3))
    report = check_layer(net, X, regimes="given")
    (finding,) = report.findings
    assert (finding.path, finding.cause) == ("params['scale1']['s']", "scale")
    assert "1/11" in finding.message
    assert "all layers before scale1" in str(report)


def test_examples_that_move_each_other_in_evaluation_are_found():
    (finding,) = check_layer(Centred(), X, regimes="given").findings
    assert finding.cause == "structure" and "changes with the first example" in finding.message


@pytest.mark.slow
def test_both_forms_of_a_loss_pass_with_labels_at_the_borders():
    report = check_loss(jnn.SoftmaxCrossEntropy(), X, jnp.arange(11) % 7)
    assert report, str(report)
    assert "given (each, last labels)" in report.regimes


def test_a_loss_that_forgets_a_factor_is_found():
    class Half(jnn.SquaredError):
        def pull(self, cache, dvalues):
            return super().pull(cache, dvalues) / 2

    (finding,) = check_loss(Half(), X, jnp.zeros_like(X), regimes="given").findings
    assert (finding.path, finding.cause) == ("prediction", "scale")


def test_a_bare_pair_is_checked_and_its_wrong_part_named():
    def forward(w, x):
        return x @ w, x

    assert check_pair(forward, lambda w, x, dy: (x.T @ dy, dy @ w.T), W, X, regimes="given")
    report = check_pair(forward, lambda w, x, dy: (x.T @ dy, -dy @ w.T), W, X, regimes="given")
    (finding,) = report.findings
    assert (finding.path, finding.cause) == ("x", "sign")


def test_checking_changes_no_setting_and_no_argument():
    before = np.array(X)
    check_layer(jnn.Tanh(), X, regimes="given")
    assert jnp.ones(()).dtype == jnp.float32
    np.testing.assert_array_equal(X, before)
