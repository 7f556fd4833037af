"""A layer many times over, as a loop."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jnn.compose.base import Wrapper
from jnn.factors import Stacked, is_factor
from jnn.layer import (
    Cache,
    Eval,
    Mode,
    Params,
    State,
    Train,
    Tree,
    check_key,
    check_mode,
    fail,
    pair_of,
    shape_of,
    unlike,
)


@dataclass(frozen=True)
class Repeat(Wrapper):
    """n copies of a layer one after another, each with parameters of its own.

        forward    y = f_n(... f_2(f_1(x)))
        backward   dx of each copy is dy of the one before; gradients are stacked like the params

    As Serial of the n copies, but a loop (`jax.lax.scan`) both ways: a program of one copy, whose
    size and compile time do not grow with n. The copies differ in their initial values and in
    their random keys, which are folded by depth.

    Shapes: x and y alike; params, state, gradients and cache are the layer's, stacked: (n, ...).
    The layer has no name of its own: params["blocks"]["dense1"]["w"][i] is that of copy i.
    Cache: the copies' own, stacked. What is one array to a copy is stacked once, and what is known
    when the loop is traced is not stacked.

    Raises LayerError, a ValueError, where n is not a positive integer, the layer's output is not
    like its input, or params are not n stacked.

    >>> import jnn
    >>> net = Repeat(jnn.Serial(jnn.Dense(4), jnn.Tanh()), 24)
    >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> jax.tree.map(jnp.shape, params)
    {'dense1': {'b': (24, 4), 'w': (24, 4, 4)}}
    >>> net.forward(params, jnp.ones((2, 4)), Eval(state))[0].shape
    (2, 4)
    """

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n, Integral) or isinstance(self.n, bool) or self.n < 1:
            fail(self, f"n is {self.n!r}; it must be a positive integer, how often the layer comes")
        object.__setattr__(self, "n", int(self.n))

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        check_key(key)
        depths = jnp.arange(self.n)
        begin = super().init
        params, state = jax.vmap(lambda i: begin(jax.random.fold_in(key, i), x))(depths)

        def once(params: Params, state: State, x: Any) -> Any:
            return self.layer.forward(_at(0, params), x, Eval(_at(0, state)))[0]

        # As JAX takes it: numpy's float64 is none where x64 is off.
        like = jax.eval_shape(lambda x: jax.tree.map(jnp.asarray, x), x)
        self._check_alike(like, jax.eval_shape(once, params, state, x))
        return params, state

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        check_mode(self, mode)
        self._check_stacked("params", params)
        self._check_stacked("the state of mode", mode.state)
        split = _Split()

        def copy(x: Any, step: Tree) -> tuple[Any, list[jax.Array]]:
            params, state, i = step
            if isinstance(mode, Train):
                how = Train(jax.random.fold_in(mode.key, i), state)
            else:
                how = Eval(state)
            result = self.layer.forward(params, x, how)
            y, cache = pair_of(self.layer, result, "forward must return (y, cache)")
            self._check_alike(x, y)
            return y, split(cache, isinstance(i, Tracer))

        # The counter is there too where a layer has no parameters.
        y, stacked = jax.lax.scan(copy, x, (params, mode.state, jnp.arange(self.n)))
        return y, split.joined(stacked)

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        self._check_stacked("params", params)
        stacked, same = cache

        def copy(dy: Any, step: Tree) -> tuple[Any, Params]:
            params, kept = step
            result = self.layer.backward(params, _merged(kept, same), dy)
            grads, dx = pair_of(self.layer, result, "backward must return (grads, dx)")
            return dx, grads

        dx, grads = jax.lax.scan(copy, dy, (params, stacked), length=self.n, reverse=True)

        def stack(v: Any) -> Any:
            return Stacked(v) if is_factor(v) else v

        return jax.tree.map(stack, grads, is_leaf=is_factor), dx

    def observe(self, state: State, cache: Cache) -> State:
        if not jax.tree.leaves(state):
            return state
        stacked, same = cache
        observe = self.layer.observe
        return jax.vmap(lambda s, kept: observe(s, _merged(kept, same)))(state, stacked)

    def observed(self, cache: Cache) -> Cache:
        return tuple(map(self.layer.observed, cache))

    def head(self) -> str:
        return f"Repeat x {self.n}"

    def _check_alike(self, x: Any, y: Any) -> None:
        if problem := unlike(y, x):
            if hasattr(x, "shape") and hasattr(y, "shape"):
                problem = f"it makes {shape_of(y)} of {shape_of(x)}"
            fail(
                self.layer,
                f"{problem}; to be repeated, its output must be like its input, which it is given "
                "again",
            )

    def _check_stacked(self, what: str, tree: Tree) -> None:
        for path, leaf in jax.tree.leaves_with_path(tree):
            if leaf.shape[:1] != (self.n,):
                name = jax.tree_util.keystr(path)
                fail(
                    self,
                    f"{what}{name} is {shape_of(leaf)}; its first axis must be that of the "
                    f"{self.n} copies, as init makes it",
                )


class _Split:
    """Takes the cache of one copy apart as the loop is traced, and puts that of all together."""

    def __call__(self, cache: Cache, traced: bool) -> list[jax.Array]:
        """What is to be stacked."""
        leaves, self.tree = jax.tree.flatten(cache)
        # Where the loop is not traced (jax.disable_jit) every array is known.
        self.same = [traced and not isinstance(leaf, Tracer) for leaf in leaves]
        self.known = [leaf if same else None for leaf, same in zip(leaves, self.same, strict=True)]
        places = {id(leaf): leaf for leaf, same in zip(leaves, self.same, strict=True) if not same}
        order = {key: i for i, key in enumerate(places)}
        self.places = [order.get(id(leaf)) for leaf in leaves]
        return list(places.values())

    def joined(self, stacked: list[jax.Array]) -> tuple[Tree, Tree]:
        """The cache of all copies: what is stacked, and what is the same for all."""
        found = [None if place is None else stacked[place] for place in self.places]
        return self.tree.unflatten(found), self.tree.unflatten(self.known)


def _merged(kept: Tree, same: Tree) -> Cache:
    """The cache of one copy."""
    return jax.tree.map(lambda a, b: b if a is None else a, kept, same, is_leaf=lambda v: v is None)


def _at(i: int, tree: Tree) -> Tree:
    return jax.tree.map(lambda v: v[i], tree)
