"""Other rules by which a backward pass may go: each is a `pull` of `jnn.backward`.

A rule is called as rule(layer, params, cache, dy) and returns dx in place of the layer's own. It
goes by the cache that the forward pass left, and what it returns is handed on as any cotangent is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jnn.compose.base import fold
from jnn.layer import Cache, Eval, Layer, Params, fail, leaves
from jnn.layers import (
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Item,
    Last,
    Pad,
    Reshape,
    Transpose,
)
from jnn.layers.activations import Elementwise
from jnn.layers.pooling import Pools

Rule = Callable[[Layer, Params, Cache, Any], Any]

# Layers whose own backward hands all of what comes back on, as relevance must be.
CARRY = (
    Concatenate,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Item,
    Last,
    Pad,
    Pools,
    Reshape,
    Transpose,
)


def guided(layer: Layer, params: Params, cache: Cache, dy: jax.Array) -> jax.Array:
    """dx = df(max(dy, 0)): of a ReLU, what is positive both ways.

    Source: Springenberg et al. 2015, "Striving for simplicity: the all convolutional net".

    >>> import jnn
    >>> y, cache = jnn.ReLU().forward({}, jnp.array([1.0, 1.0, -1.0]), None)
    >>> guided(jnn.ReLU(), {}, cache, jnp.array([2.0, -2.0, 2.0])).tolist()
    [2.0, 0.0, 0.0]
    """
    return layer.pull(params, cache, jnp.maximum(dy, 0))


def deconvnet(layer: Layer, params: Params, cache: Cache, dy: jax.Array) -> jax.Array:
    """dx = max(dy, 0), whatever went forward.

    Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks".

    >>> deconvnet(Layer(), {}, None, jnp.array([2.0, -2.0])).tolist()
    [2.0, 0.0]
    """
    del layer, params, cache
    return jnp.maximum(dy, 0)


def straight_through(layer: Layer, params: Params, cache: Cache, dy: Any) -> Any:
    """dx = dy: the layer is taken for the identity, as of a rounding or a sign, whose slope is 0.

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".

    >>> straight_through(Layer(), {}, None, jnp.array([2.0, -2.0])).tolist()
    [2.0, -2.0]
    """
    del layer, params, cache
    return dy


def reversed_by(times: float = 1.0) -> Rule:
    """dx = -times df(dy): what follows is trained to do well, what comes before to prevent it.

    Source: Ganin & Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".

    >>> import jnn
    >>> y, cache = jnn.ReLU().forward({}, jnp.array([1.0]), None)
    >>> reversed_by(2.0)(jnn.ReLU(), {}, cache, jnp.array([3.0])).tolist()
    [-6.0]
    """

    def rule(layer: Layer, params: Params, cache: Cache, dy: Any) -> Any:
        return jax.tree.map(lambda v: -times * v, layer.pull(params, cache, dy))

    return rule


def feedback(b: jax.Array) -> Rule:
    """dx = dy b^T with a fixed matrix b (in, out) in place of the weights of a Dense.

    Of b = w it is backpropagation. `feedback_alignment` makes one for every Dense.

    >>> import jnn
    >>> feedback(jnp.eye(2))(jnn.Dense(2), {}, None, jnp.array([[3.0, 4.0]])).tolist()
    [[3.0, 4.0]]
    """

    def rule(layer: Layer, params: Params, cache: Cache, dy: jax.Array) -> jax.Array:
        del layer, params, cache
        return dy @ b.T.astype(dy.dtype)

    return rule


def feedback_alignment(net: Layer, params: Params, key: jax.Array) -> dict[str, Rule]:
    """A `feedback` for every Dense of the network, drawn from key with the size of its weights.

    The copies of a Repeat have one; so have layers that share weights.

    Source: Lillicrap et al. 2016, "Random synaptic feedback weights support error backpropagation
    for deep learning".

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(3), jnn.Tanh(), jnn.Dense(2))
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> sorted(feedback_alignment(net, params, jax.random.key(1)))
    ['dense1', 'dense2']
    """
    found = {}
    for path, w in _weights(net, params):
        found[path] = feedback(_like(w, fold(key, path), w.shape[-2:]))
    return found


def direct_feedback(net: Layer, params: Params, key: jax.Array, dy: jax.Array) -> dict[str, Rule]:
    """For every Dense but the first, dx = dy_out b^T: the network's own cotangent, at once.

    dy is that cotangent, which the rules keep; each b (in, k) is drawn from key with the size of
    the layer's weights. Source: Nøkland 2016, "Direct feedback alignment provides learning in deep
    neural networks".

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(3), jnn.Tanh(), jnn.Dense(2))
    >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> list(direct_feedback(net, params, jax.random.key(1), jnp.ones((1, 2))))
    ['dense2']
    """
    found = {}
    for path, w in _weights(net, params)[1:]:
        rule = feedback(_like(w, fold(key, path), (w.shape[-2], dy.shape[-1])))
        found[path] = lambda layer, params, cache, _, rule=rule: rule(layer, params, cache, dy)
    return found


def sign_symmetric(layer: Layer, params: Params, cache: Cache, dy: Any) -> Any:
    """dx of the signs of the weights, as large as the weights are on average.

    Source: Liao et al. 2016, "How important is weight symmetry in backpropagation?".

    >>> import jnn
    >>> params, x = {"w": jnp.array([[1.0], [-3.0]]), "b": jnp.zeros(1)}, jnp.ones((1, 2))
    >>> sign_symmetric(jnn.Dense(1), params, x, jnp.ones((1, 1))).tolist()
    [[2.0, -2.0]]
    """
    signs = {**params, "w": jnp.sign(params["w"]) * abs(params["w"]).mean()}
    return layer.pull(signs, cache, dy)


def relevance(
    epsilon: float = 0.0, gamma: float = 0.0, positive: bool = False
) -> Mapping[Any, Rule]:
    """Layer-wise relevance propagation, as rules by type: what comes back is relevance, not slope.

        R_in = a (s w'^T),   s = R_out / (z + epsilon sign z),   z = a w' + b'

    with a what the layer was given and w' = w + gamma max(w, 0), or max(w, 0) where `positive`
    (the z+ rule, whose biases are left out). Activations hand relevance on as it is, MaxPool to
    what won, the mean of a pool to all alike. Without biases, and epsilon being 0, a layer's
    relevance is conserved: R_in and R_out have one sum.

    Other layers with weights, and joins, have no rule and are refused. What is no layer cannot be:
    where a Residual adds, relevance would flow both ways undivided, and be no relevance any more.

    Start it with dy the scores themselves, or those of one class and 0 for others; or take
    `attribution.relevance`, which does, and refuses a Residual.
    Source: Bach et al. 2015, "On pixel-wise explanations for non-linear classifier decisions by
    layer-wise relevance propagation"; gamma from Montavon et al. 2019.

    Raises ValueError where epsilon or gamma is negative.

    >>> import jnn
    >>> net, x = jnn.Serial(jnn.Dense(2, bias=False), jnn.ReLU()), jnp.array([[1.0, 2.0]])
    >>> params = {"dense1": {"w": jnp.array([[1.0, 0.0], [1.0, 3.0]])}}
    >>> y, cache = net.forward(params, x, Eval())
    >>> _, found = jnn.backward(net, params, cache, y, pull=relevance())
    >>> found.tolist(), float(y.sum())
    ([[1.0, 8.0]], 9.0)
    """
    for name, value in (("epsilon", epsilon), ("gamma", gamma)):
        if not value >= 0:
            raise ValueError(f"{name} is {value!r}; it must be a number of at least 0")

    def products(layer: Layer, params: Params, a: jax.Array, dy: jax.Array) -> jax.Array:
        w = params["w"]
        bent = {k: v + gamma * jnp.maximum(v, 0) for k, v in params.items()}
        if positive:
            bent = {
                k: jnp.zeros_like(v) if k == "b" else jnp.maximum(w, 0) for k, v in params.items()
            }
        z, cache = layer.forward(bent, a, Eval())
        z = z + epsilon * jnp.where(z >= 0, 1, -1)
        s = jnp.where(z == 0, 0, dy / jnp.where(z == 0, 1, z))
        return a * layer.pull(bent, cache, s)

    def no_rule(layer: Layer, params: Params, cache: Cache, dy: Any) -> Any:
        del params, cache, dy
        fail(
            layer,
            "relevance has no rule for it: give one first, {type: rule, **relevance()}, such as "
            "straight_through, which hands it on as it is",
        )

    known = {Dense: products, Conv: products, Elementwise: straight_through}
    return known | {_has_no_rule: no_rule}


def _has_no_rule(layer: Layer) -> bool:
    return not isinstance(layer, CARRY)


def _like(w: jax.Array, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Gaussian numbers, as large as those of w are on average."""
    return jnp.sqrt(jnp.square(w).mean()) * jax.random.normal(key, shape, w.dtype)


def _weights(net: Layer, params: Params) -> list[tuple[str, jax.Array]]:
    """Every Dense's weights, by its path; of those that share theirs, by the path that has them."""
    found = []
    for path, leaf in leaves(net):
        if isinstance(leaf, Dense):
            node = params
            for name in filter(None, path.split(".")):
                node = node.get(name, {})
            if "w" in node:
                found.append((path, node["w"]))
    return found
