"""Layers that standardise what passes through them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.factors import Affine, Factor
from jnn.layer import (
    Eval,
    Layer,
    Mode,
    Params,
    State,
    Train,
    check_cotangent,
    check_floating,
    fail,
    floating,
    form_of,
    known,
    shape_of,
)
from jnn.layers.checking import check_positive
from jnn.precision import accumulator


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Gives every channel mean 0 and variance 1 over the batch, then a learnt scale and shift.

        forward    xhat = (x - mean) rstd,   rstd = 1 / sqrt(var + eps),   y = scale xhat + shift
        backward   dscale = sum dy xhat,   dshift = sum dy
          in training    dx = scale rstd (dy - mean(dy) - xhat mean(dy xhat))
          in evaluation  dx = scale rstd dy       (sums and means over all axes but the last)

    Train takes mean and var over the batch: all axes but the last, for features (n, c) as for the
    channels of images (n, h, w, c). Eval takes the running ones, which are data: nothing is handed
    back for them.

    `observe` moves the running moments towards those of the batch: by 1 / steps at first, so that
    they are plain averages from the first step on, and never by less than 1 - momentum (PyTorch
    calls that its momentum). A batch is standardised by its biased variance, but the running one is
    unbiased, n / (n - 1) larger, as in the paper: it stands for the variance of data that are not
    in the batch, of which the average of biased ones falls short, by half at n = 2.

    In training the examples of a batch are coupled: dx of each depends on all, and a term of
    `factors` is not the gradient of one example alone.

    Shapes: x, y (n, ..., c), scale, shift (c,); state mean, var (c,) in float32 at least, steps ().
    Cache: x, and for each channel the origin and the mean from there, rstd and var; whether it was
    training. The origin is a row of x, so that offsets that dwarf the spread cost no digits.
    Source: Ioffe & Szegedy 2015, "Batch normalization: accelerating deep network training by
    reducing internal covariate shift".

    Raises LayerError, a ValueError, where momentum is not in [0, 1) or eps not positive; x is not
    (n, ..., c), not floating point or not of the dtype of scale; one value a channel is to be
    trained on; evaluation is given no running moments; or dy is not like y.

    >>> layer, x = BatchNorm(), jnp.array([[1.0, 30.0], [3.0, 10.0]])
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> y, cache = layer.forward(params, x, Train(jax.random.key(1)))
    >>> y.round(3).tolist()
    [[-1.0, 1.0], [1.0, -1.0]]
    >>> state = layer.observe(state, cache)
    >>> state["mean"].tolist(), state["var"].tolist()
    ([2.0, 20.0], [2.0, 200.0])
    """

    momentum: float = 0.9
    eps: float = 1e-5

    def __post_init__(self) -> None:
        number = isinstance(self.momentum, Real) and not isinstance(self.momentum, bool)
        if not number or not 0 <= self.momentum < 1:
            fail(self, f"momentum is {self.momentum!r}; it must be a number in [0, 1)")
        object.__setattr__(self, "momentum", float(self.momentum))
        check_positive(self, "eps")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        del key
        check_floating(self, x)
        self._check_axes(x)
        c, wide = x.shape[-1:], accumulator(x.dtype)
        params = {"scale": jnp.ones(c, x.dtype), "shift": jnp.zeros(c, x.dtype)}
        steps = jnp.zeros((), jnp.int32)
        return params, {"mean": jnp.zeros(c, wide), "var": jnp.ones(c, wide), "steps": steps}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = floating(self, x)
        self._check(params, x)
        training, wide = isinstance(mode, Train), accumulator(x.dtype)
        if training:
            origin, mean, var, unbiased = self._moments(x)
        else:
            state = self._running(mode, x)
            origin, var = (state[name].astype(wide) for name in ("mean", "var"))
            mean, unbiased = jnp.zeros_like(origin), var
        cache = {
            "x": x,
            "origin": origin,
            "mean": mean,
            "rstd": jax.lax.rsqrt(var + self.eps),
            "var": unbiased,
            "training": known(training),
        }
        scale, shift = (params[name].astype(wide) for name in ("scale", "shift"))
        return (scale * _standardised(cache) + shift).astype(x.dtype), cache

    def backward(
        self, params: Params, cache: dict[str, jax.Array], dy: jax.Array
    ) -> tuple[Params, jax.Array]:
        # Not left to `factors` and `pull`: dx in training is made of the same two sums.
        check_cotangent(self, dy, cache["x"])
        dtype, wide = dy.dtype, accumulator(dy.dtype)
        xhat, dy = _standardised(cache), jnp.asarray(dy).astype(wide)
        axes = tuple(range(dy.ndim - 1))
        dscale, dshift = (dy * xhat).sum(axes), dy.sum(axes)
        n = math.prod(dy.shape[:-1])
        centred = dy - (dshift + xhat * dscale) / max(n, 1)
        slope = params["scale"].astype(wide) * cache["rstd"]
        dx = slope * jnp.where(cache["training"], centred, dy)
        grads = {"scale": dscale.astype(dtype), "shift": dshift.astype(dtype)}
        return grads, dx.astype(dtype)

    def pull(self, params: Params, cache: dict[str, jax.Array], dy: jax.Array) -> jax.Array:
        return self.backward(params, cache, dy)[1]

    def factors(
        self, params: Params, cache: dict[str, jax.Array], dy: jax.Array
    ) -> dict[str, Factor]:
        del params
        xhat = _standardised(cache).astype(dy.dtype)
        return {"scale": Affine(xhat, dy), "shift": Affine(None, dy)}

    def apart(self, cache: dict[str, jax.Array]) -> bool:
        training = cache["training"]
        return not isinstance(training, Tracer) and not np.asarray(training).any()

    def observe(self, state: State, cache: dict[str, jax.Array]) -> State:
        """The state one training step on; unchanged by an evaluation."""
        steps, training = state["steps"], cache["training"]
        weight = jnp.maximum(1 - self.momentum, 1 / (steps.astype(state["mean"].dtype) + 1))
        weight = jnp.where(training, weight, 0)

        def towards(old: jax.Array, batch: jax.Array) -> jax.Array:
            return old + weight * (batch.astype(old.dtype) - old)

        last = jnp.iinfo(steps.dtype).max
        return {
            "mean": towards(state["mean"], cache["origin"] + cache["mean"]),
            "var": towards(state["var"], cache["var"]),
            "steps": jnp.where(training & (steps < last), steps + 1, steps),
        }

    def observed(self, cache: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: cache[name] for name in ("origin", "mean", "var", "training")}

    def _moments(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Origin, mean from there, biased and unbiased variance of every channel."""
        n = math.prod(x.shape[:-1])
        if n == 1:
            fail(
                self,
                f"x is {shape_of(x)}, one value a channel, whose variance is 0 whatever it is; "
                "train on batches of at least 2 examples, or evaluate with Eval(state)",
            )
        rows = x.reshape(n, x.shape[-1]).astype(accumulator(x.dtype))
        # The statistics do not depend on the origin, and so nothing flows back through it. A sum
        # over one row is that row, and 0 of a batch that has none.
        origin = jax.lax.stop_gradient(rows[:1].sum(axis=0))
        shifted = rows - origin
        mean = shifted.mean(axis=0)
        # A second pass: E[x^2] - E[x]^2 cancels where the first row is an outlier.
        squares = jnp.square(shifted - mean).sum(axis=0)
        return origin, mean, squares / max(n, 1), squares / max(n - 1, 1)

    def _running(self, mode: Mode, x: jax.Array) -> Mapping[str, jax.Array]:
        state, names = mode.state if isinstance(mode, Eval) else mode, {"mean", "var", "steps"}
        if not isinstance(state, Mapping) or set(state) != names:
            fail(
                self,
                f"the state of mode is {form_of(state)}; it must hold {sorted(names)}, as init and "
                "observe make it: give Eval(state), or Train(key, state) where it is frozen",
            )
        for name in ("mean", "var"):
            if state[name].shape != x.shape[-1:]:
                fail(
                    self,
                    f"x is {shape_of(x)} and the running {name} {shape_of(state[name])}; "
                    f"it must be {x.shape[-1:]}: give the state that init made for such inputs",
                )
        return state

    def _check_axes(self, x: Any) -> None:
        if x.ndim < 2 or x.shape[-1] == 0:
            fail(
                self, f"x is {shape_of(x)}; it must be (n, ..., c), with channels in its last axis"
            )

    def _check(self, params: Params, x: jax.Array) -> None:
        self._check_axes(x)
        names = {"scale", "shift"}
        if not isinstance(params, Mapping) or set(params) != names:
            fail(self, f"params is {form_of(params)}; it must hold {sorted(names)}, as init makes")
        for name in sorted(names):
            p = params[name]
            if p.shape != x.shape[-1:] or p.dtype != x.dtype:
                fail(
                    self,
                    f"x is {shape_of(x)} and {name} is {shape_of(p)}; it must have the dtype of x "
                    f"and shape {x.shape[-1:]}: give inputs like those that init was shown",
                )


def _standardised(cache: dict[str, jax.Array]) -> jax.Array:
    """xhat, in float32 at least."""
    x = cache["x"].astype(cache["rstd"].dtype)
    # In this order: origin + mean, rounded, would be off by as much as x is far from 0.
    return ((x - cache["origin"]) - cache["mean"]) * cache["rstd"]
