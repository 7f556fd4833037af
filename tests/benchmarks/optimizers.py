"""The trajectories of jnn's optimizers beside those of PyTorch and optax, in float64.

Where a peer defines the same update, 200 steps with changing gradients must agree to 1e-10 at every
step. Where it defines another, the table says how far apart the two get, and below it why.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

import jnn
from jnn import optimizers as ours

STEPS, LR, TOLERANCE = 200, 0.05, 1e-10
SHAPES = {"w": (4, 3), "b": (3,)}
RNG = np.random.default_rng(0)
START, TARGET = ({k: RNG.standard_normal(s) for k, s in SHAPES.items()} for _ in range(2))
NOISE = {k: RNG.standard_normal((STEPS, *s)) for k, s in SHAPES.items()}
LOSS = 1 / (1 + 0.1 * np.arange(STEPS)) + 0.05 * RNG.standard_normal(STEPS)
Trajectory = dict[str, np.ndarray]  # the parameters after each step


class Peer(NamedTuple):
    """How another library writes an update, and, where it is another update, why."""

    make: Callable[[], Any]
    differs: str = ""


class Row(NamedTuple):
    """An optimizer of jnn and its peers; torch's is a function of [w, b] and of the step count."""

    name: str
    make: Callable[[], Any]
    torch: Peer | None = None
    optax: Peer | None = None


def checks() -> dict[str, Callable[[], str]]:
    """The report of this file by name."""
    return {"optimizers beside PyTorch and optax": report}


def report() -> str:
    """Asserts agreement where the update is the same, and says where it is not."""
    peers = [name for name in ("torch", "optax") if find_spec(name)]
    follow = {"torch": follow_torch, "optax": follow_pair}
    lines = [f"| optimizer | {' | '.join(peers)} |", "|---|" + "---:|" * len(peers)]
    reasons: dict[str, int] = {}  # by which the cells refer to them
    with jax.enable_x64(True):
        for row in rows():
            mine, cells = follow_pair(row.make()), []
            for name in peers:
                peer: Peer | None = getattr(row, name)
                if peer is None:
                    cells.append("none")
                    continue
                gap = distance(mine, follow[name](peer.make()))
                assert (gap > TOLERANCE) is bool(peer.differs), (row.name, name, gap)
                cells.append(f"{gap:.0e}")
                if peer.differs:
                    reasons.setdefault(peer.differs, len(reasons) + 1)
                    cells[-1] += f" ({reasons[peer.differs]})"
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    head = f"Greatest difference of a parameter over {STEPS} steps, in float64:\n"
    return "\n".join([head, *lines, "\nOther updates, by definition:\n", *notes])


def distance(one: Trajectory, other: Trajectory) -> float:
    return max(float(np.abs(one[k] - other[k]).max()) for k in SHAPES)


def follow_pair(optimizer: Any) -> Trajectory:
    """An (init, update) pair from any library, in one compiled loop."""
    start, target, noise = jax.tree.map(jnp.asarray, (START, TARGET, NOISE))

    def step(carry: Any, given: Any) -> Any:
        params, state = carry
        noise, value = given
        grads = jax.tree.map(lambda p, t, n: p - t + n, params, target, noise)
        extra = {"value": value} if ours.takes_value(optimizer) else {}
        updates, state = optimizer.update(grads, state, params, **extra)
        params = ours.apply_updates(params, updates)
        shown = state.average if hasattr(state, "average") else params
        return (params, state), shown

    _, trajectory = jax.jit(lambda carry: jax.lax.scan(step, carry, (noise, jnp.asarray(LOSS))))(
        (start, optimizer.init(start))
    )
    return jax.tree.map(np.asarray, trajectory)


def follow_torch(make: Callable[[list[Any]], Callable[[int], None]]) -> Trajectory:
    """`make([w, b])` returns a function that takes the step of a given number."""
    import torch

    params = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    step = make(list(params.values()))
    trajectory: dict[str, list[np.ndarray]] = {k: [] for k in SHAPES}
    for t in range(STEPS):
        for k, p in params.items():
            p.grad = p.detach() - torch.tensor(TARGET[k]) + torch.tensor(NOISE[k][t])
        step(t)
        for k, p in params.items():
            trajectory[k].append(p.detach().numpy().copy())
    return {k: np.stack(v) for k, v in trajectory.items()}


def falling(step: Any) -> Any:
    return LR / (1 + 0.05 * step)


def torch_optimizer(
    name: str,
    lr: Callable[[int], float] | None = None,
    clip: Any = None,
    weight_decay: float = 0.0,
    **options: Any,
) -> Callable[[], Any]:
    """A torch.optim class by name, with options; decay is on w alone, as in jnn."""

    def make(params: list[Any]) -> Callable[[int], None]:
        import torch

        groups = [{"params": p, "weight_decay": weight_decay * (p.ndim == 2)} for p in params]
        optimizer = getattr(torch.optim, name)(groups, **{"lr": LR} | options)

        def step(t: int) -> None:
            if lr is not None:
                for group in optimizer.param_groups:
                    group["lr"] = lr(t)
            if clip is not None:
                clip(params)
            optimizer.step()

        return step

    return lambda: make


def torch_muon() -> Any:
    """Muon for w and AdamW for b; the rounding of w's velocity to bfloat16 is switched off."""

    def make(params: list[Any]) -> Callable[[int], None]:
        import torch

        w, b = params
        options = {"weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
        turning = torch.optim.Muon([w], LR, **options)
        rest = torch.optim.AdamW([b], LR, betas=(0.9, 0.95), weight_decay=0.0)

        def step(t: int) -> None:
            with patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
                turning.step()
            rest.step()

        return step

    return make


def torch_clip(name: str) -> Callable[[Any], Any]:
    def clip(params: Any) -> Any:
        import torch

        return getattr(torch.nn.utils, name)(params, 0.5)

    return clip


def of_optax(name: str, *args: Any, **options: Any) -> Callable[[], Any]:
    """An optimizer of optax by name, with lr where nothing else is given."""

    def make() -> Any:
        import optax

        return getattr(optax, name)(*(args or (LR,)), **options)

    return make


def optax_chain(*pieces: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        import optax

        return optax.chain(*(piece() for piece in pieces))

    return make


def optax_plateau() -> Any:
    import optax.contrib

    return optax.contrib.reduce_on_plateau(0.5, patience=2, accumulation_size=5, rtol=1e-4)


def optax_average() -> Any:
    """The debiased ema of optax, run over the parameters in place of the updates."""
    import optax

    inner, ema = optax.sgd(LR), optax.ema(0.9, debias=True)

    def update(grads: Any, state: Any, params: Any) -> Any:
        updates, inside = inner.update(grads, state.inner)
        mean, fading = ema.update(jax.tree.map(jnp.add, params, updates), state.fading)
        return updates, Averaged(inside, fading, mean)

    return jnn.optimizers.Optimizer(
        lambda params: Averaged(inner.init(params), ema.init(params), params), update
    )


class Averaged(NamedTuple):
    """The state of `optax_average`."""

    inner: Any
    fading: Any
    average: Any


def optax_frozen() -> Any:
    import optax

    pieces = {"moving": optax.adam(LR), "still": optax.set_to_zero()}
    return optax.multi_transform(pieces, {"w": "still", "b": "moving"})


WEIGHTS = {"w": True, "b": False}


def rows() -> list[Row]:
    velocity = "theirs is a velocity of dx, not of lr dx: a change of lr rescales all of it at once"
    return [
        Row("sgd", lambda: ours.sgd(LR), Peer(torch_optimizer("SGD")), Peer(of_optax("sgd"))),
        Row(
            "momentum",
            lambda: ours.momentum(LR),
            Peer(torch_optimizer("SGD", momentum=0.9)),
            Peer(of_optax("sgd", momentum=0.9)),
        ),
        Row(
            "momentum, falling lr",
            lambda: ours.momentum(falling),
            Peer(torch_optimizer("SGD", lr=falling, momentum=0.9), velocity),
            Peer(of_optax("sgd", falling, momentum=0.9), velocity),
        ),
        Row(
            "nesterov",
            lambda: ours.nesterov(LR),
            Peer(torch_optimizer("SGD", momentum=0.9, nesterov=True)),
            Peer(of_optax("sgd", momentum=0.9, nesterov=True)),
        ),
        Row(
            "nesterov, falling lr",
            lambda: ours.nesterov(falling),
            Peer(torch_optimizer("SGD", lr=falling, momentum=0.9, nesterov=True), velocity),
            Peer(of_optax("sgd", falling, momentum=0.9, nesterov=True), velocity),
        ),
        Row(
            "adagrad",
            lambda: ours.adagrad(LR),
            Peer(torch_optimizer("Adagrad", eps=1e-8)),
            Peer(
                of_optax("adagrad", eps=1e-8),
                "their sum of squares starts at 0.1, not at 0, and eps is inside the root",
            ),
        ),
        Row(
            "rmsprop",
            lambda: ours.rmsprop(LR),
            Peer(torch_optimizer("RMSprop", alpha=0.9)),
            Peer(of_optax("rmsprop", LR, 0.9, eps=1e-8, eps_in_sqrt=False)),
        ),
        Row(
            "rmsprop, eps 1e-3",
            lambda: ours.rmsprop(LR, eps=1e-3),
            Peer(torch_optimizer("RMSprop", alpha=0.9, eps=1e-3)),
            Peer(
                of_optax("rmsprop", LR, 0.9, eps=1e-3),
                "eps is inside their root, unless eps_in_sqrt=False as above",
            ),
        ),
        Row(
            "adadelta",
            lambda: ours.adadelta(1.0),
            Peer(torch_optimizer("Adadelta", lr=lambda t: 1.0, rho=0.9, eps=1e-6)),
            Peer(of_optax("adadelta", 1.0, 0.9, 1e-6)),
        ),
        Row("adam", lambda: ours.adam(LR), Peer(torch_optimizer("Adam")), Peer(of_optax("adam"))),
        Row(
            "adam, falling lr",
            lambda: ours.adam(falling),
            Peer(torch_optimizer("Adam", lr=falling)),
            Peer(of_optax("adam", falling)),
        ),
        Row("adam, uncorrected", lambda: ours.adam(LR, bias_correction=False)),
        Row(
            "adam with L2",
            lambda: ours.chain(ours.decay(0.1), ours.adam(LR)),
            Peer(torch_optimizer("Adam", weight_decay=0.1)),
            Peer(optax_chain(of_optax("add_decayed_weights", 0.1, mask=WEIGHTS), of_optax("adam"))),
        ),
        Row(
            "adamw, falling lr",
            lambda: ours.adamw(falling, decay=0.1),
            Peer(torch_optimizer("AdamW", lr=falling, weight_decay=0.1)),
            Peer(of_optax("adamw", falling, weight_decay=0.1, mask=WEIGHTS)),
        ),
        Row(
            "adamw, as it comes",
            lambda: ours.adamw(LR, decay=0.1),
            None,
            Peer(
                of_optax("adamw", LR, weight_decay=0.1),
                "all parameters decay, biases too, unless masked as above",
            ),
        ),
        Row(
            "lion",
            lambda: ours.lion(LR, decay=0.1),
            None,
            Peer(of_optax("lion", LR, weight_decay=0.1, mask=WEIGHTS)),
        ),
        Row(
            "muon",
            lambda: ours.muon(LR),
            Peer(torch_muon),
            Peer(
                optax_muon,
                "they correct the bias of the velocity by t + 1 and that of dx by t, so that the "
                "first steps mix the two otherwise",
            ),
        ),
        Row(
            "clip_value, sgd",
            lambda: ours.chain(ours.clip_value(0.5), ours.sgd(LR)),
            Peer(torch_optimizer("SGD", clip=torch_clip("clip_grad_value_"))),
            Peer(optax_chain(of_optax("clip", 0.5), of_optax("sgd"))),
        ),
        Row(
            "clip_norm, sgd",
            lambda: ours.chain(ours.clip_norm(0.5), ours.sgd(LR)),
            Peer(
                torch_optimizer("SGD", clip=torch_clip("clip_grad_norm_")),
                "they add 1e-6 to the norm",
            ),
            Peer(optax_chain(of_optax("clip_by_global_norm", 0.5), of_optax("sgd"))),
        ),
        Row("freeze, adam", lambda: ours.freeze(ours.adam(LR), "w"), None, Peer(optax_frozen)),
        Row(
            "average of sgd",
            lambda: ours.average(ours.sgd(LR), 0.9),
            None,
            Peer(optax_average),
        ),
        Row(
            "reduce_on_plateau, sgd",
            lambda: ours.reduce_on_plateau(ours.sgd(LR), 0.5, patience=2, window=5),
            None,
            Peer(optax_chain(of_optax("sgd"), optax_plateau)),
        ),
        Row("max_norm, sgd", lambda: ours.chain(ours.sgd(LR), ours.max_norm(1.0))),
    ]


def optax_muon() -> Any:
    import optax.contrib

    return optax.contrib.muon(
        LR, weight_decay=0.1, weight_decay_mask=WEIGHTS, consistent_rms=0.2, adam_b2=0.95
    )
