"""Which parts of an input a network's answer is owed to: a backward pass, asked about one class.

All return arrays like x. `chosen` are the classes that are asked about, one for each example; the
network is evaluated, and its output must be scores (n, k).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.asking import backward
from jnn.compose.base import is_floating
from jnn.compose.branches import Residual
from jnn.data.checking import whole
from jnn.layer import Eval, Layer, Params, State, check_key, shape_of
from jnn.losses import Loss
from jnn.taps import Seen, tapped


def saliency(
    net: Layer, params: Params, state: State, x: jax.Array, chosen: Any, *, pull: Any = None
) -> jax.Array:
    """The slope of the chosen class's score; or with `pull`, what other rules make of it.

    `pull` is that of `jnn.backward`, such as {jnn.ReLU: jnn.rules.guided}.
    Source: Simonyan et al. 2014, "Deep inside convolutional networks".

    >>> import jnn
    >>> net, params = jnn.Dense(2, bias=False), {"w": jnp.array([[1.0, 5.0], [2.0, 6.0]])}
    >>> saliency(net, params, {}, jnp.ones((1, 2)), [1]).tolist()
    [[5.0, 6.0]]
    """
    scores, cache = net.forward(params, x if isinstance(x, tuple) else _numbers(x), Eval(state))
    return backward(net, params, cache, _one(scores, chosen), pull=pull)[1]


def relevance(
    net: Layer, params: Params, state: State, x: jax.Array, chosen: Any, *, pull: Any
) -> jax.Array:
    """The relevance of x for the chosen class, by rules such as `jnn.rules.relevance()`.

    It begins with the score, so that where the rules conserve it, it sums to the score. Raises
    ValueError where the network has a Residual, through which they do not.

    >>> import jnn
    >>> net, params = jnn.Dense(2, bias=False), {"w": jnp.array([[1.0, 5.0], [2.0, 6.0]])}
    >>> relevance(net, params, {}, jnp.ones((1, 2)), [1], pull=jnn.rules.relevance()).tolist()
    [[5.0, 6.0]]
    """
    if _adds(net):
        raise ValueError(
            f"net has a Residual, through which relevance would flow both ways undivided: {net!r}"
        )
    scores, cache = net.forward(params, _numbers(x), Eval(state))
    return backward(net, params, cache, scores * _one(scores, chosen), pull=pull)[1]


def smooth_gradient(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array,
    chosen: Any,
    *,
    key: jax.Array,
    deviation: float,
    samples: int = 32,
) -> jax.Array:
    """The mean of `saliency` over inputs with Gaussian noise added.

    Source: Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise".

    >>> import jnn
    >>> net, params = jnn.Dense(1, bias=False), {"w": jnp.array([[3.0]])}
    >>> x, key = jnp.ones((1, 1)), jax.random.key(0)
    >>> smooth_gradient(net, params, {}, x, [0], key=key, deviation=0.1, samples=4).tolist()
    [[3.0]]
    """

    check_key(key)
    x, samples = _numbers(x), whole("samples", samples)

    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        noise = deviation * jax.random.normal(key, x.shape, x.dtype)
        return total + saliency(net, params, state, x + noise, chosen), None

    keys = jax.random.split(key, samples)
    return jax.lax.scan(add, jnp.zeros_like(x), keys)[0] / samples


def integrated_gradients(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array,
    chosen: Any,
    *,
    baseline: Any = 0.0,
    steps: int = 32,
) -> jax.Array:
    """(x - x0) times the mean slope on the straight way there from a baseline x0.

    It sums to f(x) - f(x0) for each example, up to the error of a Gauss-Legendre sum of so many
    steps, which for smooth networks is that of rounding.
    Source: Sundararajan et al. 2017, "Axiomatic attribution for deep networks".

    >>> import jnn
    >>> net, params = jnn.Dense(1, bias=False), {"w": jnp.array([[3.0], [1.0]])}
    >>> integrated_gradients(net, params, {}, jnp.array([[2.0, 4.0]]), [0]).round().tolist()
    [[6.0, 4.0]]
    """
    x, steps = _numbers(x), whole("steps", steps)
    at, weights = np.polynomial.legendre.leggauss(steps)
    start = jnp.asarray(baseline, x.dtype)
    if start.shape not in ((), x.shape, x.shape[1:]):
        raise ValueError(
            f"baseline is {shape_of(start)}; it must be a number, or like x or one example of it, "
            f"{x.shape[1:]}"
        )
    start = jnp.broadcast_to(start, x.shape)

    def add(total: jax.Array, node: Any) -> tuple[jax.Array, None]:
        t, w = node
        return total + w * saliency(net, params, state, start + t * (x - start), chosen), None

    nodes = jnp.asarray((at + 1) / 2, x.dtype), jnp.asarray(weights / 2, x.dtype)
    return (x - start) * jax.lax.scan(add, jnp.zeros_like(x), nodes)[0]


def grad_cam(
    net: Layer, params: Params, state: State, x: jax.Array, chosen: Any, *, layer: str
) -> jax.Array:
    """Where in the maps of a layer the class was seen: (n, height, width) or of its other axes.

        max(sum_c a_c y_c, 0),   a_c the mean over places of the cotangent of channel c

    `layer` is the dotted path of the leaf whose output y (n, ..., c) are the maps.
    Source: Selvaraju et al. 2017, "Grad-CAM".
    Raises ValueError where no leaf has that path.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Conv(2), jnn.GlobalAvgPool(), jnn.Dense(3))
    >>> x = jnp.ones((1, 5, 4, 1))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> grad_cam(net, params, state, x, [0], layer="conv1").shape
    (1, 5, 4)
    """
    scores = jax.eval_shape(lambda: net.forward(params, _numbers(x), Eval(state))[0])
    found = tapped(net, _Chosen(), _seen_in)(params, x, _one(scores, chosen), Eval(state))
    if layer not in found:
        raise ValueError(
            f"layer is {layer!r}; it must be the path of a leaf of maps, one of {list(found)}"
        )
    return len(scores) * found[layer]  # for the scores' mean was taken


def _seen_in(seen: Seen) -> Any:
    if not hasattr(seen.y, "ndim") or seen.y.ndim < 3:
        return ()
    a = seen.dy.mean(axis=tuple(range(1, seen.dy.ndim - 1)), keepdims=True)
    return jnp.maximum((a * seen.y).sum(axis=-1), 0)


class _Chosen(Loss):
    """The mean of the scores that are asked about, those where the target is 1."""

    def values(self, prediction: jax.Array, target: jax.Array) -> Any:
        return (prediction * target).sum(axis=-1), target

    def pull(self, cache: jax.Array, dvalues: jax.Array) -> jax.Array:
        return cache * dvalues[:, None]


def _one(scores: Any, chosen: Any) -> jax.Array:
    """1 at the chosen class of each example, and 0 elsewhere."""
    # Not by jnp, which would trace what is known here within a loop.
    chosen = chosen if isinstance(chosen, jax.Array) else np.asarray(chosen)
    numbered = jnp.issubdtype(chosen.dtype, jnp.integer)
    if scores.ndim != 2 or chosen.shape != scores.shape[:1] or not numbered:
        raise ValueError(
            f"chosen is {shape_of(chosen)} and the network's output {shape_of(scores)}; they must "
            "be (n,), a class for each example, and (n, k)"
        )
    if not isinstance(chosen, Tracer):
        for number in np.asarray(chosen):
            if not 0 <= number < scores.shape[1]:
                raise ValueError(f"chosen has {number}; classes are 0 to {scores.shape[1] - 1}")
    return jax.nn.one_hot(chosen, scores.shape[1], dtype=scores.dtype)


def _numbers(x: Any) -> jax.Array:
    if isinstance(x, tuple) or not is_floating(x := jnp.asarray(x)):
        form = f"a {type(x).__name__}" if isinstance(x, tuple) else shape_of(x)
        raise ValueError(
            f"x is {form}; it must be one array of floating-point numbers, for it is these that "
            "the score is owed to: of tokens, give their embeddings to the layers after"
        )
    return x


def _adds(layer: Layer) -> bool:
    return isinstance(layer, Residual) or any(_adds(child) for _, child in layer.children)
