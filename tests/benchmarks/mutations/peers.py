"""What other checkers say of a case: they tell right from wrong, and no more.

They are asked for the floating arguments only, and each in the way that its documentation shows:
`check_grads` and chex backwards and in first order, for a custom_vjp has no forward mode; torch by
an autograd.Function whose passes are those of the JAX function.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from .case import Case

Args = Sequence[Any]


def verdicts(case: Case) -> dict[str, str]:
    """By peer: "" for right, "wrong", or the name of what it raised instead of a verdict."""
    floating = [i for i, a in enumerate(case.args) if jnp.issubdtype(a.dtype, jnp.floating)]

    def f(*some: Any) -> Any:
        given = dict(zip(floating, some, strict=True))
        return case.f(*(given.get(i, a) for i, a in enumerate(case.args)))

    args = [case.args[i] for i in floating]
    compiled = jax.jit(f)
    return {name: _verdict(peer, compiled, args) for name, peer in PEERS.items()}


def _verdict(peer: Callable[..., None], f: Callable[..., Any], args: Args) -> str:
    try:
        peer(f, args)
    except AssertionError:
        return "wrong"
    except Exception as error:  # whatever else stops it tells a user that something is wrong
        return "wrong" if type(error).__name__ == "GradcheckError" else type(error).__name__
    return ""


def _grads(f: Callable[..., Any], args: Args) -> None:
    check_grads(f, tuple(map(jnp.asarray, args)), order=1, modes=["rev"])


def _grads64(f: Callable[..., Any], args: Args) -> None:
    with jax.enable_x64(True):
        check_grads(f, tuple(jnp.asarray(a, jnp.float64) for a in args), order=1, modes=["rev"])


def _chex(f: Callable[..., Any], args: Args) -> None:
    import chex

    chex.assert_numerical_grads(f, tuple(map(jnp.asarray, args)), order=1, modes=["rev"])


@cache
def _pull(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(lambda args, dy: jax.vjp(f, *args)[1](dy))


def _torch(f: Callable[..., Any], args: Args, fast: bool) -> None:
    import torch

    pull = _pull(f)

    def tensor(a: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(a))

    class Ruled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> Any:
            ctx.save_for_backward(*inputs)
            return jax.tree.map(tensor, f(*(a.numpy() for a in inputs)))

        @staticmethod
        def backward(ctx: Any, *dy: torch.Tensor) -> Any:
            inputs = [a.detach().numpy() for a in ctx.saved_tensors]
            each = tuple(d.numpy() for d in dy)
            return tuple(map(tensor, pull(inputs, each[0] if len(each) == 1 else each)))

    inputs = [tensor(np.asarray(a, np.float64)).requires_grad_() for a in args]
    with jax.enable_x64(True):
        torch.autograd.gradcheck(Ruled.apply, inputs, fast_mode=fast)


PEERS: dict[str, Callable[..., None]] = {
    name: peer
    for name, module, peer in [
        ("`jax.test_util.check_grads`, float32", "jax", _grads),
        ("`jax.test_util.check_grads`, float64", "jax", _grads64),
        ("`chex.assert_numerical_grads`, float32", "chex", _chex),
        ("`torch.autograd.gradcheck`, float64", "torch", partial(_torch, fast=False)),
        ("`torch.autograd.gradcheck`, float64, fast", "torch", partial(_torch, fast=True)),
    ]
    if find_spec(module)
}
