"""How gradients vary and how they change: noise, and products and diagonals of second derivatives.

Hessian of the loss:            H = d2 loss / dparams2
Generalised Gauss-Newton:       G = J^T B J,   J = dy / dparams,   B = d2 loss / dy2

G is what H would be were the network linear, and never negative where the loss is convex in y.
All products go through the hand-written passes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.asking import backward
from jnn.data.checking import whole
from jnn.factors import second_moment, total
from jnn.gradients import as_function
from jnn.layer import Layer, Mode, Params, Tree, check_key, unlike
from jnn.losses import Loss
from jnn.precision import widened

Product = Callable[[Params], Params]


class Noise(NamedTuple):
    """Of a mean of examples' gradients: the square of the true one, and the variance of each.

    signal    |E g|^2, unbiased, so that it may be negative where noise is all there is
    variance  tr cov(g_i), unbiased
    """

    signal: jax.Array
    variance: jax.Array

    @property
    def scale(self) -> jax.Array:
        """The batch at which noise is as large as signal: variance / signal.

        A quotient of two estimates: take it of their means over many batches.
        """
        return self.variance / self.signal


def noise_scale(grads: Tree, squares: Tree) -> Noise:
    """The noise of a batch's gradient, from what one backward pass reads: grad and sqnorm.

        signal = (n |G|^2 - m) / (n - 1),   variance = n (m - |G|^2) / (n - 1)

    with G the mean of n gradients and m the mean of their squared norms. `grads` are sums over the
    examples, as `jnn.backward` gives them for the cotangent of a sum of losses; `squares` are
    |g_i|^2, (n,) for each parameter. Of one leaf or of part of a tree it is the noise of that part.
    Source: McCandlish et al. 2018, "An empirical model of large-batch training".

    Raises ValueError where there are not two examples at least.

    >>> g = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> found = noise_scale(g.sum(0), jnp.square(g).sum(1))
    >>> round(float(found.signal), 3), round(float(found.variance), 3)
    (0.667, 0.667)
    """
    squares = total(squares)
    n = len(squares)
    if n < 2:
        raise ValueError(f"squares are of {n} example; of fewer than 2 there is no variance")
    wide = [widened(v) / n for v in jax.tree.leaves(grads)]
    size = jnp.stack([jnp.square(v).sum() for v in wide]).sum()
    m = squares.mean()
    return Noise((n * size - m) / (n - 1), n * (m - size) / (n - 1))


def hessian_product(net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode) -> Product:
    """v -> H v, the Hessian of the mean loss at params: the slope of the gradient along v.

    The gradient is by hand, and differentiated once more in reverse.

    >>> import jnn
    >>> net, loss = jnn.Dense(1, bias=False), jnn.SquaredError()
    >>> params, x, y = {"w": jnp.zeros((2, 1))}, jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1))
    >>> times = hessian_product(net, loss, params, x, y, jnn.Eval())
    >>> times({"w": jnp.array([[1.0], [0.0]])})["w"].ravel().tolist()
    [2.0, 4.0]
    """
    f = as_function(net)

    def value(params: Params) -> jax.Array:
        return loss.forward(f(params, x, mode), y)[0]

    def along(v: Params) -> Params:
        _check_like(v, params)

        def slope(params: Params) -> jax.Array:
            return _dot(jax.grad(value)(params), v)

        return jax.grad(slope)(params)

    return along


def gauss_newton_product(
    net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode
) -> Product:
    """v -> G v, of the mean loss: J v forwards, B times it, and back by hand.

    J v is the slope of the backward pass in its cotangent, which it is linear in.

    >>> import jnn
    >>> net, loss = jnn.Dense(1, bias=False), jnn.SquaredError()
    >>> params, x, y = {"w": jnp.zeros((2, 1))}, jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1))
    >>> times = gauss_newton_product(net, loss, params, x, y, jnn.Eval())
    >>> times({"w": jnp.array([[1.0], [0.0]])})["w"].ravel().tolist()
    [2.0, 4.0]
    """
    prediction, cache = net.forward(params, x, mode)

    def back(dy: Any) -> Params:
        return net.backward(params, cache, dy)[0]

    def bent(prediction: Any) -> Any:
        return jax.grad(lambda z: loss.forward(z, y)[0])(prediction)

    def along(v: Params) -> Params:
        _check_like(v, params)
        (ahead,) = jax.vjp(back, jnp.zeros_like(prediction))[1](v)
        return back(jax.jvp(bent, (prediction,), (ahead,))[1])

    return along


def gauss_newton_diagonal(
    net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode
) -> Params:
    """The diagonal of G of the sum of losses, exactly: a backward pass for each output.

        diag G = sum over i and k of (J_i^T s_ik)^2,   B_i = sum_k s_ik s_ik^T

    The network's output must be (n, k), and the loss convex in it: where it bends downwards it
    counts as flat. Source: Dangel et al. 2020, "BackPACK".
    Raises LayerError as `jnn.backward` does, and ValueError where the output is not (n, k).

    >>> import jnn
    >>> net, loss = jnn.Dense(1, bias=False), jnn.SquaredError()
    >>> params, x, y = {"w": jnp.zeros((2, 1))}, jnp.array([[1.0, 2.0]]), jnp.zeros((1, 1))
    >>> gauss_newton_diagonal(net, loss, params, x, y, jnn.Eval())["w"].round().ravel().tolist()
    [2.0, 8.0]
    """
    prediction, cache = net.forward(params, x, mode)
    if prediction.ndim != 2:
        raise ValueError(f"the network's output is {prediction.shape}; it must be (n, k)")

    def one(z: jax.Array, target: jax.Array) -> jax.Array:
        return loss.each().forward(z[None], target[None])[0][0]

    bends = jax.vmap(jax.hessian(one))(prediction, y)
    values, vectors = jnp.linalg.eigh(widened(bends))
    roots = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None]

    def add(total: Params, s: jax.Array) -> tuple[Params, None]:
        squares, _ = backward(net, params, cache, s.astype(prediction.dtype), of=second_moment)
        return jax.tree.map(jnp.add, total, squares), None

    first = jax.eval_shape(lambda s: add(params, s)[0], roots[..., 0])
    zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), first)
    return jax.lax.scan(add, zeros, jnp.moveaxis(roots, -1, 0))[0]


def diagonal(times: Product, like: Params, key: jax.Array, samples: int = 32) -> Params:
    """The diagonal of a symmetric matrix that is known by its products: the mean of v (H v).

    v are random signs. Without bias, and exact where the matrix is diagonal.
    Source: Bekas et al. 2007, "An estimator for the diagonal of a matrix", after Hutchinson.

    >>> halves = lambda v: jax.tree.map(lambda a: a / 2, v)
    >>> diagonal(halves, {"w": jnp.ones(2)}, jax.random.key(0), samples=1)["w"].tolist()
    [0.5, 0.5]
    """
    check_key(key)
    samples = whole("samples", samples)

    def add(total: Params, key: jax.Array) -> tuple[Params, None]:
        leaves, tree = jax.tree.flatten(like)
        keys = jax.random.split(key, len(leaves))
        pairs = zip(keys, leaves, strict=True)
        signs = [jax.random.rademacher(k, p.shape, p.dtype) for k, p in pairs]
        v = jax.tree.unflatten(tree, signs)
        return jax.tree.map(lambda t, a, b: t + a * b, total, v, times(v)), None

    zeros = jax.tree.map(jnp.zeros_like, like)
    total = jax.lax.scan(add, zeros, jax.random.split(key, samples))[0]
    return jax.tree.map(lambda t: t / samples, total)


def _check_like(v: Params, params: Params) -> None:
    if problem := unlike(v, params):
        raise ValueError(f"v is not like params: {problem}")


def _dot(a: Tree, b: Tree) -> jax.Array:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.vdot(p, q) for p, q in pairs), jnp.zeros(()))
