"""Each example runs alone, draws its picture, and its claim holds in numbers."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, tmp_path, **options):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = tmp_path / f"{name}.png"
    result = module.main(str(picture), **options)
    assert picture.stat().st_size > 10_000
    return result


def test_a_spiral_is_learned_by_forward_and_backward_in_a_plain_loop(tmp_path):
    assert run("spiral_by_hand", tmp_path) > 0.95


def test_the_check_finds_the_slip_and_passes_the_right_layer(tmp_path):
    assert run("own_layer", tmp_path) == (False, True)


def test_dx_accounts_for_most_of_the_winning_scores(tmp_path):
    assert 0.9 < run("saliency", tmp_path) < 1.1


def test_what_must_add_up_to_the_score_does(tmp_path):
    assert max(run("attributions", tmp_path).values()) < 1e-3


def test_k_fac_needs_fewer_steps_than_adam_at_its_best_rate(tmp_path):
    losses = run("natural_gradient", tmp_path)
    assert losses["K-FAC"][14] < losses["Adam"][-1]  # of 40 epochs


def test_a_neuron_is_a_linear_classifier(tmp_path):
    lines = run("neuron_is_a_linear_classifier", tmp_path)
    sigmoid, softmax, svm = lines["sigmoid"], lines["softmax"], lines["SVM"]
    np.testing.assert_allclose([*softmax.w, softmax.b], [*sigmoid.w, sigmoid.b], rtol=1e-3)
    assert 0.3 < sigmoid.margin < svm.margin - 0.05


def test_positive_inputs_make_weights_zigzag(tmp_path):
    found = run("positive_inputs_zigzag", tmp_path, seeds=5)
    assert found.same_sign["sigmoid"][0] == found.same_sign["ReLU"][0] == 1
    assert max(found.same_sign["tanh"]) < 0.01
    assert found.same_sign["sigmoid"][2] > 0.5 > found.same_sign["ReLU"][2]  # in batches of 32
    assert found.detour["positive"][1] > 2 * found.detour["centred"][1]
    assert found.steps["positive"].min() > found.steps["centred"].min()


def test_a_chain_of_sigmoids_vanishes_and_large_weights_saturate_it(tmp_path):
    chains = run("sigmoid_chain_vanishes", tmp_path, seeds=2)
    norms = {which: chain.norms[-1] for which, chain in chains.items()}
    assert norms["sigmoid", 1.0] < 1e-5 < 0.1 < norms["tanh", 1.0] < 1
    assert norms["sigmoid", 1.0] < 4.0 ** -(len(chains["sigmoid", 1.0].norms) - 1)
    assert 0.3 < norms["ReLU", 2**0.5] < 3
    for name in ("sigmoid", "tanh"):
        assert chains[name, 1.0].flat < 0.05 and chains[name, 30.0].flat > 0.75
        assert norms[name, 30.0] > 10  # though most units are flat


def test_tanh_learns_faster_than_sigmoid(tmp_path):
    found = run("tanh_learns_faster_than_sigmoid", tmp_path, seeds=3, looks=60)
    assert 1.3 * found["tanh"].steps.min() < found["sigmoid"].steps.min() < np.inf


def test_relu_is_not_six_times_as_fast_as_tanh_on_the_digits(tmp_path):
    found = run("relu_against_tanh", tmp_path, seeds=3, looks=100)
    for goal in (0.25, 0.01):
        relu, tanh = (found[name].steps[goal].min() for name in ("ReLU", "tanh"))
        assert relu < 3 * tanh and tanh < 3 * relu


def test_steps_that_are_too_large_kill_relus_but_not_leaky_ones(tmp_path):
    found = run("large_step_kills_relus", tmp_path, seeds=3)
    relu, leaky = found["ReLU"], found["Leaky ReLU"]
    assert relu.off[0] < 0.1 and relu.accuracy[0] > 0.95
    assert (relu.off[4:] > 0.85).all() and (relu.returned == 0).all()
    # At rate 4 as many go off, and hardly any return,
    assert leaky.off[4] > 0.7 and leaky.returned[4] < 0.2
    assert leaky.accuracy[4] > relu.accuracy[4] + 0.3  # and yet it learns


def test_units_that_start_alike_stay_alike(tmp_path):
    result = run("zero_weights_never_break_symmetry", tmp_path, epochs=10)
    assert result["ReLU from zero"].moved == 0
    # Rounding may part them, by the order of the sums in a matrix product, into a few kinds.
    assert len(result["sigmoid from zero"].kinds) <= 4
    assert len(result["sigmoid from random"].kinds) == 32
    assert result["sigmoid from random"].accuracy > result["sigmoid from zero"].accuracy + 0.3


def test_centring_and_whitening_make_descent_short(tmp_path):
    found = run("preprocessing_in_pictures", tmp_path)
    for name in ("centred", "standardised", "decorrelated", "whitened"):
        assert abs(found[name].mean).max() < 0.3 < abs(found["raw"].mean).min()
    assert abs(found["decorrelated"].covariance[0, 1]) < 0.1 < found["centred"].covariance[0, 1]
    np.testing.assert_allclose(found["standardised"].covariance.diagonal(), 1, atol=0.15)
    np.testing.assert_allclose(found["whitened"].covariance, np.eye(2), atol=0.15)
    np.testing.assert_allclose(found["whitened"].condition, 1, rtol=1e-3)
    np.testing.assert_allclose(found["decorrelated"].condition, found["centred"].condition, 1e-3)
    assert found["raw"].steps > 100 * found["centred"].steps > 1000 * found["whitened"].steps


def test_one_over_root_n_keeps_the_spread_and_relu_needs_root_two_over_n(tmp_path):
    found = run("spread_through_ten_layers", tmp_path, seeds=2)
    last = {which: spread.all[-1] for which, spread in found.items()}
    assert abs(last["no activation", "1/sqrt(n)"] - 1) < 0.1
    assert 0.1 < last["tanh", "1/sqrt(n)"] < 0.4 < last["tanh", "sqrt(2/n)"] < 0.7
    assert last["ReLU", "1/sqrt(n)"] < 2 * 2**-5
    assert 0.5 < last["ReLU", "sqrt(2/n)"] < 1.2
    assert found["ReLU", "sqrt(2/n)"].examples[-1] < 0.7 * last["ReLU", "sqrt(2/n)"]
    assert max(last[name, "0.01"] for name in ("no activation", "tanh", "ReLU")) < 1e-6


def test_batch_norm_forgives_small_weights_and_not_much_too_large_ones(tmp_path):
    found = run("batch_norm_forgives", tmp_path, seeds=3)
    plain, normed = (np.median(found[f"{name} batch norm"], axis=0) for name in ("without", "with"))
    assert plain[3] < 0.3 and (plain[[0, 1, 5, 6]] > 2).all()
    assert (normed[:6] < 0.3).all() and normed[6] > 1


def test_one_pass_with_dropout_errs_as_seldom_as_the_average_but_is_too_sure(tmp_path):
    found = run("dropout_is_an_ensemble", tmp_path, seeds=2)
    loss, errors = np.mean(found["dropout"], axis=0)
    assert abs(errors[0] - errors[-1]) < 0.02
    assert loss[-1] < 0.8 * loss[0] < loss[0] < loss[1]
    plain = np.mean(found["no dropout"][..., 0], axis=0)
    assert loss[-1] < 0.8 * plain[0] and abs(errors[0] - plain[1]) < 0.03


def test_optimizers_differ_much_in_valleys_and_little_on_the_digits(tmp_path):
    found = run("optimizers_compared", tmp_path, seeds=2, looks=6)
    for name in ("SGD", "momentum", "Nesterov"):  # these know no coordinates
        assert abs(found[name].straight - found[name].turned) <= 2
    assert found["Adagrad"].turned > 10 * found["Adagrad"].straight
    turned = {name: result.turned for name, result in found.items()}
    assert min(turned, key=lambda name: turned[name]) == "Nesterov"
    assert turned["RMSprop"] > turned["SGD"] > turned["momentum"]
    losses = [result.loss for result in found.values()]
    assert max(losses) < 4 * min(losses)


def test_annealing_pays_where_labels_are_noisy(tmp_path):
    found = run("annealing", tmp_path)
    last = {
        labels: {name: result.accuracies[:, -1].mean() for name, result in results.items()}
        for labels, results in found.items()
    }
    for name in found["noisy"].keys() - {"constant"}:
        assert last["noisy"][name] > last["noisy"]["constant"] + 0.02
        assert last["clean"][name] < last["clean"]["constant"] + 0.01
    constant = found["noisy"]["constant"].accuracies.mean(axis=0)
    assert constant[-1] < constant[0] - 0.01


def test_uncorrected_adam_takes_long_first_steps(tmp_path):
    found = run("adam_bias_correction", tmp_path, seeds=3, steps=150)
    corrected, uncorrected = found["corrected"], found["uncorrected"]
    t = np.arange(1, 101)
    np.testing.assert_allclose(corrected.sizes, np.ones(100), rtol=1e-5)
    formula = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)
    np.testing.assert_allclose(uncorrected.sizes, formula, rtol=1e-5)
    ratio = np.median(uncorrected.losses, axis=0) / np.median(corrected.losses, axis=0)
    assert (ratio[:3] < 0.7).all() and (ratio[-2:] > 2).all()


def test_a_transformer_learns_to_write(tmp_path):
    small = {"layers": 2, "width": 32, "heads": 2, "length": 32, "epochs": 2, "limit": 40_000}
    found = run("char_transformer", tmp_path, **small)
    assert found.losses[-1] < found.losses[0] < 3.6  # of ln 100 for guessing
    assert len(found.text) == 300


def test_convolutions_know_as_much_of_digits_as_dense_layers(tmp_path):
    found = run("residual_cnn", tmp_path, width=8, epochs=4)
    assert found["residual"].accuracies[-1] > 0.95
    assert found["residual"].parameters < found["plain"].parameters


def test_networks_train_within_other_libraries_and_theirs_within_jnn(tmp_path):
    for peer in ("equinox", "flax", "optax", "safetensors"):
        pytest.importorskip(peer)
    # The peers leave the dtypes of sums to JAX.
    with jax.numpy_dtype_promotion("standard"):
        found = run("interchange", tmp_path)
    assert all(losses[-1] < 0.3 * losses[0] for losses in found.values())


def test_every_example_is_tested():
    here = Path(__file__).read_text()
    untested = [path.stem for path in EXAMPLES.glob("*.py") if f'run("{path.stem}"' not in here]
    assert untested == []
