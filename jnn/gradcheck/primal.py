"""The primal of a function: what it computes, without the derivative rules that people gave it."""

import linecache
import textwrap
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.source_info_util import user_context

# Programs within a program that only group equations.
INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CUSTOM = {"custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call"}
# Programs that insist on the dtypes that they were made for.
OPAQUE = {"pallas_call", "pure_callback", "io_callback", "ffi_call"}
FIXED = {*OPAQUE, "bitcast_convert_type"}
# Operations that round.
ARITHMETIC = {"add", "sub", "mul", "div", "add_any", "pow", "integer_pow", "sqrt", "rsqrt", "cbrt"}
ARITHMETIC |= {"exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "sin", "cos", "tan"}
ARITHMETIC |= {"erf", "erfc", "erf_inv", "square", "reduce_sum", "cumsum", "dot_general"}
ARITHMETIC |= {
    "conv_general_dilated",
    "reduce_window_sum",
    "cumlogsumexp",
    "cumprod",
    "reduce_prod",
}
ENDLESS = np.iinfo(np.int32).max  # turns of a loop
SHORT = 16  # steps
CODE = 60  # letters of an expression that are shown
DTYPES = ("new_dtype", "dtype", "preferred_element_type")


# Programs here are compiled more than they are run.
BRIEFLY = {"xla_backend_optimization_level": "0"}
# Where every value has a choice of others, fusing them computes each as often as it is used.
UNFUSED = BRIEFLY | {"xla_disable_hlo_passes": "fusion"}


class Place(NamedTuple):
    """Where in the caller's program something comes from; empty where nothing tells."""

    line: str = ""  # file:line
    code: str = ""  # the expression

    @property
    def short(self) -> str:
        """file:line without the folders."""
        return self.line.rpartition("/")[2]


def source(traceback: Any) -> Place:
    """The expression of the caller's that it leads to."""
    for code, at in zip(*traceback.raw_frames(), strict=True) if traceback is not None else ():
        name = code.co_filename
        if "/jax/" not in name and "/jnn/gradcheck/" not in name and not name.startswith("<frozen"):
            return _place(name, code, at)
    return Place()


@cache  # by the file too, for code that is alike in two files is equal
def _place(file: str, code: Any, at: int) -> Place:
    line, last, *columns = next(islice(code.co_positions(), at // 2, None))
    return Place(f"{file}:{line}", _text(file, line, last, columns))


def _text(file: str, line: int | None, last: int | None, columns: Sequence[int | None]) -> str:
    """That part of a file as one line, shortened; "" where the file cannot be read."""
    start, end = columns
    if line is None or last is None or start is None or end is None:
        return ""
    lines = [linecache.getline(file, n).encode() for n in range(line, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    return textwrap.shorten(b" ".join(lines).decode(errors="ignore"), CODE, placeholder=" ...")


class Walk:
    """An evaluation of a program, equation by equation, without its custom rules.

    A subclass may change what an equation is given and what it returns. `place` tells one
    equation from all others, in every evaluation of the same function. A `wide` walk computes in
    float64 whatever floats the program was made for. One that does all things `once` evaluates
    what is written twice only the first time.
    """

    wide = once = False

    def __init__(self) -> None:
        self.place: tuple[int, ...] = ()
        self.met: dict[Any, tuple[list[Any], Sequence[Any]]] = {}
        self.around: Any = None  # the traceback of the call that it is in
        self.rules: set[tuple[int, ...]] = set()  # places where a custom_vjp is called

    def given(self, eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        """What the equation is evaluated with."""
        return values

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        """What it counts as having returned."""
        return results

    def within(self, eqn: Any, f: Callable[[], list[Any]]) -> list[Any]:
        """What a loop's body or a branch returns, f being its evaluation."""
        return f()

    def called_for(self, eqn: Any, values: Sequence[Any], f: Callable[..., list[Any]]) -> list[Any]:
        """What the call of a function f returns."""
        return f(self, values)

    def run(self, program: Any, args: Sequence[Any]) -> list[Any]:
        """The outputs of a jaxpr."""
        jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, map(self.widened, consts), strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def value(v: Any) -> Any:
            return self.widened(v.val) if hasattr(v, "val") else known[v]

        here = self.place
        for i, eqn in enumerate(jaxpr.eqns):
            self.place = (*here, i)
            results = self._equation(eqn, [value(v) for v in eqn.invars])
            known.update(zip(eqn.outvars, results, strict=True))
        self.place = here
        return [value(v) for v in jaxpr.outvars]

    def _equation(self, eqn: Any, values: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name.startswith("custom_vjp"):
            self.rules.add(self.place)
        if name in INLINED | CUSTOM:
            inner = next(eqn.params[k] for k in ("call_jaxpr", "jaxpr") if k in eqn.params)
            outer, self.around = self.around, self.traceback(eqn)
            results = self.called_for(eqn, values, lambda walk, values: walk.run(inner, values))
            self.around = outer
            return results
        if name in ("scan", "while", "cond"):
            return getattr(self, f"_{name}")(eqn, list(self.given(eqn, values)))

        def found() -> list[Any]:
            return self.found(eqn, values, self.bind(eqn, list(self.given(eqn, values))))

        if not self.once:
            return found()
        key = (
            name,
            str(eqn.params),
            *(v if isinstance(v, float | int | np.generic) else id(v) for v in values),
        )
        if key not in self.met:
            self.met[key] = found(), values
        return self.met[key][0]

    def bind(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        """What the equation returns; what comes of it keeps the equation's place in the source."""
        with user_context(self.traceback(eqn)):
            return self._bind(eqn, values)

    def traceback(self, eqn: Any) -> Any:
        """Its own, or if that shows no code of the caller's that of the call it is in.

        What JAX has compiled before it does not trace again.
        """
        own = eqn.source_info.traceback
        return own if self.around is None or source(own).line else self.around

    def where(self, eqn: Any) -> Place:
        """The caller's expression that an equation comes from."""
        return source(self.traceback(eqn))

    def called(self, eqn: Any) -> str:
        """What the result of an equation is called."""
        place = self.where(eqn)
        of = f"`{place.code}`" if place.code else place.short
        return f"`{eqn.primitive.name}`" + f" of {of}" * bool(of)

    def _bind(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        primitive, params = eqn.primitive, eqn.params
        if not self.wide:
            results = primitive.bind(*values, **params)
            return results if primitive.multiple_results else [results]
        if primitive.name == "reduce_precision":
            return [values[0]]
        if primitive.name in FIXED:
            made_for = [v.aval.dtype for v in eqn.invars]
            values = [
                v.astype(dtype) if narrow(dtype) else v
                for v, dtype in zip(map(jnp.asarray, values), made_for, strict=True)
            ]
        else:
            params = {k: np.float64 if k in DTYPES and narrow(v) else v for k, v in params.items()}
        with jax.enable_x64(primitive.name not in FIXED):
            results = primitive.bind(*values, **params)
        return list(map(self.widened, results if primitive.multiple_results else [results]))

    def widened(self, value: Any) -> Any:
        """In float64, where the walk is wide."""
        if not self.wide or not narrow(getattr(value, "dtype", None)):
            return value
        return value.astype(np.float64)

    def _part(self, eqn: Any, number: int, program: Any, args: Sequence[Any]) -> list[Any]:
        """One of the programs of a loop or a choice, which JAX may well trace more than once."""
        here, self.place = self.place, (*self.place, number)
        outer, self.met = self.met, dict(self.met)  # what is computed inside stays there
        results = self.within(eqn, partial(self.run, program, args))
        self.place, self.met = here, outer
        return results

    def _scan(self, eqn: Any, values: list[Any]) -> list[Any]:
        p = eqn.params
        if "num_consts" in p:
            consts, carries = p["num_consts"], p["num_carry"]
        else:  # since JAX 0.12
            consts, carries, _ = map(len, p["ft_in"].unpack())
        fixed, carry = values[:consts], values[consts : consts + carries]

        def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
            results = self._part(eqn, 0, p["jaxpr"], [*fixed, *carry, *x])
            return _like(results[:carries], carry), results[carries:]

        options = {k: p[k] for k in ("length", "reverse", "unroll")}
        carry, ys = self.scanned(body, carry, values[consts + carries :], **options)
        return [*carry, *ys]

    scanned = staticmethod(jax.lax.scan)

    def _while(self, eqn: Any, values: list[Any]) -> list[Any]:
        return self.turned(eqn, values)[:-1]

    def turned(self, eqn: Any, values: list[Any], most: Any = ENDLESS) -> list[Any]:
        """What a while loop returns, and how many turns it took, of `most`."""
        p = eqn.params
        n, m = p["cond_nconsts"], p["body_nconsts"]
        asked, fixed = values[:n], values[n : n + m]

        def more(state: list[Any]) -> Any:
            *carry, turns = state
            return self._part(eqn, 0, p["cond_jaxpr"], [*asked, *carry])[0] & (turns < most)

        def body(state: list[Any]) -> list[Any]:
            *carry, turns = state
            return [*_like(self._part(eqn, 1, p["body_jaxpr"], [*fixed, *carry]), carry), turns + 1]

        return jax.lax.while_loop(more, body, [*values[n + m :], np.int32(0)])

    def _cond(self, eqn: Any, values: list[Any]) -> list[Any]:
        branches = [
            lambda *args, i=i, branch=branch: self._part(eqn, i, branch, args)
            for i, branch in enumerate(eqn.params["branches"])
        ]
        return jax.lax.switch(values[0], branches, *values[1:])


def _like(results: Sequence[Any], carry: Sequence[Any]) -> list[Any]:
    # What an altered derivative goes through may have lost a dtype that the loop insists on.
    return [
        r if r.dtype == c.dtype else r.astype(c.dtype) for r, c in zip(results, carry, strict=True)
    ]


def narrow(dtype: Any) -> bool:
    """Whether it is one of floats narrower than float64."""
    return (
        dtype is not None
        and bool(jnp.issubdtype(dtype, jnp.floating))
        and np.dtype(dtype).itemsize < 8
    )


def evaluated(
    f: Callable[..., Any], args: Sequence[Any], walk: Walk, typed: Sequence[Any] | None = None
) -> Any:
    """f(*args), by that walk through its program.

    With `typed`, the shapes and dtypes of arguments that f would rather have, that program is
    made for these, and walked through in float64.
    """
    leaves = jax.tree.leaves(args)
    if typed is not None:
        walk.wide = True
        leaves = [
            v if jnp.issubdtype(v.dtype, jnp.floating) or v.dtype == t.dtype else v.astype(t.dtype)
            for v, t in zip(map(jnp.asarray, leaves), jax.tree.leaves(typed), strict=True)
        ]
    with nullcontext() if typed is None else jax.enable_x64(False):
        program, out = jax.make_jaxpr(f, return_shape=True)(*(args if typed is None else typed))
    return jax.tree.unflatten(jax.tree.structure(out), walk.run(program, leaves))


def stripped(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function f without its custom rules, within scan, while, cond, jit and remat too.

    What it returns is computed as f computes it; its derivative is JAX's own.

    >>> import jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def wrong(x):
    ...     return jnp.sin(x)
    >>> wrong.defvjp(lambda x: (wrong(x), x), lambda x, dy: (7 * dy,))
    >>> float(jax.grad(wrong)(0.0)), float(jax.grad(stripped(wrong))(0.0))
    (7.0, 1.0)
    """
    return lambda *args: evaluated(f, args, Walk())


class Census(Walk):
    """A walk that notes what it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.complex = False  # whether anything that is returned is
        self.narrow = False  # whether anything is computed in floats narrower than float64
        # Of float64, and of what programs compute in that insist on their dtypes.
        self.eps = [float(np.finfo(np.float64).eps)]

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        made = [v.aval.dtype for v in eqn.outvars if hasattr(v.aval, "dtype")]
        self.narrow |= any(map(narrow, made))
        if eqn.primitive.name in OPAQUE:
            self.eps += [float(jnp.finfo(dtype).eps) for dtype in made if narrow(dtype)]
            self.narrow = True  # as callbacks run in a thread where x64 is not on
        return results


class Perturbed(Walk):
    """A walk in which what is computed is a few ulps off, as if it had been rounded otherwise.

    How far that moves the outcome tells how much of it is rounding: Monte Carlo arithmetic, after
    Parker 1997. What only chooses or moves numbers stays, that what is equal remains so.
    """

    def __init__(self, rng: np.random.Generator, unit: float):
        super().__init__()
        self.rng, self.unit = rng, unit

    def scanned(
        self, body: Any, carry: Any, xs: Any, length: int, reverse: bool, unroll: Any
    ) -> Any:
        # Step by step, for to compile it takes longer, and each step is rounded by itself.
        if length > SHORT or not length:
            return super().scanned(body, carry, xs, length, reverse, unroll)
        steps = range(length)[:: -1 if reverse else 1]
        ys: dict[int, Any] = {}
        for i in steps:
            carry, ys[i] = body(carry, [x[i] for x in xs])
        return carry, [jnp.stack(y) for y in zip(*(ys[i] for i in range(length)), strict=True)]

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        if eqn.primitive.name not in ARITHMETIC:
            return results
        factors = [1 + 2 * self.unit * self.rng.uniform(-1, 1, y.shape) for y in results]
        return [
            y * jnp.asarray(factor, y.dtype) if jnp.issubdtype(y.dtype, jnp.inexact) else y
            for y, factor in zip(results, factors, strict=True)
        ]


class Values(Walk):
    """A walk that keeps what is computed outside of loops, by its primitive and its place."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, np.ndarray] = {}

    def found(self, eqn: Any, values: Sequence[Any], results: list[Any]) -> list[Any]:
        for y in results:
            if isinstance(y, Tracer) or not jnp.issubdtype(y.dtype, jnp.floating):
                continue
            self.values.setdefault(self.called(eqn), np.asarray(y))
        return results
