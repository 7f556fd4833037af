"""Each example runs alone, draws its picture, and its claim holds in numbers."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, tmp_path):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = tmp_path / f"{name}.png"
    result = module.main(str(picture))
    assert picture.stat().st_size > 10_000
    return result


def test_a_spiral_is_learned_by_forward_and_backward_in_a_plain_loop(tmp_path):
    assert run("spiral_by_hand", tmp_path) > 0.95


def test_the_check_finds_the_slip_and_passes_the_right_layer(tmp_path):
    assert run("own_layer", tmp_path) == (False, True)


def test_dx_accounts_for_most_of_the_winning_scores(tmp_path):
    assert 0.9 < run("saliency", tmp_path) < 1.1


def test_every_example_is_tested():
    here = Path(__file__).read_text()
    untested = [path.stem for path in EXAMPLES.glob("*.py") if f'run("{path.stem}"' not in here]
    assert untested == []
