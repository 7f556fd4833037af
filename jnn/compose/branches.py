"""Layers side by side, on one input or on several."""

from dataclasses import dataclass
from typing import Any

import jax

from jnn.compose.base import Call, Composite, Entry, is_floating, total
from jnn.layer import Layer, fail, form_of, shape_of, unlike


@dataclass(frozen=True, init=False)
class Residual(Composite):
    """Adds to its input what layers one after another make of it.

        forward    y = f(x) + x,         with a projection y = f(x) + p(x)
        backward   dx = df(dy) + dy,     with a projection dx = df(dy) + dp(dy)

    Arguments and names are those of Serial; the projection is a layer too, named "projection". It
    is needed where f(x) is not of the shape of x: such as Dense, or a convolution of stride 2.

    Shapes: x, y of any shape, alike unless there is a projection; no state of its own.
    Cache: a dict of the children's, by name; the sum needs nothing.
    Source: He et al. 2016, "Deep residual learning for image recognition".

    Raises LayerError, a ValueError, as Serial does, and where f(x) is not like x, or not like p(x).

    >>> import jax.numpy as jnp, jnn
    >>> net = Residual(jnn.Dense(4), jnn.Tanh(), projection=jnn.Dense(4, bias=False))
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'dense1': {'b': (4,), 'w': (2, 4)}, 'projection': {'w': (2, 4)}}
    """

    projection: Layer | None = None

    def __init__(self, *layers: Entry, projection: Layer | None = None):
        super().__init__(*layers)
        self._extra("projection", projection)

    def route(self, call: Call, x: Any) -> Any:
        y, skip = x, x
        for name, layer in self.layers:
            y = call(name, layer, y)
        if self.projection is not None:
            skip = call("projection", self.projection, x)
        self._check_alike(y, skip)
        if any(isinstance(v, jax.ShapeDtypeStruct) for v in jax.tree.leaves(y)):
            return y
        return total(y, skip)

    def reverse(self, call: Call, dy: Any) -> Any:
        skip, dx = dy, dy
        if self.projection is not None:
            skip = call("projection", self.projection, dy)
        for name, layer in reversed(self.layers):
            dx = call(name, layer, dx)
        return total(dx, skip)

    def _check_alike(self, y: Any, skip: Any) -> None:
        problem = unlike(y, skip)
        if problem and self.projection is None:
            layer = "Dense(n)"
            if hasattr(y, "shape") and hasattr(skip, "shape"):
                problem = f"f(x) is {shape_of(y)} but x is {shape_of(skip)}"
                if y.shape[1:-1] != skip.shape[1:-1]:
                    layer = "Conv(n, 1, stride=2)"
            fail(
                self,
                f"{problem}; they must be alike to be added: give a projection that makes x like "
                f"f(x), such as Residual(..., projection={layer})",
            )
        if problem:
            fail(self, f"f(x) is not like the projection of x: {problem}; make one like the other")
        if not all(map(is_floating, jax.tree.leaves(y))):
            fail(self, "f(x) holds integers, which are not added to x; give a layer of floats")


@dataclass(frozen=True, init=False)
class Parallel(Composite):
    """Layers side by side, each on an input of its own.

        forward    y_i = f_i(x_i)
        backward   dx_i = df_i(dy_i)

    Arguments and names are those of Serial.

    Shapes: x, y, dy, dx tuples with an entry for each layer; dx_i is None where x_i holds integers.
    Cache: a dict of the children's, by name.

    Raises LayerError, a ValueError, as Serial does, and where x or dy is no such tuple.

    >>> import jax.numpy as jnp, jnn
    >>> net = Parallel(jnn.ReLU(), ("words", jnn.Dense(3)))
    >>> x = jnp.ones((2, 4)), jnp.ones((2, 5))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> y, cache = net.forward(params, x, jnn.Eval(state))
    >>> [v.shape for v in y], [v.shape for v in net.backward(params, cache, y)[1]]
    ([(2, 4), (2, 3)], [(2, 4), (2, 5)])
    """

    def route(self, call: Call, x: Any) -> Any:
        _check_tuple(self, "x", x)
        return tuple(call(name, layer, v) for (name, layer), v in zip(self.layers, x, strict=True))

    def reverse(self, call: Call, dy: Any) -> Any:
        _check_tuple(self, "dy", dy)
        return tuple(call(name, layer, v) for (name, layer), v in zip(self.layers, dy, strict=True))


@dataclass(frozen=True, init=False)
class Branch(Composite):
    """Layers side by side on one input.

        forward    y = join(f_1(x), ..., f_k(x))
        backward   dx = df_1(dz_1) + ... + df_k(dz_k),   (dz_1, ..., dz_k) = djoin(dy)

    Arguments and names are those of Serial; `join` is a layer of a tuple, named "join", that makes
    one output of several: by a sum, a product, a concatenation. Without one, y is the tuple.

    Shapes: x any, y that of the join, or a tuple with an entry for each layer. dx is None where x
    holds integers, and so is such an entry of it where x is a tuple.
    Cache: a dict of the children's, by name; the sum needs nothing.

    Raises LayerError, a ValueError, as Serial does, and where dy is not like y.

    >>> import jax.numpy as jnp, jnn
    >>> net = Branch(jnn.ReLU(), jnn.Dense(3))
    >>> x = jnp.ones((2, 4))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> y, cache = net.forward(params, x, jnn.Eval(state))
    >>> [v.shape for v in y], net.backward(params, cache, y)[1].shape
    ([(2, 4), (2, 3)], (2, 4))
    """

    join: Layer | None = None

    def __init__(self, *layers: Entry, join: Layer | None = None):
        super().__init__(*layers)
        if not layers:
            fail(self, "it has no layers; give at least one")
        self._extra("join", join)

    def route(self, call: Call, x: Any) -> Any:
        y = tuple(call(name, layer, x) for name, layer in self.layers)
        return y if self.join is None else call("join", self.join, y)

    def reverse(self, call: Call, dy: Any) -> Any:
        if self.join is not None:
            dy = call("join", self.join, dy)
        _check_tuple(self, "dy", dy)
        terms = [call(name, layer, v) for (name, layer), v in zip(self.layers, dy, strict=True)]
        return total(*terms)


def _check_tuple(net: Composite, name: str, v: Any) -> None:
    n = len(net.layers)
    if not isinstance(v, tuple) or len(v) != n:
        was = f"a tuple of {len(v)}" if isinstance(v, tuple) else form_of(v)
        fail(net, f"{name} is {was}; it must be a tuple with an entry for each of the {n} layers")
