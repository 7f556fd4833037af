"""Two gradients with one signature, and the bridges to ordinary JAX functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import (
    Cache,
    Layer,
    Mode,
    Params,
    State,
    check_cotangent,
    check_mode,
    fail,
    form,
    formed,
    moving,
    unlike,
)
from jnn.losses import Loss
from jnn.penalties import Penalty

ValueAndGrads = Callable[
    [Params, Any, Any, Mode], tuple[tuple[jax.Array, Cache], Params]
]  # f(params, x, y, mode) -> ((value, cache), grads)


def backprop(net: Layer, loss: Loss, penalty: Penalty | None = None) -> ValueAndGrads:
    """The hand-written gradient: forward, loss, loss backward, backward.

    Returns f(params, x, y, mode) -> ((value, cache), grads), where `cache` is the network's and
    grads is like params. Anything that trains takes this or `autodiff`. With a `penalty`, such as
    `jnn.L2(1e-4)`, value and grads include its own, written out by hand like the rest.

    Raises ValueError where the loss is one for each example, the penalty is none, or a layer
    returns gradients that are not like its parameters.

    >>> import jnn
    >>> net, loss = jnn.Serial(jnn.Dense(3)), jnn.SoftmaxCrossEntropy()
    >>> x, y = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
    >>> params, state = net.init(jax.random.key(0), x)
    >>> (value, cache), grads = backprop(net, loss)(params, x, y, jnn.Train(jax.random.key(1)))
    >>> grads["dense1"]["w"].shape
    (2, 3)
    """

    _check_parts(loss, penalty)

    def value_and_grads(
        params: Params, x: Any, y: Any, mode: Mode
    ) -> tuple[tuple[jax.Array, Cache], Params]:
        prediction, cache = net.forward(params, x, mode)
        value, kept = loss.forward(prediction, y)
        grads, _ = net.backward(params, cache, loss.backward(kept, jnp.ones_like(value)))
        grads = _like(grads, params)
        if penalty is not None:
            value += penalty.value(params).astype(value.dtype)
            grads = jax.tree.map(jnp.add, grads, penalty.grad(params))
        return (value, cache), grads

    return value_and_grads


def autodiff(net: Layer, loss: Loss, penalty: Penalty | None = None) -> ValueAndGrads:
    """The gradient by `jax.grad` of forward, loss and penalty, with the signature of `backprop`.

    Raises ValueError where the loss is one for each example or the penalty is none.

    >>> import jnn
    >>> net, loss = jnn.Serial(jnn.Dense(3)), jnn.SoftmaxCrossEntropy()
    >>> x, y = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
    >>> params, state = net.init(jax.random.key(0), x)
    >>> (value, cache), grads = autodiff(net, loss)(params, x, y, jnn.Train(jax.random.key(1)))
    >>> grads["dense1"]["w"].shape
    (2, 3)
    """

    _check_parts(loss, penalty)

    def value_and_grads(
        params: Params, x: Any, y: Any, mode: Mode
    ) -> tuple[tuple[jax.Array, Cache], Params]:
        def value_of(params: Params) -> tuple[jax.Array, Cache]:
            prediction, cache = net.forward(params, x, mode)
            value, _ = loss.forward(prediction, y)
            if penalty is not None:
                value += penalty.value(params).astype(value.dtype)
            return value, cache

        return jax.value_and_grad(value_of, has_aux=True)(params)

    return value_and_grads


def as_function(net: Layer) -> Callable[[Params, Any, Mode], Any]:
    """The network as an ordinary JAX function, its hand-written backward as `jax.custom_vjp`.

    Returns f(params, x, mode) -> y for use in anyone's JAX code; jit, vmap, scan, remat, grad and
    the Hessian of it work. Nothing flows back into `mode`: its key and running state are data.
    As for every custom_vjp, forward mode (jax.jvp) of it alone is undefined.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(3), jnn.Tanh())
    >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> f = as_function(net)
    >>> g = jax.grad(lambda p: f(p, jnp.ones((4, 2)), jnn.Eval(state)).sum())(params)
    >>> g["dense1"]["w"].shape
    (2, 3)
    """

    @jax.custom_vjp
    def function(params: Params, x: Any, mode: Mode) -> Any:
        return net.forward(params, x, mode)[0]

    def fwd(params: Params, x: Any, mode: Mode) -> tuple[Any, tuple[Params, Cache]]:
        # net.forward and not `function`: a second derivative differentiates this rule, and would
        # meet the custom_vjp once more.
        y, cache = net.forward(params, x, mode)
        return y, (params, cache)

    def bwd(kept: tuple[Params, Cache], dy: Any) -> tuple[Params, Any, None]:
        params, cache = kept
        grads, dx = net.backward(params, cache, moving(dy))
        return _like(grads, params), dx, None

    function.defvjp(fwd, bwd)

    def network(params: Params, x: Any, mode: Mode) -> Any:
        check_mode(net, mode)
        return function(params, x, mode)

    return network


@dataclass(frozen=True)
class Lifted(Layer):
    """The layer that `lift` makes."""

    initialise: Callable[[jax.Array, Any], Params]
    function: Callable[[Params, Any], Any]

    def __repr__(self) -> str:
        return f"lift({_name(self.initialise)}, {_name(self.function)})"

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        params = self.initialise(key, jax.tree.map(_example, x))
        if not jax.tree.leaves(params) and params != {}:
            fail(self, f"init returned {params!r}; it must return parameters, {{}} for none")
        return params, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        del mode
        try:
            y, vjp = jax.vjp(self.function, params, x)
        except TypeError as error:
            error.add_note("lift takes a function fn(params, x); params is what its init returned")
            raise
        return y, (vjp, jax.tree.map(form, y))

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        del params
        vjp, kept = cache
        y, dy = jax.tree.map(formed, kept), moving(dy)
        check_cotangent(self, dy, moving(y))
        grads, dx = vjp(jax.tree.map(_cotangent, y, dy, is_leaf=lambda v: v is None))
        return grads, moving(dx)


def lift(init: Callable[[jax.Array, Any], Params], fn: Callable[[Params, Any], Any]) -> Layer:
    """Any JAX function as a layer: y = fn(params, x), with `jax.vjp` for its backward.

    `init(key, x) -> params` makes the parameters, {} for none, given examples or, of their shape,
    zeros. Cache: the form of y, and the
    function that `jax.vjp` returns, a pytree of arrays; unlike that of hand-written layers it
    holds the parameters where the derivative needs them, and its structure is that of one trace.
    Two lifted layers are equal where their two functions are the same objects.
    Raises ValueError where one of the two is no function.

    >>> import jnn
    >>> scale = lift(lambda key, x: {"s": jnp.ones(x.shape[-1])}, lambda p, x: jnp.sin(x * p["s"]))
    >>> net = jnn.Serial(jnn.Dense(3), ("scale", scale))
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> sorted(params)
    ['dense1', 'scale']
    """
    for name, f in (("init", init), ("fn", fn)):
        if not callable(f):
            raise ValueError(f"lift: {name} is {f!r}; it must be a function")
    return Lifted(init, fn)


def _cotangent(y: Any, dy: Any) -> Any:
    """What jax.vjp takes: for an output of integers, which has no cotangent, float0."""
    return np.zeros(y.shape, jax.dtypes.float0) if dy is None else dy


def _example(v: Any) -> Any:
    """An array where only its shape is known, for few functions of others take these."""
    known = not isinstance(v, jax.ShapeDtypeStruct)
    return v if known else jnp.zeros(v.shape, jax.dtypes.canonicalize_dtype(v.dtype))


def _name(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", repr(f))


def _check_parts(loss: Loss, penalty: Penalty | None) -> None:
    if loss.per_example:
        loss.fail("it gives a value for each example; the gradient of parameters is of the mean")
    if not isinstance(penalty, Penalty | None):
        raise ValueError(f"penalty is {penalty!r}; it must be a penalty such as jnn.L2(1e-4)")


def _like(grads: Params, params: Params) -> Params:
    """`grads` in the containers of `params`: a FrozenDict or an OrderedDict is a dict by itself.

    A forgotten parameter or sum in somebody's backward would be broadcast by an optimizer.
    """
    if problem := unlike(grads, params):
        raise ValueError(
            f"backward returned gradients that are not like params: {problem} (does it return "
            "(grads, dx), in this order?)"
        )
    if jax.tree.structure(grads) == jax.tree.structure(params):
        return grads
    found = dict(jax.tree.leaves_with_path(grads))
    return jax.tree.map_with_path(lambda path, _: found[path], params)
