"""The head of a language model is Unembed and cross-entropy, without their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn

RNG = np.random.default_rng(0)
H, LABELS = RNG.standard_normal((3, 5, 4)), RNG.integers(0, 7, (3, 5))


@pytest.mark.parametrize("ignore", [None, 3])
def test_it_is_unembed_and_softmax_cross_entropy(ignore, x64):
    plain, head = jnn.Unembed(7), jnn.CrossEntropyHead(7, chunk=4, ignore=ignore)
    params, _ = head.init(jax.random.key(0), (jnp.asarray(H), jnp.asarray(LABELS)))
    loss, cost = jnn.SoftmaxCrossEntropy(ignore=ignore), jnn.losses.Cost()
    scores, kept = plain.forward(params, jnp.asarray(H), None)
    value, of_loss = loss.forward(scores, LABELS)
    want = plain.backward(params, kept, loss.backward(of_loss, jnp.ones(())))
    costs, cache = head.forward(params, (jnp.asarray(H), jnp.asarray(LABELS)), None)
    share = float((ignore != LABELS).sum())  # all of them, where none is ignored
    found, kept = cost.forward(costs, LABELS)
    dcosts = cost.backward(kept, jnp.ones(()) * costs.size / share)
    grads, (dh, nothing) = head.backward(params, cache, dcosts)
    assert_agree(found * costs.size / share, value, 1e-14)
    assert_agree((grads, dh), want, 1e-14)
    assert nothing is None


def test_a_label_that_is_no_word_is_seen():
    head = jnn.CrossEntropyHead(7)
    for dtype in (np.int8, np.uint8, np.int32):
        x = jnp.asarray(H, jnp.float32), jnp.full((3, 5), 7, dtype)
        params, _ = head.init(jax.random.key(0), x)
        assert jnp.isnan(head.forward(params, x, None)[0]).all()


def test_the_scores_are_never_there_as_a_whole():
    h = jax.ShapeDtypeStruct((4, 512, 32), jnp.float32)
    labels = jax.ShapeDtypeStruct((4, 512), jnp.int32)
    scores = 4 * 512 * 4096 * 4  # bytes
    head, plain = jnn.CrossEntropyHead(4096, chunk=128), jnn.Unembed(4096)
    params, _ = jax.eval_shape(head.init, jax.random.key(0), (h, labels))
    loss, cost = jnn.SoftmaxCrossEntropy(), jnn.losses.Cost()

    def chunked(params, h, labels):
        costs, cache = head.forward(params, (h, labels), None)
        value, kept = cost.forward(costs, labels)
        return value, head.backward(params, cache, cost.backward(kept, jnp.ones(())))

    def whole(params, h, labels):
        y, cache = plain.forward(params, h, None)
        value, kept = loss.forward(y, labels)
        return value, plain.backward(params, cache, loss.backward(kept, jnp.ones(())))

    memory = [
        jax.jit(f).lower(params, h, labels).compile().memory_analysis().temp_size_in_bytes
        for f in (chunked, whole)
    ]
    assert memory[0] < scores / 4 < scores <= memory[1]


@pytest.mark.parametrize(
    "x, words",
    [
        (jnp.ones((2, 3)), "x is a ArrayImpl; it must be a pair"),
        ((jnp.ones((2, 3)), jnp.ones(2)), "the labels are float32"),
        ((jnp.ones((2, 3)), jnp.ones(3, int)), "h is float32 .* and the labels int32"),
    ],
)
def test_what_is_no_pair_is_refused(x, words):
    head = jnn.CrossEntropyHead(4)
    with pytest.raises(ValueError, match=words):
        head.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"ignore is 0\.5"):
        jnn.CrossEntropyHead(4, ignore=0.5)


def test_a_network_with_it_trains():
    net = jnn.Serial(
        ("both", jnn.Parallel(("h", jnn.Embedding(7, 8)), ("labels", jnn.Identity()))),
        ("head", jnn.CrossEntropyHead(7, chunk=64)),
    )
    tokens = RNG.integers(0, 7, (64, 6)).astype(np.int32)
    data = (tokens, (tokens + 1) % 7), np.zeros(64, np.float32)
    history = jnn.fit(
        net,
        jnn.losses.Cost(),
        jnn.optimizers.adam(0.1),
        data,
        key=jax.random.key(0),
        epochs=30,
        batch_size=32,
        progress=False,
    ).history
    assert history[-1].loss < 0.05 < history[0].loss
