"""One layer after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jnn.compose.base import Call, Composite
from jnn.layer import Layer


@dataclass(frozen=True, init=False)
class Serial(Composite):
    """One layer after another.

        forward    y = f_k(... f_2(f_1(x)))
        backward   each child's backward in reverse, dx of one being dy of the one before

    Arguments are layers, or (name, layer) pairs where a name matters. Other names are derived,
    `dense1`, `relu1`, `dense2`: the type in lower case and a count of that type. Params, state and
    cache are dicts by these names; a child without parameters (or state) adds nothing to them.

    Random keys are folded by name, not position, so that inserting an activation leaves the
    initial values and the dropout of every other layer as they were.

    Raises LayerError, a ValueError, where an argument is no layer, a name is taken twice or is no
    identifier, or params or state are not of this network; errors within a child carry its path.

    >>> import jax, jax.numpy as jnp, jnn
    >>> net = Serial(jnn.Dense(16), jnn.ReLU(), ("scores", jnn.Dense(3)))
    >>> net
    Serial(Dense(16), ReLU(), ('scores', Dense(3)))
    >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'dense1': {'b': (16,), 'w': (4, 16)}, 'scores': {'b': (3,), 'w': (16, 3)}}
    >>> y, cache = net.forward(params, jnp.ones((2, 4)), jnn.Eval(state))
    >>> grads, dx = net.backward(params, cache, jnp.ones_like(y))
    >>> dx.shape
    (2, 4)
    """

    def route(self, call: Call, x: Any) -> Any:
        for name, layer in self.layers:
            x = call(name, layer, x)
        return x

    def reverse(self, call: Call, dy: Any) -> Any:
        for name, layer in reversed(self.layers):
            dy = call(name, layer, dy)
        return dy


@dataclass(frozen=True, init=False)
class Named(Serial):
    """A layer under a name: one level more in params, state and every path.

        forward    y = f(x)
        backward   dx = df(dy)

    As an argument of Serial and its like it is the pair (name, layer), and adds no second name.

    Shapes: those of the layer. Params, state and cache are {name: the layer's own}, and {} where
    it has no params, or no state.

    Raises LayerError, a ValueError, where the name is no identifier or the layer is none.

    >>> import jax, jax.numpy as jnp, jnn
    >>> params, _ = Named("head", jnn.Dense(3)).init(jax.random.key(0), jnp.ones((1, 2)))
    >>> jax.tree.map(jnp.shape, params)
    {'head': {'b': (3,), 'w': (2, 3)}}
    """

    def __init__(self, name: str, layer: Layer):
        super().__init__((name, layer))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.pair)) if self.layers else ""  # there are none yet
        return f"Named({shown})"

    @property
    def pair(self) -> tuple[str, Layer]:
        """Its name and its layer."""
        return self.layers[0]

    def map(self, f: Callable[[str, Layer], Layer]) -> "Named":
        name, layer = self.pair
        return Named(name, f(name, layer))
