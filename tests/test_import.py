"""`import jnn` disturbs nothing, and everything public is there and documented."""

import inspect
import subprocess
import sys

import jax

import jnn

SCRIPT = """
import sys
import jax
before = dict(jax.config.values)
import jnn
assert dict(jax.config.values) == before, "a setting of JAX changed"
assert not {"matplotlib", "rich", "optax", "flax", "torch"} & set(sys.modules), "needless imports"
jax.config.update("jax_num_cpu_devices", 3)  # refused once a backend has started
assert len(jax.devices("cpu")) == 3
"""


def test_import_starts_no_backend_changes_no_setting_and_needs_only_jax_and_numpy():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_every_public_name_is_there_and_documented():
    for name in jnn.__all__:
        thing = getattr(jnn, name)
        assert thing.__doc__, name  # its own: a class inherits none


def test_the_families_are_modules():
    for name in ("optimizers", "schedules", "initializers", "data", "factors", "plots"):
        assert inspect.ismodule(getattr(jnn, name)), name


def test_layers_and_losses_are_values():
    for value in (jnn.Dense(3), jnn.Serial(jnn.Dense(3), jnn.ReLU()), jnn.SoftmaxCrossEntropy()):
        assert hash(value) == hash(eval(repr(value), vars(jnn)))
    assert jax.tree.leaves(jnn.Eval()) == []
