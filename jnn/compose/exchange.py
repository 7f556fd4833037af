"""A layer with another backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jnn.compose.base import check_layer_of
from jnn.layer import Cache, Layer, Mode, Params, State, Tree, fail

Backward = Callable[[Layer, Params, Cache, Any], tuple[Params, Any]]
Pull = Callable[[Layer, Params, Cache, Any], Any]


@dataclass(frozen=True)
class Exchanged(Layer):
    """The layer that `with_backward` makes."""

    layer: Layer
    rule: Backward | None = None
    pull_rule: Pull | None = None

    def __repr__(self) -> str:
        name = "pull=" if self.rule is None else ""
        f = self.pull_rule or self.rule
        return f"with_backward({self.layer!r}, {name}{getattr(f, '__name__', repr(f))})"

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        return self.layer.init(key, x)

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        return self.layer.forward(params, x, mode)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        if self.rule is not None:
            return self.rule(self.layer, params, cache, dy)
        grads, _ = self.layer.backward(params, cache, dy)
        return grads, self.pull(params, cache, dy)

    @property
    def states_factors(self) -> bool:
        return self.rule is None and self.layer.states_factors

    def apart(self, cache: Cache) -> bool:
        return self.layer.apart(cache)

    def factors(self, params: Params, cache: Cache, dy: Any) -> Tree:
        return self.layer.factored(params, cache, dy)[0]

    def pull(self, params: Params, cache: Cache, dy: Any) -> Any:
        if self.pull_rule is None:
            return self.backward(params, cache, dy)[1]
        return self.pull_rule(self.layer, params, cache, dy)

    def observe(self, state: State, cache: Cache) -> State:
        return self.layer.observe(state, cache)

    def observed(self, cache: Cache) -> Cache:
        return self.layer.observed(cache)


def with_backward(
    layer: Layer, backward: Backward | None = None, *, pull: Pull | None = None
) -> Layer:
    """A layer whose forward pass is as it was and whose backward pass is another.

    Either `backward(layer, params, cache, dy) -> (grads, dx)`, or `pull(layer, params, cache, dy)
    -> dx` alone, the gradients remaining the layer's. The rule is given the layer, whose own
    backward it may call, and the cache which that left. With `rewrite` it exchanges a rule
    throughout a network: guided backpropagation, straight-through estimators, gradient reversal.
    Layers are equal where their rules are the same functions; those of a module are.

    It is no longer the derivative, which `jnn.check_layer` will say.
    Raises LayerError, a ValueError, where not exactly one rule is given, and it is a function.

    >>> import jax.numpy as jnp, jnn
    >>> def guided(layer, params, cache, dy):
    ...     return layer.pull(params, cache, jnp.maximum(dy, 0))
    >>> relu = with_backward(jnn.ReLU(), pull=guided)
    >>> y, cache = relu.forward({}, jnp.array([1.0, 1.0, -1.0]), jnn.Eval())
    >>> relu.backward({}, cache, jnp.array([2.0, -2.0, 2.0]))[1].tolist()
    [2.0, 0.0, 0.0]
    """
    found = Exchanged(layer, backward, pull)
    check_layer_of(found, layer)
    if sum(callable(rule) for rule in (backward, pull)) != 1 or None not in (backward, pull):
        fail(found, "give one function: backward(layer, params, cache, dy), or pull=")
    return found
