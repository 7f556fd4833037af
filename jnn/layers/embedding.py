"""Layers between integers that stand for something, such as tokens, and vectors."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jnn.factors import Affine, Factor, Outer, Scatter, within
from jnn.initializers import Initializer, normal, zeros
from jnn.layer import (
    Layer,
    Mode,
    Params,
    State,
    check_cotangent,
    check_floating,
    fail,
    floating,
    form,
    formed,
    shape_of,
)
from jnn.layers.checking import (
    check_dtype,
    check_flags,
    check_initializer,
    check_params,
    check_positive,
    check_whole,
)
from jnn.precision import accumulator, matmul

SMALL = normal(0.02)  # so that logits of tied weights start all but equal; as in GPT-2


@dataclass(frozen=True)
class Embedding(Layer):
    """A table of vectors, looked up by number.

        forward    y = w[x]
        backward   dw[v] = sum of dy where x = v;   no dx, for x holds integers

    A number that is no row of the table, -1 among them, gives NaN, so that it cannot go unseen, and
    adds nothing to dw. JAX's own indexing would take the nearest row, or count from the end.

    Shapes: x (n, ...) of integers in [0, vocabulary), y (n, ..., features), w (vocabulary,
    features). w is in the default dtype of floats; cast it for another. `dx` is None.
    Cache: x, and the dtype of w, as an array of no bytes.
    Source: Bengio et al. 2003, "A neural probabilistic language model".

    Raises LayerError, a ValueError, where vocabulary or features is not a positive integer, x does
    not hold integers, or dy is not like y.

    >>> layer, tokens = Embedding(5, 2), jnp.array([[0, 3, 3]])
    >>> params, _ = layer.init(jax.random.key(0), tokens)
    >>> y, cache = layer.forward(params, tokens, None)
    >>> y.shape, layer.backward(params, cache, jnp.ones_like(y))[0]["w"][:, 0].tolist()
    ((1, 3, 2), [1.0, 0.0, 0.0, 2.0, 0.0])
    """

    vocabulary: int
    features: int
    weight: Initializer = SMALL

    def __post_init__(self) -> None:
        check_whole(self, "vocabulary")
        check_whole(self, "features")
        check_initializer(self, "weight")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        self._check_integers(x)
        shape = (self.vocabulary, self.features)
        return {"w": self.weight(key, shape, jnp.result_type(float))}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, jax.Array]]:
        del mode
        self._check_integers(x)
        check_params(self, params, {"w": (self.vocabulary, self.features)})
        x, w = jnp.asarray(x), jnp.asarray(params["w"])
        y = w.at[within(x, self.vocabulary)].get(mode="fill", fill_value=jnp.nan)
        # dy is checked against this array of no bytes: params are not the cache's to remember.
        return y, {"ids": x, "dtype": jnp.empty((0,), w.dtype)}

    def pull(self, params: Params, cache: dict[str, jax.Array], dy: jax.Array) -> None:
        del params
        shape = (*cache["ids"].shape, self.features)
        check_cotangent(self, dy, jax.ShapeDtypeStruct(shape, cache["dtype"].dtype))

    def factors(
        self, params: Params, cache: dict[str, jax.Array], dy: jax.Array
    ) -> dict[str, Factor]:
        del params
        return {"w": Scatter(cache["ids"], dy, self.vocabulary)}

    def _check_integers(self, x: Any) -> None:
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
            was = shape_of(x) if hasattr(x, "dtype") else f"a {type(x).__name__}"
            fail(self, f"x is {was}; it must be an array of integers in [0, {self.vocabulary})")


@dataclass(frozen=True)
class Unembed(Layer):
    """Scores every word of a vocabulary by its vector: the linear layer at the end of a decoder.

        forward    y = x w^T
        backward   dw = dy^T x,   dx = dy w   (sums over examples and positions)

    w has the shape of an Embedding's, so that the two can be one: `Shared(net, {"unembed1.w":
    "embedding1.w"})` ties them, and their gradients add.

    Shapes: x (n, ..., features), y (n, ..., vocabulary), w (vocabulary, features), b
    (vocabulary,) with `bias=True`.
    Cache: x alone.
    Source: Press & Wolf 2017, "Using the output embedding to improve language models".

    Raises LayerError, a ValueError, where vocabulary is not a positive integer, x is not floating
    point, its last axis is not `features`, its dtype not that of w, or dy is not like y.

    >>> layer, x = Unembed(5), jnp.ones((4, 3))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> params["w"].shape, layer.forward(params, x, None)[0].shape
    ((5, 3), (4, 5))
    """

    vocabulary: int
    weight: Initializer = SMALL
    bias: bool = False

    def __post_init__(self) -> None:
        check_flags(self)
        check_whole(self, "vocabulary")
        check_initializer(self, "weight")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_floating(self, x)
        if x.ndim < 1 or x.shape[-1] == 0:
            fail(self, f"x is {shape_of(x)}; it must be (n, ..., features)")
        params = {"w": self.weight(key, (self.vocabulary, x.shape[-1]), x.dtype)}
        if self.bias:
            params["b"] = zeros(key, (self.vocabulary,), x.dtype)
        return params, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del mode
        x = floating(self, x)
        shapes = {"w": (self.vocabulary, *x.shape[-1:])}
        check_params(self, params, shapes | ({"b": (self.vocabulary,)} if self.bias else {}))
        check_dtype(self, x, params)
        return matmul(x, params["w"].T, params.get("b")), x

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        y = jax.ShapeDtypeStruct((*cache.shape[:-1], self.vocabulary), cache.dtype)
        check_cotangent(self, dy, y)
        return matmul(dy, params["w"])

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        del params
        factors: dict[str, Factor] = {"w": Outer(dy, cache)}
        return factors | ({"b": Affine(None, dy)} if self.bias else {})


@dataclass(frozen=True)
class Positions(Layer):
    """Adds to every position a vector that is learned for it.

        forward    y_t = x_t + w_t
        backward   dw_t = sum over examples of dy_t,   dx = dy

    Shapes: x, y (n, t, c) with t at most `limit`, w (limit, c).
    Cache: the shape and dtype of x, as an array of no bytes.
    Source: Gehring et al. 2017, "Convolutional sequence to sequence learning".

    Raises LayerError, a ValueError, where limit is not a positive integer, x is not (n, t, c), has
    more than `limit` positions, is not floating point or not of the dtype of w, or dy is not like
    y.

    >>> layer, x = Positions(8), jnp.zeros((2, 3, 4))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> bool((layer.forward(params, x, None)[0][1] == params["w"][:3]).all())
    True
    """

    limit: int
    weight: Initializer = SMALL

    def __post_init__(self) -> None:
        check_whole(self, "limit")
        check_initializer(self, "weight")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_floating(self, x)
        self._check_axes(x)
        return {"w": self.weight(key, (self.limit, x.shape[-1]), x.dtype)}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del mode
        x = floating(self, x)
        self._check_axes(x)
        check_params(self, params, {"w": (self.limit, x.shape[-1])})
        check_dtype(self, x, params)
        return x + jnp.broadcast_to(params["w"][: x.shape[1]], x.shape), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        check_cotangent(self, dy, formed(cache))
        return dy

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        del params, cache
        ids = jnp.broadcast_to(jnp.arange(dy.shape[1]), dy.shape[:2])
        return {"w": Scatter(ids, dy, self.limit)}

    def _check_axes(self, x: Any) -> None:
        if x.ndim != 3 or x.shape[-1] == 0 or x.shape[1] > self.limit:
            fail(
                self,
                f"x is {shape_of(x)}; it must be (n, t, c) with t at most limit={self.limit}: "
                "cut x, or make limit the longest that there will be",
            )


@dataclass(frozen=True)
class Rotary(Layer):
    """Turns pairs of channels by an angle that grows with the position.

        forward    (y_i, y_i+h) = R(t f_i) (x_i, x_i+h),   f_i = base^(-i/h),   i < h = c/2
        backward   dx as y, with dy for x and turned back: by -t f_i

    R(a) = [[cos a, -sin a], [sin a, cos a]]. The pairs are channel i and i + c/2, as in GPT-NeoX
    and Llama as published by Hugging Face; other code pairs neighbours. Products of queries and
    keys so turned depend on how far apart they are alone. `Attention(rotary=base)` does it within.

    Shapes: x, y (n, t, ..., c) alike, c even; no parameters and no state.
    Cache: the shape and dtype of x, as an array of no bytes; the angles are made again.
    Low precision: angles and products in float32, rounded once.
    Source: Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding".

    Raises LayerError, a ValueError, where base is not positive, x is not (n, t, ..., c) with an
    even c or not floating point, or dy is not like y.

    >>> x = jnp.broadcast_to(jnp.array([1.0, 0.0]), (1, 2, 2))
    >>> y, _ = Rotary().forward({}, x, None)
    >>> bool(jnp.allclose(y[0, 1], jnp.array([jnp.cos(1), jnp.sin(1)])))
    True
    """

    base: float = 10000.0

    def __post_init__(self) -> None:
        check_positive(self, "base")

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del params, mode
        x = floating(self, x)
        if x.ndim < 3 or x.shape[-1] == 0 or x.shape[-1] % 2:
            fail(self, f"x is {shape_of(x)}; it must be (n, t, ..., c) with an even c")
        return rotated(x, self.base), form(x)

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        del params
        check_cotangent(self, dy, formed(cache))
        return rotated(jnp.asarray(dy), self.base, back=True)


def rotated(x: jax.Array, base: float, back: bool = False) -> jax.Array:
    """x (n, t, ..., c) with its pairs of channels turned by the angle of their position t.

    >>> x = jnp.ones((1, 3, 4))
    >>> bool(jnp.allclose(rotated(rotated(x, 100.0), 100.0, back=True), x))
    True
    """
    wide, half = accumulator(x.dtype), x.shape[-1] // 2
    frequencies = jnp.asarray(base, wide) ** (-jnp.arange(half, dtype=wide) / half)
    angles = jnp.outer(jnp.arange(x.shape[1], dtype=wide), frequencies)
    angles = angles.reshape(1, x.shape[1], *(1,) * (x.ndim - 3), half)
    cos, sin = jnp.cos(angles), jnp.sin(-angles if back else angles)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)
