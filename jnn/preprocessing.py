"""Preprocessing: transforms that are fitted to the training data, and then applied to anything.

    t = Standardize.fit(x_train)    on the host, once
    z = t.apply(x)                  pure: training data, test data or a batch inside a compiled step
    x = t.invert(z)

    Center       z = x - mean
    Standardize  z = (x - mean) / std
    MinMax       z in [-1, 1]
    PCA          z = the first k coordinates along the axes of largest variance
    Whiten       those, each divided by its standard deviation
    Chain        one after the other

A fitted transform is a pytree of arrays, so it can be an argument of a compiled function, and
saved. What it knows of the data it knows from `fit` alone: fit on the training part only, or the
test part is no longer unseen.

Shapes: x (n, ...), such as features (n, d) or images (n, height, width, c). `apply` and `invert`
look at the last axes only, so they take one example or any number of leading axes as well.

Dtypes: statistics are taken in float64 and kept in float32, or in float64 where x is (and float64
is switched on). `apply` and `invert` return the dtype of their input, and float32 for integers,
which are cast before anything is done with them: uint8 images would wrap around.

Errors: `fit` raises ValueError where x is traced, not an array of numbers (n, ...), empty or not
finite; `apply` and `invert` where the last axes of their input are not those that were fitted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from jnn.data.statistics import Statistics, nonzero
from jnn.layer import shape_of
from jnn.precision import accumulator


class Transform:
    """The base of fitted transforms: `apply`, and `invert`, which undoes it.

    >>> t = Center.fit(np.array([1.0, 3.0]))
    >>> z = t.apply(np.array([7, 8], np.uint8))
    >>> z.tolist(), t.invert(z).tolist()
    ([5.0, 6.0], [7.0, 8.0])
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {shape_of(jax.ShapeDtypeStruct(self._taken, float))}"

    def apply(self, x: Any) -> jax.Array:
        """z, from any x whose last axes are those that were fitted."""
        return self._through(self._apply, "x", x, self._taken)

    def invert(self, z: Any) -> jax.Array:
        """x, from the z that `apply` makes of it: up to rounding, and what PCA left out."""
        return self._through(self._invert, "z", z, self._made)

    @property
    def _taken(self) -> tuple[int, ...]:
        """The last axes of x."""
        raise NotImplementedError

    @property
    def _made(self) -> tuple[int, ...]:
        """The last axes of z."""
        return self._taken

    def _apply(self, x: jax.Array) -> jax.Array:
        raise NotImplementedError

    def _invert(self, z: jax.Array) -> jax.Array:
        raise NotImplementedError

    def _through(
        self, f: Callable[[jax.Array], jax.Array], name: str, v: Any, last: tuple[int, ...]
    ) -> jax.Array:
        who = type(self).__name__
        # A copy, for JAX may go on reading a numpy array that its owner has overwritten.
        v = jnp.asarray(np.array(v) if isinstance(v, np.ndarray) else v)
        if jnp.issubdtype(v.dtype, jnp.complexfloating):
            raise ValueError(f"{who}: {name} is {shape_of(v)}; it must hold real numbers")
        if v.shape[max(0, v.ndim - len(last)) :] != last:
            raise ValueError(
                f"{who}: {name} is {shape_of(v)}; its last axes must be {last}, "
                "as in the data that the transform was fitted to"
            )
        if not jnp.issubdtype(v.dtype, jnp.floating):
            v = v.astype(jnp.float32)
        fitted = jax.tree.leaves(self)[0].dtype
        return f(v.astype(np.promote_types(accumulator(v.dtype), fitted))).astype(v.dtype)


@register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Center(Transform):
    """Mean subtraction: every feature gets mean zero.

        apply    z = x - mean
        invert   x = z + mean

    The mean is per feature, of shape x.shape[1:]; or with `channels`, as for images, over all axes
    but the last, of shape (c,). It is kept as the sum mean + rest: at an offset of 1e6 float32 is a
    grid of 1/16, and a mean rounded to it would leave the data off centre.

    >>> t = Center.fit(np.array([[1.0, 250.0], [3.0, 252.0]]))
    >>> t.mean.tolist(), t.apply(np.array([[4, 251]], np.uint8)).tolist()
    ([2.0, 251.0], [[2.0, 0.0]])
    """

    mean: jax.Array
    rest: jax.Array

    @classmethod
    def fit(cls, x: Any, *, channels: bool = False) -> Self:
        """The transform that centres `x`."""
        return cls(*Statistics(cls, x, channels).center())

    @property
    def _taken(self) -> tuple[int, ...]:
        return self.mean.shape

    def _apply(self, x: jax.Array) -> jax.Array:
        return (x - self.mean.astype(x.dtype)) - self.rest.astype(x.dtype)

    def _invert(self, z: jax.Array) -> jax.Array:
        return self.mean.astype(z.dtype) + (self.rest.astype(z.dtype) + z)


@register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Standardize(Transform):
    """Every feature gets mean zero and variance one.

        apply    z = (x - mean) / std,   std^2 = mean of (x - mean)^2
        invert   x = z std + mean

    Mean and std are per feature or, with `channels`, per channel, as in `Center`. A feature that
    is constant has its std replaced by 1: it becomes 0.

    >>> t = Standardize.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> t.apply(np.array([[1.0, 5.0], [4.0, 6.0]])).tolist()
    [[-1.0, 0.0], [2.0, 1.0]]
    """

    center: Center
    std: jax.Array

    @classmethod
    def fit(cls, x: Any, *, channels: bool = False) -> Self:
        """The transform that standardises `x`."""
        data = Statistics(cls, x, channels)
        std = nonzero(np.sqrt(data.variance()), data.dtype)
        return cls(Center(*data.center()), jnp.asarray(std.reshape(data.shape)))

    @property
    def _taken(self) -> tuple[int, ...]:
        return self.std.shape

    def _apply(self, x: jax.Array) -> jax.Array:
        return self.center._apply(x) / self.std.astype(x.dtype)

    def _invert(self, z: jax.Array) -> jax.Array:
        return self.center._invert(z * self.std.astype(z.dtype))


@register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class MinMax(Transform):
    """Every feature is stretched so that the training data fill [-1, 1].

        apply    z = 2 (x - low) / span - 1,   span = high - low
        invert   x = (z + 1) span / 2 + low

    Low and high are per feature or, with `channels`, per channel. A feature that is constant, its
    span being 0, is only shifted: it becomes 0. No training example lies beyond -1 or 1, not by a
    rounding; other data well may.

    >>> t = MinMax.fit(np.array([[0, 7], [200, 7]], np.uint8))
    >>> t.apply(np.array([[0, 7], [150, 7], [250, 8]], np.uint8)).tolist()
    [[-1.0, 0.0], [0.5, 0.0], [1.5, 1.0]]
    """

    low: jax.Array
    span: jax.Array

    @classmethod
    def fit(cls, x: Any, *, channels: bool = False) -> Self:
        """The transform that stretches `x`."""
        data = Statistics(cls, x, channels)
        # Rounded first and then subtracted, as x will be: the greatest x - low is span itself.
        low, high = (
            f(data.rows, axis=0).astype(data.dtype).reshape(data.shape) for f in (np.min, np.max)
        )
        return cls(jnp.asarray(low), jnp.asarray(high - low))

    @property
    def _taken(self) -> tuple[int, ...]:
        return self.low.shape

    def _apply(self, x: jax.Array) -> jax.Array:
        low, span = self.low.astype(x.dtype), self.span.astype(x.dtype)
        v = x - low
        share = v / jnp.where(span > 0, span, 1)
        # Processors divide with an error of up to 2 ulps, which must carry no data beyond 1.
        share = jnp.where(v < span, jnp.minimum(share, 1), jnp.where(v == span, 1, share))
        return jnp.where(span > 0, 2 * share - 1, v)

    def _invert(self, z: jax.Array) -> jax.Array:
        low, span = self.low.astype(z.dtype), self.span.astype(z.dtype)
        return jnp.where(span > 0, (z + 1) / 2 * span, z) + low


@register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class PCA(Transform):
    """Principal component analysis: coordinates along the axes of largest variance.

        apply    z = (x - mean) basis,   basis^T C basis = diag(variance),   C the covariance of x
        invert   x = z basis^T + mean

    Shapes: x (n, ...), flattened to (n, d) and given its shape again by `invert`; z (n, k), basis
    (d, k) with orthonormal columns, variance (k,) from the largest down. `k` is at most min(n, d),
    and that is its default. `invert(apply(x))` is the nearest x that k coordinates can tell, which
    is x itself where k = d. The largest entry of every column is made positive, for the signs of
    eigenvectors are anybody's choice. Source: Pearson 1901; CS231n, "Data preprocessing".

    Raises ValueError where `k` is not an integer from 1 to min(n, d) too.

    >>> t = PCA.fit(np.array([[0.0, 4.0], [3.0, 8.0], [6.0, 12.0]]), k=1)
    >>> z = t.apply(np.array([[9.0, 16.0]]))
    >>> jnp.round(z).tolist(), jnp.round(t.invert(z)).tolist()
    ([[10.0]], [[9.0, 16.0]])
    """

    center: Center
    basis: jax.Array
    variance: jax.Array

    @classmethod
    def fit(cls, x: Any, k: int | None = None) -> Self:
        """The transform to the first `k` components of `x`."""
        data = Statistics(cls, x)
        basis, variance = (v.astype(data.dtype) for v in data.components(k))
        return cls(Center(*data.center()), jnp.asarray(basis), jnp.asarray(variance))

    @property
    def _taken(self) -> tuple[int, ...]:
        return self.center.mean.shape

    @property
    def _made(self) -> tuple[int, ...]:
        return self.variance.shape

    def _apply(self, x: jax.Array) -> jax.Array:
        lead = x.shape[: x.ndim - len(self._taken)]
        flat = self.center._apply(x).reshape(*lead, len(self.basis))
        return _matmul(flat, self.basis)

    def _invert(self, z: jax.Array) -> jax.Array:
        flat = _matmul(z, self.basis.T)
        return self.center._invert(flat.reshape(*z.shape[:-1], *self._taken))


@register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Whiten(Transform):
    """PCA with every coordinate divided by its spread: the covariance becomes the identity.

        apply    z = (x - mean) basis / scale,   scale^2 = variance + eps
        invert   x = (z scale) basis^T + mean

    Shapes, `k` and errors as for `PCA`. `eps` keeps directions that hardly vary from being blown
    up to unit noise: what a variance of v becomes is v / (v + eps). A direction that does not vary
    at all, up to rounding, has its scale replaced by 1 where eps is 0. The default is that of the
    lectures, and is meant for variances of about 1. Source: CS231n, "Data preprocessing".

    Raises ValueError where `eps` is negative or not finite too.

    >>> x = np.array([[0.0, 0.0], [0.0, 2.0], [8.0, 0.0], [8.0, 2.0]])
    >>> jnp.round(Whiten.fit(x).apply(x), 3).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """

    pca: PCA
    scale: jax.Array

    @classmethod
    def fit(cls, x: Any, k: int | None = None, *, eps: float = 1e-5) -> Self:
        """The transform that whitens the first `k` components of `x`."""
        if not isinstance(eps, Real) or not 0 <= float(eps) < math.inf:
            raise ValueError(f"Whiten: eps is {eps!r}; it must be a finite number of at least 0")
        data = Statistics(cls, x)
        basis, variance = data.components(k)
        noise = max(data.rows.shape) * np.finfo(np.float64).eps * variance[0]
        scale = nonzero(np.sqrt(np.where(variance > noise, variance, 0) + eps), data.dtype)
        basis, variance = (jnp.asarray(v.astype(data.dtype)) for v in (basis, variance))
        return cls(PCA(Center(*data.center()), basis, variance), jnp.asarray(scale))

    @property
    def _taken(self) -> tuple[int, ...]:
        return self.pca._taken

    @property
    def _made(self) -> tuple[int, ...]:
        return self.pca._made

    def _apply(self, x: jax.Array) -> jax.Array:
        return self.pca._apply(x) / self.scale.astype(x.dtype)

    def _invert(self, z: jax.Array) -> jax.Array:
        return self.pca._invert(z * self.scale.astype(z.dtype))


@register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Chain(Transform):
    """Several transforms, one after the other; `invert` goes back in reverse.

    `fit` takes functions x -> fitted transform, each of which sees what those before it made of x.
    Raises ValueError where there is none.

    >>> x = np.array([[0, 10], [1, 30], [2, 20]], np.uint8)
    >>> t = Chain.fit(x, Standardize.fit, lambda z: PCA.fit(z, k=1))
    >>> t.apply(x).shape, t.invert(t.apply(x)).shape
    ((3, 1), (3, 2))
    """

    transforms: tuple[Transform, ...]

    @classmethod
    def fit(cls, x: Any, *fits: Callable[[Any], Transform]) -> Self:
        """The fitted transforms, each fitted to what the one before it made of `x`."""
        if not fits:
            raise ValueError("Chain.fit: there is no transform to fit; give it Center.fit, say")
        transforms = []
        for fit in fits:
            transforms.append(fit(x))
            x = transforms[-1].apply(x)
        return cls(tuple(transforms))

    def apply(self, x: Any) -> jax.Array:
        for transform in self.transforms:
            x = transform.apply(x)
        return x

    def invert(self, z: Any) -> jax.Array:
        for transform in reversed(self.transforms):
            z = transform.invert(z)
        return z


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    # An accelerator's default for float32 keeps as few as 8 bits, and whitening magnifies them.
    return jnp.matmul(a, b.astype(a.dtype), precision="highest")
