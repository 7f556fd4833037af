import hashlib
import os
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest

from jnn.data import Dataset, digits

# Of the 1797 rows of 64 counts and a label, as bytes, in the order of their source.
SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


def test_shapes_and_types(data):
    assert (data.name, data.classes) == ("digits", 10)
    for part, n in ((data.train, 1438), (data.test, 359)):
        assert part.x.shape == (n, 8, 8, 1) and part.x.dtype == np.float32
        assert part.y.shape == (n,) and part.y.dtype == np.int32
        assert part.x.min() == 0 and part.x.max() == 1
        assert set(part.y) == set(range(10))


def test_both_parts_together_are_the_source(data):
    rows = np.empty((1797, 65), np.uint8)
    test = np.arange(1797) % 5 == 4
    for part, where in ((data.train, ~test), (data.test, test)):
        rows[where, :64] = 16 * part.x.reshape(-1, 64)
        rows[where, 64] = part.y
    assert hashlib.sha256(rows.tobytes()).hexdigest() == SHA256


def test_the_class_counts_the_docstring_states(data):
    counts = np.bincount(data.test.y)
    assert (counts.argmin(), counts.min()) == (1, 21)
    assert (counts.argmax(), counts.max()) == (3, 52)


def test_labels_belong_to_their_images(data):
    train, test = (part.x.reshape(-1, 64) for part in (data.train, data.test))
    distance = (train**2).sum(1) - 2 * test @ train.T
    assert np.mean(data.train.y[distance.argmin(1)] == data.test.y) > 0.97


def test_every_call_returns_fresh_arrays(data):
    first = digits()
    first.train.x[:] = 7
    first.train.y[:] = 7
    np.testing.assert_array_equal(digits().train.x, data.train.x)
    np.testing.assert_array_equal(digits().train.y, data.train.y)


def test_the_embedded_file_stays_small():
    assert len(files("jnn.data").joinpath("digits.npz").read_bytes()) < 80_000


def test_reading_starts_no_backend():
    # JAX refuses this setting once a backend has started.
    script = """
from jnn.data import digits, spiral
digits(), spiral()
import jax
jax.config.update("jax_num_cpu_devices", 3)
assert jax.device_count() == 3
"""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={**environment, "JAX_PLATFORMS": "cpu"}
    )
