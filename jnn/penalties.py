"""Penalties: what the weights themselves cost, added to the loss.

    value(params) -> value     a scalar
    grad(params)  -> grads     a tree like params, written by hand

`where` chooses the parameters as in `jnn.masks`: by default the weights, never biases or the scales
of norms. The others have a gradient of 0. Sums run in float32 at least. Penalties add up:
`L2(1e-4) + L1(1e-5, "dense1.*")`.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jnn.layer import Params, Printed
from jnn.masks import Where, mask, weights
from jnn.precision import accumulator, widened

__all__ = ["L1", "L2", "ElasticNet", "OnChosen", "Penalty", "Sum"]


class Penalty(Printed):
    """The base of penalties: a frozen dataclass that states `value` and `grad`.

    >>> @dataclass(frozen=True)
    ... class Nothing(Penalty):
    ...     def value(self, params):
    ...         return jnp.zeros(())
    ...     def grad(self, params):
    ...         return jax.tree.map(jnp.zeros_like, params)
    >>> float((L2(2.0) + Nothing()).value({"w": jnp.ones((2, 3))}))
    6.0
    """

    def value(self, params: Params) -> jax.Array:
        """What the parameters cost, a scalar of float32, or of float64 where a parameter is."""
        raise NotImplementedError(f"{type(self).__name__} must define value(params)")

    def grad(self, params: Params) -> Params:
        """The gradient of `value`: a tree of the shapes and dtypes of params."""
        raise NotImplementedError(f"{type(self).__name__} must define grad(params)")

    def __add__(self, other: Any) -> "Sum":
        return Sum((self, other)) if isinstance(other, Penalty) else NotImplemented


@dataclass(frozen=True)
class Sum(Penalty):
    """Several penalties together, as `+` makes it.

        value = sum_k value_k,   grad = sum_k grad_k

    >>> both = L2(2.0) + L1(1.0)
    >>> both
    Sum((L2(2.0), L1(1.0)))
    >>> float(both.value({"w": jnp.full((1, 2), 3.0)}))
    24.0
    """

    terms: tuple[Penalty, ...]

    def value(self, params: Params) -> jax.Array:
        return sum((term.value(params) for term in self.terms[1:]), self.terms[0].value(params))

    def grad(self, params: Params) -> Params:
        first, *rest = (term.grad(params) for term in self.terms)
        return jax.tree.map(lambda g, *others: sum(others, g), first, *rest)


class OnChosen(Penalty):
    """The base of penalties that are a sum over each number of the chosen parameters.

    A subclass has a field `where` and states `cost(w)`, the cost of every number, and `slope(w)`,
    its derivative, both given numbers of float32 or float64.

    >>> @dataclass(frozen=True)
    ... class Quartic(OnChosen):
    ...     where: Where = weights
    ...     def cost(self, w):
    ...         return w**4
    ...     def slope(self, w):
    ...         return 4 * w**3
    >>> float(Quartic().value({"w": jnp.full((1, 2), 2.0)}))
    32.0
    """

    where: Where

    def cost(self, w: jax.Array) -> jax.Array:
        """What each number costs."""
        raise NotImplementedError(f"{type(self).__name__} must define cost(w)")

    def slope(self, w: jax.Array) -> jax.Array:
        """The derivative of `cost`."""
        raise NotImplementedError(f"{type(self).__name__} must define slope(w)")

    def value(self, params: Params) -> jax.Array:
        leaves, marks = jax.tree.leaves(params), jax.tree.leaves(self._marks(params))
        # Of all the parameters, so that penalties on some of them add up.
        widest = max((accumulator(p.dtype) for p in leaves), key=lambda dtype: dtype.itemsize)
        chosen = [p for p, marked in zip(leaves, marks, strict=True) if marked]
        costs = (self.cost(widened(p)).sum().astype(widest) for p in chosen)
        return sum(costs, jnp.zeros((), widest))

    def grad(self, params: Params) -> Params:
        def leaf(p: jax.Array, marked: bool) -> jax.Array:
            if not marked:
                return jnp.zeros_like(p)
            return self.slope(widened(p)).astype(p.dtype)

        return jax.tree.map(leaf, params, self._marks(params))

    def _marks(self, params: Params) -> Any:
        marks = mask(params, self.where)
        if not any(jax.tree.leaves(marks)):
            paths = [
                jax.tree_util.keystr(path, simple=True, separator=".")
                for path, _ in jax.tree.leaves_with_path(params)
            ]
            raise ValueError(f"{self!r}: where chooses none of the parameters {paths}")
        return marks


@dataclass(frozen=True)
class L2(OnChosen):
    """Large weights cost: many small ones are preferred to a few large.

        value = rate/2 sum w^2   over the chosen parameters
        grad  = rate w           (0 for the others)

    The 1/2 is the convention of the lectures' notes on neurons; their notes on linear classifiers
    leave it out, and their lambda is half this `rate`. Unlike weight decay, an optimizer that
    rescales gradients rescales this one too. `rate` may be an array in a traced function, so that
    a sweep can vary it.

    Raises ValueError where `rate` is negative or not finite, or `where` chooses no parameter.

    >>> params = {"w": jnp.array([[3.0, -4.0]]), "b": jnp.ones(2)}
    >>> float(L2(0.5).value(params)), L2(0.5).grad(params)["w"].tolist()
    (6.25, [[1.5, -2.0]])
    """

    rate: Any
    where: Where = weights

    def __post_init__(self) -> None:
        _check(self, "rate")

    def cost(self, w: jax.Array) -> jax.Array:
        return _times(self.rate, jnp.square(w) / 2)

    def slope(self, w: jax.Array) -> jax.Array:
        return _times(self.rate, w)


@dataclass(frozen=True)
class L1(OnChosen):
    """Every weight costs, so that needless ones go to zero.

        value = rate sum |w|     over the chosen parameters
        grad  = rate sign(w)     (0 for the others)

    At the kink, w = 0, the subgradient is taken as 0. `rate` may be an array in a traced function.
    Source: Tibshirani 1996, "Regression shrinkage and selection via the lasso".

    Raises ValueError where `rate` is negative or not finite, or `where` chooses no parameter.

    >>> params = {"w": jnp.array([[3.0, 0.0, -4.0]]), "b": jnp.ones(3)}
    >>> float(L1(0.5).value(params)), L1(0.5).grad(params)["w"].tolist()
    (3.5, [[0.5, 0.0, -0.5]])
    """

    rate: Any
    where: Where = weights

    def __post_init__(self) -> None:
        _check(self, "rate")

    def cost(self, w: jax.Array) -> jax.Array:
        return _times(self.rate, _abs(w))

    def slope(self, w: jax.Array) -> jax.Array:
        return _times(self.rate, jnp.sign(w))


@dataclass(frozen=True)
class ElasticNet(OnChosen):
    """L1 and L2 at once.

        value = sum l1 |w| + l2/2 w^2     over the chosen parameters
        grad  = l1 sign(w) + l2 w         (0 for the others)

    At the kink, w = 0, the subgradient of |w| is taken as 0. The rates may be arrays in a traced
    function.
    Source: Zou & Hastie 2005, "Regularization and variable selection via the elastic net".

    Raises ValueError where a rate is negative or not finite, or `where` chooses no parameter.

    >>> params = {"w": jnp.array([[3.0, 0.0, -4.0]]), "b": jnp.ones(3)}
    >>> penalty = ElasticNet(l1=1.0, l2=2.0)
    >>> float(penalty.value(params)), penalty.grad(params)["w"].tolist()
    (32.0, [[7.0, 0.0, -9.0]])
    """

    l1: Any
    l2: Any
    where: Where = weights

    def __post_init__(self) -> None:
        _check(self, "l1")
        _check(self, "l2")

    def cost(self, w: jax.Array) -> jax.Array:
        return _times(self.l1, _abs(w)) + _times(self.l2, jnp.square(w) / 2)

    def slope(self, w: jax.Array) -> jax.Array:
        return _times(self.l1, jnp.sign(w)) + _times(self.l2, w)


def _check(penalty: Penalty, name: str) -> None:
    """Refuses a rate that is none; a number of any type becomes a plain one, and so hashable."""
    rate = getattr(penalty, name)
    number = isinstance(rate, Real | jax.Array) and not isinstance(rate, bool)
    if not number or getattr(rate, "ndim", 0):
        raise ValueError(f"{penalty!r}: {name} is {rate!r}; it must be a number")
    if not isinstance(rate, Tracer):
        rate = float(rate)
        if not 0 <= rate < math.inf:
            raise ValueError(f"{penalty!r}: {name} is {rate!r}; it must be finite and not negative")
        object.__setattr__(penalty, name, rate)


def _abs(w: jax.Array) -> jax.Array:
    # As a product, whose derivative at the kink is 0 under jax.grad too; that of jnp.abs is 1.
    return w * jnp.sign(w)


def _times(rate: Any, x: jax.Array) -> jax.Array:
    return jnp.asarray(rate).astype(x.dtype) * x
