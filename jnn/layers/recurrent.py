"""Layers that go through a sequence step by step and remember."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jnn.factors import Affine, Outer
from jnn.initializers import Initializer, glorot_uniform, orthogonal, zeros
from jnn.layer import (
    Layer,
    Mode,
    Params,
    State,
    Tree,
    check_cotangent,
    check_floating,
    fail,
    shape_of,
    unlike,
)
from jnn.layers.checking import (
    check_dtype,
    check_flags,
    check_initializer,
    check_params,
    check_whole,
)
from jnn.precision import accumulator, matmul, wide_matmul

Hidden = tuple[jax.Array, ...]  # what is remembered, each (n, features): h, or h and c


@dataclass(frozen=True)
class Recurrent(Layer):
    """The base of all: the loop, forwards and backwards.

        z_t = x_t w + b for all steps in one product,   a_t = h_t-1 u

    A subclass says by `step` what becomes of z, a and what is remembered, and by `back` how the
    cotangents return. The gradients of w, u and b are factors over all steps, taken after the loop.
    """

    features: int
    final: bool = field(default=False, kw_only=True)
    reverse: bool = field(default=False, kw_only=True)
    weight: Initializer = field(default=glorot_uniform, kw_only=True)
    recurrent: Initializer = field(default=orthogonal(), kw_only=True)
    gates: ClassVar[int] = 1
    remembered: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        check_flags(self)
        check_whole(self, "features")
        check_initializer(self, "weight")
        check_initializer(self, "recurrent")

    def step(self, z: jax.Array, a: jax.Array, old: Hidden, params: Params) -> tuple[Hidden, Tree]:
        """What is remembered after a step, and what `back` needs of it beside that."""
        raise NotImplementedError(f"{type(self).__name__} must define step(z, a, old, params)")

    def back(
        self, d: Hidden, old: Hidden, new: Hidden, kept: Tree
    ) -> tuple[jax.Array, jax.Array, Hidden]:
        """(dz, da, what returns to `old` without u) of the cotangents of what is remembered."""
        raise NotImplementedError(f"{type(self).__name__} must define back(d, old, new, kept)")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        x, _, _ = self._checked(x)
        into, recurrent = jax.random.split(key)

        def drawn(initializer: Initializer, key: jax.Array, rows: int) -> jax.Array:
            # Gate by gate, for each is a layer with fans of its own.
            keys = jax.random.split(key, self.gates)
            shape = rows, self.features
            return jnp.concatenate([initializer(k, shape, x.dtype) for k in keys], axis=1)

        params = {
            "w": drawn(self.weight, into, x.shape[-1]),
            "u": drawn(self.recurrent, recurrent, self.features),
        }
        biases = {n: s for n, s in self._shapes(x).items() if n not in params}
        return params | {name: zeros(key, shape, x.dtype) for name, shape in biases.items()}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, dict[str, Any]]:
        del mode
        x, mask, initial = self._checked(x)
        x = jnp.asarray(x)
        check_params(self, params, self._shapes(x))
        check_dtype(self, x, params)
        wide = accumulator(x.dtype)
        if mask is not None:
            # Padding may hold anything, NaN too, and 0 times NaN would be NaN in dw.
            x = jnp.where(mask[..., None], x, 0)
        z = wide_matmul(x, params["w"]) + params["b"].astype(wide)

        def one(old: Hidden, at: Any) -> tuple[Hidden, Any]:
            z, real = at
            a = wide_matmul(old[0].astype(x.dtype), params["u"])
            new, kept = self.step(z, a, old, params)
            new = _chosen(real, new, old)
            return new, (new, kept)

        last, (seen, kept) = jax.lax.scan(
            one, self._begin(x, initial), _by_time((z, mask)), reverse=self.reverse
        )
        seen, kept = _by_time((seen, kept))
        y = seen[0] if mask is None else jnp.where(mask[..., None], seen[0], 0)
        cache = {"x": x, "mask": mask, "initial": initial, "seen": seen, "kept": kept}
        y, last = jax.tree.map(lambda v: v.astype(x.dtype), (y, last))
        return (y, self._one_or_pair(last)) if self.final else y, cache

    def factored(self, params: Params, cache: dict[str, Any], dy: Any) -> tuple[Tree, Any]:
        x, mask, initial, seen = (cache[name] for name in ("x", "mask", "initial", "seen"))
        (n, t, _), dtype, wide = x.shape, x.dtype, accumulator(x.dtype)
        y = jax.ShapeDtypeStruct((n, t, self.features), dtype)
        last = (jax.ShapeDtypeStruct((n, self.features), dtype),) * len(seen)
        check_cotangent(self, dy, (y, self._one_or_pair(last)) if self.final else y)
        begin = self._begin(x, initial)
        old = tuple(self._before(*pair) for pair in zip(begin, seen, strict=True))
        d = tuple(map(jnp.zeros_like, begin))
        if self.final:
            dy, dlast = dy
            d = tuple(v.astype(wide) for v in jax.tree.leaves(dlast))

        def one(d: Hidden, at: Any) -> tuple[Hidden, Any]:
            dy, real, old, new, kept = at
            dnew = d[0] + dy.astype(wide), *d[1:]
            dz, da, dold = self.back(dnew, old, new, kept)
            # Where they are one array it is stacked once.
            both = (dz,) if dz is da else (dz, da)
            both = tuple(_chosen(real, v, 0).astype(dtype) for v in both)
            dold = dold[0] + wide_matmul(both[-1], params["u"].T), *dold[1:]
            return _chosen(real, dold, d), both

        steps = _by_time((jnp.asarray(dy), mask, old, seen, cache["kept"]))
        d, both = jax.lax.scan(one, d, steps, reverse=not self.reverse)
        dz, da = _by_time((both[0], both[-1]))
        factors = {"w": Outer(x, dz), "u": Outer(old[0].astype(dtype), da)} | self._biases(dz, da)
        dx = matmul(dz, params["w"].T)
        if initial is not None:
            return factors, (dx, None, self._one_or_pair(tuple(v.astype(dtype) for v in d)))
        return factors, dx if mask is None else (dx, None)

    def _biases(self, dz: jax.Array, da: jax.Array) -> dict[str, Affine]:
        del da
        return {"b": Affine(None, dz)}

    def _shapes(self, x: Any) -> dict[str, tuple[int, ...]]:
        out = self.gates * self.features
        return {"w": (x.shape[-1], out), "u": (self.features, out), "b": (out,)}

    def _one_or_pair(self, states: Any) -> Any:
        return states if len(states) > 1 else states[0]

    def _begin(self, x: jax.Array, initial: Hidden | None) -> Hidden:
        wide = accumulator(x.dtype)
        if initial is None:
            # Made of x, so that it varies over the devices that x does, where a loop is sharded.
            nothing = x[:, :0].sum((1, 2), wide)[:, None]
            return (jnp.broadcast_to(nothing, (len(x), self.features)),) * len(self.remembered)
        return tuple(jnp.asarray(v).astype(wide) for v in initial)

    def _before(self, begin: jax.Array, seen: jax.Array) -> jax.Array:
        """What was remembered before every step, (n, t, features)."""
        if self.reverse:
            return jnp.concatenate([seen, begin[:, None]], axis=1)[:, 1:]
        return jnp.concatenate([begin[:, None], seen], axis=1)[:, :-1]

    def _checked(self, given: Any) -> tuple[Any, Any, Hidden | None]:
        """x, the mask and what is remembered at first, the last two None where there is none."""
        x, mask, initial = given, None, None
        if isinstance(given, tuple):
            if len(given) not in (2, 3):
                fail(
                    self,
                    f"x is a tuple of {len(given)}; it must be an array, (x, mask) or "
                    "(x, mask, initial), where the mask of the last may be None",
                )
            x, mask, initial = (*given, None) if len(given) == 2 else given
        check_floating(self, x)
        if x.ndim != 3 or x.shape[-1] == 0:
            fail(self, f"x is {shape_of(x)}; it must be (n, t, in), t steps of n sequences")
        if mask is not None or (isinstance(given, tuple) and len(given) == 2):
            what = shape_of(mask) if hasattr(mask, "dtype") else f"a {type(mask).__name__}"
            if what != f"bool {tuple(x.shape[:2])}":
                fail(
                    self,
                    f"mask is {what}; it must be booleans {tuple(x.shape[:2])}, True where a step "
                    "is real",
                )
        if isinstance(given, tuple) and len(given) == 3:
            like = (jax.ShapeDtypeStruct((x.shape[0], self.features), x.dtype),) * len(
                self.remembered
            )
            problem = "it is None; leave it out, (x, mask)"
            if initial is not None:
                problem = unlike(initial, self._one_or_pair(like))
            if problem:
                fail(
                    self,
                    f"initial is not {' and '.join(self.remembered)}, each {shape_of(like[0])}: "
                    f"{problem}",
                )
            initial = tuple(jax.tree.leaves(initial))
        return x, mask, initial


@dataclass(frozen=True)
class RNN(Recurrent):
    """The plain recurrent layer: what is remembered is what came out last.

        forward    h_t = tanh(x_t w + h_t-1 u + b),   y_t = h_t
        backward   dz_t = (dy_t + dh_t) (1 - h_t^2),   dh_t-1 = dz_t u^T,   dx_t = dz_t w^T
                   dw = sum x_t^T dz_t,   du = sum h_t-1^T dz_t,   db = sum dz_t

    h_0 = 0, or what is given. Where a mask says that a step is not real, h stays as it was and y is
    0: sequences of several lengths are padded at either end, and what the padding holds is never
    looked at. `reverse` goes from the last step to the first. With `final` the output is a pair,
    y and the h that is left in the end, which another call may begin with.

    Shapes: x (n, t, in), or a pair with a mask (n, t) of booleans, or a triple with h (n,
    features) too, whose mask may be None; y (n, t, features), w (in, features), u (features,
    features), b (features,). dx as x, None for the mask.
    Cache: x, the mask, what was given to begin with, and h of every step.
    Low precision: sums in float32, and h is carried and kept in it; what is multiplied is rounded.
    Source: Elman 1990, "Finding structure in time".

    Raises LayerError, a ValueError, where features is not a positive integer, x is not (n, t, in),
    floating point and of the dtype of the parameters, the mask is not (n, t) of booleans, what is
    given to begin with is not like what is remembered, or dy is not like the output.

    >>> layer, x = RNN(3), jnp.ones((2, 5, 4))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> y, cache = layer.forward(params, x, None)
    >>> y.shape, layer.backward(params, cache, y)[1].shape
    ((2, 5, 3), (2, 5, 4))
    """

    def step(self, z: jax.Array, a: jax.Array, old: Hidden, params: Params) -> tuple[Hidden, Tree]:
        del old, params
        return (jnp.tanh(z + a),), None

    def back(
        self, d: Hidden, old: Hidden, new: Hidden, kept: Tree
    ) -> tuple[jax.Array, jax.Array, Hidden]:
        del old, kept
        dz = d[0] * (1 - new[0] ** 2)
        return dz, dz, (jnp.zeros_like(dz),)


@dataclass(frozen=True)
class GRU(Recurrent):
    """The gated recurrent unit: how much of what is remembered is used, and how much is replaced.

        forward    r, s = sigmoid(z + a) of the first two parts,   z = x_t w + b,   a = h_t-1 u
                   m = tanh(z_3 + r (a_3 + c)),   h_t = (1 - s) m + s h_t-1,   y_t = h_t
        backward   dm = dh (1 - s) (1 - m^2),   dr = dm (a_3 + c) r (1 - r)
                   ds = dh (h_t-1 - m) s (1 - s),   dz = [dr, ds, dm],   da = [dr, ds, dm r]
                   dh_t-1 = dh s + da u^T,   dx_t = dz w^T,   with dh the sum of what returns
                   dw = sum x_t^T dz,   du = sum h_t-1^T da,   db = sum dz,   dc = sum dm r

    The parts of w, u and b are those of r, s and m, in this order. r is applied after the product
    with u, as in cuDNN and PyTorch, whose weights fit: w and u are the transposes of weight_ih and
    weight_hh, b is bias_ih + bias_hh but for the last part of bias_hh, which is c.

    Shapes and arguments: those of `RNN`, with w (in, 3 features), u (features, 3 features), b
    (3 features,), c (features,).
    Cache: as RNN's, and r, s, m and a_3 + c of every step.
    Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".

    Raises LayerError, a ValueError, as RNN does.

    >>> layer, x = GRU(3), jnp.ones((2, 5, 4))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'b': (9,), 'c': (3,), 'u': (3, 9), 'w': (4, 9)}
    """

    gates = 3

    def step(self, z: jax.Array, a: jax.Array, old: Hidden, params: Params) -> tuple[Hidden, Tree]:
        (zr, zs, zm), (ar, as_, am) = (jnp.split(v, 3, axis=-1) for v in (z, a))
        r, s = jax.nn.sigmoid(zr + ar), jax.nn.sigmoid(zs + as_)
        q = am + params["c"].astype(am.dtype)
        m = jnp.tanh(zm + r * q)
        return ((1 - s) * m + s * old[0],), (r, s, m, q)

    def back(
        self, d: Hidden, old: Hidden, new: Hidden, kept: Tree
    ) -> tuple[jax.Array, jax.Array, Hidden]:
        del new
        r, s, m, q = kept
        dm = d[0] * (1 - s) * (1 - m**2)
        dr, ds = dm * q * r * (1 - r), d[0] * (old[0] - m) * s * (1 - s)
        dz, da = (jnp.concatenate([dr, ds, last], axis=-1) for last in (dm, dm * r))
        return dz, da, (d[0] * s,)

    def _biases(self, dz: jax.Array, da: jax.Array) -> dict[str, Affine]:
        return {"b": Affine(None, dz), "c": Affine(None, da[..., 2 * self.features :])}

    def _shapes(self, x: Any) -> dict[str, tuple[int, ...]]:
        return super()._shapes(x) | {"c": (self.features,)}


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory: a sum that gates write to, keep and read.

        forward    i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of the parts of x_t w + h_t-1 u + b
                   c_t = f c_t-1 + i g,   h_t = o tanh(c_t),   y_t = h_t
        backward   dc = dc_t + dh o (1 - tanh(c_t)^2),   do = dh tanh(c_t) o (1 - o)
                   di = dc g i (1 - i),   df = dc c_t-1 f (1 - f),   dg = dc i (1 - g^2)
                   dc_t-1 = dc f,   dz = [di, df, dg, do],   dh_t-1 = dz u^T,   dx_t = dz w^T
                   dw = sum x_t^T dz,   du = sum h_t-1^T dz,   db = sum dz

    The parts of w, u and b are those of i, f, g and o, in this order, which is PyTorch's: w and u
    are the transposes of weight_ih and weight_hh, b is bias_ih + bias_hh. What is remembered is a
    pair (h, c). The bias of f begins at 1, so that at first all is kept.

    Shapes and arguments: those of `RNN`, with w (in, 4 features), u (features, 4 features), b
    (4 features,), and (h, c) for h where one begins with it or it is left in the end.
    Cache: as RNN's, c of every step, and i, f, g, o.
    Source: Hochreiter & Schmidhuber 1997, "Long short-term memory"; f from Gers et al. 2000, its
    bias from Jozefowicz et al. 2015.

    Raises LayerError, a ValueError, as RNN does.

    >>> layer, x = LSTM(3, final=True), jnp.ones((2, 5, 4))
    >>> params, _ = layer.init(jax.random.key(0), x)
    >>> (y, (h, c)), cache = layer.forward(params, x, None)
    >>> y.shape, bool((y[:, -1] == h).all()), params["b"].tolist()[3:6]
    ((2, 5, 3), True, [1.0, 1.0, 1.0])
    """

    gates = 4
    remembered = ("h", "c")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        params, state = super().init(key, x)
        f = slice(self.features, 2 * self.features)
        return params | {"b": params["b"].at[f].set(1)}, state

    def step(self, z: jax.Array, a: jax.Array, old: Hidden, params: Params) -> tuple[Hidden, Tree]:
        del params
        i, f, g, o = jnp.split(z + a, 4, axis=-1)
        i, f, o, g = *map(jax.nn.sigmoid, (i, f, o)), jnp.tanh(g)
        c = f * old[1] + i * g
        return (o * jnp.tanh(c), c), (i, f, g, o)

    def back(
        self, d: Hidden, old: Hidden, new: Hidden, kept: Tree
    ) -> tuple[jax.Array, jax.Array, Hidden]:
        (dh, dc), (i, f, g, o), tanh_c = d, kept, jnp.tanh(new[1])
        dc = dc + dh * o * (1 - tanh_c**2)
        parts = (
            dc * g * i * (1 - i),
            dc * old[1] * f * (1 - f),
            dc * i * (1 - g**2),
            dh * tanh_c * o * (1 - o),
        )
        dz = jnp.concatenate(parts, axis=-1)
        return dz, dz, (jnp.zeros_like(dh), dc * f)


def _chosen(real: jax.Array | None, new: Tree, old: Tree) -> Tree:
    """`new` for sequences of which this step is real, else `old`."""
    if real is None:
        return new
    return jax.tree.map(lambda a, b: jnp.where(real[:, None], a, b), new, old)


def _by_time(tree: Tree) -> Tree:
    """(n, t, ...) as (t, n, ...), and back."""
    return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), tree)
