"""The end of a language model, where scores are many and needed only for their cross-entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jnn.factors import Factor, Outer
from jnn.initializers import Initializer
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
from jnn.layers.checking import check_dtype, check_initializer, check_params, check_whole
from jnn.layers.embedding import SMALL
from jnn.precision import accumulator, matmul, wide_matmul, widened


@dataclass(frozen=True)
class CrossEntropyHead(Layer):
    """`Unembed` and softmax cross-entropy in one, which hold the scores of a chunk at a time.

        forward    s = x w^T,   L = log sum_v exp(s_v) - s_y
        backward   ds = (softmax(s) - onehot(y)) dL,   dx = ds w,   dw = ds^T x

    The scores of every position and word, (n, t, vocabulary), are what the memory of a language
    model mostly goes to. Here there are those of `chunk` positions, and the backward pass computes
    them again: it costs one product more of the three. Train with the loss `jnn.losses.Cost()`,
    which takes what the network returns for the cost; `Shared` ties w to an `Embedding`'s.

    Shapes: x a pair of h (n, ..., features) and labels y (n, ...) of integers; L (n, ...) like y;
    w (vocabulary, features). A label that is no word makes L NaN, but `ignore`, which makes it 0.
    Cache: h, y, and the logarithm of the sum.
    Source: Wijmans et al. 2024, "Cut your losses in large-vocabulary language models".

    Raises LayerError, a ValueError, where vocabulary or chunk is no positive integer, x is no such
    pair, or dy is not like L.

    In a network the labels are an input, that goes by the side of all else; and one with `Unembed`
    in its place, whose parameters have the same names, gives scores:

        net = Serial(("both", Parallel(("body", body), ("labels", Identity()))),
                     ("head", CrossEntropyHead(5)))
        jnn.fit(net, jnn.losses.Cost(), optimizer, ((tokens, following), following), ...)
        scoring = Serial(("both", Parallel(("body", body), ("labels", Identity()))),
                         ("first", Item(0)), ("head", Unembed(5)))

    >>> head, h, labels = CrossEntropyHead(5), jnp.ones((2, 3, 4)), jnp.zeros((2, 3), int)
    >>> params, _ = head.init(jax.random.key(0), (h, labels))
    >>> costs, cache = head.forward(params, (h, labels), None)
    >>> grads, (dh, nothing) = head.backward(params, cache, jnp.ones_like(costs))
    >>> costs.shape, grads["w"].shape, dh.shape, nothing
    ((2, 3), (5, 4), (2, 3, 4), None)
    """

    vocabulary: int
    chunk: int = 1024
    ignore: int | None = None
    weight: Initializer = SMALL

    def __post_init__(self) -> None:
        check_whole(self, "vocabulary")
        check_whole(self, "chunk")
        check_initializer(self, "weight")
        if self.ignore is not None and type(self.ignore) is not int:
            fail(self, f"ignore is {self.ignore!r}; it must be a label, such as -1, or None")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        h, _ = self._pair(x)
        check_floating(self, h)
        return {"w": self.weight(key, (self.vocabulary, h.shape[-1]), h.dtype)}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[jax.Array, dict[str, jax.Array]]:
        del mode
        h, labels = self._pair(x)
        h, labels = floating(self, h), jnp.asarray(labels)
        # In a signed type that holds every word and -1.
        labels = labels.astype(jnp.int64 if labels.dtype.itemsize == 8 else jnp.int32)
        check_params(self, params, {"w": (self.vocabulary, h.shape[-1])})
        check_dtype(self, h, params)

        def some(h: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
            scores = wide_matmul(h, params["w"].T)
            total = jax.nn.logsumexp(scores, axis=-1)
            aim = jnp.take_along_axis(scores, labels[:, None], axis=1, mode="clip")[:, 0]
            word = (labels >= 0) & (labels < self.vocabulary)
            return jnp.where(self._counts(labels), jnp.where(word, total - aim, jnp.nan), 0), total

        costs, total = self._over_chunks(some, h.reshape(-1, h.shape[-1]), labels.reshape(-1))
        y = costs.reshape(labels.shape).astype(h.dtype)
        return y, {"h": h, "labels": labels, "total": total.reshape(labels.shape)}

    def backward(
        self, params: Params, cache: dict[str, jax.Array], dy: jax.Array
    ) -> tuple[Params, Any]:
        # Not left to `factors` and `pull`, which hold all of ds.
        h, w = cache["h"], params["w"]
        self._check_dy(cache, dy)
        m = cache["labels"].size
        alone = (v.reshape(m, 1) for v in (cache["labels"], cache["total"], jnp.asarray(dy)))
        rows = [h.reshape(m, h.shape[-1]), *alone]
        zero = jnp.zeros(w.shape, accumulator(w.dtype))

        def add(dw: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
            h, labels, total, dy = part
            ds = self._slopes(w, h, labels[:, 0], total[:, 0], dy[:, 0])
            return dw + wide_matmul(ds.T, h), matmul(ds, w)

        whole, parts, rest = self._chunks(rows)
        dw, dx = jax.lax.scan(add, zero, parts)
        dw, rest = add(dw, rest)
        dx = jnp.concatenate([dx.reshape(whole, h.shape[-1]), rest]).reshape(h.shape)
        return {"w": dw.astype(w.dtype)}, (dx, None)

    def pull(self, params: Params, cache: dict[str, jax.Array], dy: jax.Array) -> Any:
        return self.backward(params, cache, dy)[1]

    def factors(
        self, params: Params, cache: dict[str, jax.Array], dy: jax.Array
    ) -> dict[str, Factor]:
        h, labels, total = (cache[name] for name in ("h", "labels", "total"))
        return {"w": Outer(self._slopes(params["w"], h, labels, total, jnp.asarray(dy)), h)}

    def _slopes(
        self, w: jax.Array, h: jax.Array, labels: jax.Array, total: jax.Array, dy: jax.Array
    ) -> jax.Array:
        """The cotangents of the scores."""
        chance = jnp.exp(wide_matmul(h, w.T) - total[..., None])
        right = labels[..., None] == jnp.arange(self.vocabulary, dtype=labels.dtype)
        dy = jnp.where(self._counts(labels), widened(dy), 0)[..., None]
        return (jnp.where(right, chance - 1, chance) * dy).astype(h.dtype)

    def _counts(self, labels: jax.Array) -> jax.Array:
        return jnp.ones(labels.shape, bool) if self.ignore is None else labels != self.ignore

    def _over_chunks(self, f: Any, *rows: jax.Array) -> Any:
        """f of all rows, a chunk at a time."""
        whole, parts, rest = self._chunks(rows)
        most = jax.lax.map(lambda part: f(*part), parts)
        return jax.tree.map(lambda a, b: jnp.concatenate([a.reshape(whole), b]), most, f(*rest))

    def _chunks(self, rows: Sequence[jax.Array]) -> tuple[int, list[jax.Array], list[jax.Array]]:
        """How many rows lie in whole chunks, these, and what is left over."""
        whole = len(rows[0]) // self.chunk * self.chunk
        parts = [v[:whole].reshape(-1, self.chunk, *v.shape[1:]) for v in rows]
        return whole, parts, [v[whole:] for v in rows]

    def _pair(self, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, tuple) or len(x) != 2:
            fail(self, f"x is a {type(x).__name__}; it must be a pair of h (n, ..., c) and labels")
        h, labels = x
        if not hasattr(labels, "dtype") or not jnp.issubdtype(labels.dtype, jnp.integer):
            fail(self, f"the labels are {shape_of(labels)}; they must be integers")
        if h.shape[:-1] != labels.shape or not labels.shape:
            fail(
                self,
                f"h is {shape_of(h)} and the labels {shape_of(labels)}; they must be "
                "(n, ..., features) and (n, ...)",
            )
        return h, labels

    def _check_dy(self, cache: dict[str, jax.Array], dy: Any) -> None:
        like = jax.ShapeDtypeStruct(cache["labels"].shape, cache["h"].dtype)
        check_cotangent(self, dy, like)
