"""Taps: what passes through every leaf of a network, forward and backward, without changing it.

A tap is a parameter whose "gradient" is what was seen. Every leaf is wrapped in a layer that has
one parameter more, of zeros, and whose backward returns for it whatever `read` makes of the leaf's
output and cotangent. Combinators carry it as they carry any gradient, through scans too. Those that
use a layer in several places with the same parameters know it by its name for each place's own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import OWN, Cache, Eval, Layer, Mode, Params, State, Tree, below
from jnn.losses import Loss

BARE = "(bare)"  # where the parameters of a leaf are no dict; no layer can have such a name


class Seen(NamedTuple):
    """What a leaf has in its hands at the end of its backward pass."""

    layer: Layer
    cache: Cache
    y: Any
    dy: Any
    grads: Params
    params: Params


Read = Callable[[Seen], Tree]


def tapped(
    net: Layer, loss: Loss, read: Read
) -> Callable[[Params, Any, Any, Mode], dict[str, Tree]]:
    """What `read` makes of every leaf in one forward and backward pass: a dict by dotted path.

    Returns f(params, x, y, mode). `read` takes a `Seen` and returns arrays, whose number and names
    may depend on the layer; a leaf of which it takes none is left out. It must be hashable, as
    functions of a module are. Of a leaf within `Repeat`, what is taken is stacked over the depth,
    within `Mapped` over the slices.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(3))
    >>> x, y = jnp.ones((2, 5)), jnp.array([0, 2])
    >>> params, state = net.init(jax.random.key(0), x)
    >>> size = tapped(net, jnn.SoftmaxCrossEntropy(), lambda seen: jnp.square(seen.dy).sum())
    >>> sorted(size(params, x, y, jnn.Eval(state)))
    ['dense1', 'dense2', 'tanh1']
    """
    wrapped = _wrap(net, read)

    def readings(params: Params, x: Any, y: Any, mode: Mode) -> dict[str, Tree]:
        fresh, _ = jax.eval_shape(wrapped.init, jax.eval_shape(jax.random.key, 0), x)
        inner = {_names(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}

        def fill(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> Any:
            names = _names(path)
            if OWN in names:
                return jnp.zeros(like.shape, like.dtype)
            return inner[tuple(name for name in names if name != BARE)]

        params = jax.tree.map_with_path(fill, fresh)
        prediction, cache = wrapped.forward(params, x, mode)
        value, kept = loss.forward(prediction, y)
        grads, _ = wrapped.backward(params, cache, loss.backward(kept, jnp.ones_like(value)))
        # In the order of the network.
        return {path: found for path, found in _collect(wrapped, grads) if jax.tree.leaves(found)}

    return readings


@dataclass(frozen=True)
class _Tap(Layer):
    """A leaf with one parameter more."""

    layer: Layer
    read: Read

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        params, state = self.layer.init(key, x)

        def seen(params: Params, state: State, x: Any) -> Tree:
            y, cache = self.layer.forward(params, x, Eval(state))
            return self.read(Seen(self.layer, cache, y, y, params, params))

        tap = jax.eval_shape(seen, params, state, x)
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), tap)
        return _with(params, zeros), state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        y, cache = self.layer.forward(_without(params), x, mode)
        return y, (cache, y)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        kept, y = cache
        params = _without(params)
        grads, dx = self.layer.backward(params, kept, dy)
        return _with(grads, self.read(Seen(self.layer, kept, y, dy, grads, params))), dx

    def observe(self, state: State, cache: Cache) -> State:
        return self.layer.observe(state, cache[0])

    def observed(self, cache: Cache) -> Cache:
        return self.layer.observed(cache[0]), None


def _with(params: Params, tap: Tree) -> Params:
    return {**params, OWN: tap} if isinstance(params, dict) else {BARE: params, OWN: tap}


def _without(params: Params) -> Params:
    return params[BARE] if BARE in params else {k: p for k, p in params.items() if k != OWN}


def _wrap(layer: Layer, read: Read) -> Layer:
    if not layer.children:
        return _Tap(layer, read)
    return layer.map(lambda _, child: _wrap(child, read))


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _collect(layer: Layer, grads: Params, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tree]]:
    if not layer.children:
        yield ".".join(path), grads.get(OWN, {})
    for name, child in layer.children:
        yield from _collect(child, grads.get(name, {}) if name else grads, below(path, name))
