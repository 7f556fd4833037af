"""First values for parameters: functions of (key, shape, dtype).

What keeps the spread of a signal through a layer depends on its fans: how many inputs an output
sees, and how many outputs an input reaches. With fan_in and fan_out as `fans` reads them,

    he_normal      he_uniform      he_truncated        variance 2 / fan_in
    glorot_normal  glorot_uniform  glorot_truncated    variance 2 / (fan_in + fan_out)
    lecun_normal   lecun_uniform   lecun_truncated     variance 1 / fan_in

are normal; uniform, on [-a, a) with a^2 = 3 variance; and normal with its tails cut off at two
standard deviations, and widened so that the variance is still the one promised. `matrix` and
`grouped` say how any initializer is to read a shape that is neither a matrix nor a convolution.

All draw in float32 at least and round once to the dtype asked for. Those with options are values:
normal(0.01) == normal(0.01), so layers that hold them are equal too.
"""
# ruff: noqa: N801  (they are written like functions, and are classes only to compare and to print)

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jnn.layer import Printed
from jnn.precision import accumulator

Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], jax.Array]

CUT = 2.0  # where the truncated forms end, in standard deviations of the normal that is cut
# The standard deviation of what is left of a standard normal between -CUT and CUT.
CUT_STD = math.sqrt(
    1 - 2 * CUT * math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / math.erf(CUT / math.sqrt(2))
)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of weights (in, out), or of a convolution's (height, width, ..., in, out).

    Each output of a convolution sees, and each input reaches, all of the receptive field:

        fan_in = field in,   fan_out = field out

    Raises ValueError where `shape` has fewer than two axes.

    >>> fans((200, 50)), fans((3, 3, 16, 32))
    ((200, 50), (144, 288))
    """
    if len(shape) < 2:
        raise ValueError(
            f"shape is {shape}; weights have at least two axes, (..., in, out): "
            "those of a single output are (in, 1)"
        )
    field = math.prod(shape[:-2])
    return max(1, field * shape[-2]), max(1, field * shape[-1])


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """All zeros, as biases start. As weights they would keep every neuron equal to its neighbours.

    >>> zeros(jax.random.key(0), (2,), jnp.float32).tolist()
    [0.0, 0.0]
    """
    del key
    return jnp.zeros(shape, dtype)


@dataclass(frozen=True)
class normal(Printed):
    """Normal with standard deviation `std` whatever the fans: the lectures' `std * randn(n)`.

    Its signal shrinks or grows by a factor of std sqrt(fan_in) at every layer.
    Raises ValueError where `std` is negative or not finite.

    >>> w = normal(0.01)(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.std() - 0.01) < 0.0003)
    True
    """

    std: float

    def __post_init__(self) -> None:
        _check_number(self, "std")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return _normal(self.std**2, key, shape, dtype)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Normal with variance 2 / fan_in, for weights before a ReLU.

    A ReLU halves the second moment of its input and the 2 makes up for it, so the spread is
    kept from layer to layer. Source: He et al. 2015, "Delving deep into rectifiers".

    >>> w = he_normal(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 200 - 2) < 0.1)
    True
    """
    return _normal(2 / fans(shape)[0], key, shape, dtype)


def he_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Uniform with variance 2 / fan_in: within sqrt(6 / fan_in). Source: as `he_normal`.

    >>> w = he_uniform(jax.random.key(0), (150, 50), jnp.float32)
    >>> bool(0.19 < abs(w).max() <= 0.2)
    True
    """
    return _uniform(2 / fans(shape)[0], key, shape, dtype)


def he_truncated(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Truncated normal with variance 2 / fan_in: within 3.22 / sqrt(fan_in).

    Source: as `he_normal`.

    >>> w = he_truncated(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 200 - 2) < 0.1), bool(abs(w).max() * 200**0.5 < 3.22)
    (True, True)
    """
    return _truncated(2 / fans(shape)[0], key, shape, dtype)


def glorot_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Normal with variance 2 / (fan_in + fan_out), between what keeps y's spread and what dx's.

    Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural
    networks". Also known as Xavier's.

    >>> w = glorot_normal(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 250 - 2) < 0.1)
    True
    """
    return _normal(2 / sum(fans(shape)), key, shape, dtype)


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Uniform with variance 2 / (fan_in + fan_out): within sqrt(6 / (fan_in + fan_out)).

    The form in the paper. Source: as `glorot_normal`.

    >>> w = glorot_uniform(jax.random.key(0), (100, 50), jnp.float32)
    >>> bool(0.19 < abs(w).max() <= 0.2)
    True
    """
    return _uniform(2 / sum(fans(shape)), key, shape, dtype)


def glorot_truncated(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Truncated normal with variance 2 / (fan_in + fan_out). Source: as `glorot_normal`.

    >>> w = glorot_truncated(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 250 - 2) < 0.1), bool(abs(w).max() * 250**0.5 < 3.22)
    (True, True)
    """
    return _truncated(2 / sum(fans(shape)), key, shape, dtype)


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Normal with variance 1 / fan_in: the lectures' `randn(n) / sqrt(n)`, for sigmoid and tanh.

    A weighted sum of n unit-variance inputs then has unit variance. Source: LeCun et al. 1998,
    "Efficient BackProp".

    >>> w = lecun_normal(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 200 - 1) < 0.1)
    True
    """
    return _normal(1 / fans(shape)[0], key, shape, dtype)


def lecun_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Uniform with variance 1 / fan_in: within sqrt(3 / fan_in). Source: as `lecun_normal`.

    >>> w = lecun_uniform(jax.random.key(0), (75, 50), jnp.float32)
    >>> bool(0.19 < abs(w).max() <= 0.2)
    True
    """
    return _uniform(1 / fans(shape)[0], key, shape, dtype)


def lecun_truncated(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Truncated normal with variance 1 / fan_in: within 2.28 / sqrt(fan_in).

    Source: as `lecun_normal`.

    >>> w = lecun_truncated(jax.random.key(0), (200, 50), jnp.float32)
    >>> bool(abs(w.var() * 200 - 1) < 0.1), bool(abs(w).max() * 200**0.5 < 2.28)
    (True, True)
    """
    return _truncated(1 / fans(shape)[0], key, shape, dtype)


@dataclass(frozen=True)
class orthogonal(Printed):
    """A random orthogonal matrix times `gain`, uniform over all of them.

        w^T w = gain^2 1   where w (in, out) has in >= out,   else w w^T = gain^2 1

    A square one keeps the length of every signal and of every gradient. A convolution's
    (..., in, out) is taken as the matrix (field in, out).
    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks".

    Raises ValueError where `gain` is negative or not finite, or `shape` has fewer than two axes.

    >>> w = orthogonal(gain=2.0)(jax.random.key(0), (6, 2), jnp.float32)
    >>> jnp.round(w.T @ w, 4).tolist() == [[4.0, 0.0], [0.0, 4.0]]
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_number(self, "gain")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        into, out = _matrix(shape)
        tall = max(into, out), min(into, out)
        q, r = jnp.linalg.qr(jax.random.normal(key, tall, _wide(dtype)))
        # q is uniform only once the signs that the algorithm chose for r are taken out.
        q = jnp.where(jnp.diagonal(r) < 0, -q, q)
        return (self.gain * (q if into >= out else q.T)).reshape(shape).astype(dtype)


@dataclass(frozen=True)
class sparse(Printed):
    """Zeros, but for `inputs` normal weights into every output, from inputs chosen at random.

    Unlike zeros it breaks the symmetry, and the sum into an output has a variance of inputs std^2
    however many inputs there are: std = 1 / sqrt(inputs) keeps the spread. The lectures suggest
    about 10 inputs and a small std, the paper 15 and 1.
    Source: Martens 2010, "Deep learning via Hessian-free optimization".

    Raises ValueError where `inputs` is not a positive integer, `std` is negative or not finite,
    `shape` has fewer than two axes, or an output sees fewer inputs than that.

    >>> w = sparse(3)(jax.random.key(0), (20, 4), jnp.float32)
    >>> (w != 0).sum(axis=0).tolist()
    [3, 3, 3, 3]
    """

    inputs: int = 15
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_count(self, "inputs")
        _check_number(self, "std")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        into, out = _matrix(shape)
        if self.inputs > into:
            raise ValueError(
                f"{self!r}: shape is {shape}, whose outputs see {into} inputs; "
                f"there must be at least {self.inputs}: make inputs smaller"
            )
        which, values = jax.random.split(key)
        _, rows = jax.lax.top_k(jax.random.uniform(which, (out, into)), self.inputs)
        w = jnp.zeros((into, out), dtype)
        drawn = _normal(self.std**2, values, rows.shape, dtype)
        return w.at[rows, jnp.arange(out)[:, None]].set(drawn).reshape(shape)


@dataclass(frozen=True)
class matrix(Printed):
    """Draws weights as the matrix that they are, from their first `inputs` axes to the others.

    Without it, axes before the last two are a convolution's receptive field. Attention has none:
    its (in, heads, dim) maps in numbers to heads dim of them, which is inputs=1, and its
    (heads, dim, out) maps heads dim to out, which is inputs=2.

    Raises ValueError where `inputs` is not a positive integer, or `shape` has no axis after them.

    >>> w = matrix(lecun_normal, inputs=2)(jax.random.key(0), (10, 20, 50), jnp.float32)
    >>> w.shape, bool(abs(w.var() * 10 * 20 - 1) < 0.1)
    ((10, 20, 50), True)
    """

    weight: Initializer
    inputs: int = 1

    def __post_init__(self) -> None:
        _check_count(self, "inputs")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        if self.inputs >= len(shape):
            raise ValueError(
                f"{self!r}: shape is {shape}; it must have more than {self.inputs} axes, "
                "those of the inputs and then those of the outputs"
            )
        into, out = math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :])
        return self.weight(key, (into, out), dtype).reshape(shape)


@dataclass(frozen=True)
class grouped(Printed):
    """Draws weights (..., in / groups, out) as those of `groups` convolutions side by side.

    An input of a grouped convolution reaches the outputs of its own group only, and a shape does
    not tell how many groups there are; a depthwise one has as many as channels.

        fan_in = field in / groups,   fan_out = field out / groups

    Raises ValueError where `groups` is not a positive integer, or does not divide `out`.

    >>> w = grouped(glorot_normal, groups=100)(jax.random.key(0), (5, 5, 1, 300), jnp.float32)
    >>> w.shape, bool(abs(w.var() * 25 * (1 + 3) - 2) < 0.1)
    ((5, 5, 1, 300), True)
    """

    weight: Initializer
    groups: int

    def __post_init__(self) -> None:
        _check_count(self, "groups")

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        if not shape or shape[-1] % self.groups:
            raise ValueError(
                f"{self!r}: shape is {shape}; its last axis, the outputs, must divide into "
                f"{self.groups} groups"
            )
        if self.groups == 1:
            return self.weight(key, shape, dtype)
        one = (*shape[:-1], shape[-1] // self.groups)
        each = jax.vmap(lambda key: self.weight(key, one, dtype), out_axes=-2)
        return each(jax.random.split(key, self.groups)).reshape(shape)


def _normal(variance: float, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    drawn = jax.random.normal(key, shape, _wide(dtype))
    return (math.sqrt(variance) * drawn).astype(dtype)


def _uniform(
    variance: float, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    limit = math.sqrt(3 * variance)
    return jax.random.uniform(key, shape, _wide(dtype), -limit, limit).astype(dtype)


def _truncated(
    variance: float, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    drawn = jax.random.truncated_normal(key, -CUT, CUT, shape, _wide(dtype))
    return (math.sqrt(variance) / CUT_STD * drawn).astype(dtype)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """The matrix (inputs that an output sees, outputs) that weights of this shape are."""
    return fans(shape)[0], shape[-1]


def _wide(dtype: DTypeLike) -> jnp.dtype:
    """The dtype to draw in: bfloat16's own normal numbers would come from a grid of a few bits."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype is {jnp.dtype(dtype)}; weights must be floating-point numbers")
    return accumulator(dtype)


def _check_number(initializer: Printed, name: str) -> None:
    value = getattr(initializer, name)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ValueError(
            f"{type(initializer).__name__}: {name} is {value!r}; "
            "it must be a finite number of at least 0"
        )
    object.__setattr__(initializer, name, float(value))  # a numpy scalar would decide a dtype


def _check_count(initializer: Printed, name: str) -> None:
    value = getattr(initializer, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(
            f"{type(initializer).__name__}: {name} is {value!r}; it must be a positive integer"
        )
