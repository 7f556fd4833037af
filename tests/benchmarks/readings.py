"""What one backward pass answers beside the gradient: time and memory, relative to the gradient.

Memory is what XLA says that a compiled program needs beside its arguments and results. Before
anything is timed, norms and gradients are compared with those of vmap(grad) in float64.
"""

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from harness import Row, Work, compare

import jnn
from jnn.factors import grad, sqnorm, total

LOSS = jnn.SoftmaxCrossEntropy().each()
CHUNK = 16
# By which XLA for CPU goes by memory too, as it does for other devices.
FRUGAL = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Case(NamedTuple):
    """A network with its parameters, and a batch."""

    net: jnn.Layer
    params: Any
    x: Any
    y: Any


def readings() -> dict[str, Callable[[], str]]:
    """The benchmarks of this file by name."""
    return {
        "readings of an MLP, 784-512-512-10, batch 256": lambda: read(mlp(), torch=True),
        "readings of an MLP, 64-32-10, batch 32": lambda: read(mlp((64, 32, 10), 32)),
        "readings of a transformer, 2 blocks of 128, 16 x 64 of 256 tokens": lambda: read(gpt()),
        "readings of a CNN, 3-32-64-64 on 32 x 32, batch 64": lambda: read(cnn()),
        "readings: a clipped step, 24 layers of 512, batch 32": step,
        "readings: what six GELU blocks keep": kept,
    }


def mlp(widths: tuple[int, ...] = (784, 512, 512, 10), batch: int = 256) -> Case:
    layers = [layer for width in widths[1:] for layer in (jnn.Dense(width), jnn.ReLU())]
    return case(jnn.Serial(*layers[:-1]), (batch, widths[0]), widths[-1])


def gpt() -> Case:
    block = jnn.Serial(
        jnn.Residual(jnn.LayerNorm(), jnn.Attention(4, causal=True)),
        jnn.Residual(jnn.LayerNorm(), jnn.Dense(512), jnn.GELU(), jnn.Dense(128)),
    )
    parts = (
        ("tokens", jnn.Embedding(256, 128)),
        jnn.Positions(64),
        ("first", block),
        ("second", block),
        jnn.LayerNorm(),
        ("scores", jnn.Unembed(256)),
    )
    return case(jnn.Shared(jnn.Serial(*parts), {"scores.w": "tokens.w"}), (16, 64), 256, 256)


def cnn() -> Case:
    layers = (
        *(jnn.Conv(32), jnn.ReLU(), jnn.MaxPool()),
        *(jnn.Conv(64), jnn.ReLU(), jnn.MaxPool()),
        *(jnn.Conv(64), jnn.ReLU(), jnn.GlobalAvgPool(), jnn.Dense(10)),
    )
    return case(jnn.Serial(*layers), (64, 32, 32, 3), 10)


def case(net: jnn.Layer, shape: tuple[int, ...], classes: int, tokens: int = 0) -> Case:
    """Random inputs, of integers below `tokens` where that is given, and random labels."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, tokens, shape) if tokens else rng.standard_normal(shape).astype("f4")
    y = rng.integers(0, classes, shape if tokens else shape[:1]).astype(np.int32)
    x = jnp.asarray(x, jnp.int32 if tokens else None)
    params, _ = net.init(jax.random.key(0), x)
    return Case(net, params, x, jnp.asarray(y))


def passed(net: jnn.Layer, params: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """The cache, and the cotangent of a sum of losses."""
    scores, cache = net.forward(params, x, jnn.Eval())
    values, kept = LOSS.forward(scores, y)
    return cache, LOSS.backward(kept, jnp.ones_like(values))


def value(net: jnn.Layer, params: Any, x: Any, y: Any) -> jax.Array:
    """The sum of losses, for jax.grad."""
    return LOSS.forward(net.forward(params, x, jnn.Eval())[0], y)[0].sum()


def plain(net: jnn.Layer, params: Any, x: Any, y: Any) -> Any:
    return jnn.backward(net, params, *passed(net, params, x, y))[0]


def with_norms(net: jnn.Layer, params: Any, x: Any, y: Any) -> Any:
    grads, squares = jnn.backward(net, params, *passed(net, params, x, y), of=(grad, sqnorm))[0]
    return grads, jnp.sqrt(total(squares))


def clipped(net: jnn.Layer, params: Any, x: Any, y: Any) -> Any:
    return jnn.clipping.clipped(net, params, *passed(net, params, x, y), 1.0)[0].grads


def by_vmap(net: jnn.Layer, params: Any, x: Any, y: Any) -> Any:
    def one(x: Any, y: Any) -> Any:
        return jax.grad(partial(value, net))(params, x[None], y[None])

    each = jax.vmap(one)(x, y)
    squares = [jnp.square(g.reshape(len(g), -1)).sum(1) for g in jax.tree.leaves(each)]
    return jax.tree.map(lambda g: g.sum(0), each), jnp.sqrt(sum(squares))


def in_chunks(net: jnn.Layer, params: Any, x: Any, y: Any) -> Any:
    parts = jax.tree.map(lambda v: v.reshape(-1, CHUNK, *v.shape[1:]), (x, y))
    grads, norms = jax.lax.map(lambda part: by_vmap(net, params, *part), parts)
    return jax.tree.map(lambda g: g.sum(0), grads), norms.ravel()


def read(of: Case, torch: bool = False) -> str:
    """The table of one network."""
    with jax.enable_x64(True):
        wide = (jax.tree.map(_wide, v) for v in of[1:])
        params, x, y = wide
        want, got = (jax.jit(partial(f, of.net))(params, x, y) for f in (by_vmap, with_norms))
        for a, b in zip(*map(jax.tree.leaves, (want, got)), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-10 * abs(a).max())
    ways: dict[str, Callable[..., Any]] = {
        "the gradient": plain,
        "jax.grad": lambda net, *args: jax.grad(partial(value, net))(*args),
        "the gradient and the norm of every example's": with_norms,
        "the sum of clipped gradients": clipped,
        "vmap(grad): the gradient and norms": by_vmap,
        f"vmap(grad) in chunks of {CHUNK}: the same": in_chunks,
    }
    compiled = {
        name: jax.jit(partial(f, of.net)).lower(*of[1:]).compile() for name, f in ways.items()
    }
    rows = [Row(name, partial(calls, f, of[1:])) for name, f in compiled.items()]
    memory = [f.memory_analysis().temp_size_in_bytes for f in compiled.values()]
    if torch:
        found = [peer(of) for peer in (torch_plain, opacus, backpack)]
        rows += [row for row in found if row is not None]
    return times(rows, memory)


def step() -> str:
    """A step of descent whose gradient is clipped as a whole: fused, and after the fact."""
    layers = [layer for _ in range(24) for layer in (jnn.Dense(512, bias=False), jnn.Tanh())]
    net, params, x, y = case(jnn.Serial(*layers), (32, 512), 512)

    def after(params: Any, x: Any, y: Any) -> Any:
        grads = jax.grad(partial(value, net))(params, x, y)
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(grads)))
        c = 0.1 * jnp.minimum(1, 1 / norm)
        return jax.tree.map(lambda p, g: p - c * g, params, grads), norm

    def fused(params: Any, x: Any, y: Any) -> Any:
        cache, dy = passed(net, params, x, y)
        return jnn.clipping.descended(net, params, cache, dy, rate=0.1, limit=1.0)

    with jax.enable_x64(True):
        args = [jax.tree.map(_wide, v) for v in (params, x, y)]
        for a, b in zip(*(jax.tree.leaves(jax.jit(f)(*args)) for f in (after, fused)), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-10)
    rows, memory = [], []
    for options, told in (({}, ""), (FRUGAL, ", scheduled by memory")):
        for name, f in (("jax.grad, then clipped", after), ("the fused step", fused)):
            lowered = jax.jit(f, donate_argnums=0).lower(params, x, y)
            compiled = lowered.compile(compiler_options=options)
            memory.append(compiled.memory_analysis().temp_size_in_bytes)
            rows.append(Row(name + told, partial(steps, compiled, params, (x, y))))
    return times(rows, memory)


def kept() -> str:
    """Gradients of GELU blocks, whose activations XLA holds or computes again."""
    block = jnn.Residual(jnn.LayerNorm(), jnn.Dense(1024), jnn.GELU(), jnn.Dense(256))
    net, params, x, y = case(jnn.Serial(*[block] * 6, jnn.Dense(10)), (512, 256), 10)
    ways = {
        "jax.grad": lambda *args: jax.grad(partial(value, net))(*args),
        "by hand": partial(plain, net),
        "by hand, Lean": partial(plain, jnn.Lean(net)),
    }
    compiled = {name: jax.jit(f).lower(params, x, y).compile() for name, f in ways.items()}
    rows = [Row(name, partial(calls, f, (params, x, y))) for name, f in compiled.items()]
    work = ", ".join(
        f"{name} {f.cost_analysis()['flops'] / 1e9:.2f}" for name, f in compiled.items()
    )
    memory = [f.memory_analysis().temp_size_in_bytes for f in compiled.values()]
    return f"{times(rows, memory)}\nGFLOP: {work}"


def calls(f: Callable[..., Any], args: tuple[Any, ...], count: int) -> Work:
    """So many calls, one after the other."""

    def work() -> None:
        for _ in range(count):
            jax.block_until_ready(f(*args))

    work()
    return work


def steps(f: Callable[..., Any], params: Any, data: tuple[Any, ...], count: int) -> Work:
    """So many steps, each from the parameters that the last one left."""
    params = jax.tree.map(jnp.array, params)

    def work() -> None:
        nonlocal params
        for _ in range(count):
            params, _ = f(params, *data)
        jax.block_until_ready(params)

    work()
    return work


def times(rows: list[Row], memory: list[int]) -> str:
    """How much longer each takes than the first, and the memory of those it is known of."""
    lines = ["| | us | time, of the first (least to greatest) | temp MiB |", "|---|---:|---:|---:|"]
    for k, r in enumerate(compare(rows)):
        told = f"{memory[k] / 2**20:.2f}" if k < len(memory) else ""
        ratio = f"{1 / r.speed:.2f} ({1 / r.high:.2f} to {1 / r.low:.2f})"
        lines.append(f"| {r.name} | {r.microseconds:.0f} | {ratio} | {told} |")
    return "\n".join(lines)


def torch_plain(of: Case) -> Row | None:
    """The same network in torch: its own gradient."""
    if not _installed("torch"):
        return None
    return Row("PyTorch: the gradient", partial(_in_torch, of, "plain"))


def opacus(of: Case) -> Row | None:
    """Per-example gradients by hooks, and from these the norms."""
    if not _installed("torch", "opacus"):
        return None
    return Row("PyTorch and Opacus: the gradient and norms", partial(_in_torch, of, "opacus"))


def backpack(of: Case) -> Row | None:
    """Norms by hooks."""
    if not _installed("torch", "backpack"):
        return None
    return Row("PyTorch and BackPACK: the gradient and norms", partial(_in_torch, of, "backpack"))


def _in_torch(of: Case, how: str, count: int) -> Work:
    import torch

    warnings.simplefilter("ignore", UserWarning)  # of hooks, on inputs that have no gradient
    weights = [of.params[f"dense{i}"] for i in (1, 2, 3)]
    linears = []
    for p in weights:
        linear = torch.nn.Linear(*p["w"].shape)
        linear.weight.data = torch.tensor(np.asarray(p["w"]).T.copy())
        linear.bias.data = torch.tensor(np.array(p["b"]))
        linears += [linear, torch.nn.ReLU()]
    net: Any = torch.nn.Sequential(*linears[:-1])
    x, y = torch.tensor(np.array(of.x)), torch.tensor(np.array(of.y)).long()
    loss: Any = torch.nn.CrossEntropyLoss(reduction="sum")
    if how == "opacus":
        net = importlib.import_module("opacus").GradSampleModule(net, loss_reduction="sum")
    if how == "backpack":
        package = importlib.import_module("backpack")
        extension = importlib.import_module("backpack.extensions").BatchL2Grad()
        net, loss = package.extend(net), package.extend(loss)

    def work() -> None:
        for _ in range(count):
            net.zero_grad(set_to_none=True)
            if how == "backpack":
                with package.backpack(extension):
                    loss(net(x), y).backward()
                torch.sqrt(sum(p.batch_l2 for p in net.parameters()))
            else:
                loss(net(x), y).backward()
            if how == "opacus":
                each = [p.grad_sample.flatten(1) for p in net.parameters()]
                torch.sqrt(sum((g * g).sum(1) for g in each))
                for p in net.parameters():
                    p.grad_sample = None

    work()
    return work


def _installed(*modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) for module in modules)


def _wide(v: Any) -> Any:
    return v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v
