"""Flatten: the order of the numbers, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

from jnn import Flatten, LayerError


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5), (2,), (0, 3, 4), (2, 0, 4)])
def test_it_is_numpys_reshape_and_back(shape):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    y, cache = Flatten().forward({}, x, None)
    np.testing.assert_array_equal(y, x.reshape(shape[0], int(np.prod(shape[1:]))))
    grads, dx = Flatten().backward({}, cache, y)
    assert grads == {}
    np.testing.assert_array_equal(dx, x)


def test_the_cache_takes_no_memory():
    assert Flatten().forward({}, jnp.ones((5, 8, 8)), None)[1].nbytes == 0


def test_a_single_number_is_refused():
    with pytest.raises(LayerError, match="its first axis must hold the examples"):
        Flatten().forward({}, jnp.float32(1), None)
