"""`python tests/benchmarks [NAME ...]`: all benchmarks, or those whose name contains a NAME."""

import platform
import sys

import jax
import mlp
import optimizers
from harness import table

names = sys.argv[1:]
print(
    f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, Python {platform.python_version()}"
)
for title, bench in (mlp.nets() | optimizers.checks()).items():
    if not names or any(name in title for name in names):
        result = bench()
        print(f"\n{result if isinstance(result, str) else table(title, result)}", flush=True)
