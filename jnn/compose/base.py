"""What all combinators have in common: children by name, or one child that has no name."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import reduce
from typing import Any, Self, cast

import jax
import jax.numpy as jnp

from jnn.factors import is_factor, together
from jnn.layer import (
    Cache,
    Eval,
    Layer,
    Mode,
    Params,
    State,
    Train,
    Tree,
    check_key,
    check_mode,
    fail,
    form_of,
    inside,
    pair_of,
)
from jnn.precision import accumulator

Entry = Layer | tuple[str, Layer]
Call = Callable[[str, Layer, Any], Any]  # (name, child, x) -> y, or (name, child, dy) -> dx


@dataclass(frozen=True, init=False)
class Composite(Layer):
    """The base of combinators of several layers, each with a name.

    A subclass says by which `route` x goes through the children, and by which `reverse` dy comes
    back. Params, state and cache are dicts by the children's names; a child without parameters (or
    state) adds nothing to them.
    """

    layers: tuple[tuple[str, Layer], ...]

    def __init__(self, *layers: Entry):
        object.__setattr__(self, "layers", ())
        object.__setattr__(self, "layers", named(self, layers))

    def __repr__(self) -> str:
        derived = named(self, [layer for _, layer in self.layers])
        entries = [
            pair[1] if pair == default else pair
            for pair, default in zip(self.layers, derived, strict=True)
        ]
        # A name given to one layer may change what is derived for another.
        if named(self, entries) != self.layers:
            entries = self.layers
        shown = [repr(entry) for entry in entries]
        shown += [f"{name}={layer!r}" for name, layer in self._extras()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def route(self, call: Call, x: Any) -> Any:
        """y of x, by call(name, child, x) -> y; x and y may be shapes alone."""
        raise NotImplementedError(f"{type(self).__name__} must define route(call, x)")

    def reverse(self, call: Call, dy: Any) -> Any:
        """dx of dy, by call(name, child, dy) -> dx."""
        raise NotImplementedError(f"{type(self).__name__} must define reverse(call, dy)")

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_key(key)
        params, state = {}, {}

        def begun(name: str, layer: Layer, x: Any) -> Any:
            with inside(name, layer):
                result = layer.init(fold(key, name), x)
                p, s = pair_of(layer, result, "init must return (params, state), {} for none")
                y = jax.eval_shape(lambda p, s, x: layer.forward(p, x, Eval(s))[0], p, s, x)
            params.update({name: p} if jax.tree.leaves(p) else {})
            state.update({name: s} if jax.tree.leaves(s) else {})
            return y

        self.route(begun, x)
        return params, state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        self._check(params, mode)
        cache = {}

        def forth(name: str, layer: Layer, x: Any) -> Any:
            with inside(name, layer):
                result = layer.forward(params.get(name, {}), x, _child_mode(mode, name))
                y, cache[name] = pair_of(layer, result, "forward must return (y, cache)")
            return y

        return self.route(forth, x), cache

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        self._check(params, Eval())
        if not isinstance(cache, Mapping) or set(cache) != {name for name, _ in self.children}:
            fail(self, f"cache is {form_of(cache)}; pass the cache that forward returned")
        grads = {}

        def back(name: str, layer: Layer, dy: Any) -> Any:
            with inside(name, layer):
                result = layer.backward(params.get(name, {}), cache[name], dy)
                grads[name], dx = pair_of(layer, result, "backward must return (grads, dx)")
            return dx

        dx = self.reverse(back, dy)
        return {name: grads[name] for name in params}, dx

    def observe(self, state: State, cache: Cache) -> State:
        layers = dict(self.children)
        return {name: layers[name].observe(state[name], cache[name]) for name in state}

    def observed(self, cache: Cache) -> Cache:
        return {name: layer.observed(cache[name]) for name, layer in self.children}

    @property
    def children(self) -> tuple[tuple[str, Layer], ...]:
        return (*self.layers, *self._extras())

    def map(self, f: Callable[[str, Layer], Layer]) -> Self:
        entries = [(name, f(name, layer)) for name, layer in self.layers]
        return type(self)(*entries, **{name: f(name, layer) for name, layer in self._extras()})

    def _extras(self) -> tuple[tuple[str, Layer], ...]:
        """The children that are fields by themselves."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "layers")
        return tuple((name, layer) for name, layer in pairs if layer is not None)

    def _extra(self, name: str, layer: Layer | None) -> None:
        """Sets such a field, in a constructor."""
        object.__setattr__(self, name, layer)
        if layer is not None:
            check_layer_of(self, layer)
            if name in dict(self.layers):
                fail(self, f"a layer is named {name!r}, as that given as {name}=; rename it")

    def _check(self, params: Params, mode: Mode) -> None:
        check_mode(self, mode)
        if mode.state != () and not isinstance(mode.state, Mapping):
            fail(self, f"the state of mode is {form_of(mode.state)}; it must be as init makes it")
        names = [name for name, _ in self.children]
        if not isinstance(params, Mapping):
            fail(self, f"params is {form_of(params)}; it must be a dict by layer names {names}")
        for what, tree in (("params", params), ("the state of mode", mode.state)):
            if strangers := sorted(set(tree) - set(names)):
                fail(self, f"{what} has {strangers}; the layers of this network are {names}")


@dataclass(frozen=True)
class Wrapper(Layer):
    """The base of combinators of one layer, whose params and state are their own."""

    layer: Layer

    def __post_init__(self) -> None:
        check_layer_of(self, self.layer)

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        result = self.layer.init(key, x)
        return pair_of(self.layer, result, "init must return (params, state), {} for none")

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        check_mode(self, mode)
        result = self.layer.forward(params, x, mode)
        return pair_of(self.layer, result, "forward must return (y, cache)")

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        result = self.layer.backward(params, cache, dy)
        return pair_of(self.layer, result, "backward must return (grads, dx)")

    def observe(self, state: State, cache: Cache) -> State:
        return self.layer.observe(state, cache)

    def observed(self, cache: Cache) -> Cache:
        return self.layer.observed(cache)

    @property
    def children(self) -> tuple[tuple[str, Layer], ...]:
        return (("", self.layer),)

    def map(self, f: Callable[[str, Layer], Layer]) -> Self:
        return replace(self, layer=f("", self.layer))

    def head(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in options(self).items())
        return type(self).__name__ + f"({shown})" * bool(shown)


def named(net: Layer, layers: Iterable[Any]) -> tuple[tuple[str, Layer], ...]:
    """(name, layer) pairs, with names derived where none are given."""
    pairs = [_pair(entry) for entry in layers]
    taken = [name for name, _ in pairs]
    counts: dict[str, int] = {}
    found = []
    for name, layer in pairs:
        check_layer_of(net, layer)
        while name is None:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}{counts[kind]}" if f"{kind}{counts[kind]}" not in taken else None
        if not (isinstance(name, str) and name.isidentifier()):
            fail(net, f"{name!r} cannot name a layer; use letters, digits and underscores")
        found.append((name, layer))
    names = [name for name, _ in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        fail(net, f"the names {repeated} are given twice; every layer needs a name of its own")
    return tuple(found)


def _pair(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, tuple) and len(entry) == 2:
        return entry
    return getattr(entry, "pair", (None, entry))


def check_layer_of(net: Layer, layer: Any) -> None:
    """Refuses a child that is no layer."""
    if not isinstance(layer, Layer):
        fail(net, f"{layer!r} is no layer but a {type(layer).__name__}; {_mend(layer)}")


def _mend(entry: object) -> str:
    if isinstance(entry, type):
        return f"perhaps you meant {entry.__name__}(...)"
    if isinstance(entry, list | tuple):
        return "give layers one by one, Serial(*layers), or as (name, layer)"
    return "jnn.lift(init, fn) makes a layer of a function fn(params, x)"


def fold(key: jax.Array, name: str) -> jax.Array:
    """The key of the child of that name."""
    # Both halves of 64 bits: two names with the same 32 would get the same random numbers.
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    for half in (digest[:4], digest[4:]):
        key = jax.random.fold_in(key, int.from_bytes(half, "little"))
    return key


def _child_mode(mode: Mode, name: str) -> Mode:
    state = dict(mode.state).get(name, {})
    return Train(fold(mode.key, name), state) if isinstance(mode, Train) else Eval(state)


def options(layer: Layer) -> dict[str, Any]:
    """The fields of a combinator that hold no child and are not at their default."""
    children = [child for _, child in layer.children]
    found = {}
    for f in fields(cast(Any, layer)):
        value = getattr(layer, f.name)
        if f.name not in ("layers",) and (f.default is MISSING or value != f.default):
            found |= {} if any(value is child for child in children) else {f.name: value}
    return found


def total(*terms: Tree) -> Tree:
    """The sum of trees alike, added in float32 or wider and rounded once.

    None stands where there is no cotangent: for an input of integers, or one of no effect. Of
    factors it is the factor of the sum.
    """
    if len(terms) == 1:
        return terms[0]

    def added(*v: Any) -> Any:
        known = [a for a in v if a is not None]
        if len(known) < 2:
            return known[0] if known else None
        if is_factor(known[0]):
            return together(known)
        if len(known) == 2:
            return known[0] + known[1]
        dtype = known[0].dtype
        return reduce(jnp.add, [a.astype(accumulator(dtype)) for a in known]).astype(dtype)

    return jax.tree.map(added, *terms, is_leaf=lambda v: v is None or is_factor(v))


def is_floating(v: Any) -> bool:
    """Whether an array or its shape holds floating-point numbers."""
    return bool(jnp.issubdtype(v.dtype, jnp.floating))
