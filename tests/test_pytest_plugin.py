"""The pytest plugin, by sessions of its own within temporary folders."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import README

pytest_plugins = ["pytester"]

NORM = """
import jax
import jax.numpy as jnp

@jax.custom_vjp
def rms_norm(x, gain):
    return gain * x / jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)

def backward(kept, dy):
    x, gain = kept
    rms = jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)
    h, dh = x / rms, dy * gain
    return (dh - h * (dh * h).mean(axis=-1, keepdims=True)) / rms, (dy * h).sum(axis=0)

rms_norm.defvjp(lambda x, gain: (rms_norm(x, gain), (x, gain)), backward)
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Runs pytest in this process on a test file, whether or not the plugin is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text, *options):
        pytester.makepyfile(test_it=text)
        pytester.syspathinsert()
        settings = ["-p", "pytest_jnn", "-p", "no:cacheprovider", "--strict-markers"]
        return pytester.runpytest_inprocess(*settings, *options)

    return run


def test_the_readmes_example_passes_in_every_regime(session, pytester):
    (example,) = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    pytester.makepyfile(norm=NORM)
    result = session(example, "-v")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*::test_norm?given? PASSED*", "*::test_norm?small? PASSED*"])


WRONG = """
import jax
import jax.numpy as jnp
import pytest

X = jnp.arange(1.0, 6.0)

@jax.custom_vjp
def doubled(x):
    return 2 * x

doubled.defvjp(lambda x: (2 * x, None), lambda _, dy: (3 * dy,))

def test_wrong(check_gradients):
    check_gradients(doubled, X, regimes="given")

@pytest.mark.gradients(X, regimes=["zero", "tied"])
def test_marked(check_gradients):
    check_gradients(doubled)

@pytest.mark.gradients(X, regimes=["moved"])
def test_its_own_arguments_come_first(check_gradients):
    report = check_gradients(jnp.square, X[:3], regimes="given")
    assert report
    assert report.regimes == ("given",)
"""


def test_the_report_is_what_fails_a_test(session):
    result = session(WRONG)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            ">       check_gradients(doubled, X, regimes=?given?)",
            "E       *WrongGradient: gradients WRONG: 1 finding",
            "E         args?0?: scale (*), at given values",
            "E           it is 1.5 times what it must be",
            "test_it.py:14: WrongGradient",
            "FAILED test_it.py::test_marked?zero? - *",
            "FAILED test_it.py::test_marked?tied? - *",
        ]
    )
    assert "def raise_if_failed" not in result.stdout.str()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("(1.0)\ndef test_it(): ...", "*write test_it(check_gradients)"),
        ("(regimes='al')\ndef test_it(check_gradients): ...", "*test_it: regimes names ?'al'?*"),
    ],
)
def test_a_marker_that_cannot_work_is_an_error_in_words(session, text, sentence):
    result = session(f"import pytest\n@pytest.mark.gradients{text}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([sentence])
    assert "Traceback" not in result.stdout.str()


PLAIN = """
import sys
import pytest

pytestmark = pytest.mark.gradients(1.0)  # of a whole module, whose tests may need no gradient

def test_nothing_is_imported():
    assert not {"jax", "jnn", "numpy"} & set(sys.modules)
"""


def test_who_does_not_use_it_imports_nothing(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makepyfile(test_plain=PLAIN)
    command = [sys.executable, "-m", "pytest", "-p", "pytest_jnn", "--strict-markers"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout
