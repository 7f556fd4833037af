"""Leaves against PyTorch's, in float64: the same weights, x and dy, and how far they are apart.

Layouts differ: PyTorch has channels first, and weights (out, in). What is compared are y, dx and
the gradients of all parameters, in PyTorch's order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jnn

LIMIT = 1e-10
# PyTorch's own slope is 1/6 in float32 there, whatever the dtype.
KNOWN = {"HardSigmoid": 1e-7}


class Pair(NamedTuple):
    """A leaf, the module that is to be it, and how their arrays become each other's."""

    layer: jnn.Layer
    module: Callable[[Any], Any]  # of torch.nn
    x: tuple[int, ...]
    weights: Callable[[Any], dict[str, Any]] = lambda p: {}  # of jnn's tree, by torch's names
    first: bool = False  # whether the module has channels first


def last_to_first(v: Any) -> Any:
    return np.moveaxis(np.asarray(v), -1, 1)


def dense(p: Any) -> dict[str, Any]:
    return {"weight": p["w"].T, "bias": p["b"]}


def scaled(p: Any) -> dict[str, Any]:
    return {"weight": p["scale"]} | ({"bias": p["shift"]} if "shift" in p else {})


def kernel(p: Any) -> dict[str, Any]:
    """(kernel..., in, out) as (out, in, kernel...)."""
    w = np.asarray(p["w"])
    return {"weight": np.moveaxis(w, (-1, -2), (0, 1)), "bias": p["b"]}


def transposed_kernel(p: Any) -> dict[str, Any]:
    """(kernel..., in, out) as (in, out, kernel...)."""
    return {"weight": np.moveaxis(np.asarray(p["w"]), (-2, -1), (0, 1)), "bias": p["b"]}


def recurrent(p: Any) -> dict[str, Any]:
    """One bias of torch's two is 0, but for that of a GRU's candidate."""
    other = np.zeros_like(p["b"])
    if "c" in p:
        other[-len(p["c"]) :] = p["c"]
    names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
    return dict(zip(names, (p["w"].T, p["u"].T, p["b"], other), strict=True))


def attention(p: Any) -> dict[str, Any]:
    """Keys have no bias here: theirs is 0."""
    bias = [p["q"]["b"], np.zeros_like(p["q"]["b"]), p["v"]["b"]]
    return {
        "in_proj_weight": np.concatenate([p[name]["w"].T for name in "qkv"]),
        "in_proj_bias": np.concatenate(bias),
        "out_proj.weight": p["o"]["w"].T,
        "out_proj.bias": p["o"]["b"],
    }


IMAGES, SERIES = (3, 7, 6, 4), (3, 5, 4)
PAIRS = {
    "Dense": Pair(jnn.Dense(3), lambda nn: nn.Linear(4, 3), SERIES, dense),
    "Conv": Pair(
        jnn.Conv(6, 3, padding=1), lambda nn: nn.Conv2d(4, 6, 3, padding=1), IMAGES, kernel, True
    ),
    "Conv, strided, dilated, in groups": Pair(
        jnn.Conv(6, (3, 2), stride=2, padding=2, dilation=2, groups=2),
        lambda nn: nn.Conv2d(4, 6, (3, 2), 2, 2, 2, 2),
        IMAGES,
        kernel,
        True,
    ),
    "Conv over time, depthwise": Pair(
        jnn.Conv(4, 3, padding="VALID", groups=4),
        lambda nn: nn.Conv1d(4, 4, 3, groups=4),
        SERIES,
        kernel,
        True,
    ),
    "ConvTranspose": Pair(
        jnn.ConvTranspose(5, 3, stride=2, padding=1),
        lambda nn: nn.ConvTranspose2d(4, 5, 3, 2, 1),
        IMAGES,
        transposed_kernel,
        True,
    ),
    "MaxPool": Pair(jnn.MaxPool(), lambda nn: nn.MaxPool2d(2), IMAGES, first=True),
    "MaxPool, overlapping": Pair(
        jnn.MaxPool(3, 2, 1), lambda nn: nn.MaxPool2d(3, 2, 1), IMAGES, first=True
    ),
    "AvgPool": Pair(
        jnn.AvgPool(3, 2, 1),
        lambda nn: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        IMAGES,
        first=True,
    ),
    "BatchNorm": Pair(jnn.BatchNorm(), lambda nn: nn.BatchNorm2d(4), IMAGES, scaled, True),
    "GroupNorm": Pair(jnn.GroupNorm(2), lambda nn: nn.GroupNorm(2, 4), IMAGES, scaled, True),
    "LayerNorm": Pair(jnn.LayerNorm(), lambda nn: nn.LayerNorm(4), SERIES, scaled),
    "RMSNorm": Pair(jnn.RMSNorm(), lambda nn: nn.RMSNorm(4, eps=1e-5), SERIES, scaled),
    "Embedding": Pair(
        jnn.Embedding(9, 4), lambda nn: nn.Embedding(9, 4), (3, 5), lambda p: {"weight": p["w"]}
    ),
    "RNN": Pair(jnn.RNN(3), lambda nn: nn.RNN(4, 3, batch_first=True), SERIES, recurrent),
    "GRU": Pair(jnn.GRU(3), lambda nn: nn.GRU(4, 3, batch_first=True), SERIES, recurrent),
    "LSTM": Pair(jnn.LSTM(3), lambda nn: nn.LSTM(4, 3, batch_first=True), SERIES, recurrent),
    "Attention": Pair(
        jnn.Attention(2),
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        SERIES,
        attention,
    ),
    "Softmax": Pair(jnn.Softmax(), lambda nn: nn.Softmax(-1), SERIES),
    "LogSoftmax": Pair(jnn.LogSoftmax(), lambda nn: nn.LogSoftmax(-1), SERIES),
    "PReLU": Pair(
        jnn.PReLU(), lambda nn: nn.PReLU(4), IMAGES, lambda p: {"weight": p["slope"]}, True
    ),
} | {
    name: Pair(
        getattr(jnn, name)(*arguments),
        lambda nn, name=name, options=options: getattr(nn, peer_name(name))(**options),
        SERIES,
    )
    for name, arguments, options in (
        ("Sigmoid", (), {}),
        ("Tanh", (), {}),
        ("ReLU", (), {}),
        ("LeakyReLU", (), {}),
        ("ELU", (), {}),
        ("SELU", (), {}),
        ("GELU", (), {}),
        ("SiLU", (), {}),
        ("Softplus", (), {"threshold": 1000.0}),
        ("ReLU6", (), {}),
        ("HardTanh", (), {}),
        ("HardSigmoid", (), {}),
        ("HardSwish", (), {}),
    )
}


def peer_name(name: str) -> str:
    """PyTorch's spelling."""
    return {"HardTanh": "Hardtanh", "HardSigmoid": "Hardsigmoid", "HardSwish": "Hardswish"}.get(
        name, name
    )


def agreement() -> dict[str, Callable[[], str]]:
    """The check of this file by name."""
    try:
        import torch
    except ImportError:
        return {}
    return {"torch": lambda: compared(torch)}


def compared(torch: Any) -> str:
    """The table; raises where a leaf is further from PyTorch's than LIMIT."""
    lines = ["| against PyTorch, in float64 | y | dx | gradients |", "|---|---:|---:|---:|"]
    with jax.enable_x64(True):
        for name, pair in PAIRS.items():
            off = apart(torch, pair)
            assert max(off) <= KNOWN.get(name, LIMIT), (name, off)
            lines.append(f"| {name} | " + " | ".join(f"{v:.0e}" for v in off) + " |")
    return "\n".join(lines)


def apart(torch: Any, pair: Pair) -> tuple[float, float, float]:
    """The largest differences of y, dx and gradients, each relative to the largest number of it."""
    rng = np.random.default_rng(0)
    whole = isinstance(pair.layer, jnn.Embedding)
    x = rng.integers(9, size=pair.x) if whole else rng.standard_normal(pair.x)
    params, _ = pair.layer.init(jax.random.key(0), jnp.asarray(x))
    params = jax.tree.map(lambda p: rng.standard_normal(p.shape), params)
    y, cache = pair.layer.forward(params, jnp.asarray(x), jnn.Train(jax.random.key(1)))
    dy = rng.standard_normal(y.shape)
    grads, dx = pair.layer.backward(params, cache, jnp.asarray(dy))

    move = last_to_first if pair.first else np.asarray
    module = pair.module(torch.nn).double()
    own = dict(module.named_parameters())
    for name, value in pair.weights(params).items():
        own[name].data = torch.from_numpy(np.array(value))
    given = torch.from_numpy(np.ascontiguousarray(move(x)))
    given.requires_grad_(not whole)
    attends = isinstance(module, torch.nn.MultiheadAttention)
    out = module(given, given, given) if attends else module(given)
    out = out[0] if isinstance(out, tuple) else out
    out.backward(torch.from_numpy(np.ascontiguousarray(move(dy))))
    theirs = {name: p.grad.numpy() for name, p in own.items()}
    mine = pair.weights(jax.tree.map(np.asarray, grads))
    if "bias_hh_l0" in mine:  # both have the gradient of the sum, but for a GRU's candidate
        n = len(params.get("c", ()))
        mine["bias_hh_l0"] = np.append(
            mine["bias_ih_l0"][: len(params["b"]) - n], mine["bias_hh_l0"][len(params["b"]) - n :]
        )
    return (
        distance(move(y), out.detach().numpy()),
        0.0 if whole else distance(move(dx), given.grad.numpy()),
        max((distance(mine[name], theirs[name]) for name in mine), default=0.0),
    )


def distance(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())
