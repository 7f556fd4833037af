"""`jnn check`: its verdicts and exit statuses, and that whatever goes wrong says how to mend it."""

import os
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jnn.cli
from jnn.gradcheck.arguments import arguments, described

MODULE = """
import jax
import jax.numpy as jnp

CONSTANT = 3

@jax.custom_vjp
def scaled(x, gain):
    return gain * jnp.tanh(x)

def forward(x, gain):
    return scaled(x, gain), (x, gain)

def backward(kept, dy):
    x, gain = kept
    y = jnp.tanh(x)
    return dy * gain * (1 - y * y), (dy * y).sum(axis=0)

scaled.defvjp(forward, backward)

@jax.custom_vjp
def averaged(x, p, power=1):
    return p["w"] * x

averaged.defvjp(
    lambda x, p, power: (p["w"] * x, (x, p)),
    lambda kept, dy: (dy * kept[1]["w"], {"w": (dy * kept[0]).mean(axis=0)}, None),
)

def example():
    return jnp.linspace(-1.0, 2.0, 22).reshape(11, 2), {"w": jnp.array([0.5, 2.0])}

def powered(x, exponent: int):
    if not isinstance(exponent, int):
        raise TypeError("exponent must be an int")
    return x**exponent

def plainly(x, gain):
    return gain * jnp.tanh(x)

def called(f, x):
    return f(x)

def callables():
    return jax.tree_util.Partial(jnp.multiply, jnp.ones(2)), jnp.ones(2)

def lone():
    return jnp.ones(3)

def fails():
    return [][1]

def stumbles(x):
    return x.nothing
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the module, and the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "planted.py").write_text(MODULE)
    return tmp_path


def outcome(capsys, *argv):
    try:
        status = jnn.cli.main(["check", *argv])
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    return status, out, err


def test_a_right_gradient_passes_with_options_anywhere(capsys, here):
    status, out, _ = outcome(
        capsys, "planted:scaled", "f32[3,2]", "--regimes", "given,moved", "f32[2]=-1e-3"
    )
    assert status == 0
    first, second, *_ = out.splitlines()
    assert first == "planted:scaled(x: f32[3,2], gain: f32[2])"
    assert second.startswith("gradients right: all 2, at given, moved values")


def test_a_wrong_gradient_is_explained_in_the_functions_own_names(capsys, here):
    options = ["--args-from", "planted.py:example", "--regimes", "given"]
    status, out, err = outcome(capsys, "planted.py:averaged", *options)
    assert (status, err) == (1, "")
    assert out.splitlines()[:4] == [
        "planted.py:averaged(x: f32[11,2], p: {'w': f32[2]})",
        "gradients WRONG: 1 finding",
        "  p['w']: scale (the gradient is a constant times what it must be), at given values",
        "    it is 0.0909091 (1/11, 11 being the length of axis 0 of x) times what it must be",
    ]


def test_constants_stay_what_they_are(capsys, here):
    status, out, _ = outcome(capsys, "planted.py:powered", "f64[]", "2", "--regimes", "given")
    assert status == 0
    assert out.startswith("planted.py:powered(x: f64[], exponent = 2 (fixed))\ngradients right")


def test_a_callable_with_parameters_has_gradients(capsys, here):
    options = ["--args-from", "planted.py:callables", "--regimes", "given"]
    status, out, _ = outcome(capsys, "planted.py:called", *options)
    assert status == 0
    assert "gradients right: all 2" in out


@pytest.mark.slow
def test_a_reference_takes_the_place_of_the_primal(capsys, here):
    argv = ["planted.py:scaled", "f32[3,2]", "f32[2]", "--regimes", "given", "--reference"]
    assert outcome(capsys, *argv, "planted.py:plainly")[0] == 0
    (here / "other.py").write_text("def squared(x, gain):\n    return gain * x**2\n")
    assert outcome(capsys, *argv, "other.py:squared")[0] == 1


def test_a_file_in_a_package_is_imported_as_a_part_of_it(capsys, here):
    package = here / "code" / "planted_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "slope.py").write_text("SLOPE = 3.0\n")
    (package / "line.py").write_text(
        "from .slope import SLOPE\n\n\ndef line(x):\n    raise ArithmeticError(SLOPE)\n"
    )
    status, _, err = outcome(capsys, f"code{os.sep}planted_package{os.sep}line.py:line", "f32[2]")
    assert status == 2
    assert err.endswith(f"raised ArithmeticError: 3.0 ({os.path.relpath(package / 'line.py')}:5)\n")


def test_a_module_of_the_current_folder_is_found_by_both_commands(here):
    for start in (["-m", "jnn"], ["-c", "from jnn.cli import command; command()"]):
        command = [sys.executable, *start, "check", "planted:scaled"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=here)
        assert done.returncode == 2
        assert "planted:scaled(x, gain), given 0 arguments" in done.stderr
        assert "jnn check planted:scaled X GAIN" in done.stderr


F, X = "planted.py:scaled", ["f32[3,2]", "f32[2]"]
MISTAKES = {
    "nothing": ([], "required: FUNCTION"),
    "a misspelt module": (["plantde:scaled"], "no module plantde in .*; did you mean planted?"),
    "a misspelt submodule": (["numpy.lianlg:norm"], "no module numpy.lianlg.*mean numpy.linalg?"),
    "a misspelt file": (["plante.py:scaled"], "no Python file .*plante.py; did you mean planted.p"),
    "no name of a module": (["a b:f"], "neither like package.module nor a path"),
    "no function": (["planted"], "write planted:FUNCTION; planted has scaled, forward"),
    "a misspelt function": (["planted:scale"], "no scale in planted; did you mean scaled"),
    "no function at all": (["planted:CONSTANT"], "no function but 3; planted has scaled"),
    "a misspelt reference": ([F, *X, "--reference", "planted:plain"], "did you mean plainly"),
    "no arguments": ([F], r"scaled\(x, gain\), given 0 .*missing.*'x'"),
    "too few": ([F, "f32[3]"], "given 1 .*missing.*'gain'"),
    "too many": ([F, *X, "key"], "given 3 .*too many"),
    "no argument": ([F, "f32[3]", "what"], "cannot read the argument 'what'; it must be one of"),
    "an unknown dtype": ([F, "f33[3]", "1"], "no dtype 'f33'; did you mean f32"),
    "no shape": ([F, "f32", "1"], r"'f32' lacks a shape: 'f32\[11,7\]' is a matrix"),
    "half a shape": ([F, "f32[3 2]", "1"], r"\[3 2\] is no shape"),
    "unbounded integers": ([F, "i32[3]", "1"], r"integers are below.*'i32\[3\]<7'"),
    "bounded floats": ([F, "f32[3]<7", "1"], "'<7' is for integers"),
    "a fill that is none": ([F, "i32[3]=x", "1"], "'x' is no value of int32"),
    "a fill too large": ([F, "u8[3]=300", "1"], "'300' is no value of uint8"),
    "a file that is not there": ([F, "x.npy", "1"], "no file x.npy in"),
    "constants alone": ([F, "1", "2.5"], r"none .* holds floats.*'f32\[\]' is a scalar"),
    "both kinds": ([F, "f32[3]", "--args-from", "planted:example"], r"leave out f32\[3\]"),
    "no tuple": ([F, "--args-from", "planted:lone"], "lone returned Array.* not a tuple"),
    "failing arguments": ([F, "--args-from", "planted.py:fails"], r"IndexError.*\(planted.py:\d+"),
    "a failing function": (["planted.py:stumbles", "f32[3]"], r"nothing \(planted.py:\d+\)"),
    "an unknown regime": ([F, *X, "--regimes", "giveen"], "giveen.*there are.*'given', 'moved'"),
    "no number": ([F, *X, "--known", "rate"], "'rate' is not like rate=0.1"),
    "no seed": ([F, *X, "--seed", "-1"], "'-1' is not a whole number from 0"),
    "a misspelt option": ([F, *X, "--refrence", F], "did you mean --reference"),
    "an unknown option": ([F, *X, "-z"], "cannot read the argument '-z'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_named_with_its_mend(capsys, here, name):
    argv, sentence = MISTAKES[name]
    status, _, err = outcome(capsys, *argv)
    assert status == 2
    assert re.match(f"jnn check: .*{sentence}", err), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import nowhere_to_be_found", r"No module named 'nowhere_to_be_found' \(broken.py:1\)"),
        ("def f(:", r"SyntaxError: .* \(.*broken.py:1\)"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(broken.py:1\)"),
        ("raise SystemExit(3)", "ended the process, status 3.*__main__"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(capsys, here, text, sentence):
    (here / "broken.py").write_text(text)
    for where in ("broken", "broken.py"):
        sys.modules.pop("broken", None)
        status, _, err = outcome(capsys, f"{where}:f", "f32[3]")
        assert status == 2
        assert re.match(f"jnn check: importing {where} .*{sentence}", err), err


def test_arguments_are_what_their_words_say(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3.0))
    np.savez(tmp_path / "x.npz", a=np.arange(2), b=np.ones((1, 2)))
    words = "f32[11,7] bf16[3] f64[]=2 float16[1,] i32[50]<7 u8[2]=9 bool[40] key 3 -1e-3 true None"
    files = [f"{tmp_path}/x.npy", f"{tmp_path}/x.npz:b"]
    args = arguments([*words.split(), *files], seed=0)
    x, low, two, half, labels, nines, mask, key, *constants, saved, packed = args
    assert (x.dtype, x.shape, low.dtype, low.shape) == (np.float32, (11, 7), jnp.bfloat16, (3,))
    assert (two, two.dtype, half.shape, half.dtype) == (2, np.float64, (1,), np.float16)
    assert (set(labels.tolist()), labels.dtype) == (set(range(7)), np.int32)
    assert (nines.tolist(), nines.dtype) == ([9, 9], np.uint8)
    assert (mask.any(), mask.all(), mask.dtype) == (True, False, bool)
    assert (constants, [type(c) for c in constants[:2]]) == ([3, -1e-3, True, None], [int, float])
    assert (saved.tolist(), packed.shape) == ([0, 1, 2], (1, 2))
    assert (
        described({"x": x, "y": [low, key, None]})
        == "{'x': f32[11,7], 'y': [bf16[3], key[], None]}"
    )
    assert arguments(["bool[2]=true"], seed=0)[0].tolist() == [True, True]
    again, other = (arguments(["f32[3]"], seed=seed)[0] for seed in (0, 1))
    assert (arguments(["f32[3]"], seed=0)[0] == again).all()
    assert (again != other).all()


def test_what_a_file_lacks_is_said(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(2), b=np.ones((1, 2)))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    for name, sentence in {
        "x.npz": "it holds a, b; say which, as .*x.npz:NAME",
        "x.npz:c": "it holds a, b",
        "words.npy": "holds <U1; it must hold floats",
        "torn.npy": "torn.npy: ",
        "torn.npz:a": "torn.npz: ",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            arguments([f"{tmp_path}/{name}"], seed=0)


def test_a_checkout_that_is_not_installed_has_no_version_and_works(capsys, monkeypatch):
    def version(name):
        raise jnn.cli.PackageNotFoundError(name)

    monkeypatch.setattr(jnn.cli, "version", version)
    with pytest.raises(SystemExit) as exit:
        jnn.cli.main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (
        0,
        "jnn of a checkout that is not installed\n",
    )
