"""Muon: matrices that move by the same length in every direction."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.layer import Params
from jnn.masks import Where, mask, weights
from jnn.optimizers.adaptive import AdamState, adam
from jnn.optimizers.descent import descent, merge, part, schedule
from jnn.optimizers.first_order import MomentumState
from jnn.optimizers.protocol import Optimizer, Schedule, by_value
from jnn.optimizers.shrinking import decoupled


class MuonState(NamedTuple):
    """What `muon` remembers: step, lr, the velocity of the matrices, and Adam's state of the rest.

    `velocity`, in float32 at least, is None where `rest.mean` and `rest.square` are not.
    """

    step: jax.Array
    lr: jax.Array
    velocity: Params
    rest: AdamState


def matrices(path: str, leaf: Any) -> bool:
    """Weights of rank 2, which map one space into another."""
    return leaf.ndim == 2 and weights(path, leaf)


@by_value
def muon(
    lr: float | Schedule,
    mu: float | Schedule = 0.95,
    decay: float | Schedule = 0.1,
    where: Where = matrices,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
) -> Optimizer:
    """Nesterov's momentum, orthogonalised, for matrices; AdamW for the rest.

        v <- mu v + dx
        x <- x - lr (0.2 sqrt(max(in, out)) O(dx + mu v) + decay x)

    O(USV^T) is about UV^T: the singular values of an update, a few of which outgrow the others by
    far, become equal, so that rare directions are learned as well. It is steepest descent where
    length is the spectral norm of a matrix. O is five steps of Newton and Schulz (`orthogonal`),
    matrix products alone. The factor gives the update Adam's usual size, 0.2 a number, so that one
    lr and one decay serve matrices and the rest. Reported as reaching the loss of AdamW's language
    models with half the computation, which is why it is here of all that is new.

    `where` chooses the matrices, by default all weights of rank 2 (see `jnn.masks`); its authors
    leave embeddings and the last layer to AdamW. An array of higher rank, if chosen, is a stack of
    matrices in its last two axes: so are layers that are stacked; a convolution's kernel is then a
    matrix for each tap. Weights decay, chosen or not; biases and scales of norms do not.
    `lr`, `mu` and `decay` are numbers or schedules of the step, which is 0 at the first update.
    `b1`, `b2` and `eps` are those of `adam`.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; factor
    and decay by Liu et al. 2025, "Muon is scalable for LLM training".

    Raises ValueError as `momentum` and `adamw` do, or where a chosen array has fewer than two axes.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers import muon
    >>> optimizer, params = muon(0.1), {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    >>> grads = {"w": jnp.diag(jnp.array([5.0, 1.0])), "b": jnp.array([3.0, -0.01])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> bool((0.6 < -updates["w"].diagonal() / (0.1 * 0.2 * 2**0.5)).all())  # both about 1
    True
    >>> [round(u, 3) for u in updates["b"].tolist()]  # Adam's
    [-0.1, 0.1]
    """

    def rule(_, lr, mu, dx, v):
        v = mu * v + dx
        if dx.ndim < 2:
            raise ValueError(
                f"muon: where chooses an array of shape {dx.shape}; only matrices, and stacks of "
                "them in the last two axes, can be orthogonalised"
            )
        return -lr * 0.2 * max(dx.shape[-2:]) ** 0.5 * orthogonal(dx + mu * v), v

    turning = descent(MomentumState, rule, lr, schedule("mu", mu, below=1))
    rest = adam(lr, b1, b2, eps)

    def init(params: Params) -> MuonState:
        marks = mask(params, where)
        others = rest.init(part(marks, params, False))
        return MuonState(*turning.init(part(marks, params)), rest=others)

    def update(grads: Params, state: MuonState, params: Params) -> tuple[Params, MuonState]:
        marks = mask(params, where)
        turned, after = turning.update(part(marks, grads), MomentumState(*state[:3]), params)
        others, rested = rest.update(part(marks, grads, False), state.rest, params)
        return merge(marks, turned, others), MuonState(*after, rest=rested)

    return decoupled(Optimizer(init, update), decay, weights)


def orthogonal(x: jax.Array, steps: int = 5) -> jax.Array:
    """U S' V^T for a matrix x = U S V^T, or a stack of them, with S' near 1: from 0.68 to 1.21.

        x <- x / |x|,   then `steps` times   x <- 3.4445 x - 4.7750 (x x^T) x + 2.0315 (x x^T)^2 x

    |x| is the root of the sum of squares. Singular values below 0.0015 of it need more steps, and 0
    stays 0. The coefficients raise small values as fast as may be, and so do not settle at 1.

    >>> import jax.numpy as jnp
    >>> from jnn.optimizers.orthogonal import orthogonal
    >>> values = jnp.linalg.svd(orthogonal(jnp.array([[3.0, 1.0], [1.0, 2.0]])))[1]
    >>> bool(((0.6 < values) & (values < 1.2)).all())
    True
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # so that x x^T is the smaller product
    for norm in (_greatest, _frobenius):  # the greatest first, lest its square leave the range
        size = norm(x)
        x = x / jnp.where(size == 0, 1, size)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def _greatest(x: jax.Array) -> jax.Array:
    return jnp.abs(x).max(axis=(-2, -1), keepdims=True, initial=0)


def _frobenius(x: jax.Array) -> jax.Array:
    return jnp.sqrt((x * x).sum(axis=(-2, -1), keepdims=True))
