"""The check of a whole network before it is trained."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn.gradcheck.finite_differences import Slope, slope
from jnn.gradients import autodiff, backprop
from jnn.layer import Layer, Mode, Params
from jnn.losses import Loss

AUTODIFF_BOUND = 1e-12  # of two float64 evaluations of one formula: thousands of roundings
ERROR_BARS = 10  # of a finite difference: its bar is an estimate, not a bound


class LeafCheck(NamedTuple):
    """One parameter: distances from the hand-written gradient, relative to the gradient's norm."""

    path: str
    shape: tuple[int, ...]
    autodiff: float  # |hand - jax.grad| / |jax.grad|
    differences: float  # |<hand, u> - slope along u| / |jax.grad|, u a random direction
    bar: float  # the error bar of that slope, likewise

    def __bool__(self) -> bool:
        """Whether both witnesses agree with the hand-written gradient. NaN never does."""
        return self.autodiff <= AUTODIFF_BOUND and self.differences <= ERROR_BARS * self.bar


@dataclass(frozen=True)
class GradientCheck:
    """What `check_network` found; true where every leaf is right, and readable as a string."""

    leaves: tuple[LeafCheck, ...]
    examples: int

    def __bool__(self) -> bool:
        return all(self.leaves)

    def __str__(self) -> str:
        if self:
            return (
                f"gradients right: all {len(self.leaves)} parameters agree with jax.grad to "
                f"{max((leaf.autodiff for leaf in self.leaves), default=0):.0e} and with finite "
                f"differences to {max((leaf.differences for leaf in self.leaves), default=0):.0e} "
                f"({self.examples} examples, float64)"
            )
        wrong = [
            f"  {leaf.path} {leaf.shape}: off by {leaf.autodiff:.1e} from jax.grad, "
            f"{leaf.differences:.1e} from finite differences (error bar {leaf.bar:.0e})"
            for leaf in self.leaves
            if not leaf
        ]
        return "\n".join([f"gradients WRONG in {len(wrong)} of {len(self.leaves)}:", *wrong])


def check_network(
    net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode, *, key: jax.Array
) -> GradientCheck:
    """Checks the hand-written gradient of every parameter against two witnesses, in float64.

    `jax.grad` of the same forward pass must agree to rounding; it shares the forward with the
    hand-written pass but none of the backward. The slope of the loss along a random direction in
    each parameter, by finite differences, must agree to a few error bars; it owes autodiff nothing.

    The parameters are first moved by about one percent, at random: where biases are still zero a
    ReLU may sit exactly on its kink (an input of zeros is enough), and has no slope there.

    x64 is switched on inside and only there, so that it is safe in a float32 program.

    >>> import jnn
    >>> x, y = (v[:8] for v in jnn.data.digits().train)
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(4), jnn.Sigmoid(), jnn.Dense(10))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> check = check_network(net, jnn.SoftmaxCrossEntropy(), params, x, y, jnn.Eval(state),
    ...                       key=jax.random.key(1))
    >>> bool(check), [leaf.path for leaf in check.leaves]
    (True, ["['dense1']['b']", "['dense1']['w']", "['dense2']['b']", "['dense2']['w']"])
    """
    with jax.enable_x64(True):
        params, x, mode = (jax.tree.map(_to_float64, tree) for tree in (params, x, mode))
        results = jax.device_get(_compare(net, loss, params, x, y, mode, key))
    leaves = jax.tree.leaves_with_path(params)
    return GradientCheck(
        tuple(
            LeafCheck(jax.tree_util.keystr(path), leaf.shape, *(float(v[i]) for v in results))
            for i, (path, leaf) in enumerate(leaves)
        ),
        examples=len(x),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _compare(
    net: Layer, loss: Loss, params: Params, x: jax.Array, y: jax.Array, mode: Mode, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The columns of LeafCheck, one entry for each leaf of the parameters."""
    leaves, structure = jax.tree.flatten(params)
    # A unit of movement: a weight's typical size; for biases of 0, one.
    units = jnp.stack([_size(_norm(p) / math.sqrt(p.size)) for p in leaves])
    us, vs = (
        [
            unit * jax.random.normal(jax.random.fold_in(k, i), p.shape, p.dtype)
            for i, (p, unit) in enumerate(zip(leaves, units, strict=True))
        ]
        for k in jax.random.split(key)
    )
    leaves = [p + 0.01 * v for p, v in zip(leaves, vs, strict=True)]
    hand, auto = (
        jax.tree.leaves(gradient(net, loss)(structure.unflatten(leaves), x, y, mode)[1])
        for gradient in (backprop, autodiff)
    )
    predicted = jnp.stack([jnp.vdot(g, u) for g, u in zip(hand, us, strict=True)])

    def along(i: jax.Array) -> Slope:
        def value(t: jax.Array) -> jax.Array:
            pairs = zip(leaves, us, strict=True)
            moved = [jnp.where(i == j, p + t * u, p) for j, (p, u) in enumerate(pairs)]
            return loss.forward(net.forward(structure.unflatten(moved), x, mode)[0], y)[0]

        return slope(value)

    measured = jax.lax.map(along, jnp.arange(len(leaves)))
    norms = jnp.stack([_size(_norm(a)) for a in auto])
    distance = jnp.stack([_norm(h - a) for h, a in zip(hand, auto, strict=True)])
    return (
        distance / norms,
        jnp.abs(predicted - measured.value) / (norms * units),
        measured.error / (norms * units),
    )


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x))


def _size(norm: jax.Array) -> jax.Array:
    """What to divide by: the norm, or 1 where it is 0."""
    return jnp.where(norm > 0, norm, 1)


def _to_float64(v: Any) -> Any:
    return v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v
