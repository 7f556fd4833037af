"""One set of parameters in several places."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jnn.compose.base import Wrapper, total
from jnn.layer import OWN, Cache, Layer, Mode, Params, State, Tree, fail, form_of, unlike

Path = tuple[str, ...]


@dataclass(frozen=True, init=False)
class Shared(Wrapper):
    """A network in which the parameters in one place are also those in another.

        forward    the parameters are put where they are shared, and y = f(x)
        backward   the gradients of all places are added

    `places` says {place: source} by dotted paths into params, which may end at a layer, a part of
    the network or one array. The parameters of a place are left out of params: they are the
    source's. Tied embeddings are `Shared(net, {"head.w": "embedding1.w"})`, a siamese network
    `Shared(Parallel(("a", encoder), ("b", encoder)), {"b": "a"})`.

    State is not shared: each place has its own running moments, of what passes through it.

    Shapes: those of the network; params are its own without the places.
    Cache: the network's own.
    Source: Press & Wolf 2017, "Using the output embedding to improve language models", for ties.

    Raises LayerError, a ValueError, where a path leads nowhere, a source is itself a place or lies
    within one, or the parameters of the two differ in names, shapes or dtypes.

    >>> import jax.numpy as jnp, jnn
    >>> net = Shared(jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(4)), {"dense2": "dense1"})
    >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> sorted(params)
    ['dense1']
    >>> y, cache = net.forward(params, jnp.ones((2, 4)), jnn.Eval(state))
    >>> sorted(net.backward(params, cache, y)[0])
    ['dense1']
    """

    places: tuple[tuple[str, str], ...]

    def __init__(self, layer: Layer, places: Mapping[str, str] | Iterable[tuple[str, str]]):
        pairs = tuple(places.items() if isinstance(places, Mapping) else places)
        object.__setattr__(self, "layer", layer)
        object.__setattr__(self, "places", pairs)
        super().__post_init__()
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(map(_is_path, pair))):
                fail(self, f"places holds {pair!r}; give {{place: source}}, by dotted paths")
        for i, (place, source) in enumerate(self._pairs()):
            rest = (*self._pairs()[:i], *self._pairs()[i + 1 :])
            for other in (path for pair in rest for path in pair):
                if (other[: len(place)] == place) or (place[: len(other)] == other):
                    fail(
                        self,
                        f"{'.'.join(place)} and {'.'.join(other)} overlap, or one is given twice; "
                        "give every place once, with a source that is no place itself",
                    )
            if source[: len(place)] == place or place[: len(source)] == source:
                fail(self, f"{'.'.join(place)} and its source {'.'.join(source)} overlap")

    def __repr__(self) -> str:
        return f"Shared({self.layer!r}, {dict(self.places)!r})"

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        params, state = super().init(key, x)
        flat = _flat(params)
        for place, source in self._pairs():
            one, other = (_under(flat, path) for path in (place, source))
            for path, found in ((place, one), (source, other)):
                if not found:
                    known = sorted({".".join(p) for p in flat})
                    fail(self, f"params has no {'.'.join(path)}; its paths are {known}")
            if problem := unlike(_nested(one), _nested(other)):
                fail(
                    self,
                    f"{'.'.join(place)} cannot have the parameters of {'.'.join(source)}: "
                    f"{problem.replace('belongs', 'is there')}; they must be alike",
                )
        uses = self._uses(flat)
        return _nested({path: v for path, v in flat.items() if path not in uses}), state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        return super().forward(self.filled(params), x, mode)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        grads, dx = super().backward(self.filled(params), cache, dy)
        flat = _flat(grads)
        terms = {path: [g] for path, g in flat.items()}
        for path, source in self._uses(_flat(params)).items():
            terms[source] += terms.pop(path)
        return _nested({path: total(*several) for path, several in terms.items()}), dx

    def filled(self, params: Params) -> Params:
        """The parameters of the network without sharing: each place has its source's."""
        flat = _flat(params)
        uses = self._uses(flat)
        if taken := sorted(".".join(path) for path in uses if path in flat):
            fail(self, f"params has {taken}, which are shared; leave them out, as init does")
        return _nested(flat | {path: flat[source] for path, source in uses.items()})

    def head(self) -> str:
        return f"Shared({', '.join(f'{place} = {source}' for place, source in self.places)})"

    def _pairs(self) -> list[tuple[Path, Path]]:
        return [(tuple(a.split(".")), tuple(b.split("."))) for a, b in self.places]

    def _uses(self, flat: dict[Path, Tree]) -> dict[Path, Path]:
        """Every array of a place, and the one of the source that it is."""
        uses = {}
        for place, source in self._pairs():
            found = _under(flat, source)
            if not found:
                fail(self, f"params is {form_of(_nested(flat))} without {'.'.join(source)}")
            uses |= {(*place, *rest): (*source, *rest) for rest in found}
        return uses


def _is_path(v: Any) -> bool:
    return isinstance(v, str) and all(name.isidentifier() for name in v.split("."))


def _flat(tree: Tree, path: Path = ()) -> dict[Path, Tree]:
    """What lies in nested dicts, by path."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {p: v for name, child in tree.items() for p, v in _flat(child, (*path, name)).items()}


def _nested(flat: dict[Path, Tree]) -> Tree:
    tree: dict[str, Any] = {}
    for path, v in flat.items():
        if not path:
            return v
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = v
    return tree


def _under(flat: dict[Path, Tree], path: Path) -> dict[Path, Tree]:
    """What lies under a path and can be shared, by the rest of its own path."""
    n = len(path)
    return {p[n:]: v for p, v in flat.items() if p[:n] == path and OWN not in p[n:]}
