"""The stored-nowhere shuffle: a permutation for every n, and as good as a random one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.data.shuffle import shuffled

permutation = jax.jit(
    lambda seed, epoch, n: shuffled(seed, epoch, jnp.arange(n), n), static_argnums=2
)


def seed(i):
    return jax.random.bits(jax.random.key(i), (2,), jnp.uint32)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 97, 256, 257, 1000, 60000])
def test_it_is_a_permutation(n):
    assert sorted(permutation(seed(0), jnp.array(0), n).tolist()) == list(range(n))


def test_any_position_can_be_asked_for_alone():
    whole = permutation(seed(1), jnp.array(5), 1000)
    some = shuffled(seed(1), jnp.array(5), jnp.array([3, 999, 0]), 1000)
    assert some.tolist() == whole[jnp.array([3, 999, 0])].tolist()


def test_epochs_and_seeds_differ():
    draws = [permutation(seed(s), jnp.array(e), 97).tolist() for s in range(3) for e in range(3)]
    assert len({tuple(draw) for draw in draws}) == 9


@pytest.mark.parametrize("n", [97, 300])
def test_it_is_statistically_a_random_permutation(n):
    # Both ways of shuffling, in 20,000 epochs. Each count below is binomial; five of its standard
    # deviations fail a fair shuffle less than once in a million.
    epochs = 20_000
    draw = jax.jit(jax.vmap(lambda e: shuffled(seed(0), e, jnp.arange(n), n)))
    p = np.asarray(draw(jnp.arange(epochs)))

    def within(counts, chance):
        bound = 5.5 * np.sqrt(epochs * chance * (1 - chance))
        return np.abs(counts - epochs * chance).max() < bound

    places = np.zeros((n, n))
    for position in range(n):
        places[position] = np.bincount(p[:, position], minlength=n)
    assert within(places, 1 / n)  # every value is as likely in every place
    assert within((np.diff(p, axis=1) > 0).sum(axis=0), 0.5)  # neighbours rise as often as fall
    follows = np.bincount((np.diff(p, axis=1) % n).ravel(), minlength=n)[1:] / (n - 1)
    assert within(follows, 1 / n)  # every step between neighbours is about as likely
    assert within((p == np.roll(p, 1, axis=0)).sum(axis=0), 1 / n)  # epochs know nothing of another


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_of_few_examples_every_permutation_is_as_likely(n):
    epochs = 24_000
    draw = jax.jit(jax.vmap(lambda e: shuffled(seed(0), e, jnp.arange(n), n)))
    _, counts = np.unique(np.asarray(draw(jnp.arange(epochs))), axis=0, return_counts=True)
    assert len(counts) == math.factorial(n)
    chance = 1 / len(counts)
    assert np.abs(counts - epochs * chance).max() < 5 * np.sqrt(epochs * chance * (1 - chance))
