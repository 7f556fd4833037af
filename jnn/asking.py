"""One backward pass, and more than the gradient of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax

from jnn.compose.base import Wrapper
from jnn.compose.exchange import with_backward
from jnn.compose.mapped import Mapped
from jnn.compose.repeat import Repeat
from jnn.compose.rewriting import rewrite
from jnn.compose.shared import Shared
from jnn.factors import Answer, answers, block, grad, is_stated, kron
from jnn.layer import Cache, Layer, Mode, Params, State, Tree, below, fail

Reading = Callable[[Any], Any]  # of a factor, such as those of jnn.factors
COUPLED = {grad, kron, block}  # readings that may be taken where examples do not pass apart


def backward(
    net: Layer,
    params: Params,
    cache: Cache,
    dy: Any,
    *,
    of: Reading | tuple[Reading, ...] = grad,
    pull: Any = None,
) -> tuple[Any, Any]:
    """(readings, dx): the backward pass of a network, and what is asked of its gradients.

    of      a reading of `jnn.factors`, or any function of a factor: `grad`, `sqnorm`,
            `second_moment`, `kron`, `keep`, `lambda f: grad(scale(f, c))`; or a tuple of them, all
            of which one traversal answers
    pull    other rules by which a leaf's cotangent is pulled back, {choice: rule} as in
            `jnn.rewrite`, with rule(layer, params, cache, dy) -> dx

    Of each reading comes a tree shaped like params, or of a tuple a tuple of trees. By example, as
    in `sqnorm`, means by the loss of each: dy is that of a sum of losses, so that where a mean over
    n was taken, what is read is of gradients divided by n. Within `Repeat` there is one answer for
    each copy, stacked first.

    Where parameters are shared their factors are added before anything is read, cross terms
    included. Raises LayerError, a ValueError, where a leaf states only `backward` and so has no
    factors, or couples the examples, as BatchNorm in training does.

    >>> import jnn
    >>> from jax import numpy as jnp
    >>> from jnn.factors import sqnorm, total
    >>> net, x = jnn.Serial(jnn.Dense(3), jnn.Tanh(), jnn.Dense(2)), jnp.ones((5, 4))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> y, cache = net.forward(params, x, jnn.Eval(state))
    >>> (grads, norms), dx = backward(net, params, cache, y, of=(grad, sqnorm))
    >>> grads["dense1"]["w"].shape, norms["dense1"]["w"].shape, total(norms).shape
    ((4, 3), (5,), (5,))
    """
    readings = of if isinstance(of, tuple) else (of,)
    if not readings or not all(map(callable, readings)):
        raise ValueError(
            f"of is {of!r}; it must be a reading such as jnn.factors.sqnorm, or a tuple of them"
        )
    if pull is not None:
        net = _by_other_rules(net, pull)
    if readings == (grad,):
        grads, dx = net.backward(params, cache, dy)
        return (grads,) if isinstance(of, tuple) else grads, dx
    coupled = all(reading in COUPLED for reading in readings)
    found, dx = _asked(net, readings, coupled).backward(params, cache, dy)
    read = _read(found, readings)
    trees = [
        jax.tree.map(lambda a, k=k: a.values[k], read, is_leaf=is_stated)
        for k in range(len(readings))
    ]
    # MixedPrecision computes in other dtypes than the parameters have.
    trees = tuple(
        jax.tree.map(lambda g, p: g.astype(p.dtype), tree, params) if reading is grad else tree
        for reading, tree in zip(readings, trees, strict=True)
    )
    return trees if isinstance(of, tuple) else trees[0], dx


@dataclass(frozen=True, repr=False)
class _Stating(Layer):
    """A leaf whose backward pass returns its factors in place of gradients."""

    layer: Layer
    coupled: bool  # whether the readings may be taken where examples do not pass apart

    def __repr__(self) -> str:
        return repr(self.layer)

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        return self.layer.forward(params, x, mode)  # which Remat calls again

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        return self.layer.init(key, x)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Tree, Any]:
        layer = self.layer
        if not layer.states_factors:
            grads, dx = layer.backward(params, cache, dy)
            if jax.tree.leaves(grads):
                fail(
                    layer,
                    "it states only `backward`, so that its gradients are known as sums alone: "
                    "state `pull` and `factors`, or ask for grad",
                )
            return grads, dx
        if not self.coupled and not layer.apart(cache):
            fail(
                layer,
                "in training it makes every example depend on all others, so that none has a "
                "gradient of its own: evaluate, in the same program as this, or freeze it, "
                f"rewrite(net, {{{type(layer).__name__}: Frozen}})",
            )
        return layer.factored(params, cache, dy)


@dataclass(frozen=True)
class _Reader(Wrapper):
    """A layer within a loop, whose factors are read there, for they are much and answers little."""

    readings: tuple[Reading, ...]

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Tree, Any]:
        found, dx = super().backward(params, cache, dy)
        return _read(found, self.readings), dx


def _read(found: Tree, readings: tuple[Reading, ...]) -> Tree:
    def answer(path: Any, node: Any) -> Answer:
        if isinstance(node, Answer):
            return node
        try:
            return Answer(answers(node, readings))
        except ValueError as error:
            error.add_note(f"of {jax.tree_util.keystr(path, simple=True, separator='.')}")
            raise

    return jax.tree.map_with_path(answer, found, is_leaf=is_stated)


def _asked(
    layer: Layer,
    readings: tuple[Reading, ...],
    coupled: bool,
    path: tuple[str, ...] = (),
    shared: tuple[tuple[str, ...], ...] = (),
    mapped: bool = False,
) -> Layer:
    """The network with every leaf stating its factors, and what must be read early read early."""
    if not layer.children:
        return _Stating(layer, coupled)
    if isinstance(layer, Shared):
        pairs = (name for pair in layer.places for name in pair)
        shared = (*shared, *((*path, *name.split(".")) for name in pairs))
    mapped = mapped or isinstance(layer, Mapped)

    def within(name: str, child: Layer) -> Layer:
        return _asked(child, readings, coupled, below(path, name), shared, mapped)

    asked = layer.map(within)
    # What is shared with other places, or by slices, is added to theirs before it is read.
    awaited = mapped or any(place[: len(path)] == path for place in shared)
    if isinstance(asked, Repeat) and not awaited:
        return replace(asked, layer=_Reader(asked.layer, readings))
    return asked


def _by_other_rules(net: Layer, pull: Any) -> Layer:
    if not isinstance(pull, Mapping) or not pull or not all(map(callable, pull.values())):
        raise ValueError(
            f"pull is {pull!r}; it must be a dict of rules, such as {{jnn.ReLU: jnn.rules.guided}}"
        )
    found = rewrite(net, {choice: _pulled(rule) for choice, rule in pull.items()})
    if found == net:
        raise ValueError(
            f"pull has rules for {list(pull)}, and the network has no such leaf: {net!r}"
        )
    return found


def _pulled(rule: Callable[..., Any]) -> Callable[[Layer], Layer]:
    return lambda leaf: with_backward(leaf, pull=rule)
