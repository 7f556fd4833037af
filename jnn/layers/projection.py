"""Linear layers between axes that are named."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.factors import Affine, Factor, Outer
from jnn.initializers import Initializer, glorot_uniform, zeros
from jnn.layer import (
    Layer,
    Mode,
    Params,
    State,
    check_cotangent,
    check_floating,
    fail,
    floating,
    shape_of,
)
from jnn.layers.checking import check_dtype, check_flags, check_initializer, check_params, is_whole
from jnn.precision import matmul


class Axes(NamedTuple):
    """The axes of an equation, as einsum writes them."""

    x: str
    w: str
    y: str
    summed: str  # of x and w, in the order of w
    new: str  # of w and y, in the order of w
    kept: str  # of x and y, in the order of x


@dataclass(frozen=True)
class Einsum(Layer):
    """A weighted sum over some axes, which makes others of them, written as an equation.

        forward    y = einsum(equation, x, w) + b
        backward   dx = einsum of dy and w,   dw = einsum of x and dy,   db = sum dy

    The equation names the axes of x, of w and of y; "..." may stand for any leading ones. In w the
    axes that are summed come first and the new ones after them, of which `sizes` has one each:

        Einsum("...d,dhk->...hk", (8, 16))     to heads of 16 channels
        Einsum("nqhk,hkd->nqd", (128,))        and back
        Einsum("ntc,ts->nsc", (10,))           over positions in place of channels

    All these are one matrix product, and w is the matrix: its axes that are summed made one, and
    its new ones too. So its fans are those of `Dense`.

    Shapes: x and y as the equation says, the examples first; w (in, out), b (out,), products of
    the sizes of the axes.
    Cache: x alone.
    Low precision: accumulated in float32 and rounded once.

    Raises LayerError, a ValueError, where the equation is none of one x, one w and one y, an axis
    of w is neither summed nor new, or one of x neither summed nor kept, a letter comes twice, the
    examples are not first, or sizes are not one positive integer for each new axis; where x has not
    these axes, is not floating point or not of the dtype of w; or where dy is not like y.

    >>> net, x = Einsum("...d,dhk->...hk", (2, 3)), jnp.ones((5, 7, 4))
    >>> params, _ = net.init(jax.random.key(0), x)
    >>> params["w"].shape, net.forward(params, x, None)[0].shape
    ((4, 6), (5, 7, 2, 3))
    """

    equation: str
    sizes: tuple[int, ...]
    weight: Initializer = field(default=glorot_uniform, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        check_flags(self)
        sizes: Any = self.sizes
        several = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,)
        new = self._axes().new
        whole = all(is_whole(v) and v > 0 for v in several)
        if not whole or len(several) != len(new):
            fail(
                self,
                f"sizes is {sizes!r}; it must be a tuple of positive integers, one for each of the "
                f"new axes {', '.join(new)}",
            )
        object.__setattr__(self, "sizes", tuple(int(v) for v in several))
        check_initializer(self, "weight")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_floating(self, x)
        shapes = self._shapes(x)
        params = {"w": self.weight(key, shapes["w"], x.dtype)}
        return params | ({"b": zeros(key, shapes["b"], x.dtype)} if self.bias else {}), {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, jax.Array]:
        del mode
        x = floating(self, x)
        check_params(self, params, self._shapes(x))
        check_dtype(self, x, params)
        return self._y(matmul(self._rows(x), params["w"], params.get("b"))), x

    def pull(self, params: Params, cache: jax.Array, dy: jax.Array) -> jax.Array:
        axes, shape = self._axes(), self._sizes(cache)
        check_cotangent(
            self, dy, jax.eval_shape(lambda x, w: self._y(self._rows(x) @ w), cache, params["w"])
        )
        dx = matmul(self._columns(dy), params["w"].T)
        return jnp.einsum(f"{axes.kept}{axes.summed}->{axes.x}", dx.reshape(*dx.shape[:-1], *shape))

    def factors(self, params: Params, cache: jax.Array, dy: jax.Array) -> dict[str, Factor]:
        del params
        d = self._columns(dy)
        factors: dict[str, Factor] = {"w": Outer(self._rows(cache), d)}
        return factors | ({"b": Affine(None, d)} if self.bias else {})

    def _axes(self) -> Axes:
        found = re.fullmatch(r"((?:\.\.\.)?\w*),(\w+)->((?:\.\.\.)?\w*)", str(self.equation))
        if not found:
            fail(
                self,
                f"equation is {self.equation!r}; it must be of x and w, such as '...d,dhk->...hk'",
            )
        x, w, y = found.groups()
        dots = "..." * x.startswith("...")
        summed = "".join(a for a in w if a in x and a not in y)
        new = "".join(a for a in w if a in y and a not in x)
        kept = dots + "".join(a for a in x if a in y and a not in w and a != ".")
        problem = ""
        if any(len(set(part)) < len(part) for part in (x[len(dots) :], w, y[len(dots) :])):
            problem = "an axis comes twice"
        elif summed + new != w or not summed or not new:
            problem = (
                "the axes of w must be one or more that x has and y has not, then one or more "
                "that y has and x has not"
            )
        elif set(x) != {*kept, *summed} or set(y) != {*kept, *new}:
            problem = "the axes of x must be summed with w or kept in y"
        elif not kept or x[0] != y[0]:
            problem = "the examples must be the first axis of x and of y"
        if problem:
            fail(self, f"equation is {self.equation!r}; {problem}")
        return Axes(x, w, y, summed, new, kept)

    def _shapes(self, x: Any) -> dict[str, tuple[int, ...]]:
        into, out = math.prod(self._sizes(x)), math.prod(self.sizes)
        if into == 0:
            fail(self, f"x is {shape_of(x)}; there is nothing along an axis that is summed")
        return {"w": (into, out)} | ({"b": (out,)} if self.bias else {})

    def _sizes(self, x: Any) -> tuple[int, ...]:
        """Of the axes that are summed, in the order of w."""
        axes = self._axes()
        named = axes.x.replace("...", "")
        if x.ndim < len(named) or (x.ndim > len(named) and named == axes.x):
            fail(self, f"x is {shape_of(x)}; the equation says {axes.x!r}")
        return tuple(x.shape[named.index(a) - len(named)] for a in axes.summed)

    def _rows(self, x: jax.Array) -> jax.Array:
        """x with the axes that are kept, then one of all that are summed."""
        axes = self._axes()
        return jax.lax.collapse(
            jnp.einsum(f"{axes.x}->{axes.kept}{axes.summed}", x), -len(axes.summed)
        )

    def _y(self, columns: jax.Array) -> jax.Array:
        """The y of such columns."""
        axes = self._axes()
        apart = columns.reshape(*columns.shape[:-1], *self.sizes)
        return jnp.einsum(f"{axes.kept}{axes.new}->{axes.y}", apart)

    def _columns(self, dy: jax.Array) -> jax.Array:
        """dy with the axes that are kept in the order of x, then one of all that are new."""
        axes = self._axes()
        return jax.lax.collapse(jnp.einsum(f"{axes.y}->{axes.kept}{axes.new}", dy), -len(axes.new))
