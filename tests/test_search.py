"""Sweeps, the learning-rate finder and ensembles."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jnn
from jnn.rates import Rates, find_learning_rate
from jnn.search import Range, Sweep, ensemble, log_uniform, sweep, uniform

LOSS = jnn.SoftmaxCrossEntropy()
NET = jnn.Serial(jnn.Dense(5), jnn.Tanh(), jnn.Dense(3))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((23, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 23).astype(np.int32)
OPTIMIZER = jnn.optimizers.sgd(0.1)
SPACE = {"lr": log_uniform(1e-3, 1), "mu": uniform(0, 0.9)}
OPTIONS = {
    "space": SPACE,
    "trials": 4,
    "epochs": 3,
    "batch_size": 5,
    "validation": (X[:7], Y[:7]),
    "progress": False,
}


def found(**options):
    options = OPTIONS | {"key": jax.random.key(0)} | options
    return sweep(NET, LOSS, jnn.optimizers.momentum, (X, Y), **options)


@pytest.fixture(scope="module")
def result():
    return found()


@pytest.mark.slow
def test_a_sweep_is_what_its_runs_would_be(result):
    _, run_key = jax.random.split(jax.random.key(0))
    keys = jax.random.split(run_key, 4)
    point_keys = jax.random.split(jax.random.split(jax.random.key(0))[0], 2)
    drawn = [r.sample(k, 4) for r, k in zip(SPACE.values(), point_keys, strict=True)]
    for lr, mu, key in zip(*map(np.asarray, drawn), keys, strict=True):
        trial = int(np.argmin(abs(result.points["lr"] - lr)))
        optimizer = jnn.optimizers.momentum(float(lr), float(mu))
        fitted = jnn.fit(
            NET, LOSS, optimizer, (X, Y), key=key, epochs=3, batch_size=5, progress=False
        )
        params, state = result.member(trial)
        chex.assert_trees_all_close(params, fitted.params, rtol=1e-5, atol=1e-6)
        judged = jnn.evaluate(NET, LOSS, params, state, OPTIONS["validation"])
        assert result.loss[trial] == pytest.approx(judged.loss, rel=1e-5)
        assert result.accuracy[trial] == pytest.approx(judged.accuracy)


def test_the_best_trial_is_first_and_the_table_shows_all(result):
    ranks = list(zip(-result.accuracy, result.loss, strict=True))
    assert ranks == sorted(ranks)
    assert len(str(result).splitlines()) == 6 + len(result.warnings)
    assert result.best == {name: values[0] for name, values in result.points.items()}


@pytest.mark.slow
def test_a_trial_that_diverged_is_last_and_said_so():
    net = jnn.Serial(jnn.Dense(5), jnn.Dense(3))
    options = OPTIONS | {"space": {"lr": log_uniform(1e-3, 1e30)}, "trials": 6}
    got = sweep(net, LOSS, jnn.optimizers.sgd, (X, Y), key=jax.random.key(0), **options)
    assert np.isnan(got.loss[-1]) and not np.isnan(got.loss[0])
    assert str(got).splitlines()[-1 - len(got.warnings)].split()[2] == "diverged"


def test_where_every_trial_diverged_the_table_says_so_and_nothing_is_zoomed_in_on():
    nothing = np.array([np.nan])
    lost = Sweep({"lr": uniform(0, 1)}, {"lr": np.ones(1)}, nothing, nothing, {}, {})
    assert "diverged" in str(lost) and "nan" not in str(lost)
    with pytest.raises(ValueError, match="every trial diverged"):
        lost.zoom()


def planted(lr):
    return Sweep({"lr": log_uniform(1e-4, 1)}, {"lr": np.array([lr])}, np.ones(1), None, {}, {})


def test_a_best_on_the_border_is_warned_of_and_zoomed_beyond():
    assert planted(1e-2).warnings == []
    for lr, end in ((0.9, "high"), (1.1e-4, "low")):
        (words,) = planted(lr).warnings
        assert f"on the {end} border" in words
    space = planted(0.9).zoom(4)["lr"]
    assert space.low == pytest.approx(0.9 / 10**0.5) and space.high == pytest.approx(0.9 * 10**0.5)
    with pytest.raises(ValueError, match="factor is 0; it must be above 0"):
        planted(0.9).zoom(0)


def test_an_even_range_is_not_zoomed_beyond_its_ends(result):
    space = dataclasses.replace(result, points={"lr": [0.1], "mu": [0.89]}).zoom()["mu"]
    assert (space.low, space.high) == (pytest.approx(0.74), 0.9)


def test_a_member_that_is_not_there_is_refused(result):
    with pytest.raises(IndexError, match="trial is 4; there are 4"):
        result.member(4)


@pytest.mark.slow
def test_a_penalty_may_be_searched_too():
    def make(lr, l2):
        return jnn.optimizers.sgd(lr), jnn.penalties.L2(l2)

    space = {"lr": uniform(0.1, 0.10001), "l2": log_uniform(1e-6, 10)}
    got = sweep(
        NET, LOSS, make, (X, Y), **OPTIONS | {"space": space, "key": jax.random.key(0), "trials": 6}
    )
    size = [float(jnp.square(w).sum()) for w in got.params["dense1"]["w"]]
    order = np.argsort(got.points["l2"])
    assert size[order[-1]] < size[order[0]]


def test_log_uniform_is_even_in_the_logarithm():
    n = 4000
    values = log_uniform(1e-4, 1).sample(jax.random.key(0), n)
    share = np.histogram(np.log10(values), bins=4, range=(-4, 0))[0] / n
    # Each share is binomial with a standard deviation of sqrt(0.25 * 0.75 / n).
    assert (abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / n)).all()


@pytest.mark.parametrize(
    "low, high, log", [(1, 1, True), (0, 1, True), (2, 1, False), (1, np.inf, True)]
)
def test_impossible_ranges_are_refused(low, high, log):
    with pytest.raises(ValueError, match=r"must be below|begins above 0"):
        Range(low, high, log)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"space": {"lr": (1e-4, 1)}}, "space is"),
        ({"trials": 0}, "trials is 0"),
        ({"batch_size": 99}, "batch_size is 99; the data hold only 23"),
        ({"gradient": "forward"}, "gradient is 'forward'"),
        ({"space": {}}, "space is"),
        ({"space": {"rate": uniform(0, 1)}}, r"what space names, \['rate'\]: missing"),
        ({"key": 0}, "key is 0"),
        ({"validation": None}, "validation is None"),
        ({"validation": (X[:, :2], Y)}, "validation has"),
    ],
)
def test_wrong_arguments_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        found(**wrong)


def finder(**options):
    options = {"key": jax.random.key(0), "batch_size": 5, "steps": 60} | options
    return find_learning_rate(NET, LOSS, jnn.optimizers.sgd, (X, Y), **options)


def test_the_finder_sees_the_loss_of_every_step_on_a_rising_rate():
    got = finder(low=1e-3, high=1e2)
    assert got.rates[0] == pytest.approx(1e-3) and len(got.rates) == len(got.losses)
    ratios = got.rates[1:] / got.rates[:-1]
    np.testing.assert_allclose(ratios, (1e5) ** (1 / 59), rtol=1e-6)
    assert 1e-3 < got.suggestion < 10
    assert got.losses[0] == pytest.approx(np.log(3), abs=0.7)


def test_the_finder_disturbs_no_run_that_follows():
    def train():
        *_, record = jnn.run(
            NET, LOSS, OPTIMIZER, (X, Y), key=jax.random.key(1), epochs=2, batch_size=5
        )
        return record.state

    before = train()
    finder()
    chex.assert_trees_all_equal(train(), before)


def test_the_finder_ends_where_the_loss_rebels():
    got = finder(high=1e9)
    assert len(got.losses) < 60 and np.isfinite(got.losses).all()
    assert got.warnings == []


def test_a_suggestion_from_an_end_of_the_rates_is_warned_of():
    rates = np.geomspace(1e-3, 1e-1, 3)
    assert "raise high" in str(Rates(rates, rates[::-1], 1e-2))
    assert "lower low" in str(Rates(rates, rates, 1e-4))


def test_an_ensemble_is_the_mean_of_its_members_probabilities(result):
    want = np.mean(
        [jax.nn.softmax(NET.forward(result.member(i)[0], X, jnn.Eval())[0]) for i in range(4)],
        axis=0,
    )
    stacked = ensemble(NET, result.params, result.state, X)
    np.testing.assert_allclose(stacked, want, rtol=1e-5)
    members = [result.member(i) for i in range(4)]
    listed = ensemble(NET, [p for p, _ in members], [s for _, s in members], X)
    np.testing.assert_array_equal(listed, stacked)
    transform = jnn.preprocessing.Center.fit(X)
    np.testing.assert_array_equal(
        ensemble(NET, result.params, result.state, X, transform=transform),
        ensemble(NET, result.params, result.state, transform.apply(X)),
    )


@pytest.mark.parametrize(
    "params, state, words",
    [
        ([], [], "at least 1"),
        ([{}], {}, "one of as many"),
        ([{"w": jnp.ones(2)}, {"w": jnp.ones(3)}], [{}, {}], r"params\[1\] is of another network"),
        ({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, {}, "not stacked"),
    ],
)
def test_members_that_are_no_ensemble_are_refused(params, state, words):
    with pytest.raises(ValueError, match=words):
        ensemble(NET, params, state, X)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"chunk": 2}, "chunk: the finder chooses"),
        ({"data": None}, "pair of arrays"),
        ({"make": OPTIMIZER}, "make is Optimizer; give what makes an optimizer"),
    ],
)
def test_what_the_finder_cannot_take_is_refused(options, words):
    given = {"make": jnn.optimizers.sgd, "key": jax.random.key(0), "batch_size": 5, "data": (X, Y)}
    with pytest.raises(ValueError, match=words):
        find_learning_rate(NET, LOSS, **given | options)
