"""Layers in which positions look at each other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from jnn.factors import Affine, Outer
from jnn.initializers import Initializer, glorot_uniform, zeros
from jnn.layer import (
    Layer,
    Mode,
    Params,
    State,
    Tree,
    check_cotangent,
    check_floating,
    fail,
    form,
    form_of,
    inside,
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
from jnn.layers.dropout import Dropout
from jnn.layers.embedding import rotated
from jnn.precision import accumulator, matmul, wide_matmul

Cache = dict[str, Any]


@dataclass(frozen=True)
class Attends(Layer):
    """The base of both: positions of x look at those of z, which may be x itself.

    A subclass says by `given` and `handed` what the layer is given, and by `allowed` what else
    bears upon who looks at whom.
    """

    heads: int
    kv_heads: int | None = field(default=None, kw_only=True)
    dim: int | None = field(default=None, kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)
    weight: Initializer = field(default=glorot_uniform, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        check_flags(self)
        check_whole(self, "heads")
        for name in ("kv_heads", "dim"):
            if getattr(self, name) is not None:
                check_whole(self, name)
        if self.heads % self._kv():
            fail(self, f"kv_heads is {self.kv_heads}; it must divide the {self.heads} heads")
        check_initializer(self, "weight")
        with inside("dropout", self):
            object.__setattr__(self, "dropout", Dropout(self.dropout).rate)

    def given(self, x: Any) -> tuple[Any, Any, Any]:
        """(x, z, mask): z is None where it is x, and mask where there is none."""
        raise NotImplementedError(f"{type(self).__name__} must define given(x)")

    def handed(self, dx: jax.Array, dz: jax.Array | None, masked: bool) -> Any:
        """The cotangent of what the layer is given."""
        raise NotImplementedError(f"{type(self).__name__} must define handed(dx, dz, masked)")

    def allowed(self, mask: jax.Array | None, t: int) -> jax.Array | None:
        """True where t positions may look, of axes (n, heads, t, s) or 1; None for everywhere."""
        del t
        return mask

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        x, z, _ = self._checked(x)
        params: Params = {}
        for name, shapes in self._shapes(x, z).items():
            key, one = jax.random.split(key)
            params[name] = {"w": self.weight(one, shapes["w"], x.dtype)}
            if "b" in shapes:
                params[name]["b"] = zeros(one, shapes["b"], x.dtype)
        return params, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, Cache]:
        x, z, mask = self._checked(x)
        x, z = jnp.asarray(x), None if z is None else jnp.asarray(z)
        self._check_params(params, x, z)
        if z is None:
            q, k, v = _projected(params, "qkv", x)
        else:
            (q,), (k, v) = _projected(params, "q", x), _projected(params, "kv", z)
        q, k, v = (_split(a, h) for a, h in ((q, self.heads), (k, self._kv()), (v, self._kv())))
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in (self._placed(q), self._placed(k), v))
        scores = _product(q, k.mT) * (1 / math.sqrt(q.shape[-1]))
        p = _softmax(scores, self.allowed(mask, q.shape[2])).astype(x.dtype)
        dropped, drop = p, None
        if self.dropout:
            dropped, drop = Dropout(self.dropout).forward({}, p.astype(scores.dtype), mode)
        o = jnp.swapaxes(_product(dropped.astype(x.dtype), v), 1, 2).astype(x.dtype)
        o = jax.lax.collapse(o, 2)  # the heads side by side
        cache = {"x": x, "z": z, "q": q, "k": k, "v": v, "p": p, "drop": drop, "o": o}
        cache["mask"] = None if mask is None else form(mask)
        return matmul(o, params["o"]["w"], params["o"].get("b")), cache

    def factored(self, params: Params, cache: Cache, dy: jax.Array) -> tuple[Tree, Any]:
        x, z, q, k, v, p = (cache[name] for name in ("x", "z", "q", "k", "v", "p"))
        check_cotangent(self, dy, x)
        wide = accumulator(x.dtype)
        do = jnp.swapaxes(_split(matmul(dy, params["o"]["w"].T), self.heads), 1, 2)
        dropped, p = p, p.astype(wide)
        dp = _product(do, v.mT)
        if self.dropout:
            # The rule of dropout is its own transpose: the same mask and factor.
            dropped, dp = (Dropout(self.dropout).pull({}, cache["drop"], a) for a in (p, dp))
        ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * (1 / math.sqrt(q.shape[-1]))
        ds, dropped = ds.astype(x.dtype), dropped.astype(x.dtype)
        dq, dk, dv = _product(ds, k), _summed(ds, q, k), _summed(dropped, do, v)
        dq, dk, dv = (jnp.swapaxes(a, 1, 2).astype(x.dtype) for a in (dq, dk, dv))
        dq, dk = (self._placed(a, back=True) for a in (dq, dk))
        dq, dk, dv = (jax.lax.collapse(a, 2) for a in (dq, dk, dv))
        if z is None:
            dx, dz, z = _pulled(params, {"q": dq, "k": dk, "v": dv}), None, x
        else:
            dx, dz = _pulled(params, {"q": dq}), _pulled(params, {"k": dk, "v": dv})
        pairs = {"q": (x, dq), "k": (z, dk), "v": (z, dv), "o": (cache["o"], dy)}
        factors = {
            name: {"w": Outer(a, d)} | ({"b": Affine(None, d)} if "b" in params[name] else {})
            for name, (a, d) in pairs.items()
        }
        return factors, self.handed(dx, dz, cache["mask"] is not None)

    def _kv(self) -> int:
        return self.kv_heads or self.heads

    def _placed(self, a: jax.Array, back: bool = False) -> jax.Array:
        """Queries or keys (n, t, heads, d) that know where they are; `back` for cotangents."""
        base = self._turning()
        return a if base is None else rotated(a, base, back)

    def _turning(self) -> float | None:
        """The base of the rotary positions, if there are any."""
        return getattr(self, "rotary", None)

    def _shapes(self, x: Any, z: Any) -> dict[str, dict[str, tuple[int, ...]]]:
        """The parameters of the four projections."""
        c = x.shape[-1]
        if self.dim is None and c % self.heads:
            fail(
                self,
                f"x is {shape_of(x)}; its channels must be a multiple of heads={self.heads}, "
                "or the channels of a head be given, such as dim=64",
            )
        d = self.dim or c // self.heads
        if self._turning() is not None and d % 2:
            fail(self, f"a head has {d} channels; rotary turns pairs of them: give an even dim")
        whole, shared, into = self.heads * d, self._kv() * d, (x if z is None else z).shape[-1]
        pairs = {"q": (c, whole), "k": (into, shared), "v": (into, shared), "o": (whole, c)}
        # A bias of keys that are not turned would add the same to all scores of a query.
        biased = "" if not self.bias else "qvo" if self._turning() is None else "qkvo"
        return {
            name: {"w": pair} | ({"b": pair[1:]} if name in biased else {})
            for name, pair in pairs.items()
        }

    def _checked(self, given: Any) -> tuple[Any, Any, Any]:
        x, z, mask = self.given(given)
        if isinstance(given, tuple) and any(v is None for v in given):
            fail(self, "x holds None; leave the mask out where all may be looked at")
        sequences = [v for v in (x, z) if v is not None]
        for v in sequences:
            check_floating(self, v)
            if v.ndim != 3 or v.shape[-1] == 0 or v.shape[0] != x.shape[0] or v.dtype != x.dtype:
                fail(
                    self,
                    f"the sequences are {', '.join(map(shape_of, sequences))}; each must be "
                    "(n, t, c), and two have the same n and dtype",
                )
        if mask is None:
            return x, z, None
        if not hasattr(mask, "dtype") or mask.dtype != bool:
            was = shape_of(mask) if hasattr(mask, "dtype") else f"a {type(mask).__name__}"
            fail(self, f"mask is {was}; it must be booleans, True where one may look")
        # Of axes (n, s), (n, t, s) or (n, heads, t, s).
        n, t, s = *x.shape[:2], sequences[-1].shape[1]
        full = {2: (n, s), 3: (n, t, s), 4: (n, self.heads, t, s)}.get(mask.ndim, ())
        if not full or any(a not in (1, b) for a, b in zip(mask.shape, full, strict=True)):
            fail(
                self,
                f"mask is {shape_of(mask)}; it must be {(n, s)} for what may be looked at, "
                f"{(n, t, s)} for what by whom, or {(n, self.heads, t, s)} by each head; "
                "any axis may be 1",
            )
        between = {2: (1, 2), 3: (1,), 4: ()}[mask.ndim]
        shape = list(mask.shape)
        for axis in between:
            shape.insert(axis, 1)
        if isinstance(mask, jax.ShapeDtypeStruct):
            return x, z, jax.ShapeDtypeStruct(tuple(shape), bool)
        x, z = (None if v is None else jnp.asarray(v) for v in (x, z))
        return x, z, jnp.asarray(mask).reshape(shape)

    def _check_params(self, params: Params, x: Any, z: Any) -> None:
        shapes = self._shapes(x, z)
        if not isinstance(params, Mapping) or set(params) != set(shapes):
            fail(self, f"params is {form_of(params)}; it must hold {sorted(shapes)}, as init makes")
        for name, inner in shapes.items():
            with inside(name, self):
                check_params(self, params[name], inner)
                check_dtype(self, x, params[name])


@dataclass(frozen=True)
class Attention(Attends):
    """Every position takes what it looks for from the positions of its own sequence.

        q = x wq + bq,   k = x wk + bk,   v = x wv + bv,   each cut into heads of d channels
        p = softmax(q k^T / sqrt(d)) over where one may look, 0 elsewhere
        y = o wo + bo,   o = p v with the heads side by side

        do = dy wo^T,   dp = do v^T,   ds = p (dp - sum(dp p)) / sqrt(d)
        dq = ds k,   dk = ds^T q,   dv = p^T do,   dx = dq wq^T + dk wk^T + dv wv^T
        dwq = x^T dq,   dwk = x^T dk,   dwv = x^T dv,   dwo = o^T dy;   biases: the sums of these

    `causal` lets none look ahead. `rotary=10000.0` turns queries and keys by their positions, as
    `Rotary` does. With `kv_heads` fewer than `heads`, heads next to each other share keys and
    values, 1 for all of them (grouped-query and multi-query attention); dk and dv add up then.
    d is c / heads, or `dim`. `dropout` drops entries of p in training. A position that may look
    nowhere has p = 0, so that y = bo, and not NaN. What is masked must be finite all the same.

    Shapes: x, y (n, t, c), or x a pair with a mask of booleans, True where one may look: (n, t) for
    what may be looked at, (n, t, t) for what by whom, (n, heads, t, t) by each head; any axis may
    be 1. dx as x, with None for the mask. Params: q, k, v, o, each with w (in, out) and b (out,);
    k has b with rotary alone, for otherwise it would add the same to all scores of a query.
    Cache: x, q, k, v as multiplied, (n, heads, t, d); p (n, heads, t, t); o (n, t, heads d); the
    mask of the dropout. q, k and v are kept for to make them again costs as much as to use them.
    Low precision: sums, softmax and ds in float32; each of q, k, v, p, o and ds is rounded.
    Source: Vaswani et al. 2017, "Attention is all you need"; Ainslie et al. 2023, "GQA".

    Raises LayerError, a ValueError, where heads, kv_heads or dim is not a positive integer,
    kv_heads does not divide heads, dropout is not in [0, 1) or rotary not positive; where x is not
    (n, t, c), floating point and of the dtype of the parameters, c is not a multiple of heads, d
    is odd with rotary, the mask is not of booleans or no such shape; or where dy is not like y.

    >>> layer, x = Attention(2, causal=True), jnp.ones((1, 3, 4))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> y, cache = layer.forward(params, x, None)
    >>> cache["p"][0, 0].round(2).tolist()[:2], layer.backward(params, cache, y)[1].shape
    ([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], (1, 3, 4))
    """

    causal: bool = field(default=False, kw_only=True)
    rotary: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rotary is not None:
            check_positive(self, "rotary")

    def given(self, x: Any) -> tuple[Any, Any, Any]:
        if not isinstance(x, tuple):
            return x, None, None
        if len(x) != 2:
            fail(self, f"x is a tuple of {len(x)}; it must be an array, or a pair (x, mask)")
        return x[0], None, x[1]

    def handed(self, dx: jax.Array, dz: jax.Array | None, masked: bool) -> Any:
        return (dx, None) if masked else dx

    def allowed(self, mask: jax.Array | None, t: int) -> jax.Array | None:
        if not self.causal:
            return mask
        behind = jnp.tril(jnp.ones((1, 1, t, t), bool))
        return behind if mask is None else mask & behind


@dataclass(frozen=True)
class CrossAttention(Attends):
    """Every position of one sequence takes what it looks for from the positions of another.

        q = x wq + bq,   k = z wk + bk,   v = z wv + bv,   and from there as `Attention`
        dx = dq wq^T,   dz = dk wk^T + dv wv^T

    Shapes: x a pair ((n, t, c), z (n, s, e)), or a triple with a mask of booleans as Attention's,
    (n, s), (n, t, s) or (n, heads, t, s); y (n, t, c). dx is such a tuple, None for the mask.
    Cache, precision and source: those of Attention, with z.

    Raises LayerError, a ValueError, as Attention does, and where x is no such tuple.

    >>> layer, x = CrossAttention(2), (jnp.ones((1, 3, 4)), jnp.ones((1, 5, 6)))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> y, cache = layer.forward(params, x, None)
    >>> y.shape, [dx.shape for dx in layer.backward(params, cache, y)[1]]
    ((1, 3, 4), [(1, 3, 4), (1, 5, 6)])
    """

    def given(self, x: Any) -> tuple[Any, Any, Any]:
        if not isinstance(x, tuple) or len(x) not in (2, 3):
            was = f"a tuple of {len(x)}" if isinstance(x, tuple) else f"a {type(x).__name__}"
            fail(self, f"x is {was}; it must be a tuple (x, z) or (x, z, mask)")
        return (*x, None) if len(x) == 2 else x

    def handed(self, dx: jax.Array, dz: jax.Array | None, masked: bool) -> Any:
        return (dx, dz, None) if masked else (dx, dz)


def _softmax(scores: jax.Array, allowed: jax.Array | None) -> jax.Array:
    """Over the last axis where it is allowed, and 0 elsewhere; all 0 where nothing is."""
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True, initial=-jnp.inf))
    e = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return e / jnp.where(total == 0, 1, total)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a (n, heads, t, i) by b (n, kv, i, j), which heads next to each other share; in float32."""
    y = wide_matmul(_grouped(a, b.shape[1]), b)
    return y.reshape(*a.shape[:3], b.shape[-1])


def _summed(a: jax.Array, b: jax.Array, like: jax.Array) -> jax.Array:
    """a^T b for a (n, heads, t, s), b (n, heads, t, d), summed over heads that share `like`."""
    kv = like.shape[1]
    return wide_matmul(_grouped(a, kv).mT, _grouped(b, kv))


def _grouped(a: jax.Array, kv: int) -> jax.Array:
    """(n, heads, t, i) as (n, kv, heads / kv t, i)."""
    n, heads, t, i = a.shape
    return a.reshape(n, kv, heads // kv * t, i)


def _split(a: jax.Array, heads: int) -> jax.Array:
    """(n, t, heads d) as (n, t, heads, d)."""
    return a.reshape(*a.shape[:-1], heads, a.shape[-1] // heads)


def _projected(params: Params, names: str, x: jax.Array) -> list[jax.Array]:
    """x by several projections, in one product."""
    w = [params[name]["w"] for name in names]
    ends = list(accumulate(one.shape[1] for one in w))[:-1]
    parts = jnp.split(wide_matmul(x, jnp.concatenate(w, axis=1)), ends, axis=-1)
    b = [params[name].get("b") for name in names]
    parts = [y if b is None else y + b.astype(y.dtype) for y, b in zip(parts, b, strict=True)]
    return [y.astype(x.dtype) for y in parts]


def _pulled(params: Params, d: dict[str, jax.Array]) -> jax.Array:
    """The cotangent of what these projections were of, in one product."""
    w = jnp.concatenate([params[name]["w"] for name in d], axis=1)
    return matmul(jnp.concatenate(list(d.values()), axis=-1), w.T)
