"""Sums of gradients in which every example has a weight: clipped, or by any other rule.

    g = sum_i c_i g_i,   c_i = rule(|g_i|, limit)

from one backward pass: the norms are read from the factors, and the weights put into them before
they are summed (Bu et al. 2022, "Differentially private optimization on large model at small cost",
call it book-keeping). No example's gradient is made but where that is the cheapest way to its
norm: see `factors.sqnorm`, also for how many digits a norm has where positions cancel.

What a private training loop takes from here is the sum, how far one example can move it, and noise.
It owes the rest itself: batches drawn by Poisson sampling, no layer that couples examples, and the
accounting of what was spent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.asking import backward
from jnn.factors import Factor, Outer, grad, is_factor, keep, scale, sqnorm, total
from jnn.layer import Cache, Layer, Params, Tree
from jnn.optimizers.descent import TINY, number
from jnn.precision import accumulator, widened

Rule = Callable[[jax.Array, float], jax.Array]


class Clipped(NamedTuple):
    """A weighted sum of gradients, and what it was made by.

    grads        sum_i c_i g_i, like params
    norms        |g_i| of every example, (n,), by group
    weights      c_i, likewise
    sensitivity  how far, in norm, the sum can be moved by adding or removing one example, the
                 rule being one by which c |g| is at most the limit, as both here are
    """

    grads: Params
    norms: dict[str, jax.Array]
    weights: dict[str, jax.Array]
    sensitivity: float


def at_most(norms: jax.Array, limit: float) -> jax.Array:
    """min(1, limit / |g|): gradients that are longer are as long as the limit. Of NaN it is NaN.

    >>> at_most(jnp.array([0.5, 4.0]), 1.0).tolist()
    [1.0, 0.25]
    """
    within = norms <= limit
    return jnp.where(within, 1, limit / jnp.where(within, 1, norms))


def automatic(norms: jax.Array, limit: float, stability: float = 0.01) -> jax.Array:
    """limit / (|g| + 0.01): all nearly as long as the limit, which then is a learning rate.

    Source: Bu et al. 2023, "Automatic clipping: differentially private deep learning made easier
    and stronger".

    >>> automatic(jnp.array([0.99]), 1.0).tolist()
    [1.0]
    """
    return limit / (norms + stability)


def clipped(
    net: Layer,
    params: Params,
    cache: Cache,
    dy: Any,
    limit: float,
    *,
    rule: Rule = at_most,
    group: Callable[[str], str] | None = None,
) -> tuple[Clipped, Any]:
    """(Clipped, dx): the sum of the examples' gradients, each weighed by its norm.

    dy is the cotangent of a sum over examples, not of their mean, which would divide every norm by
    their number. `rule(norms, limit)` returns the weights. `group(path)` says to which group a
    parameter belongs, `lambda path: path` giving each its own; without it all are one. Each of m
    groups is clipped to limit / sqrt(m), so that `sensitivity` is the limit whatever the groups.

    What is computed in bfloat16 or float16 is rounded after it was weighed, by which the sum may
    exceed the limit: keep to float32 where privacy hangs on it.

    Raises ValueError where the limit is not positive or there are no parameters, and LayerError as
    `jnn.backward` does.

    >>> import jnn
    >>> net, x = jnn.Dense(1, bias=False), jnp.array([[3.0, 4.0], [0.0, 1.0]])
    >>> params = {"w": jnp.zeros((2, 1))}
    >>> y, cache = net.forward(params, x, jnn.Eval())
    >>> found, _ = clipped(net, params, cache, jnp.ones((2, 1)), limit=2.5)
    >>> found.norms["all"].tolist(), found.grads["w"].ravel().tolist()
    ([5.0, 1.0], [1.5, 3.0])
    """
    number("limit", limit, least=TINY)
    factors, dx = backward(net, params, cache, dy, of=keep)
    named = dict(_by_path(factors))
    if not named:
        raise ValueError(f"{net!r} has no parameters, so that there is nothing to clip")
    groups = {path: "all" if group is None else group(path) for path in named}
    squares: dict[str, list[jax.Array]] = {}
    for path, f in named.items():
        squares.setdefault(groups[path], []).append(sqnorm(f))
    each = limit / len(squares) ** 0.5
    norms = {name: jnp.sqrt(total(reads)) for name, reads in squares.items()}
    weights = {name: jnp.broadcast_to(rule(n, each), n.shape) for name, n in norms.items()}
    grads = jax.tree.map_with_path(
        lambda path, f: grad(scale(f, weights[groups[_dotted(path)]])), factors, is_leaf=is_factor
    )
    return Clipped(_like(grads, params), norms, weights, limit), dx


def noised(grads: Params, key: jax.Array, deviation: float) -> Params:
    """The gradients with Gaussian noise of that standard deviation added to every element.

    For a noise multiplier s, the deviation is s times the sensitivity; both are added before the
    sum is divided by the expected size of a batch. The noise is drawn in float32 or wider.

    >>> noised({"w": jnp.zeros(2)}, jax.random.key(0), 0.0)["w"].tolist()
    [0.0, 0.0]
    """
    leaves, tree = jax.tree.flatten(grads)
    keys = jax.random.split(key, max(len(leaves), 1))

    def add(g: jax.Array, key: jax.Array) -> jax.Array:
        wide = accumulator(g.dtype)
        noise = jax.random.normal(key, g.shape, wide)
        return (g.astype(wide) + deviation * noise).astype(g.dtype)

    return jax.tree.unflatten(tree, [add(g, k) for g, k in zip(leaves, keys, strict=False)])


def descended(
    net: Layer, params: Params, cache: Cache, dy: Any, *, rate: Any, limit: float
) -> tuple[Params, jax.Array]:
    """(params, norm): a step of gradient descent whose whole gradient is at most `limit` long.

        p - rate min(1, limit / |g|) g,   |g|^2 over all parameters

    The norm is read from the factors, and every parameter is then moved by its own factor, scaled,
    so that no step needs the gradient as a whole, which clipping after the fact must hold. Whether
    memory is saved is up to the compiler, that may still make all factors' sums before it adds the
    first: XLA for CPU does, unless told by
    XLA_FLAGS=--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED to go by memory. Of use
    where layers are large beside the batch, and not in a `Repeat`, whose stacked parameters are
    copied as a whole. Compile it with `params` donated. Raises ValueError where the limit is not
    positive.

    >>> import jnn
    >>> net, x = jnn.Dense(1, bias=False), jnp.array([[3.0, 4.0]])
    >>> params = {"w": jnp.zeros((2, 1))}
    >>> y, cache = net.forward(params, x, jnn.Eval())
    >>> moved, norm = descended(net, params, cache, jnp.ones((1, 1)), rate=1.0, limit=2.5)
    >>> float(norm), moved["w"].ravel().tolist()
    (5.0, [-1.5, -2.0])
    """
    number("limit", limit, least=TINY)
    factors, _ = backward(net, params, cache, dy, of=keep)
    norm = jnp.sqrt(sum(_square(f) for _, f in _by_path(factors)))
    c = -rate * at_most(norm, limit)

    def move(f: Factor, p: jax.Array) -> jax.Array:
        # The factor is scaled and not its sum, which XLA would otherwise keep from the norm.
        step = grad(scale(f, jnp.full(len(f.a), c))) if isinstance(f, Outer) else c * grad(f)
        return (p + step).astype(p.dtype)

    return jax.tree.map(move, factors, params, is_leaf=is_factor), norm


def _square(factor: Factor) -> jax.Array:
    """|g|^2 of the sum over all examples, by products of rows where that is less."""
    if isinstance(factor, Outer):
        a, d = (v.reshape(-1, v.shape[-1]) for v in factor)
        a, d = (widened(v) for v in (a, d))
        if len(a) * (a.shape[1] + d.shape[1]) < a.shape[1] * d.shape[1]:
            return jnp.maximum(((a @ a.T) * (d @ d.T)).sum(), 0)
    g = grad(factor)
    return jnp.square(widened(g)).sum()


def _by_path(factors: Tree) -> list[tuple[str, Any]]:
    return [(_dotted(p), f) for p, f in jax.tree.leaves_with_path(factors, is_leaf=is_factor)]


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _like(grads: Params, params: Params) -> Params:
    return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
