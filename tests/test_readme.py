"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_readmes_python_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["progress"].validation.accuracy > 0.96
    assert names["found"].accuracy[0] > 0.9
    assert "gradients right" in capsys.readouterr().out


def test_the_tour_is_twenty_lines():
    tour = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    code = [line for line in tour[1].splitlines() if line and not line.startswith("#")]
    assert len(code) <= 20


def test_it_has_exactly_two_commands_to_copy():
    assert len(re.findall(r"```sh\n.+?\n```", README)) == 2
