"""Combinators: layers made of layers, whose backward calls their children's in reverse."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jnn.layer import (
    Cache,
    Eval,
    Layer,
    Mode,
    Params,
    State,
    Train,
    check_key,
    check_mode,
    fail,
    form_of,
    inside,
    pair_of,
)


@dataclass(frozen=True, init=False)
class Serial(Layer):
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

    >>> import jax.numpy as jnp, jnn
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

    layers: tuple[tuple[str, Layer], ...]

    def __init__(self, *layers: Layer | tuple[str, Layer]):
        object.__setattr__(self, "layers", ())
        object.__setattr__(self, "layers", _named(self, layers))

    def __repr__(self) -> str:
        derived = _named(self, [layer for _, layer in self.layers])
        entries = [
            pair[1] if pair == default else pair
            for pair, default in zip(self.layers, derived, strict=True)
        ]
        # A name given to one layer may change what is derived for another.
        if _named(self, entries) != self.layers:
            entries = self.layers
        shown = map(repr, entries)
        return f"Serial({', '.join(shown)})"

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_key(key)
        params, state = {}, {}
        for name, layer in self.layers:
            with inside(name, layer):
                result = layer.init(_fold(key, name), x)
                p, s = pair_of(layer, result, "init must return (params, state), {} for none")
                x = jax.eval_shape(lambda p, s, x, f=layer: f.forward(p, x, Eval(s))[0], p, s, x)
            params |= {name: p} if jax.tree.leaves(p) else {}
            state |= {name: s} if jax.tree.leaves(s) else {}
        return params, state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        self._check(params, mode)
        cache = {}
        for name, layer in self.layers:
            with inside(name, layer):
                result = layer.forward(params.get(name, {}), x, _child_mode(mode, name))
                x, cache[name] = pair_of(layer, result, "forward must return (y, cache)")
        return x, cache

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        self._check(params, Eval())
        if not isinstance(cache, Mapping) or set(cache) != {name for name, _ in self.layers}:
            fail(self, f"cache is {form_of(cache)}; pass the cache that forward returned")
        grads = {}
        for name, layer in reversed(self.layers):
            with inside(name, layer):
                result = layer.backward(params.get(name, {}), cache[name], dy)
                grads[name], dy = pair_of(layer, result, "backward must return (grads, dx)")
        return {name: grads[name] for name in params}, dy

    def observe(self, state: State, cache: Cache) -> State:
        layers = dict(self.layers)
        return {name: layers[name].observe(state[name], cache[name]) for name in state}

    @property
    def children(self) -> tuple[tuple[str, Layer], ...]:
        return self.layers

    def map(self, f: Callable[[str, Layer], Layer]) -> "Serial":
        return Serial(*((name, f(name, layer)) for name, layer in self.layers))

    def _check(self, params: Params, mode: Mode) -> None:
        check_mode(self, mode)
        if isinstance(mode, Eval) and mode.state != () and not isinstance(mode.state, Mapping):
            fail(self, f"the state of mode is {form_of(mode.state)}; it must be as init makes it")
        names = [name for name, _ in self.layers]
        if not isinstance(params, Mapping):
            fail(self, f"params is {form_of(params)}; it must be a dict by layer names {names}")
        state = mode.state if isinstance(mode, Eval) else ()
        for what, tree in (("params", params), ("the state of mode", state)):
            if strangers := sorted(set(tree) - set(names)):
                fail(self, f"{what} has {strangers}; the layers of this network are {names}")


def _named(
    net: Serial, layers: Iterable[Layer | tuple[str, Layer]]
) -> tuple[tuple[str, Layer], ...]:
    """(name, layer) pairs, with names derived where none are given."""
    pairs = [
        entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry) for entry in layers
    ]
    taken = [name for name, _ in pairs]
    counts: dict[str, int] = {}
    named = []
    for name, layer in pairs:
        if not isinstance(layer, Layer):
            fail(net, f"{layer!r} is no layer but a {type(layer).__name__}; {_mend(layer)}")
        while name is None:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}{counts[kind]}" if f"{kind}{counts[kind]}" not in taken else None
        if not (isinstance(name, str) and name.isidentifier()):
            fail(net, f"{name!r} cannot name a layer; use letters, digits and underscores")
        named.append((name, layer))
    names = [name for name, _ in named]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        fail(net, f"the names {repeated} are given twice; every layer needs a name of its own")
    return tuple(named)


def _mend(entry: object) -> str:
    if isinstance(entry, type):
        return f"perhaps you meant {entry.__name__}(...)"
    if isinstance(entry, list | tuple):
        return "give layers one by one, Serial(*layers), or as (name, layer)"
    return "jnn.lift(init, fn) makes a layer of a function fn(params, x)"


def _fold(key: jax.Array, name: str) -> jax.Array:
    # Both halves of 64 bits: two names with the same 32 would get the same random numbers.
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    for half in (digest[:4], digest[4:]):
        key = jax.random.fold_in(key, int.from_bytes(half, "little"))
    return key


def _child_mode(mode: Mode, name: str) -> Mode:
    if isinstance(mode, Train):
        return Train(_fold(mode.key, name))
    return Eval(dict(mode.state).get(name, {}))
