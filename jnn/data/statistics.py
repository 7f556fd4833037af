"""What preprocessing knows of the data it is fitted to, taken on the host in float64."""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.layer import shape_of

BLOCK = 1 << 22  # how many numbers `fit` holds in float64 at a time


class Statistics:
    """Training data on the host as a matrix, and its statistics in float64."""

    def __init__(self, cls: type, x: Any, channels: bool = False):
        self.who = f"{cls.__name__}.fit"
        x = _checked(self.who, x)
        if channels and x.ndim < 2:
            raise ValueError(f"{self.who}: x is {shape_of(x)}; channels need an axis: (n, ..., c)")
        self.shape = x.shape[-1:] if channels else x.shape[1:]
        self.rows = x.reshape(-1, math.prod(self.shape))
        self.dtype = kept(x.dtype)
        # Everything is measured from the first row: no offset takes digits away, and what is
        # constant deviates by exactly nothing.
        self.first, self.shift = np.zeros(()), np.zeros(())
        self.first = next(self._blocks())[0]
        self.shift = self._mean(lambda block: block.sum(axis=0))

    def center(self) -> tuple[jax.Array, jax.Array]:
        """The mean as a sum of two numbers of the dtype that is kept."""
        mean = self.first + self.shift
        near = mean.astype(self.dtype)
        rest = ((self.first - near) + self.shift).astype(self.dtype)
        return jnp.asarray(near.reshape(self.shape)), jnp.asarray(rest.reshape(self.shape))

    def variance(self) -> np.ndarray:
        return self._mean(lambda block: (block**2).sum(axis=0))

    def components(self, k: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The first k axes of largest variance, as columns, and the variances along them."""
        n, d = self.rows.shape
        k, most = min(n, d) if k is None else k, min(n, d)
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= most:
            raise ValueError(
                f"{self.who}: k is {k!r}; it must be an integer from 1 to {most}, "
                f"as x has {n} examples of {d} features"
            )
        if n < d:  # there may be too many features for a matrix of all their covariances
            _, s, vt = np.linalg.svd(np.concatenate([*self._blocks()]), full_matrices=False)
            basis, variance = vt[:k].T, s[:k] ** 2 / n
        else:
            variance, basis = np.linalg.eigh(self._mean(lambda block: block.T @ block))
            basis, variance = basis[:, ::-1][:, :k], np.maximum(variance[::-1][:k], 0)
        largest = basis[np.abs(basis).argmax(axis=0), np.arange(k)]
        return np.where(largest < 0, -basis, basis), variance

    def _mean(self, total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The mean over the rows of what `total` sums over a block of them."""
        return reduce(np.add, map(total, self._blocks())) / len(self.rows)

    def _blocks(self) -> Iterator[np.ndarray]:
        """The rows in float64, less their mean; rounded first to what `apply` will see."""
        step = max(1, BLOCK // self.rows.shape[1])
        for begin in range(0, len(self.rows), step):
            block = self.rows[begin : begin + step].astype(self.dtype).astype(np.float64)
            yield block - self.first - self.shift


def _checked(who: str, x: Any) -> np.ndarray:
    """The data on the host, if they are fit to be fitted to."""
    if isinstance(x, Tracer):
        raise ValueError(f"{who}: x is traced; fit looks at values: call it outside jit and vmap")
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(f"{who}: x is a masked array; fill it or drop what is masked")
    x = np.asarray(x)
    real = any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if not real or x.ndim == 0:
        raise ValueError(f"{who}: x is {shape_of(x)}; it must be an array of numbers, (n, ...)")
    if x.size == 0:
        raise ValueError(f"{who}: x is {shape_of(x)}, which is empty; there must be an example")
    if jnp.issubdtype(x.dtype, jnp.floating):
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(x.astype(kept(x.dtype), copy=False))
        if bad.any():
            raise ValueError(
                f"{who}: x holds {bad.sum()} numbers that are not finite in {kept(x.dtype)}, the "
                f"first at index {tuple(np.argwhere(bad)[0].tolist())}; remove or fill them"
            )
    return x


def kept(dtype: np.dtype) -> np.dtype:
    """The dtype in which statistics of data of `dtype` are kept."""
    return np.dtype("f8" if jax.dtypes.canonicalize_dtype(dtype) == np.float64 else "f4")


def nonzero(scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`scale` in the dtype to be kept, with 1 for what is zero there, or as good as that."""
    scale = scale.astype(dtype)
    return np.where(scale < np.finfo(dtype).tiny, np.ones_like(scale), scale)
