"""The whole suite runs with JAX at its strictest.

`jax_numpy_rank_promotion="raise"` is not among the settings: a bias of shape (out,) is added to
(n, ..., out) by design. The tests of losses switch it on, for there nothing is broadcast.
"""

from collections.abc import Iterator

import jax
import pytest

# No array changes its dtype unless jnn says so.
jax.config.update("jax_numpy_dtype_promotion", "strict")
# float32 is float32, not the TF32 that a GPU multiplies in unless it is told.
jax.config.update("jax_default_matmul_precision", "highest")
# No key is used twice.
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 within one test, which then compares exact formulas rather than roundings."""
    with jax.enable_x64(True):
        yield
