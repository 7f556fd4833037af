"""Steps shrink when the loss, averaged over a window, has stopped falling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.optimizers import chain, max_norm, reduce_on_plateau, sgd


def scales(losses, **options):
    """The scale after each update, all in one compiled loop."""
    optimizer, params = reduce_on_plateau(sgd(1.0), **options), {"w": jnp.ones(())}

    def step(state, loss):
        updates, state = optimizer.update(params, state, params, value=loss)
        return state, (state.scale, updates["w"])

    losses = jnp.asarray(losses, float)
    state, (scale, moves) = jax.jit(lambda s: jax.lax.scan(step, s, losses))(optimizer.init(params))
    np.testing.assert_array_equal(moves, -scale)  # from the very update that reduces it
    return np.asarray(scale), state


def by_hand(losses, factor, patience, window, threshold=1e-4, floor=0.0):
    scale, best, waited, out = 1.0, np.inf, 0, []
    for t in range(len(losses)):
        if (t + 1) % window == 0:
            loss = np.mean(losses[t + 1 - window : t + 1])
            if best == np.inf or loss < best - threshold * abs(best):
                best, waited = loss, 0
            else:
                waited += 1
            if waited == patience:
                scale, waited = max(floor, scale * factor), 0
        out.append(scale)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 2, "window": 1},
        {"factor": 0.1, "patience": 1, "window": 7},
        {"factor": 0.5, "patience": 3, "window": 4, "threshold": 0.01, "floor": 0.1},
    ],
)
@pytest.mark.parametrize("offset", [0.0, -3.0])  # losses may be negative
def test_it_follows_the_definition(x64, options, offset):
    rng = np.random.default_rng(0)
    losses = offset + 1 / (1 + 0.1 * np.arange(120)) + 0.05 * rng.standard_normal(120)
    got, _ = scales(losses, **options)
    expected = by_hand(losses, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert expected[-1] < 1


def test_a_loss_that_falls_is_left_alone():
    got, state = scales(np.linspace(5, 1, 60), factor=0.5, patience=1, window=5)
    assert (got == 1).all()
    assert float(state.best) == pytest.approx(1 + 2 * 4 / 59)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_not_improved_and_is_forgotten_with_its_window(bad):
    losses = [3.0, 3.0, bad, 2.0, 1.0, 1.0]
    got, state = scales(losses, factor=0.5, patience=1, window=2)
    assert got.tolist() == [1, 1, 1, 0.5, 0.5, 0.5]
    assert float(state.best) == 1
    first, state = scales([bad, 1.0], factor=0.5, patience=2, window=1)
    assert (first.tolist(), float(state.best)) == ([1, 1], 1)


def test_counters_saturate():
    optimizer, params = reduce_on_plateau(sgd(1.0), patience=5, window=1), {"w": jnp.ones(1)}
    last = jnp.int32(2**31 - 1)
    state = optimizer.init(params)._replace(waited=last, best=jnp.zeros(()))
    _, state = optimizer.update(params, state, params, value=jnp.ones(()))
    assert int(state.waited) == last


def test_in_a_chain_the_loss_gets_through():
    optimizer = chain(reduce_on_plateau(sgd(1.0), patience=1, window=1), max_norm(9.0))
    params = {"w": jnp.ones((2, 2))}
    state = optimizer.init(params)
    for loss in (1.0, 1.0):
        _, state = optimizer.update(params, state, params, value=loss)
    assert float(state[0].scale) == pytest.approx(0.1)


def test_without_the_loss_it_says_what_is_missing():
    params = {"w": jnp.ones(1)}
    for optimizer in (reduce_on_plateau(sgd(0.1)), chain(reduce_on_plateau(sgd(0.1)))):
        with pytest.raises(ValueError, match="value is None; it must be the loss"):
            optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.0},
        {"factor": 1.0},
        {"patience": 0},
        {"patience": 2.0},
        {"window": True},
        {"threshold": -1.0},
        {"floor": 1.0},
    ],
)
def test_bad_options_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} is "):
        reduce_on_plateau(sgd(0.1), **options)
