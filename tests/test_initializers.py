"""Initial values have the mean, the spread and the dtype that they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jnn.initializers import he_normal, lecun_normal, zeros


@pytest.mark.parametrize(("initializer", "gain"), [(he_normal, 2.0), (lecun_normal, 1.0)])
@pytest.mark.parametrize("shape", [(300, 200), (3, 5, 20, 200)])
def test_the_spread_is_that_of_the_formula(initializer, gain, shape):
    w = np.asarray(initializer(jax.random.key(0), shape, jnp.float32), np.float64)
    fan_in = np.prod(shape[:-1])
    z = w * np.sqrt(fan_in / gain)  # standard normal, if all is right
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / z.size)  # the fourth moment: it is normal


def test_zeros_are_zeros():
    assert zeros(jax.random.key(0), (2, 3), jnp.float32).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("initializer", [he_normal, lecun_normal, zeros])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_the_dtype_is_the_one_asked_for(initializer, dtype, x64):
    assert initializer(jax.random.key(0), (4, 3), dtype).dtype == dtype
