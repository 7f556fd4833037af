"""The primal of a function: what it computes, without the derivative rules that people gave it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Programs within a program that only group equations.
INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CONTROL = {"scan", "while", "cond"}
CUSTOM = {"custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call"}


class Edge(NamedTuple):
    """One operand of one equation of a primal."""

    primitive: str
    operand: int | None  # None for the equation's own derivative, in place of which stands 1
    source: str  # file:line


class _Walk:
    """What an evaluation meets, and what it does to the derivative along each edge."""

    def __init__(self, alphas: Any = None):
        self.alphas, self.edges, self.rules = alphas, [], 0

    def scaled(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        """The operands, the derivative along the i-th edge met being multiplied by alphas[i]."""
        result = list(values)
        for i, v in enumerate(values):
            if not jnp.issubdtype(jnp.result_type(v), jnp.floating):
                continue
            if self.alphas is not None:
                still = jax.lax.stop_gradient(v)
                alpha = self.alphas[len(self.edges)].astype(still.dtype)
                result[i] = still + alpha * (v - still)
            self.edges.append(Edge(eqn.primitive.name, i, _source(eqn)))
        return result

    def plain(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        """The results; of the derivative of an elementwise equation alphas[i] is left, else 1."""
        if not (len(values) == len(results) == 1 and jnp.shape(values[0]) == results[0].shape):
            return results
        x, (y,) = values[0], results
        if x.dtype != y.dtype or not jnp.issubdtype(y.dtype, jnp.floating):
            return results
        if self.alphas is not None:
            one = jax.lax.stop_gradient(y) + x - jax.lax.stop_gradient(x)
            alpha = self.alphas[len(self.edges)].astype(y.dtype)
            y = one + alpha * (y - one)
        self.edges.append(Edge(eqn.primitive.name, None, _source(eqn)))
        return [y]


def stripped(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function f without its custom rules, within scan, while, cond, jit and remat too.

    What it returns is computed as f computes it; its derivative is JAX's own.

    >>> @jax.custom_vjp
    ... def wrong(x):
    ...     return jnp.sin(x)
    >>> wrong.defvjp(lambda x: (wrong(x), x), lambda x, dy: (7 * dy,))
    >>> float(jax.grad(wrong)(0.0)), float(jax.grad(stripped(wrong))(0.0))
    (7.0, 1.0)
    """

    def primal(*args: Any) -> Any:
        return _evaluated(f, args, _Walk())

    return primal


def rules(f: Callable[..., Any], *args: Any) -> int:
    """How many calls of functions with a custom_vjp f makes, each within a loop counted once."""
    walk = _Walk()
    jax.eval_shape(lambda *args: _evaluated(f, args, walk), *args)
    return walk.rules


def edges(f: Callable[..., Any], *args: Any) -> list[Edge]:
    """Every floating operand of the primal's equations, loops being one equation."""
    walk = _Walk()
    jax.eval_shape(lambda *args: _evaluated(f, args, walk), *args)
    return walk.edges


def with_edges_scaled(f: Callable[..., Any]) -> Callable[..., Any]:
    """(alphas, *args) -> f(*args), where of the derivative along edge i alphas[i] is left."""

    def primal(alphas: jax.Array, *args: Any) -> Any:
        return _evaluated(f, args, _Walk(alphas))

    return primal


def _evaluated(f: Callable[..., Any], args: Sequence[Any], walk: _Walk) -> Any:
    program, out = jax.make_jaxpr(f, return_shape=True)(*args)
    values = _evaluate(program, jax.tree.leaves(args), walk)
    return jax.tree.unflatten(jax.tree.structure(out), values)


def _evaluate(program: Any, args: Sequence[Any], walk: _Walk) -> list[Any]:
    jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))

    def value(v: Any) -> Any:
        return v.val if hasattr(v, "val") else known[v]

    for eqn in jaxpr.eqns:
        name, values = eqn.primitive.name, [value(v) for v in eqn.invars]
        walk.rules += name.startswith("custom_vjp")
        if name in INLINED | CUSTOM:
            inner = next(eqn.params[k] for k in ("call_jaxpr", "jaxpr") if k in eqn.params)
            results = _evaluate(inner, values, walk)
        else:
            params = eqn.params
            if name in CONTROL:
                params = {k: _without_rules(v, walk) for k, v in params.items()}
            results = eqn.primitive.bind(*walk.scaled(eqn, values), **params)
            results = results if eqn.primitive.multiple_results else [results]
            results = walk.plain(eqn, values, results)
        known.update(zip(eqn.outvars, results, strict=True))
    return [value(v) for v in jaxpr.outvars]


def _without_rules(param: Any, walk: _Walk) -> Any:
    """A parameter of a loop or a choice; the programs in it traced anew without their rules."""
    if isinstance(param, tuple):
        return tuple(_without_rules(p, walk) for p in param)
    if not hasattr(getattr(param, "jaxpr", param), "eqns"):
        return param
    inner = _Walk()
    avals = [v.aval for v in getattr(param, "jaxpr", param).invars]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    traced = jax.make_jaxpr(lambda *args: _evaluate(param, args, inner))(*shapes)
    walk.rules += inner.rules
    return traced


def _source(eqn: Any) -> str:
    """file:line of the caller's expression that an equation comes from; "" where nothing tells."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        name = frame.file_name
        if "/jax/" not in name and "/jnn/gradcheck/" not in name and not name.startswith("<frozen"):
            return f"{name}:{frame.line_num}"
    return ""
