"""The check of layers, losses, and bare pairs of a forward and a backward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from jnn.gradcheck.contract import independent, witnessed
from jnn.gradcheck.functions import checked, everywhere, regimes_named
from jnn.gradcheck.primal import BRIEFLY
from jnn.gradcheck.recording import met
from jnn.gradcheck.report import Report, together
from jnn.gradcheck.target import Target, exactly
from jnn.gradients import as_function
from jnn.layer import Eval, Layer, LayerError, Mode, Params, Train, Tree
from jnn.losses import Loss
from jnn.report import show

OBSERVED = 3  # batches that running state has seen before it is used
NOISE = 0.1  # is added to fresh parameters, for slips hide behind zeros and ones


def check_pair(
    forward: Callable[[Any, Any], tuple[Any, Any]],
    backward: Callable[[Any, Any, Any], tuple[Any, Any]],
    params: Any,
    x: Any,
    *,
    known: Mapping[str, float] | None = None,
    regimes: str | Sequence[str] = "default",
    order: int = 1,
    key: int | jax.Array = 0,
) -> Report:
    """Whether a bare pair of functions is a forward and its backward pass.

        forward(params, x) -> (y, cache),   backward(params, cache, dy) -> (grads, dx)

    The gradient of `forward` by JAX is what `backward` must return: see `check_gradients`, also for
    the other arguments. Both trees may hold integers, which have no gradient.

    >>> def forward(w, x):
    ...     return x @ w, x
    >>> report = check_pair(forward, lambda w, x, dy: (x.T @ dy / len(x), dy @ w.T),
    ...                     jnp.ones((2, 5)), jnp.arange(6.0).reshape(3, 2), regimes="given")
    >>> print(report.findings[0].path, report.findings[0].cause)
    params scale
    """

    def target(args: tuple[Any, ...]) -> Target:
        return Target(_ruled(forward, backward), args, None, ("params", "x"), key)

    with exactly():
        return everywhere(target, (params, x), regimes_named(regimes), known or {}, order)


def check_loss(
    loss: Loss,
    prediction: Any,
    target: Any,
    *,
    known: Mapping[str, float] | None = None,
    regimes: str | Sequence[str] = "default",
    key: int | jax.Array = 0,
) -> Report:
    """Whether a loss's backward pass is right: of the mean, and of one value for each example.

    Labels, if `target` holds integers, are also all replaced by the first and by the last class.
    The other arguments are those of `check_gradients`.

    >>> import jnn
    >>> scores, labels = jnp.arange(12.0).reshape(4, 3), jnp.array([0, 2, 1, 2])
    >>> bool(check_loss(jnn.SoftmaxCrossEntropy(), scores, labels, regimes="given"))
    True
    """
    names = regimes_named(regimes)
    targets = {"": target}
    if np.issubdtype(np.asarray(target).dtype, np.integer) and np.ndim(prediction) > 1:
        targets |= {
            "first labels": np.zeros_like(target),
            "last labels": np.full_like(target, np.shape(prediction)[-1] - 1),
        }
    reports = []
    with exactly():
        for form, which in (("mean", replace(loss, per_example=False)), ("each", loss.each())):
            f, args = _loss_function(which), (prediction, target)
            for suffix, labels in targets.items():
                args = prediction, labels
                checks = Target(f, args, None, ("prediction", "target"), key, still=(1,))
                found = checked(checks, names if not suffix else ["given"], known or {})
                reports.append(found.at(", ".join(filter(None, (form, suffix)))))
                if not found:
                    return together(reports)
    return together(reports)


def check_layer(
    layer: Layer,
    x: Any,
    params: Params | None = None,
    *,
    mode: Mode | None = None,
    known: Mapping[str, float] | None = None,
    regimes: str | Sequence[str] = "default",
    key: jax.Array | None = None,
) -> Report:
    """Whether a layer's backward pass is right, and of a network, which of its layers is wrong.

    `x` is a batch as the layer meets it. Fresh `params` are drawn from `key` and moved, for many a
    slip hides where a bias is 0 or a scale 1. Without a `mode` both are checked: Train(key), and
    Eval of the state after three batches. The other arguments are those of `check_gradients`.

    Beyond what `check_gradients` does: the slope along a random direction in each argument by
    finite differences, which owe autodiff nothing; a batch of one; and in evaluation, whether one
    example moves what comes of another. Where a network is wrong each of its leaves is checked by
    itself, with the input that it met, and the findings are theirs: `params['dense2']['w']`.
    It compiles much: of a network of thirty layers expect a minute or two, and see
    `gradcheck.check_network`, which only tells right from wrong, for the check before a run.

    >>> import jnn
    >>> net = jnn.Serial(jnn.Dense(4), jnn.Tanh(), jnn.Dense(3))
    >>> report = check_layer(net, jnp.linspace(-1.0, 1.0, 10).reshape(2, 5), regimes="given")
    >>> bool(report), list(report.power)[-2:]
    (True, ["params['dense2']['w']", 'x'])
    """
    names = regimes_named(regimes)
    key = jax.random.key(0) if key is None else key
    fresh, state, train_key, seed = _begun(layer, x, key)
    params = _moved(fresh, seed) if params is None else params
    if mode is None:
        train = Train(train_key, state)
        for _ in range(OBSERVED if jax.tree.leaves(state) else 0):
            state = layer.observe(state, layer.forward(params, x, train)[1])
            train = Train(train_key, state)
        modes: dict[str, Mode] = {"training": train, "evaluation": Eval(state)}
    else:
        modes = {"training" if isinstance(mode, Train) else "evaluation": mode}
    if len({_program(layer, params, x, how) for how in modes.values()}) < len(modes):
        modes = {"both modes": modes["training"]}
    reports = []
    f = _layer_function(layer)
    for name, how in modes.items():
        for size, part in (("", x), ("one example", jax.tree.map(lambda v: v[:1], x))):
            where = ", ".join(filter(None, (name, size)))
            try:
                with exactly(), show(f"checking {type(layer).__name__}, {where}"):
                    target = Target(
                        f, (params, part, how), None, ("params", "x", "mode"), seed, (2,)
                    )
                    every = names if not size else ["given"]
                    found = checked(target, every, known or {}, contract=not size)
                    if found and not size:
                        extra = witnessed(target)
                        if name != "training":
                            extra += independent(layer, params, x, how)
                        found = replace(found, findings=tuple(extra))
            except LayerError as error:
                if not size:
                    raise
                found = Report(
                    (), {}, (), (f"in {name} it takes no batch of one: {error.problem}",)
                )
            reports.append(found.at(where))
            if not found:
                local = _leaf_by_leaf(layer, params, part, how, known, seed)
                if local is not None:
                    reports[-1] = local.at(name)
                return together(reports)
    return together(reports)


def _leaf_by_leaf(
    net: Layer,
    params: Params,
    x: Any,
    mode: Mode,
    known: Mapping[str, float] | None,
    seed: jax.Array,
) -> Report | None:
    """The report on the first leaf that is wrong by itself; None where none is, or it is alone."""
    if not net.children:
        return None
    for path, leaf, index, seen in met(net, params, x, mode):
        where = path + "".join(f"[{i}]" for i in index)
        with exactly():
            keys = "".join(f"[{name!r}]" for name in path.split(".") if name)
            copies = "".join(f"[{i}]" for i in index)
            roots = f"params{keys}{copies}", f"the input of {where or repr(leaf)}", "mode"
            given = seen.params, seen.x, seen.mode
            target = Target(_layer_function(leaf), given, None, roots, seed, (2,))
            report = checked(target, ["given"], known or {})
        if not report:
            note = f"all layers before {where} = {leaf!r} are right by themselves"
            return replace(report, notes=(*report.notes, note))
    return None


def _program(layer: Layer, params: Params, x: Any, mode: Mode) -> str:
    """What the forward pass computes, to tell whether two modes compute the same."""

    def forward(params: Params, x: Any) -> Any:
        return layer.forward(params, x, mode)[0]

    program = jax.make_jaxpr(forward)(params, x).jaxpr
    # Without the keys that are made for every layer and that few of them use.
    needed, _ = dce_jaxpr(program, [True] * len(program.outvars))
    return str(needed.replace(constvars=()))


@partial(jax.jit, static_argnums=0, compiler_options=BRIEFLY)
def _begun(layer: Layer, x: Any, key: jax.Array) -> tuple[Params, Any, jax.Array, jax.Array]:
    init_key, train_key, seed = jax.random.split(key, 3)
    return *layer.init(init_key, x), train_key, seed


def _moved(params: Params, seed: jax.Array) -> Params:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(seed)).tolist())

    def moved(p: jax.Array) -> jax.Array:
        if not jnp.issubdtype(p.dtype, jnp.floating):
            return p
        noise = NOISE * rng.standard_normal(p.shape)
        return jnp.asarray(np.asarray(p) + noise.astype(p.dtype))

    return jax.tree.map(moved, params)


# Cached, so that checking the same thing again compiles nothing.
_layer_function = cache(as_function)


@cache
def _loss_function(loss: Loss) -> Callable[[Any, Any], Any]:
    return _rule(
        lambda prediction, target: loss.forward(prediction, target),
        lambda kept, dvalue: (loss.backward(kept, dvalue), None),
    )


@cache
def _ruled(forward: Any, backward: Any) -> Callable[[Any, Any], Any]:
    def fwd(params: Any, x: Any) -> tuple[Any, Tree]:
        y, kept = forward(params, x)
        return y, (params, kept)

    return _rule(fwd, lambda kept, dy: tuple(backward(*kept, dy)))


def _rule(fwd: Callable[..., tuple[Any, Tree]], bwd: Callable[..., Any]) -> Callable[..., Any]:
    function = jax.custom_vjp(lambda *args: fwd(*args)[0])
    function.defvjp(fwd, bwd)
    return function
