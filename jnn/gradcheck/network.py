"""The check of a whole network before it is trained."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jnn.compose.base import is_floating
from jnn.gradcheck.finite_differences import ERROR_BARS, Slope, slope
from jnn.gradcheck.recording import met
from jnn.gradcheck.sizes import typical
from jnn.gradcheck.target import exactly
from jnn.layer import Layer, Mode, Params, moving, unlike
from jnn.losses import Loss

AUTODIFF_BOUND = 1e-12  # of two float64 evaluations of one formula: thousands of roundings
NOISES = 100  # of the rounding noise in jax.grad, likewise; where a gradient is 0 there is no other
LOCAL_BOUND = 1e-9  # of a layer's greatest gradient, for one that is 0 is all rounding
HOLLOW = 1e-3  # a wider error bar says nothing


class LeafCheck(NamedTuple):
    """One parameter, or x: distances from the hand-written gradient, relative to its norm.

    Where the true gradient is 0, as of a bias before batch normalisation, the norm is that of which
    the rounding noise is a hundredth of what is allowed.
    """

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
    faulty: tuple[str, ...] = ()  # the layers whose own backward is not that of their forward

    def __bool__(self) -> bool:
        return all(self.leaves)

    def __str__(self) -> str:
        if self:
            told = [leaf for leaf in self.leaves if leaf.bar < HOLLOW]
            untold = len(self.leaves) - len(told)
            return (
                f"gradients right: all {len(self.leaves)} agree with jax.grad to "
                f"{max((leaf.autodiff for leaf in self.leaves), default=0):.0e} and with finite "
                f"differences to {max((leaf.differences for leaf in told), default=0):.0e}"
                + f", which could not tell for {untold} of them" * bool(untold)
                + f" ({self.examples} examples, float64)"
            )
        wrong = [
            f"  {leaf.path} {leaf.shape}: off by {leaf.autodiff:.1e} from jax.grad, "
            f"{leaf.differences:.1e} from finite differences (error bar {leaf.bar:.0e})"
            for leaf in self.leaves
            if not leaf
        ]
        lines = [f"gradients WRONG in {len(wrong)} of {len(self.leaves)}:", *wrong]
        if self.faulty:
            names = ", ".join(self.faulty)
            lines.append(f"wrong by itself: {names}; jnn.check_layer tells what is wrong")
        return "\n".join(lines)


def check_network(
    net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode, *, key: jax.Array
) -> GradientCheck:
    """Checks the hand-written backward of a network and of its loss by two witnesses, in float64.

    The network is given a random cotangent, which unlike the loss's own is never close to 0, and
    all its gradients and dx are checked; so is dprediction of the loss, at random predictions and
    in its per-example form with a random cotangent for each: the mean's, alike for all, would hide
    a slip between examples.

    `jax.grad` of the same forward pass must agree to rounding; it shares the forward with the
    hand-written pass but none of the backward. The slope along a random direction in each of them,
    by finite differences, must agree to a few error bars; it owes autodiff nothing. Where they do
    not agree, the layers are named that are wrong by themselves; `check_layer` tells how.

    Parameters and x are first moved by about one percent, at random: where biases are still zero a
    ReLU may sit exactly on its kink (an input of zeros is enough), and has no slope there.

    x64 is switched on inside and only there, so that it is safe in a float32 program.

    >>> import jnn
    >>> x, y = (v[:8] for v in jnn.data.digits().train)
    >>> net = jnn.Serial(jnn.Flatten(), jnn.Dense(4), jnn.Sigmoid(), jnn.Dense(10))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> check = check_network(net, jnn.SoftmaxCrossEntropy(), params, x, y, jnn.Eval(state),
    ...                       key=jax.random.key(1))
    >>> bool(check), len(check.leaves), [leaf.path for leaf in check.leaves[2:]]
    (True, 6, ["['dense1']['w']", "['dense2']['b']", "['dense2']['w']", 'x'])
    """
    with exactly():
        params, x, mode = (jax.tree.map(_to_float64, tree) for tree in (params, x, mode))
        prediction = jax.eval_shape(lambda p, x, m: net.forward(p, x, m)[0], params, x, mode)
        point_key, weight_key, key = jax.random.split(key, 3)
        dy, guess = jax.random.normal(point_key, (2, *prediction.shape))
        examples = len(jax.tree.leaves(x)[0])
        cotangents = dy, jax.random.normal(weight_key, (examples,))
        point = {"params": params, "loss": guess}
        if jax.tree.leaves(moving(x)):
            point["x"] = moving(x)
        leaves = jax.tree.leaves_with_path(point)
        # An argument, because XLA would spend seconds on folding so large a constant.
        owner = np.repeat(np.arange(len(leaves)), [leaf.size for _, leaf in leaves])
        results = jax.device_get(_compare(net, loss, point, x, y, mode, key, cotangents, owner))
        checks = tuple(
            LeafCheck(_name(path), leaf.shape, *(float(v[i]) for v in results))
            for i, (path, leaf) in enumerate(leaves)
        )
        faulty = () if all(checks) else _faulty(net, params, x, mode, key)
    return GradientCheck(checks, examples, faulty)


def _faulty(net: Layer, params: Params, x: Any, mode: Mode, key: jax.Array) -> tuple[str, ...]:
    """The leaves that are wrong by themselves, with what they are given and a random cotangent."""
    rng = np.random.default_rng(int(jax.random.bits(key)))

    def normal(v: jax.Array) -> jax.Array:
        return jnp.asarray(rng.standard_normal(v.shape), v.dtype)

    def jolted(v: Any) -> Any:
        return v + 0.01 * typical(v) * normal(v) if is_floating(v) else v

    found = {}
    params, x = jax.tree.map(jolted, (params, x))
    for path, leaf, _, seen in met(net, params, x, mode):
        forward = partial(leaf.forward, mode=seen.mode)
        y, pull, cache = jax.vjp(forward, seen.params, seen.x, has_aux=True)
        dy = jax.tree.map(normal, moving(y))
        want, got = (moving(v) for v in (pull(dy), leaf.backward(seen.params, cache, dy)))
        off = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.linalg.norm(a - b), got, want))
        size = max(map(jnp.linalg.norm, jax.tree.leaves(want)), default=0.0)
        if not max(off, default=0.0) <= LOCAL_BOUND * size:
            found[path] = f"{path} = {leaf!r}".removeprefix(" = ")
    return tuple(found.values())


@partial(jax.jit, static_argnums=(0, 1))
def _compare(
    net: Layer,
    loss: Loss,
    point: dict[str, Any],
    x: Any,
    y: jax.Array,
    mode: Mode,
    key: jax.Array,
    cotangents: tuple[jax.Array, jax.Array],
    owner: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The columns of LeafCheck, at `point`: the parameters, a prediction, and x if not of integers.

    `owner` is the leaf to which each of its numbers belongs.
    """
    dy, dvalues = cotangents
    each = loss.each()
    flat, unravel = ravel_pytree(point)
    sizes = np.array([leaf.size for leaf in jax.tree.leaves(point)])

    def placed(flat: jax.Array) -> dict[str, Any]:
        """The point, with what x holds of integers."""
        at = {"x": moving(x)} | unravel(flat)
        whole = jax.tree.map(lambda a, b: b if a is None else a, at["x"], x, is_leaf=_is_none)
        return at | {"x": whole}

    def values(flat: jax.Array) -> jax.Array:
        """Of the network and of the loss; apart, for the rounding of one could swamp the other."""
        at = placed(flat)
        prediction, _ = net.forward(at["params"], at["x"], mode)
        costs, _ = each.forward(at["loss"], y)
        return jnp.stack([jnp.vdot(dy, prediction), jnp.vdot(dvalues, costs)])

    def by_grad(flat: jax.Array) -> jax.Array:
        return jax.grad(lambda flat: values(flat).sum())(flat)

    def by_hand(flat: jax.Array) -> jax.Array:
        at = placed(flat)
        _, cache = net.forward(at["params"], at["x"], mode)
        grads, dx = net.backward(at["params"], cache, dy)
        _, kept = each.forward(at["loss"], y)
        found = {"params": grads, "loss": each.backward(kept, dvalues), "x": dx}
        found = {name: found[name] for name in point}
        if problem := unlike(found, unravel(flat)):
            raise ValueError(f"backward returned what is not like its arguments: {problem}")
        return ravel_pytree(found)[0]

    def leaf_sums(v: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(v, owner, len(sizes))

    def leaf_norms(v: jax.Array) -> jax.Array:
        return jnp.sqrt(leaf_sums(v * v))

    # A unit of movement: a weight's typical size; for biases of 0, the least of those.
    typical = leaf_norms(flat) / np.sqrt(sizes)
    unit = _or_one(jnp.where(typical > 0, typical, typical.min(where=typical > 0, initial=1)))
    u, jolt = jax.random.normal(key, (2, flat.size)) * unit[owner]
    flat = flat + 0.01 * jolt
    hand, auto = by_hand(flat), by_grad(flat)
    noise = leaf_norms(auto - by_grad(flat * (1 + 8 * jnp.finfo(flat.dtype).eps)))
    of_loss = np.array([path[0].key == "loss" for path, _ in jax.tree.leaves_with_path(point)])

    def along(leaf: jax.Array) -> Slope:
        direction = jnp.where(owner == leaf, u, 0)
        return slope(lambda t: values(flat + t * direction)[jnp.asarray(of_loss, int)[leaf]])

    measured = jax.lax.map(along, jnp.arange(len(sizes)))
    norms = _or_one(jnp.maximum(leaf_norms(auto), NOISES * noise / AUTODIFF_BOUND))
    return (
        leaf_norms(hand - auto) / norms,
        jnp.abs(leaf_sums(hand * u) - measured.value) / (norms * unit),
        measured.error / (norms * unit),
    )


def _is_none(v: Any) -> bool:
    return v is None


def _name(path: tuple[Any, ...]) -> str:
    """`['dense1']['w']` for a parameter; `x`; `loss` for the gradient of the loss."""
    return jax.tree_util.keystr(path[1:]) or path[0].key


def _or_one(norm: jax.Array) -> jax.Array:
    """What to divide by: the norm, or 1 where it is 0."""
    return jnp.where(norm > 0, norm, 1)


def _to_float64(v: Any) -> Any:
    return v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v
