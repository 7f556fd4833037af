"""Networks of several inputs, such as sequences and their mask, through training and evaluation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn

N, T = 60, 5
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, T, 3)).astype(np.float32)
LENGTHS = RNG.integers(1, T + 1, N)
MASK = np.arange(T) < LENGTHS[:, None]
X[~MASK] = 100.0  # must not be looked at
Y = (X[np.arange(N), LENGTHS - 1, 0] > 0).astype(np.int32)
LEFT = partial(jnn.Item, (1, 0))  # what an LSTM is left with: h of (y, (h, c))
NET = jnn.Serial(
    jnn.Branch(
        jnn.Serial(jnn.LSTM(6, final=True), LEFT()),
        jnn.Serial(jnn.LSTM(6, final=True, reverse=True), LEFT()),
        join=jnn.Concatenate(),
    ),
    jnn.Dense(2),
)
LOSS = jnn.SoftmaxCrossEntropy()


class Half:
    """A transform, of the sequences alone."""

    def apply(self, x):
        return x / 2


jax.tree_util.register_pytree_node(Half, lambda half: ((), None), lambda _, __: Half())


def trained(**options):
    return jnn.fit(
        NET,
        LOSS,
        jnn.optimizers.adam(2e-2),
        ((X, MASK), Y),
        key=jax.random.key(0),
        epochs=12,
        batch_size=20,
        progress=False,
        **options,
    )


def test_a_classifier_of_ragged_sequences_learns():
    params, state, history = trained(validation=((X[:9], MASK[:9]), Y[:9]))
    assert history[-1].accuracy > 0.95 and history[-1].validation.examples == 9
    found = jnn.evaluate(NET, LOSS, params, state, ((X, MASK), Y), batch_size=7)
    assert found.accuracy > 0.95 and np.isfinite(found.loss)
    assert jnn.check_layer(NET, (jnp.asarray(X[:3]), jnp.asarray(MASK[:3])), regimes="given")


@pytest.mark.slow
def test_accumulated_transformed_and_watched():
    params, _, history = trained(accumulate=2, transform=Half(), watch=5)
    whole, _, _ = trained(transform=Half())
    assert history[-1].accuracy > 0.8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.05), params, whole)
    report = jnn.sanity(NET, LOSS, ((X, MASK), Y), key=jax.random.key(1), steps=20)
    assert np.isfinite(report.initial)


def test_data_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="59 examples in x and 60 in y"):
        jnn.evaluate(NET, LOSS, {}, {}, ((X, MASK[:-1]), Y))
    with pytest.raises(ValueError, match=r"data.x\[0\] holds 15 numbers that are not finite"):
        jnn.evaluate(
            NET, LOSS, {}, {}, ((np.where(np.arange(N)[:, None, None], X, np.nan), MASK), Y)
        )
    with pytest.raises(ValueError, match=r"data\.x is an empty tuple"):
        jnn.evaluate(NET, LOSS, {}, {}, ((), Y))


def test_an_item_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"index is -1; it must be 0, 1"):
        jnn.Item(-1)
    with pytest.raises(ValueError, match="there is no entry 2 of a tuple of 2"):
        jnn.Item(2).forward({}, (X, MASK), jnn.Eval())
    with pytest.raises(ValueError, match=r"no entry 0 of float32 \(60, 5, 3\)"):
        jnn.Item((0, 0)).forward({}, (X, MASK), jnn.Eval())
