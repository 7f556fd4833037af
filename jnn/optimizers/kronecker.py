"""K-FAC: steps along the natural gradient, of a Fisher matrix taken to be a Kronecker product."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.asking import backward
from jnn.factors import Kron, block
from jnn.gradients import ValueAndGrads
from jnn.layer import Cache, Eval, Layer, Mode, Params, Train, Tree, formed
from jnn.losses import Loss
from jnn.optimizers.descent import TINY, fixed, following, schedule, whole
from jnn.optimizers.protocol import Optimizer, Schedule, by_value
from jnn.penalties import Penalty
from jnn.precision import widened

DRAWN = 0x6B666163  # folded into a step's key, for targets that are drawn from the model


class KFACState(NamedTuple):
    """What `kfac` remembers: step, lr, the fading mean of the curvature, its inverses, a velocity.

    `curvature` and `inverse` have a `Kron`, or the diagonal of a block, for each parameter.
    """

    step: jax.Array
    lr: jax.Array
    curvature: Tree
    inverse: Tree
    velocity: Params


def kfac(
    net: Layer,
    x: Any,
    lr: float | Schedule,
    *,
    mu: float = 0.9,
    damping: float = 1e-2,
    rho: float = 0.95,
    every: int = 5,
    trust: float = 1e-3,
) -> Optimizer:
    """Steps along the natural gradient F^-1 dx, with a block of F for each parameter.

        A <- rho A + (1 - rho) mean(a a^T),   D <- rho D + (1 - rho) mean(d d^T)
        n = (A + pi sqrt(damping) I)^-1 dx (D + sqrt(damping) / pi I)^-1
        v <- mu v - lr c n
        x <- x + v

    with a what went into a layer, d the cotangent of what came out of it for targets that are drawn
    from the model, pi^2 the ratio of the mean eigenvalues of A and D, and c at most 1 and so that
    lr^2 c^2 <n, dx>, twice what the step changes the model by, is at most `trust`. Of a vector, and
    of a parameter without a Kronecker form, the block is its diagonal. The means begin as plain
    ones; inverses are taken every so many steps.

    Its update takes, in place of the gradients, the pair that `kfac_gradient` returns:

        jnn.fit(net, loss, kfac(net, x, 0.1), data, gradient=kfac_gradient, ...)

    so that in a chain it stands first, and layers are left alone by `Frozen` rather than `freeze`.
    At first `trust` bounds the steps and lr matters little: lower `trust` where the loss rises
    again or jumps, raise `damping` where batches are small, and let a schedule end lr near 0, as
    for any optimizer whose steps do not shrink by themselves.

    `net` and `x`, examples of any number, tell of which kind every block is. Source: Martens &
    Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate curvature"; c from
    Ba et al. 2017.

    Raises ValueError where `lr` is negative or not finite, `mu` or `rho` not in [0, 1), `damping`
    or `trust` not positive, or `every` no whole number of at least 1.

    >>> import jnn
    >>> net, loss = jnn.Dense(1, bias=False), jnn.SquaredError()
    >>> x, y = jnp.array([[1.0, 0.0], [0.0, 100.0]]), jnp.array([[1.0], [1.0]])
    >>> optimizer = kfac(net, x, 1.0, mu=0.0, damping=1e-8, trust=1e6)
    >>> params, state = net.init(jax.random.key(0), x)
    >>> _, both = kfac_gradient(net, loss)(params, x, y, jnn.Train(jax.random.key(1)))
    >>> updates, _ = optimizer.update(both, optimizer.init(params), params)
    >>> step, gradient = updates["w"].ravel(), both[0]["w"].ravel()
    >>> ratio = (step / gradient)[0] / (step / gradient)[1]  # 100^2: as if both were of one scale
    >>> round(float(ratio) / 1e4, 1)
    1.0
    """
    mu, rho = (fixed(name, v, below=1) for name, v in (("mu", mu), ("rho", rho)))
    damping, trust = (
        fixed(name, v, least=TINY) for name, v in (("damping", damping), ("trust", trust))
    )
    form = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct((1, *v.shape[1:]), jax.dtypes.canonicalize_dtype(v.dtype)), x
    )
    return _kfac(net, form, lr, mu, damping, rho, whole("every", every), trust)


@by_value
def _kfac(
    net: Layer,
    form: Any,
    lr: float | Schedule,
    mu: float,
    damping: float,
    rho: float,
    every: int,
    trust: float,
) -> Optimizer:
    rate = schedule("lr", lr)

    def shapes(params: Params) -> Tree:
        def read(params: Params, x: Any, state: Any) -> Tree:
            y, cache = net.forward(params, x, Eval(state))
            return backward(net, params, cache, y, of=block)[0]

        _, state = jax.eval_shape(net.init, jax.random.key(0), form)
        return jax.eval_shape(read, params, form, state)

    def init(params: Params) -> KFACState:
        step = jnp.zeros((), jnp.int32)
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), shapes(params))
        velocity = jax.tree.map(lambda p: jnp.zeros_like(widened(p)), params)
        return KFACState(step, rate(step), zeros, zeros, velocity)

    def update(both: Any, state: KFACState, params: Params) -> tuple[Params, KFACState]:
        del params
        if not isinstance(both, tuple) or len(both) != 2:
            raise ValueError(
                f"kfac is given a {type(both).__name__} for gradients; it must be the pair that "
                "kfac_gradient returns: give jnn.run or jnn.fit gradient=kfac_gradient"
            )
        grads, found = both
        lr, fade = rate(state.step), jnp.minimum(rho, 1 - 1 / (state.step.astype(float) + 1))
        curvature = jax.tree.map(
            lambda old, new: (fade * old + (1 - fade) * new).astype(old.dtype),
            state.curvature,
            found,
        )
        inverse = jax.lax.cond(
            state.step % every == 0,
            lambda: _over(partial(_inverted, damping), curvature),
            lambda: state.inverse,
        )
        natural = _over(_times, inverse, jax.tree.map(widened, grads))
        products = jax.tree.map(lambda n, g: jnp.vdot(n, widened(g)), natural, grads)
        along = jax.tree.reduce(jnp.add, products, jnp.zeros(()))
        c = jnp.minimum(1, jnp.sqrt(trust / jnp.maximum(lr**2 * along, TINY)))
        velocity = jax.tree.map(
            lambda v, n: (mu * v - lr * c * n).astype(v.dtype), state.velocity, natural
        )
        updates = jax.tree.map(lambda v, g: v.astype(g.dtype), velocity, grads)
        return updates, KFACState(following(state.step), lr, curvature, inverse, velocity)

    return Optimizer(init, update)


def kfac_gradient(net: Layer, loss: Loss, penalty: Penalty | None = None) -> ValueAndGrads:
    """`backprop`, with the curvature that `kfac` takes: f -> ((value, cache), (grads, curvature)).

    The curvature is read in a second backward pass through the same caches, from the cotangents of
    targets that are drawn from the model (see `Loss.draw`): with those of the data it would be that
    of the errors, and vanish as they do. It is for training alone: the mode must be Train(key).

    >>> import jnn
    >>> net, x = jnn.Serial(jnn.Dense(3)), jnp.ones((4, 2))
    >>> params, _ = net.init(jax.random.key(0), x)
    >>> f = kfac_gradient(net, jnn.SoftmaxCrossEntropy())
    >>> _, (grads, curvature) = f(params, x, jnp.zeros(4, int), jnn.Train(jax.random.key(1)))
    >>> [v.shape for v in curvature["dense1"]["w"]], curvature["dense1"]["b"].shape
    ([(2, 2), (3, 3)], (3,))
    """
    each = loss.each()

    def value_and_grads(
        params: Params, x: Any, y: Any, mode: Mode
    ) -> tuple[tuple[jax.Array, Cache], Any]:
        if not isinstance(mode, Train):
            raise ValueError(f"mode is {mode!r}; targets are drawn with the key of a Train(key)")
        prediction, cache = net.forward(params, x, mode)
        value, kept = loss.forward(prediction, y)
        grads, _ = net.backward(params, cache, loss.backward(kept, jnp.ones_like(value)))
        if penalty is not None:
            value += penalty.value(params).astype(value.dtype)
            grads = jax.tree.map(jnp.add, grads, penalty.grad(params))
        drawn = loss.draw(jax.random.fold_in(mode.key, DRAWN), prediction)
        values, kept = each.forward(prediction, drawn)
        # A mean over positions, each of which is a draw of its own.
        positions = formed(kept[1]).size / max(len(values), 1)
        dy = each.backward(kept, jnp.full_like(values, positions**0.5))
        curvature, _ = backward(net, params, cache, dy, of=block)
        return (value, cache), (grads, curvature)

    return value_and_grads


def _over(f: Any, blocks: Tree, *rest: Tree) -> Tree:
    return jax.tree.map(f, blocks, *rest, is_leaf=lambda v: isinstance(v, Kron))


def _inverted(damping: float, of: Any) -> Any:
    """The inverse of a block and its damping, each factor having its share of that."""
    if not isinstance(of, Kron):
        return 1 / (of + damping)
    a, d = of
    sizes = (a if _is_diagonal(of) else _diagonal(a)).mean(-1), _diagonal(d).mean(-1)
    pi = jnp.sqrt(jnp.maximum(sizes[0], TINY) / jnp.maximum(sizes[1], TINY))
    root = damping**0.5
    left, right = pi * root, root / pi
    d = jnp.linalg.inv(d + right[..., None, None] * jnp.eye(d.shape[-1], dtype=d.dtype))
    if _is_diagonal(of):
        return Kron(1 / (a + left[..., None]), d)
    return Kron(jnp.linalg.inv(a + left[..., None, None] * jnp.eye(a.shape[-1], dtype=a.dtype)), d)


def _times(inverse: Any, g: jax.Array) -> jax.Array:
    """The gradient of one parameter, by the inverse of its block."""
    if not isinstance(inverse, Kron):
        return inverse * g
    a, d = inverse
    matrix = g.reshape(*d.shape[:-2], a.shape[-1], d.shape[-1])
    left = a[..., None] * matrix if _is_diagonal(inverse) else a @ matrix
    return (left @ d).reshape(g.shape)


def _is_diagonal(of: Kron) -> bool:
    """Whether the first factor is known by its diagonal, as that of a table is."""
    return of.a.ndim < of.d.ndim


def _diagonal(matrix: jax.Array) -> jax.Array:
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)
