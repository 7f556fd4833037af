"""What can be read from a factor beside its sum: norms, products and curvature, by example.

With g_i the gradient of example i, of a loss that is a sum over examples and is not divided by how
many there are:

    grad            sum_i g_i                     like the parameter
    sqnorm          |g_i|^2                       (n,)
    second_moment   sum_i g_i^2                   like the parameter
    dot(v)          <g_i, v>                      (n,)
    gram            <g_i, g_j>                    (n, n)
    kron            the factors of K-FAC          see `Kron`
    block           kron, or else the diagonal    see `Kron`
    each            g_i itself, (n, ...)          what the others avoid
    keep            the factor                    for what takes several, or more than a factor
    scale(c)        the factor of sum_i c_i g_i

Sums are taken in float32 or wider, whatever the dtype of the factor. An example is a row of the
first axis; where the terms of one are its positions, they are added before anything is squared.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.convolutions import unfolded
from jnn.factors.kinds import (
    Affine,
    Factor,
    Outer,
    Scatter,
    Several,
    Stacked,
    Unfolded,
    grad,
    within,
)
from jnn.layer import Tree
from jnn.precision import accumulator, widened


class Kron(NamedTuple):
    """A parameter's curvature as a Kronecker product, the mean over examples of g g^T being about

        a (x) d,   a = mean of a a^T over examples and positions, d = mean over examples of the
                   sum of d d^T over positions

    exactly so for one example of one position. Source: Martens & Grosse 2015, "Optimizing neural
    networks with Kronecker-factored approximate curvature"; over positions as in "K-FAC expand",
    Eschenhagen et al. 2023.
    """

    a: jax.Array  # (in, in); of a convolution (kernel in, kernel in); of a table its diagonal
    d: jax.Array  # (out, out)


def each(factor: Factor) -> jax.Array:
    """The gradient of every example: (n, ...) of the shape of the parameter.

    Of one in a Repeat, as of all readings there, (depth, n, ...).

    >>> each(Outer(a=jnp.array([[1.0], [2.0]]), d=jnp.array([[3.0], [4.0]]))).tolist()
    [[[3.0]], [[8.0]]]
    """
    match factor:
        case Stacked(inner):
            return jnp.moveaxis(jax.vmap(each)(inner), 0, 1)
        case Several(terms):
            return sum(each(term) for term in terms[1:]) + each(terms[0])
        case Outer():
            a, d = _positions(factor.a), _positions(factor.d)
            return jnp.einsum("nti,nto->nio", a, d)
        case Affine():
            return _contributions(factor)
        case _:
            one = jax.tree.map(lambda v: v[:, None], factor)
            return jax.vmap(grad)(_all_widened(one))


def sqnorm(factor: Factor) -> jax.Array:
    """The squared norm of every example's gradient, (n,).

        Outer     |a|^2 |d|^2 for one position, else sum_ts (a_t a_s) (d_t d_s) where that is
                  cheaper than the gradient itself, at 2 T^2 <= in out
        Affine    |sum_t h d|^2
        Scatter   sum_ts [ids_t = ids_s] (d_t d_s)

    A norm that is taken by products is right to the root of a rounding of sum_t |a_t| |d_t|: in
    float32, where the terms of an example all but cancel, it has few digits or none.

    >>> sqnorm(Outer(a=jnp.array([[1.0], [2.0]]), d=jnp.array([[3.0], [4.0]]))).tolist()
    [9.0, 64.0]
    """
    match factor:
        case Stacked(inner):
            return jax.vmap(sqnorm)(inner)
        case Several(terms):
            squares = sum(map(sqnorm, terms[1:]), sqnorm(terms[0]))
            pairs = [(f, g) for i, f in enumerate(terms) for g in terms[:i]]
            return jnp.maximum(sum((2 * _cross(f, g) for f, g in pairs), squares), 0)
        case Outer() if math.prod(factor.a.shape[1:-1]) == 1:
            return _summed(jnp.square(widened(factor.a))) * _summed(jnp.square(widened(factor.d)))
        case Unfolded():
            return _sum_and_squares(factor)[1]
        case Outer() | Scatter() if _by_positions(factor):
            # Of numbers that cancel, rounding may leave less than nothing.
            return jnp.maximum(_cross(factor, factor), 0)
        case _:
            return _summed(jnp.square(each(factor)))


def answers(factor: Factor, readings: Sequence[Callable[[Any], Any]]) -> tuple[Any, ...]:
    """What every one of the readings says; what two of them share is computed once.

    >>> answers(Affine(h=None, d=jnp.array([[1.0], [2.0]])), (grad, sqnorm))[1].tolist()
    [1.0, 4.0]
    """
    shared: dict[Any, Any] = {}
    if isinstance(factor, Unfolded) and {grad, sqnorm} <= {*readings}:
        shared = dict(zip((grad, sqnorm), _sum_and_squares(factor), strict=True))
    return tuple(shared[r] if r in shared else r(factor) for r in readings)


def _sum_and_squares(factor: Unfolded) -> tuple[jax.Array, jax.Array]:
    """The gradient and the squared norms of a convolution, from the gradients of the examples.

    On a CPU one after the other, which takes hardly longer than all together, and no memory.
    """
    if jax.default_backend() != "cpu":
        g = each(factor)
        return g.sum(axis=0).astype(factor.d.dtype), _summed(jnp.square(g))

    def add(total: jax.Array, one: Unfolded) -> tuple[jax.Array, jax.Array]:
        g = grad(_all_widened(jax.tree.map(lambda v: v[None], one)))
        return total + g, jnp.square(g).sum()

    like = jax.eval_shape(grad, factor)
    total, squares = jax.lax.scan(add, jnp.zeros(like.shape, accumulator(like.dtype)), factor)
    return total.astype(like.dtype), squares


def dot(factor: Factor, v: jax.Array) -> jax.Array:
    """The product of every example's gradient with `v`, of the shape of the parameter: (n,).

    Raises ValueError where v has another shape.

    >>> dot(Affine(h=None, d=jnp.array([[1.0, 2.0], [3.0, 4.0]])), jnp.array([1.0, -1.0])).tolist()
    [-1.0, -1.0]
    """
    like = jax.eval_shape(grad, factor)
    if jnp.shape(v) != like.shape:
        raise ValueError(f"v is {jnp.shape(v)}; it must be like the parameter, {like.shape}")
    match factor:
        case Stacked(inner):
            return jax.vmap(dot)(inner, v)
        case Several(terms):
            return sum((dot(term, v) for term in terms[1:]), dot(terms[0], v))
        case Outer():
            a, d = _positions(factor.a), _positions(factor.d)
            return _summed((a @ v.astype(a.dtype)) * d)
        case Scatter():
            ids, d = _ids(factor), _positions(factor.d)
            rows = jnp.asarray(v).at[within(ids, factor.rows)].get(mode="fill", fill_value=0)
            return _summed(rows.astype(d.dtype) * d)
        case _:
            g = each(factor)
            return _summed(g * v.astype(g.dtype))


def gram(factor: Factor, other: Factor | None = None) -> jax.Array:
    """The products of the gradients of examples with each other, or with those of `other`: (n, m).

    Summed over all parameters it is the empirical neural tangent kernel (Jacot et al. 2018).

    >>> gram(Affine(h=None, d=jnp.array([[1.0, 2.0], [3.0, 4.0]]))).tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """
    other = factor if other is None else other
    if isinstance(factor, Stacked) and isinstance(other, Stacked):
        return jax.vmap(gram)(factor.factor, other.factor)
    pair = factor, other
    if all(isinstance(f, Outer) and math.prod(f.a.shape[1:-1]) == 1 for f in pair):
        (a, d), (b, e) = ((_flat(f.a), _flat(f.d)) for f in pair)  # type: ignore[union-attr]
        return (a @ b.T) * (d @ e.T)
    one, two = (_flat(each(f)) for f in pair)
    return one @ two.T


def second_moment(factor: Factor) -> jax.Array:
    """The sum over examples of the squares of their gradients, of the shape of the parameter.

    >>> second_moment(Affine(h=None, d=jnp.array([[1.0, 2.0], [3.0, 4.0]]))).tolist()
    [10.0, 20.0]
    """
    match factor:
        case Stacked(inner):
            return jax.vmap(second_moment)(inner)
        case Outer() if math.prod(factor.a.shape[1:-1]) == 1:
            a, d = (_positions(v)[:, 0] for v in factor)
            return jnp.square(a).T @ jnp.square(d)
        case Affine():
            return jnp.square(each(factor)).sum(axis=0)
        case _:
            # One at a time: all of them together take n times the memory of the parameter.
            def add(total: jax.Array, one: Factor) -> tuple[jax.Array, None]:
                g = each(jax.tree.map(lambda v: v[None], one))[0]
                return total + jnp.square(g), None

            like = jax.eval_shape(each, factor)
            return jax.lax.scan(add, jnp.zeros(like.shape[1:], like.dtype), factor)[0]


def kron(factor: Factor) -> Kron | jax.Array:
    """The curvature of a parameter as a Kronecker product; of a vector the diagonal, (c,).

    The diagonal is the mean over examples of the squares of their gradients. For the Fisher matrix
    the cotangents must be those of targets drawn from the model itself.
    Raises ValueError for a parameter that is used in several ways, of which there is no such form.

    >>> kron(Outer(a=jnp.array([[1.0, 2.0]]), d=jnp.array([[3.0]]))).a.tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    match factor:
        case Stacked(inner):
            return jax.vmap(kron)(inner)
        case Outer():
            a, d = _positions(factor.a), _positions(factor.d)
            n, t = a.shape[:2]
            return Kron(_outer(a) / max(n * t, 1), _outer(d) / max(n, 1))
        case Unfolded() if factor.window.groups == 1 and not factor.transposed:
            return kron(Outer(unfolded(factor.x, factor.window), factor.d))
        case Affine():
            return second_moment(factor) / max(len(factor.d), 1)
        case Scatter():
            d = _positions(factor.d)
            n, t = d.shape[:2]
            ids = within(factor.ids.reshape(-1), factor.rows)
            counts = jnp.zeros(factor.rows, d.dtype).at[ids].add(1, mode="drop")
            return Kron(counts / max(n * t, 1), _outer(d) / max(n, 1))
        case _:
            raise ValueError(
                f"a {type(factor).__name__} factor has no Kronecker form; leave that parameter to "
                "another rule, or use second_moment"
            )


def block(factor: Factor) -> Any:
    """A parameter's block of the Fisher matrix: a `Kron` where it has that form, or the diagonal.

    >>> d = jnp.ones((2, 3))
    >>> [v.shape for v in block(Outer(jnp.ones((2, 4)), d))], block(Affine(None, d)).shape
    ([(4, 4), (3, 3)], (3,))
    """
    match factor:
        case Stacked(inner):
            return jax.vmap(block)(inner)
        case Several() | Unfolded(transposed=True):
            pass
        case Unfolded() if factor.window.groups > 1:
            pass
        case _:
            return kron(factor)
    return second_moment(factor) / max(len(jax.tree.leaves(factor)[0]), 1)


def scale(factor: Factor, c: jax.Array) -> Factor:
    """The factor of sum_i c_i g_i, for one number an example: (n,).

    Raises ValueError where there are not as many.

    >>> grad(scale(Affine(h=None, d=jnp.array([[1.0], [2.0]])), jnp.array([10.0, 1.0]))).tolist()
    [12.0]
    """
    match factor:
        case Stacked(inner):
            return Stacked(jax.vmap(scale, (0, None))(inner, c))
        case Several(terms):
            return Several(tuple(scale(term, c) for term in terms))
        case _:
            d = factor.d
            if jnp.shape(c) != d.shape[:1]:
                raise ValueError(
                    f"c is {jnp.shape(c)}; it must be {d.shape[:1]}, a number for each example"
                )
            weighted = widened(d) * c.reshape(-1, *(1,) * (d.ndim - 1)).astype(widened(d).dtype)
            fields = factor._asdict() if isinstance(factor, tuple) else vars(factor)
            return type(factor)(**{**fields, "d": weighted.astype(d.dtype)})


def keep(factor: Factor) -> Factor:
    """The factor itself.

    >>> keep(Affine(h=None, d=jnp.ones((2, 1)))).d.shape
    (2, 1)
    """
    return factor


def total(norms: Tree) -> jax.Array:
    """The sum of what was read as (n,) from every parameter: that of the whole gradient, (n,).

    Parameters that are stacked over depth have (depth, n).
    Raises ValueError where there is nothing: of how many examples is then not known.

    >>> total({"w": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0, 4.0], [0.0, 1.0]])}).tolist()
    [4.0, 7.0]
    """
    leaves = [v.sum(axis=tuple(range(v.ndim - 1))) for v in jax.tree.leaves(norms)]
    if not leaves:
        raise ValueError(f"norms is {norms!r}; it must hold what was read of a parameter at least")
    if len({v.shape for v in leaves}) > 1:
        lengths = sorted({v.shape[0] for v in leaves})
        raise ValueError(
            f"norms are of {lengths} examples; they must be of as many for every parameter, as "
            "sqnorm or dot read them, and as gradients are not"
        )
    return jnp.stack(leaves).sum(axis=0)


def _by_positions(factor: Outer | Scatter) -> bool:
    """Whether products of positions are cheaper than the gradients that they are products of."""
    t = math.prod(factor.d.shape[1:-1])
    rows = factor.rows if isinstance(factor, Scatter) else factor.a.shape[-1]
    return 2 * t**2 <= rows * factor.d.shape[-1]


def _cross(f: Factor, g: Factor) -> jax.Array:
    """The products <f_i, g_i> of two factors of one parameter, (n,)."""
    match f, g:
        case Outer(), Outer():
            pairs = ((f.a, g.a), (f.d, g.d))
            one, two = (jnp.einsum("nti,nsi->nts", *map(_positions, pair)) for pair in pairs)
            return _summed(one * two)
        case Scatter(), Scatter():
            ids, others = map(_ids, (f, g))
            same = (ids[:, :, None] == others[:, None]) & (within(ids, f.rows) < f.rows)[..., None]
            products = jnp.einsum("nto,nso->nts", _positions(f.d), _positions(g.d))
            return _summed(jnp.where(same, products, 0))
        case Outer(), Scatter():
            # The rows of the table that were looked up are columns of a.
            a, d, e = map(_positions, (f.a, f.d, g.d))
            ids = within(_ids(g)[:, None], g.rows)
            ids = jnp.broadcast_to(ids, (*a.shape[:2], ids.shape[-1]))
            looked = jnp.take_along_axis(a, ids, axis=-1, mode="fill", fill_value=0)
            return _summed(looked * jnp.einsum("nto,nso->nts", d, e))
        case Scatter(), Outer():
            return _cross(g, f)
        case _:
            return _summed(each(f) * each(g))


def _contributions(factor: Affine) -> jax.Array:
    d = _positions(factor.d)
    return (d if factor.h is None else d * _positions(factor.h)).sum(axis=1)


def _positions(v: jax.Array) -> jax.Array:
    """(n, ..., c) as (n, t, c), in float32 at least."""
    return widened(v).reshape(len(v), math.prod(v.shape[1:-1]), v.shape[-1])


def _ids(factor: Scatter) -> jax.Array:
    return factor.ids.reshape(len(factor.ids), math.prod(factor.ids.shape[1:]))


def _flat(v: jax.Array) -> jax.Array:
    return widened(v).reshape(len(v), math.prod(v.shape[1:]))


def _outer(v: jax.Array) -> jax.Array:
    rows = v.reshape(-1, v.shape[-1])
    return rows.T @ rows


def _summed(v: jax.Array) -> jax.Array:
    return v.reshape(len(v), math.prod(v.shape[1:])).sum(axis=1)


def _all_widened(factor: Any) -> Any:
    return jax.tree.map(
        lambda v: widened(v) if jnp.issubdtype(v.dtype, jnp.floating) else v, factor
    )
