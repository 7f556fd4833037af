"""Training steps of two small classifiers: jnn's run against loops of single steps.

Every row trains the same network on the same data in float32 by momentum (lr 0.01, mu 0.9). jnn
shuffles and gathers within its loop; the others are given batches that lie ready on the device,
their best case. Before anything is timed, all gradients are compared in float64.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Result, Row, Work, compare

import jnn

LR, MU = 0.01, 0.9
Weights = list[tuple[np.ndarray, np.ndarray]]  # (w, b) for each layer


def nets() -> dict[str, Callable[[], list[Result]]]:
    """The benchmarks of this file by name."""
    return {
        "784-512-512-10, batch 128": partial(bench, (784, 512, 512, 10), 128, 12800),
        "64-32-10, batch 32": partial(bench, (64, 32, 10), 32, 1437),
    }


def bench(widths: tuple[int, ...], batch: int, n: int) -> list[Result]:
    """Asserts equal gradients, then times every row that is installed."""
    rng = np.random.default_rng(0)
    x = rng.random((n, widths[0]), np.float32)
    y = rng.integers(0, widths[-1], n).astype(np.int32)
    weights = [
        (rng.standard_normal((i, o)) / np.sqrt(i), 0.1 * rng.standard_normal(o))
        for i, o in itertools.pairwise(widths)
    ]
    contestants = [
        Jnn("jnn run, backprop", "backprop"),
        Jnn("jnn run, autodiff", "autodiff"),
        Jnn("jnn run, backprop, every layer measured once in 50 steps", "backprop", watch=50),
        *(peer() for peer in (JaxLoop, LinenLoop, TorchLoop) if peer.installed()),
    ]
    with jax.enable_x64(True):
        want, *others = (
            c.grads(weights, x[:batch].astype(np.float64), y[:batch]) for c in contestants
        )
        for contestant, got in zip(contestants[1:], others, strict=True):
            for (w, b), (other_w, other_b) in zip(want, got, strict=True):
                np.testing.assert_allclose(other_w, w, rtol=0, atol=1e-10, err_msg=contestant.name)
                np.testing.assert_allclose(other_b, b, rtol=0, atol=1e-10, err_msg=contestant.name)
    return compare([Row(c.name, partial(c.prepare, weights, x, y, batch)) for c in contestants])


class Jnn:
    """jnn's compiled run, in chunks of as many steps as a round asks for."""

    def __init__(self, name: str, gradient: str, **options: Any):
        self.name, self.gradient, self.options = name, gradient, options

    def net(self, weights: Weights) -> tuple[jnn.Layer, Any]:
        layers = [layer for w, _ in weights for layer in (jnn.Dense(w.shape[1]), jnn.ReLU())]
        params = {f"dense{i}": {"w": w, "b": b} for i, (w, b) in enumerate(weights, 1)}
        return jnn.Serial(*layers[:-1]), jax.tree.map(jnp.asarray, params)

    def grads(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
        net, params = self.net(weights)
        f = getattr(jnn, self.gradient)(net, jnn.SoftmaxCrossEntropy())
        _, grads = jax.jit(f)(params, x, y, jnn.Train(jax.random.key(0)))
        return [(grads[name]["w"], grads[name]["b"]) for name in params]

    def prepare(self, weights: Weights, x: np.ndarray, y: np.ndarray, b: int, steps: int) -> Work:
        net, params = self.net(weights)
        loss = jnn.SoftmaxCrossEntropy()
        state = jnn.training.start(net, OPTIMIZER, x, jax.random.key(0))._replace(params=params)
        options = {"batch_size": b, "gradient": self.gradient, "chunk": steps, "epochs": 10**6}
        options |= self.options
        records = jnn.run(net, loss, OPTIMIZER, (x, y), resume=state, **options)
        next(records)
        return lambda: next(records).state.step.block_until_ready()


OPTIMIZER = jnn.optimizers.momentum(LR, MU)  # one object, so that its runs share a compilation


class Loop:
    """A loop of single jitted steps, over batches that lie ready on the device."""

    name: str

    def step(self, weights: Weights) -> tuple[Any, Callable[[Any, Any, Any], Any]]:
        """The training state, and a function of (state, x, y) that returns the next."""
        raise NotImplementedError

    def prepare(self, weights: Weights, x: np.ndarray, y: np.ndarray, b: int, steps: int) -> Work:
        state, step = self.step([(w.astype("f4"), b.astype("f4")) for w, b in weights])
        batches = _cycle(b, jnp.asarray(x), jnp.asarray(y))
        state = step(state, *next(batches))

        def work() -> None:
            nonlocal state
            for _ in range(steps):
                state = step(state, *next(batches))
            jax.block_until_ready(state)

        return work


class JaxLoop(Loop):
    """jax.grad of the network written out in plain JAX."""

    name = "jax.grad, jit loop"

    @staticmethod
    def installed() -> bool:
        return True

    @staticmethod
    def loss(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w + b)
        logits = x @ weights[-1][0] + weights[-1][1]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1)
        return -chosen.mean()

    def grads(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
        return jax.jit(jax.grad(self.loss))(weights, x, y)

    def step(self, weights: Weights) -> tuple[Any, Callable[[Any, Any, Any], Any]]:
        @partial(jax.jit, donate_argnums=0)
        def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
            weights, velocity = state
            grads = jax.grad(self.loss)(weights, x, y)
            velocity = jax.tree.map(lambda v, g: MU * v - LR * g, velocity, grads)
            return jax.tree.map(jnp.add, weights, velocity), velocity

        weights = jax.tree.map(jnp.array, weights)
        return (weights, jax.tree.map(jnp.zeros_like, weights)), step


class LinenLoop(Loop):
    """Flax Linen with optax."""

    name = "Flax Linen + optax, jit loop"

    @staticmethod
    def installed() -> bool:
        return _installed("flax", "optax")

    def build(self, weights: Weights) -> tuple[Any, Any]:
        import flax.linen as nn
        import optax

        layers = [layer for w, _ in weights for layer in (nn.Dense(w.shape[1]), nn.relu)]
        net = nn.Sequential(layers[:-1])
        params = {
            f"layers_{2 * i}": {"kernel": jnp.array(w), "bias": jnp.array(b)}
            for i, (w, b) in enumerate(weights)
        }

        def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            logits = net.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        return params, loss

    def grads(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
        params, loss = self.build(weights)
        grads = jax.jit(jax.grad(loss))(params, x, y)
        return [(grads[name]["kernel"], grads[name]["bias"]) for name in params]

    def step(self, weights: Weights) -> tuple[Any, Callable[[Any, Any, Any], Any]]:
        import optax

        params, loss = self.build(weights)
        optimizer = optax.sgd(LR, momentum=MU)

        @partial(jax.jit, donate_argnums=0)
        def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
            params, opt = state
            updates, opt = optimizer.update(jax.grad(loss)(params, x, y), opt, params)
            return optax.apply_updates(params, updates), opt

        return (params, optimizer.init(params)), step


class TorchLoop:
    """PyTorch, eager, on the device that JAX uses and with its precision of products there."""

    name = "PyTorch, eager loop"

    @staticmethod
    def installed() -> bool:
        return _installed("torch")

    def build(self, weights: Weights) -> Any:
        import torch

        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as XLA; no matter elsewhere
        layers = []
        for w, b in weights:
            linear = torch.nn.Linear(*w.shape, dtype=torch.tensor(w).dtype)
            linear.weight.data, linear.bias.data = torch.tensor(w.T.copy()), torch.tensor(b)
            layers += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1]).to(self.device())

    @staticmethod
    def device() -> str:
        return "cuda" if jax.default_backend() == "gpu" else "cpu"

    def data(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        import torch

        return torch.tensor(x).to(self.device()), torch.tensor(y).long().to(self.device())

    def grads(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
        import torch

        net, (xs, ys) = self.build(weights), self.data(x, y)
        torch.nn.functional.cross_entropy(net(xs), ys).backward()
        return [
            (linear.weight.grad.T.cpu().numpy(), linear.bias.grad.cpu().numpy())
            for linear in net[::2]
        ]

    def prepare(self, weights: Weights, x: np.ndarray, y: np.ndarray, b: int, steps: int) -> Work:
        import torch

        net = self.build([(w.astype("f4"), b.astype("f4")) for w, b in weights])
        optimizer = torch.optim.SGD(net.parameters(), LR, momentum=MU)
        batches = _cycle(b, *self.data(x, y))

        def work() -> None:
            for _ in range(steps):
                xs, ys = next(batches)
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(xs), ys)
                loss.backward()
                optimizer.step()
            loss.item()  # waits for the device

        return work


def _cycle(batch: int, x: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    slices = [slice(i, i + batch) for i in range(0, len(x) - batch + 1, batch)]
    return itertools.cycle([(x[s], y[s]) for s in slices])


def _installed(*modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) for module in modules)
