"""The checks before a run find what is wired wrongly, and pass what is not."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.sanity import sanity

LOSS = jnn.SoftmaxCrossEntropy()
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 8)).astype(np.float32)
Y = RNG.integers(0, 4, 60).astype(np.int32)
NET = jnn.Serial(jnn.Dense(32), jnn.ReLU(), jnn.Dense(4))


def check(net=NET, **options):
    return sanity(net, LOSS, (X, Y), key=jax.random.key(0), **options)


@pytest.mark.slow
def test_a_sound_network_passes_and_is_told_in_numbers():
    report = check(penalty=jnn.penalties.L2(1e-2))
    assert report and report.expected == pytest.approx(np.log(4))
    assert report.penalised > report.initial and report.tiny.accuracy == 1
    assert str(report).splitlines()[0].endswith("1.3863 expected of no knowledge: as it should be")


@pytest.mark.slow
def test_scores_that_start_too_large_are_found():
    (finding,) = check(jnn.Serial(jnn.Dense(32), jnn.ReLU(), Loud(), jnn.Dense(4))).findings
    assert "times what no knowledge costs" in finding


@pytest.mark.slow
def test_a_penalty_that_costs_nothing_is_found():
    (finding,) = check(penalty=jnn.penalties.L2(0.0)).findings
    assert finding.startswith("the penalty does not raise the loss")


@pytest.mark.slow
def test_a_network_that_cannot_learn_is_found():
    (finding,) = check(jnn.Serial(Deaf(), jnn.Dense(4))).findings
    assert finding.startswith("20 examples are not learnt by heart")


@pytest.mark.slow
def test_a_rate_too_large_is_a_finding_and_no_error():
    (finding,) = check(jnn.Serial(jnn.Dense(4)), optimizer=jnn.optimizers.sgd(1e38)).findings
    assert finding.startswith("trained on 20 examples, the loss or the parameters were not finite")


@pytest.mark.slow
def test_examples_whose_label_is_ignored_are_passed_over():
    loss = jnn.SoftmaxCrossEntropy(ignore=-1)
    y = np.where(np.arange(60) < 50, -1, Y)
    assert sanity(NET, loss, (X, y), key=jax.random.key(0), steps=200).tiny.examples == 10


@dataclass(frozen=True)
class Deaf(jnn.Layer):
    """Hears nothing of its input."""

    def forward(self, params, x, mode):
        return jnp.zeros_like(x), None

    def pull(self, params, cache, dy):
        return jnp.zeros_like(dy)


@dataclass(frozen=True)
class Loud(jnn.Layer):
    """Multiplies by ten."""

    def forward(self, params, x, mode):
        return 10 * x, None

    def pull(self, params, cache, dy):
        return 10 * dy


def test_data_in_the_wrong_order_are_known():
    with pytest.raises(ValueError, match=r"give \(x, y\), not \(y, x\)"):
        sanity(NET, LOSS, (Y, X), key=jax.random.key(0))
