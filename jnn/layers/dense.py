"""Fully connected layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jnn.factors import Affine, Factor, Outer
from jnn.initializers import Initializer, he_normal, zeros
from jnn.layer import (
    Layer,
    Mode,
    Params,
    State,
    check_cotangent,
    check_floating,
    fail,
    floating,
    form_of,
    shape_of,
)
from jnn.layers.checking import check_flags, check_whole
from jnn.precision import matmul


@dataclass(frozen=True)
class Dense(Layer):
    """Every output is a weighted sum of every input.

        forward    y = x w + b
        backward   dw = x^T dy,   db = sum dy,   dx = dy w^T    (sums over examples and positions)

    Shapes: x (n, ..., in), y (n, ..., features), w (in, features), b (features,).
    Cache: x alone, which dw needs; w is handed to `backward` again.
    Low precision: products of bfloat16 and float16 are accumulated in float32 and rounded once.

    Raises LayerError, a ValueError, where `features` is not a positive integer, x is not
    floating point, its last axis is not `in`, its dtype is not that of w, or dy is not like y.

    >>> import jax.numpy as jnp
    >>> from jnn import Eval
    >>> net = Dense(3)
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> y, cache = net.forward(params, jnp.ones((4, 2)), Eval())
    >>> grads, dx = net.backward(params, cache, jnp.ones_like(y))
    >>> y.shape, grads["w"].tolist(), dx.shape
    ((4, 3), [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0]], (4, 2))
    """

    features: int
    weight: Initializer = he_normal
    bias: bool = True

    def __post_init__(self) -> None:
        check_flags(self)
        check_whole(self, "features")
        if not callable(self.weight):
            fail(
                self,
                f"weight is {self.weight!r}; it must be an initializer, such as "
                "jnn.initializers.he_normal (the inputs are counted when init sees them)",
            )

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_floating(self, x)
        if x.ndim < 1 or x.shape[-1] == 0:
            fail(self, f"x is {shape_of(x)}; it must be (n, ..., in), with inputs in its last axis")
        params = {"w": self.weight(key, (x.shape[-1], self.features), x.dtype)}
        if self.bias:
            params["b"] = zeros(key, (self.features,), x.dtype)
        return params, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del mode
        x = floating(self, x)
        self._check(params, x)
        return matmul(x, params["w"], params["b"] if self.bias else None), x

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        y = jax.ShapeDtypeStruct((*cache.shape[:-1], self.features), cache.dtype)
        check_cotangent(self, dy, y)
        return matmul(dy, params["w"].T)

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        factors: dict[str, Factor] = {"w": Outer(cache, dy)}
        if self.bias:
            factors["b"] = Affine(None, dy)
        return factors

    def _check(self, params: Params, x: jax.Array) -> None:
        names = {"w", "b"} if self.bias else {"w"}
        if not isinstance(params, Mapping) or set(params) != names:
            fail(self, f"params is {form_of(params)}; it must hold {sorted(names)}, as init makes")
        w = params["w"]
        if w.shape[1:] != (self.features,):
            fail(self, f"w is {shape_of(w)}; it must be (in, {self.features}), as init makes")
        if x.ndim < 1 or x.shape[-1:] != w.shape[:-1]:
            fail(
                self,
                f"x is {shape_of(x)} and w is {shape_of(w)}; x must be (n, ..., in) for w "
                f"(in, {self.features}): give inputs like those that init was shown",
            )
        if self.bias and params["b"].shape != (self.features,):
            fail(self, f"b is {shape_of(params['b'])}; it must be ({self.features},)")
        if x.dtype != w.dtype:
            fail(
                self,
                f"x is {shape_of(x)} and w is {shape_of(w)}; their dtypes must be equal: "
                f"cast one, for example x.astype({str(w.dtype)!r})",
            )
