"""The command: what it prints, and that every failure is one sentence."""

import gzip
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import jnn.cli
from jnn.cli import main

QUICK = ["--hidden", "16", "--epochs", "2"]


def outcome(capsys, *argv):
    try:
        status = main(argv)
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    return status, out, err


def test_digits_reach_97_percent_and_the_gradients_are_checked_first(capsys):
    status, out, _ = outcome(capsys, "train")
    assert status == 0
    assert out.index("gradients right") < out.index("test accuracy")
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) >= 97


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "leaky-relu"])
def test_every_activation_trains(capsys, activation):
    options = ["--activation", activation, "--optimizer", "sgd", "--gradient", "autodiff"]
    status, out, _ = outcome(capsys, "train", "spiral", *QUICK, *options)
    assert status == 0
    assert "gradients right" in out


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_another_another(capsys):
    def result(seed):
        out = outcome(capsys, "train", "digits", *QUICK, "--seed", seed)[1]
        return re.search(r"test accuracy .*loss [\d.]+", out)[0]

    assert result("3") == result("3") != result("4")


def write_mnist(directory, labels=10):
    for part, n in (("train", 60), ("t10k", 20)):
        images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
        header = bytes([0, 0, 8, 3]) + b"".join(d.to_bytes(4, "big") for d in images.shape)
        (directory / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + images.tobytes())
        )
        header = bytes([0, 0, 8, 1]) + n.to_bytes(4, "big")
        values = bytes(i % labels for i in range(n))
        (directory / f"{part}-labels-idx1-ubyte").write_bytes(header + values)


@pytest.mark.slow
def test_mnist_files_are_read_from_a_directory_and_curves_drawn(capsys, tmp_path):
    write_mnist(tmp_path)
    picture = tmp_path / "curves.png"
    options = ["--data-dir", str(tmp_path), "--batch-size", "20", "--picture", str(picture)]
    status, out, _ = outcome(capsys, "train", "mnist", *QUICK, *options)
    assert status == 0
    assert "60 training and 20 test examples of 28x28x1" in out
    assert picture.exists()


SENTENCES = {
    "no command": ([], 2, "required"),
    "a misspelt command": (["trian"], 2, "choose from"),
    "a misspelt option": (["train", "--hiden", "3"], 2, "did you mean --hidden"),
    "an unknown option": (["train", "--zzz"], 2, "it has .*--hidden"),
    "an unknown data set": (["train", "cifar"], 2, "digits.*spiral.*mnist"),
    "an unknown activation": (["train", "--activation", "elo"], 2, "relu.*sigmoid"),
    "widths that are no numbers": (["train", "--hidden", "5,x"], 2, "such as 512,512"),
    "a negative rate": (["train", "--lr", "-1"], 2, "positive number"),
    "a rate that is no number": (["train", "--lr", "nan"], 2, "positive number"),
    "no epochs": (["train", "--epochs", "0"], 2, "from 1 to"),
    "a seed too large": (["train", "--seed", "9" * 20], 2, "2147483647"),
    "a batch too large": (["train", "--batch-size", "5000"], 1, "only 1438 examples"),
    "mnist from nowhere": (["train", "mnist"], 1, "--data-dir"),
    "a directory for digits": (["train", "--data-dir", "."], 1, "built in"),
    "a directory that is not there": (["train", "mnist", "--data-dir", "nowhere"], 1, "nowhere"),
    "a picture in no folder": (["train", "--picture", "no/folder.png"], 1, "no folder"),
    "a rate far too large": (["train", *QUICK, "--lr", "1e29"], 1, "try a tenth"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_every_failure_is_one_sentence(capsys, name):
    argv, expected, sentence = SENTENCES[name]
    status, _, err = outcome(capsys, *argv)
    assert status == expected
    *_, last = err.splitlines()
    assert last.startswith("jnn")
    assert re.search(sentence, last), last
    assert "Traceback" not in err


def test_damaged_and_mislabelled_files_are_one_sentence_too(capsys, tmp_path):
    write_mnist(tmp_path, labels=11)
    status, _, err = outcome(capsys, "train", "mnist", "--data-dir", str(tmp_path))
    assert (status, err.count("\n")) == (1, 1)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    write_mnist(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    status, _, err = outcome(capsys, "train", "mnist", "--data-dir", str(tmp_path))
    assert (status, err.count("\n")) == (1, 1)
    assert "damaged gzip" in err


def test_an_existing_picture_is_refused_before_training(capsys, tmp_path):
    picture = tmp_path / "curves.png"
    picture.write_text("precious")
    status, out, err = outcome(capsys, "train", *QUICK, "--picture", str(picture))
    assert (status, out) == (1, "")
    assert "not overwritten" in err
    assert picture.read_text() == "precious"


def test_wrong_gradients_stop_the_command(capsys, monkeypatch):
    wrong = jnn.gradcheck.GradientCheck(
        (jnn.gradcheck.LeafCheck("['dense1']['w']", (2, 2), 0.5, 0.5, 1e-9),), 8
    )
    monkeypatch.setattr(jnn.cli, "check_network", lambda *args, **options: wrong)
    status, out, _ = outcome(capsys, "train", *QUICK)
    assert status == 1
    assert "gradients WRONG" in out
    assert "test accuracy" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_reports_what_it_has(signum, status):
    command = [sys.executable, "-m", "jnn", "train", "spiral", "--epochs", "1000000"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        seen = "".join(iter(lambda: process.stderr.read(1), "\n"))  # the first epoch has passed
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    assert "epoch" in seen
    assert process.returncode == status
    assert re.search(r"jnn: stopped after [\d.]+ of 1000000 epochs\n$", err)
    assert "test accuracy" in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_run_stopped_before_its_first_step_ends_cleanly():
    command = [sys.executable, "-u", "-m", "jnn", "train", "spiral", "--epochs", "100"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        process.stdout.readline()  # the data are read, and what follows is compiled
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"\njnn: stopped[^\n]*\n", err)
