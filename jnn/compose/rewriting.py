"""Networks taken apart: other leaves in their places, and the order in which they act."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from jnn.compose.base import check_layer_of
from jnn.compose.mapped import Mapped
from jnn.compose.repeat import Repeat
from jnn.layer import Layer, below, leaves

N = TypeVar("N", bound=Layer)
Choice = str | type | Callable[[Layer], bool]
Rule = Mapping[Any, Layer | Callable[[Any], Layer]] | Callable[[str, Layer], Layer]


def rewrite(net: Layer, rule: Rule) -> Layer:
    """The network with other leaves in places that `rule` chooses; `net` stays as it was.

    `rule` is a dict {choice: new}. A choice is a dotted path, of a leaf or of a part of the
    network; a type of leaf; or a predicate, leaf -> bool. What is new is a layer, or a function of
    the old one that returns it. The first choice that fits is taken; what is new is not looked at
    again. Or `rule` is a function (path, leaf) -> leaf, called for every leaf.

    Names stay, for they are names of places: params of a network in which every ReLU became a GELU
    fit as they are, and so do random keys.

        all ReLU by GELU         rewrite(net, {ReLU: GELU()})
        batch norm frozen        rewrite(net, {BatchNorm: Frozen})
        a block recomputed       rewrite(net, {"encoder": Remat})
        another backward rule    rewrite(net, {ReLU: lambda relu: with_backward(relu, pull=guided)})

    Raises ValueError where a path leads nowhere, a choice is none, or what is new is no layer.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(4), jnn.ReLU(), ("out", jnn.Dense(2)))
    >>> rewrite(net, {jnn.ReLU: jnn.GELU(), "out": lambda dense: jnn.Dense(3, bias=dense.bias)})
    Serial(Dense(4), ('relu1', GELU()), ('out', Dense(3)))
    """
    if not isinstance(rule, Mapping):
        if not callable(rule):
            raise ValueError(f"rule is {rule!r}; it must be a dict or a function (path, leaf)")
        return _walked(net, (), lambda path, leaf: rule(path, leaf), lambda _, layer: layer)
    for choice in rule:
        if not isinstance(choice, str | type) and not callable(choice):
            raise ValueError(
                f"rule has {choice!r}; choose by a dotted path, a type or a function of a leaf"
            )
        if not isinstance(rule[choice], Layer) and not callable(rule[choice]):
            raise ValueError(
                f"rule gives {choice!r} {rule[choice]!r}; it must be a layer, or a function of the "
                "old one that returns it"
            )
    pending = {choice for choice in rule if isinstance(choice, str)}

    def at_leaf(path: str, leaf: Layer) -> Layer:
        for choice, new in rule.items():
            if _fits(choice, path, leaf):
                pending.discard(choice)
                return new if isinstance(new, Layer) else new(leaf)
        return leaf

    def at_part(path: str, layer: Layer) -> Layer:
        # A path that is a leaf's own is not that of a combinator without a level of its own.
        if path not in pending:
            return layer
        pending.discard(path)
        new = rule[path]
        return new if isinstance(new, Layer) else new(layer)

    found = _walked(net, (), at_leaf, at_part)
    if pending:
        known = [path for path, _ in leaves(net)]
        raise ValueError(f"rule has {sorted(pending)}, which lead nowhere; the leaves are {known}")
    return found


def _fits(choice: Any, path: str, leaf: Layer) -> bool:
    if isinstance(choice, str):
        return choice == path
    return isinstance(leaf, choice) if isinstance(choice, type) else bool(choice(leaf))


def _walked(
    layer: Layer,
    path: tuple[str, ...],
    at_leaf: Callable[[str, Layer], Layer],
    at_part: Callable[[str, Layer], Layer],
) -> Layer:
    if layer.children:
        inner = layer.map(lambda name, child: _walked(child, below(path, name), at_leaf, at_part))
        new = at_part(".".join(path), inner)
    else:
        new = at_leaf(".".join(path), layer)
    check_layer_of(layer, new)
    return new


def uses(
    layer: Layer, path: tuple[str, ...] = (), index: tuple[int, ...] = ()
) -> Iterator[tuple[str, Layer, tuple[int, ...]]]:
    """The leaves in the order in which they act, a repeated one once for each depth.

    Yields (path, leaf, index); the index is where the leaf at that depth is in stacked arrays.

    >>> import jnn
    >>> net = jnn.Serial(("blocks", jnn.Repeat(jnn.Serial(jnn.Dense(3), jnn.Tanh()), 2)))
    >>> [(path, index) for path, _, index in uses(net)][1:3]
    [('blocks.tanh1', (0,)), ('blocks.dense1', (1,))]
    """
    if not layer.children:
        yield ".".join(path), layer, index
    for i in range(layer.n) if isinstance(layer, Repeat) else [None]:
        for name, child in layer.children:
            yield from uses(child, below(path, name), index if i is None else (*index, i))


def stacking(layer: Layer, path: tuple[str, ...] = (), axes: str = "") -> dict[str, str]:
    """For every leaf which axes come first in what is stacked of it: "n" of depth, "s" of slices.

    >>> import jnn
    >>> stacking(jnn.Serial(jnn.Repeat(jnn.Mapped(jnn.Dense(3)), 2), jnn.Tanh()))
    {'repeat1': 'ns', 'tanh1': ''}
    """
    axes += "n" * isinstance(layer, Repeat) + "s" * isinstance(layer, Mapped)
    found = {} if layer.children else {".".join(path): axes}
    for name, child in layer.children:
        found |= stacking(child, below(path, name), axes)
    return found
