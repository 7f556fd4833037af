"""`python tests/benchmarks [NAME ...]`: all benchmarks, or those whose name contains a NAME."""

import platform
import sys

import jax
import layers
import mlp
import networks
import optimizers
import readings
import soundness
import sweeps
import torch_agreement
from harness import table
from mutations import compared

names = sys.argv[1:]
print(
    f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, Python {platform.python_version()}"
)
BENCHES = (
    torch_agreement.agreement()
    | mlp.nets()
    | networks.networks()
    | readings.readings()
    | layers.leaves()
    | sweeps.sweeps()
    | optimizers.checks()
    | compared.checks()
    | soundness.soundness()
)
for title, bench in BENCHES.items():
    if not names or any(name in title for name in names):
        result = bench()
        print(f"\n{result if isinstance(result, str) else table(title, result)}", flush=True)
