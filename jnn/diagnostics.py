"""What every layer is doing, in numbers and in words: dead, saturated, vanishing, too fast."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jnn import tables
from jnn.compose.rewriting import stacking, uses
from jnn.curvature import noise_scale
from jnn.factors import is_factor, sqnorm
from jnn.layer import Layer, Mode, Params, Tree, moving
from jnn.layers.activations import Elementwise
from jnn.losses import Loss
from jnn.masks import mask, weights
from jnn.precision import widened
from jnn.taps import Seen, tapped

EDGE = 0.025  # of the range of a squashing function: nearer to an end than this is saturated
MANY = 0.5  # of the units dead, or of the outputs saturated, is worth a word
SLOW, FAST = 1e-5, 1e-1  # updates relative to weights; 1e-3 is usual
FAR = 1e4  # between the largest and the smallest cotangent of the layers


class LayerStats(NamedTuple):
    """What one leaf did in a forward and a backward pass over one batch; None where undefined."""

    path: str
    layer: Layer
    mean: float  # of the outputs
    spread: float  # their standard deviation
    dead: float | None  # the fraction of an activation's units without slope at every example
    saturated: float | None  # the fraction of a squashing function's outputs close to an end
    cotangent: float  # the root mean square of dy
    gradient: float | None  # the norm of the gradient of its weights, or of what it has
    update: float | None  # the norm of its weights' last update, relative to that of the weights
    signal: float | None = None  # |E g|^2 of the examples' gradients g of its parameters, unbiased
    variance: float | None = None  # tr cov g, likewise, with the batch's mean for its loss


def measure(net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode) -> list[LayerStats]:
    """Statistics of every leaf from one hand-written forward and backward pass over (x, y).

    A unit is an index of the last axis: a neuron, or a channel. It is dead where its activation
    has slope 0 at every example (and position) of the batch. An output is saturated within 2.5% of
    the range's ends: beyond 0.95 for a tanh, 0.975 for a sigmoid. `update` is None: there was none.
    `signal` and `variance` are those of `curvature.noise_scale`, for leaves that state factors and
    batches of two at least; where a BatchNorm trains, an example's gradient is what it adds.
    A leaf within `Repeat` is measured at every depth, `blocks.dense1[3]`; over the slices of
    `Mapped` the mean is taken.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(4), jnn.ReLU(), jnn.Dense(3))
    >>> x, y = jnp.ones((2, 5)), jnp.array([0, 2])
    >>> params, state = net.init(jax.random.key(0), x)
    >>> params["dense1"]["b"] = jnp.full(4, -100.0)
    >>> stats = measure(net, jnn.SoftmaxCrossEntropy(), params, x, y, jnn.Eval(state))
    >>> [(layer.path, layer.dead) for layer in stats]
    [('dense1', None), ('relu1', 1.0), ('dense2', None)]
    >>> judge(stats)[0]
    'relu1: 100% of its units never fire; a smaller learning rate or a LeakyReLU keeps them alive'
    """
    return named(net, jax.device_get(_measure(net, loss, params, x, y, mode)))


def judge(layers: Sequence[LayerStats] | None) -> list[str]:
    """What is wrong with the layers, a sentence each, worst layers as they come; often nothing.

    It speaks where over half of the units are dead or of the outputs saturated, where updates are
    not between 1e-5 and 1e-1 of the weights (none at all is a frozen layer's), where cotangents or
    the spread of the outputs differ 10,000-fold between layers. Where a number is not finite it
    names the layer with which that began: forwards, or where all is finite forwards, backwards.
    Raises ValueError where `layers` is None, as in a Progress before anything was measured.
    """
    if layers is None:
        raise ValueError("layers is None: nothing was measured yet; give jnn.run a lower `watch`")
    words = _broken(layers)
    for layer in layers:
        say = partial("{}: {}".format, layer.path)
        if not _finite(layer, *LayerStats._fields[2:]):
            continue
        if layer.dead is not None and layer.dead > MANY:
            words.append(
                say(
                    f"{layer.dead:.0%} of its units never fire; a smaller learning rate or a "
                    "LeakyReLU keeps them alive"
                )
            )
        if layer.saturated is not None and layer.saturated > MANY:
            words.append(
                say(
                    f"{layer.saturated:.0%} of its outputs are saturated; start from smaller "
                    "weights or normalise its input"
                )
            )
        # Exactly 0 it is where a layer is frozen, and meant to be.
        if layer.update and not SLOW <= layer.update <= FAST:
            much, mend = ("only ", "raise") if layer.update < SLOW else ("", "lower")
            words.append(
                say(
                    f"its updates are {much}{layer.update:.0e} of its weights, 1e-03 being usual; "
                    f"{mend} the learning rate"
                )
            )
    return words + _compared(layers)


def table(layers: Sequence[LayerStats] | None) -> str:
    """The statistics as lines of text, and what `judge` says of them.

    `noise` is variance / signal, the batch at which a gradient is half noise, as this one batch
    tells it; see `noise_scales` for many.
    """
    words = judge(layers)
    head = ("layer", "mean", "spread", "dead", "saturated", "cotangent", "gradient", "update")
    head += ("noise",)
    rows = [
        (
            layer.path,
            f"{layer.mean:.2g}",
            f"{layer.spread:.2g}",
            *("" if v is None else f"{v:.0%}" for v in (layer.dead, layer.saturated)),
            f"{layer.cotangent:.1e}",
            *("" if v is None else f"{v:.1e}" for v in (layer.gradient, layer.update)),
            "" if (scale := _scale(layer)) is None else f"{scale:.0f}",
        )
        for layer in layers or ()
    ]
    return "\n".join([tables.table(head, rows), *words])


def _scale(layer: LayerStats) -> float | None:
    if layer.variance is None or not layer.signal or layer.signal < 0:
        return None
    return layer.variance / layer.signal


def noise_scales(
    history: Sequence[Any], fade: float = 0.9
) -> tuple[list[int], dict[str, list[float]]]:
    """(steps, {path: scales}): the gradient noise scale of every layer as a run went on.

    It is the batch at which the gradient of a layer is half noise, tr cov g / |E g|^2, each an
    unbiased estimate from every batch that was looked at and averaged over the last 1 / (1 - fade)
    of these, for a quotient of single ones says little. Larger batches than that are hardly better
    than fewer examples in more steps. NaN where noise is all that is seen; "all" is that of the
    network. `history` are the records of a run with `watch`, each of which has the last batch that
    was looked at: with `chunk=watch` there is one for every one of them.

    Source: McCandlish et al. 2018, "An empirical model of large-batch training".
    Raises ValueError where nothing was measured.
    """
    seen: list[tuple[int, Sequence[LayerStats]]] = []
    for record in history:
        if record.layers and not (seen and record.layers is seen[-1][1]):
            seen.append((record.step, record.layers))
    means: dict[str, tuple[float, float]] = {}
    scales: dict[str, list[float]] = {}
    for _, layers in seen:
        told = {
            v.path: (v.signal, v.variance)
            for v in layers
            if v.signal is not None and v.variance is not None
        }
        told["all"] = sum(s for s, _ in told.values()), sum(v for _, v in told.values())
        for path, pair in told.items():
            signal, variance = (
                fade * old + (1 - fade) * new
                for old, new in zip(means.get(path, (0.0, 0.0)), pair, strict=True)
            )
            means[path] = signal, variance
            scales.setdefault(path, []).append(variance / signal if signal > 0 else math.nan)
    if len(scales) < 2:
        raise ValueError("history holds no noise of gradients; give jnn.run a `watch`")
    return [step for step, _ in seen], scales


def measured(
    net: Layer, loss: Loss, params: Params, updates: Params, x: Any, y: Any, mode: Mode
) -> dict[str, Tree]:
    """What `measure` and a run collect, as arrays by path; `named` makes it readable."""
    readings, axes = _readings(net, loss, params, x, y, mode), stacking(net)
    for path, reading in readings.items():
        # There are none where the parameters are those of another place.
        if "gradient" in reading and (chosen := _weights(_at(params, path))):
            depths = axes[path].count("n")
            size, moved = _norm(chosen, depths), _norm(_weights(_at(updates, path)), depths)
            reading["update"] = moved / jnp.where(size, size, 1)
    return readings


def named(net: Layer, readings: Mapping[str, Mapping[str, Any]]) -> list[LayerStats]:
    """Readings as `LayerStats`, in the order of the network; of what hands on integers, none."""
    blank: dict[str, Any] = dict.fromkeys(LayerStats._fields[2:])
    return [
        LayerStats(
            path + "".join(f"[{i}]" for i in index),
            leaf,
            **blank | {k: float(v[index]) for k, v in readings[path].items()},
        )
        for path, leaf, index in uses(net)
        if path in readings
    ]


@partial(jax.jit, static_argnums=(0, 1))
def _measure(net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode) -> Tree:
    return _readings(net, loss, params, x, y, mode)


def _readings(
    net: Layer, loss: Loss, params: Params, x: Any, y: Any, mode: Mode
) -> dict[str, dict[str, jax.Array]]:
    """What is read of every leaf, stacked over the depth of a repeated one."""
    found = tapped(net, loss, _read)(params, x, y, mode)
    for path, axes in stacking(net).items():
        if path not in found:
            continue
        slices = tuple(i for i, axis in enumerate(axes) if axis == "s")
        found[path] = {name: v.mean(axis=slices) for name, v in found[path].items()}
    return found


def _read(seen: Seen) -> dict[str, jax.Array]:
    y, dy = _numbers(seen.y), _numbers(seen.dy)
    if y is None:
        return {}
    found = {"mean": y.mean(), "spread": y.std(), "cotangent": jnp.sqrt(jnp.square(dy).mean())}
    if isinstance(seen.layer, Elementwise):
        slope = seen.layer.df(seen.cache, jnp.ones_like(seen.dy))
        found["dead"] = (slope == 0).all(axis=range(slope.ndim - 1)).mean(dtype=y.dtype)
        if seen.layer.bounds:
            low, high = seen.layer.bounds
            near = jnp.minimum(y - low, high - y) < EDGE * (high - low)
            found["saturated"] = near.mean(dtype=y.dtype)
    if jax.tree.leaves(seen.grads):
        found["gradient"] = _norm(_weights(seen.grads) or jax.tree.leaves(seen.grads))
        found |= _noise(seen)
    return found


def _noise(seen: Seen) -> dict[str, jax.Array]:
    if not seen.layer.states_factors or not seen.layer.apart(seen.cache):
        return {}
    factors, _ = seen.layer.factored(seen.params, seen.cache, seen.dy)
    squares = [sqnorm(f) for f in jax.tree.leaves(factors, is_leaf=is_factor)]
    n = len(squares[0])
    if n < 2:
        return {}
    # Of gradients of the mean, n times smaller than those of which it is one.
    signal, variance = noise_scale(seen.grads, squares)
    return {"signal": n**2 * signal, "variance": n**2 * variance}


def _numbers(tree: Tree) -> Any:
    """The numbers of a layer's output, be it one array or a tree of them, for accurate sums; None
    where all it hands on are integers."""
    arrays = [widened(v) for v in jax.tree.leaves(moving(tree))]
    if not arrays:
        return None
    return arrays[0] if len(arrays) == 1 else jnp.concatenate([v.ravel() for v in arrays])


def _weights(params: Params) -> list[jax.Array]:
    """Of the parameters of a layer those that are weights."""
    every, chosen = jax.tree.leaves(params), jax.tree.leaves(mask(params, weights))
    return [leaf for leaf, is_weight in zip(every, chosen, strict=True) if is_weight]


def _norm(arrays: Sequence[jax.Array], depths: int = 0) -> jax.Array:
    """The norm of all together, at each depth."""
    wide = [widened(v) for v in arrays]
    squares = [jnp.square(v).sum(axis=tuple(range(depths, v.ndim))) for v in wide]
    return jnp.sqrt(jnp.stack(squares).sum(axis=0))


def _at(tree: Tree, path: str) -> Tree:
    for name in path.split(".") if path else ():
        tree = tree.get(name, {})
    return tree


def _broken(layers: Sequence[LayerStats]) -> list[str]:
    """Where numbers that are not finite began."""
    mend = "lower the learning rate, check the data"
    for layer in layers:
        if not _finite(layer, "mean", "spread"):
            return [f"{layer.path}: the first whose output is not finite; {mend}"]
    after = "the loss"
    for layer in reversed(layers):
        if not _finite(layer, "cotangent"):
            return [f"{after}: the first, going back, whose backward pass is not finite; {mend}"]
        if not _finite(layer, "gradient", "update"):
            return [f"{layer.path}: the first, going back, whose gradient is not finite; {mend}"]
        after = layer.path
    return []


def _finite(layer: LayerStats, *names: str) -> bool:
    return all(math.isfinite(v) for name in names if (v := getattr(layer, name)) is not None)


def _compared(layers: Sequence[LayerStats]) -> list[str]:
    """What becomes of the signal from the first layer to the last, and of the gradient back."""
    if not layers:
        return []
    words = []
    journeys = (
        ("the signal", "spread", layers[0], layers[-1]),
        ("the gradient", "cotangent", layers[-1], layers[0]),
    )
    for what, quantity, start, end in journeys:
        before, after = getattr(start, quantity), getattr(end, quantity)
        if not after * FAR >= before or not before * FAR >= after:
            fate = "vanishes" if after < before else "explodes"
            words.append(
                f"{what} {fate}: its {quantity} is {before:.0e} at {start.path} and {after:.0e} "
                f"at {end.path}; choose initial weights that keep it"
            )
    return words
