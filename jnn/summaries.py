"""A network as a table: shapes, parameters, work and memory, leaf by leaf."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jnn.compose.mapped import Mapped
from jnn.compose.remat import Remat
from jnn.compose.repeat import Repeat
from jnn.layer import Cache, Eval, Layer, Mode, Params, below
from jnn.tables import table

WIDEST = 28  # characters of a layer in the printed table


class Row(NamedTuple):
    """One leaf layer in a `summary`; numbers are of all its uses in a `Repeat` or a `Mapped`."""

    path: str
    layer: Layer
    shape: tuple[Any, ...]  # of the output for one example, or of each where there are several
    parameters: int  # not counting those that an earlier layer has already
    flops: int  # of the forward pass of one example: 2 for each multiply and add in products
    cache_bytes: int  # for one example, not counting arrays that an earlier layer keeps already
    uses: int = 1  # its copies in `Repeat`, times the slices of `Mapped`


class Summary(tuple[Row, ...]):
    """The rows of a `summary`; as a string, a table with totals."""

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "FLOPs", "cache bytes")
        rows = [
            (
                row.path + f" x {row.uses}" * (row.uses > 1),
                _cut(repr(row.layer)),
                _shown(row.shape),
                *(f"{number:,}" for number in row[3:6]),
            )
            for row in self
        ]
        names = ("parameters", "flops", "cache_bytes")
        totals = [f"{sum(getattr(row, name) for row in self):,}" for name in names]
        return table(head, rows, ("total", "of one example", "", *totals), left=2)


def cache_bytes(net: Layer, x: Any) -> int:
    """What the network keeps from the forward pass for the backward pass of a batch like x.

    Where both are one program XLA may keep more, what the backward pass would compute again, unless
    the network is `Lean`; or less. The numbers are those of `summary`, layer by layer.

    >>> import jax.numpy as jnp, jnn
    >>> cache_bytes(jnn.Serial(jnn.Dense(16), jnn.ReLU(), jnn.Dense(3)), jnp.ones((10, 4)))
    800
    """
    rows = summary(net, x)
    return len(jax.tree.leaves(x)[0]) * sum(row.cache_bytes for row in rows)


def summary(net: Layer, x: Any) -> Summary:
    """The leaves of a network as they meet one example of a batch like x.

    Nothing is computed: shapes are traced. FLOPs are those of matrix products and convolutions in
    the forward pass, 2 for each multiply and add; the backward pass takes about twice as many. The
    cache is what the backward pass needs. Both are of one example. Where two layers keep the same
    array, as a ReLU its output and the Dense after it its input, it is counted once, with the
    first; and so are parameters in several places. Leaves within `Repeat` have the numbers of all
    copies; those within `Mapped` of all slices, which share their parameters. Those within `Remat`
    keep nothing, and its input, which is kept, has a row of its own.

    `x` may be a tree of arrays, or of jax.ShapeDtypeStruct. Raises ValueError where it is neither.

    >>> import jax.numpy as jnp, jnn
    >>> print(summary(jnn.Serial(jnn.Dense(16), jnn.ReLU(), jnn.Dense(3)), jnp.ones((1, 4))))
    layer   kind            output  parameters  FLOPs  cache bytes
    --------------------------------------------------------------
    dense1  Dense(16)           16          80    128           16
    relu1   ReLU()              16           0      0           64
    dense2  Dense(3)             3          51     96            0
    --------------------------------------------------------------
    total   of one example                 131    224           80
    """
    for v in jax.tree.leaves(x):
        if not hasattr(v, "shape") or not hasattr(v, "dtype"):
            raise ValueError(
                f"summary: x is a {type(x).__name__} that holds a {type(v).__name__}; give "
                "examples (n, ...), or their shapes as a jax.ShapeDtypeStruct"
            )
    rows: dict[str, Row] = {}
    seen: list[Any] = []  # the arrays themselves: an id may be used again once they are gone

    def new(tree: Any) -> list[Any]:
        found = [leaf for leaf in jax.tree.leaves(tree) if not any(leaf is s for s in seen)]
        seen.extend(found)
        return found

    def record(
        place: _Place, layer: Layer, flops: int, params: Params, y: Any, cache: Cache
    ) -> None:
        shapes = tuple(leaf.shape[1:] for leaf in jax.tree.leaves(y))
        size = sum(leaf.size for leaf in new(params))
        kept = sum(leaf.nbytes for leaf in new(cache)) if place.kept else 0
        shape = shapes[0] if len(shapes) == 1 else shapes
        # By path, for JAX may trace the body of a loop more than once.
        path, uses = ".".join(place.path) or "net", place.copies * place.slices
        rows[path] = Row(path, layer, shape, place.copies * size, uses * flops, uses * kept, uses)

    example = jax.tree.map(lambda v: jax.ShapeDtypeStruct((1, *v.shape[1:]), v.dtype), x)

    def trace(key: jax.Array, x: Any) -> Any:
        params, state = net.init(key, x)
        return _recording(net, _Place(), record).forward(params, x, Eval(state))[0]

    jax.eval_shape(trace, jax.eval_shape(jax.random.key, 0), example)
    return Summary(rows.values())


class _Place(NamedTuple):
    """Where a layer is, and how often."""

    path: tuple[str, ...] = ()
    copies: int = 1
    slices: int = 1
    kept: bool = True  # what its leaves cache


@dataclass(frozen=True)
class _Recorder(Layer):
    """A leaf that tells what passes through it."""

    place: _Place
    layer: Layer
    record: Callable[..., None]

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        y, cache = self.layer.forward(params, x, mode)
        flops = _flops(jax.make_jaxpr(self.layer.forward)(params, x, mode).jaxpr)
        self.record(self.place, self.layer, flops, params, y, cache)
        return y, cache


@dataclass(frozen=True)
class _Slicer(Layer):
    """A `Mapped` whose leaves are replaced once it is seen how many slices there are."""

    place: _Place
    layer: Mapped
    record: Callable[..., None]

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        slices = self.place.slices * jax.tree.leaves(x)[0].shape[self.layer.axis]
        within = _within(self.layer, self.place._replace(slices=slices), self.record)
        return within.forward(params, x, mode)


@dataclass(frozen=True)
class _Rematerialized(Layer):
    """A `Remat` that tells its input as what it keeps."""

    place: _Place
    layer: Remat
    record: Callable[..., None]

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        within = _recording(self.layer.layer, self.place._replace(kept=False), self.record)
        y, _ = within.forward(params, x, mode)
        here = self.place._replace(path=below(self.place.path, "remat"))
        self.record(here, self.layer, 0, {}, y, x)
        return y, {}


def _recording(layer: Layer, place: _Place, record: Callable[..., None]) -> Layer:
    """The network with every leaf replaced by one that calls `record`."""
    if not layer.children:
        return _Recorder(place, layer, record)
    if isinstance(layer, Mapped):
        return _Slicer(place, layer, record)
    if isinstance(layer, Remat):
        return _Rematerialized(place, layer, record)
    copies = place.copies * (layer.n if isinstance(layer, Repeat) else 1)
    return _within(layer, place._replace(copies=copies), record)


def _within(layer: Layer, place: _Place, record: Callable[..., None]) -> Layer:
    return layer.map(
        lambda name, child: _recording(child, place._replace(path=below(place.path, name)), record)
    )


def _flops(jaxpr: Any) -> int:
    """Of the products in a program, those of a loop as often as it runs."""
    found = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (summed, _), _ = eqn.params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            found += 2 * eqn.outvars[0].aval.size * math.prod(lhs[axis] for axis in summed)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, out = eqn.invars[1].aval, eqn.params["dimension_numbers"].rhs_spec[0]
            each = kernel.size // kernel.shape[out]
            # Of zeros that are put between the numbers of x nothing is computed.
            spread = math.prod(eqn.params["lhs_dilation"])
            found += 2 * eqn.outvars[0].aval.size * each // spread
        inner = [v for v in jax.tree.leaves(eqn.params, is_leaf=_is_program) if _is_program(v)]
        counts = [_flops(getattr(v, "jaxpr", v)) for v in inner]
        if eqn.primitive.name == "cond":
            found += max(counts)
        else:
            found += sum(counts) * eqn.params.get("length", 1)
    return found


def _is_program(v: Any) -> bool:
    return hasattr(v, "eqns") or hasattr(getattr(v, "jaxpr", None), "eqns")


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def _shown(shape: Any) -> str:
    """2x3 for one shape, (2x3, 4) for several."""
    if any(isinstance(part, tuple) for part in shape):
        return f"({', '.join(map(_shown, shape))})"
    return "x".join(map(str, shape))
