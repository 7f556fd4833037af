"""The check of any function with a hand-written backward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck import causes
from jnn.gradcheck.primal import Edge, edges, rules, with_edges_scaled
from jnn.gradcheck.probe import Flat, Seen, bare, exact_gradient, floats, gradient, look
from jnn.gradcheck.report import Finding, Report

# What becomes of the floating arguments; r is a leaf's root mean square, or 1 where that is 0.
REGIMES: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "given": lambda a, r, rng: a,
    "moved": lambda a, r, rng: a + 0.1 * r * rng.standard_normal(a.shape),
    "zero": lambda a, r, rng: np.zeros_like(a),
    "tied": lambda a, r, rng: np.rint(2 * a / r) * (r / 2),
    "large": lambda a, r, rng: 30 * a,
    "small": lambda a, r, rng: 1e-4 * a,
}
NEARBY = 8  # points around a kink, to see the slopes on its sides
NEAR = 1e-6  # of a leaf's root mean square they are away
CURVED = 1e-4  # of the gradient may change so near
LOSSES = 10  # times what autodiff loses in low precision is too much
WEAK = 1e-6  # relative errors that would be missed make a look one to repeat
LINEAR = 1e-5  # of the gradient, for what goes through float32 is another fault
LEAST = 2  # ulps, in which to count that where autodiff loses less
MANY_EXAMPLES, MANY_EDGES = 64, 300  # are more than a cause is sought among


def check_gradients(
    f: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    known: Mapping[str, float] | None = None,
    regimes: str | Sequence[str] = "default",
    key: int = 0,
) -> Report:
    """Whether a function's hand-written gradient is right, and if not, what is wrong, in words.

    f           any traceable function of pytrees, with a custom_vjp somewhere within; its float
                leaves are checked, integer and key leaves are allowed
    reference   a plain function of the same value, where f's own primal cannot be differentiated
    known       constants to recognise a wrong factor by, such as {"rate": 0.1}
    regimes     "default" for all of "given", "moved", "zero", "tied", "large" and "small" values
                of the arguments, or the names of some
    key         a number, from which the cotangents are drawn

    The gradient is compared, element by element and in float64, with that of f's own primal: f
    with every custom rule taken out, within loops too, differentiated by JAX (forwards where a
    while loop forbids it backwards). No tolerance is guessed: see `probe.look`. NaN never passes,
    and any value between the slopes on the two sides of a kink does. x64 is switched on inside and
    only there.

    Beside that, the contract: linear in the cotangent, the same twice, compiled and vmapped, and a
    forward that stays the same under differentiation. And the numerics: in the arguments' own
    dtype it may lose ten times what autodiff loses, or 20 ulps if that is more.

    Raises ValueError where no argument holds floats or a regime is unknown.

    >>> @jax.custom_vjp
    ... def scaled(x, w):
    ...     return jnp.tanh(x) * w
    >>> scaled.defvjp(lambda x, w: (scaled(x, w), (x, w)),
    ...               lambda kept, dy: (dy * kept[1], (dy * jnp.tanh(kept[0])).sum(0)))
    >>> x, w = jnp.linspace(-2.0, 2.0, 6).reshape(3, 2), jnp.array([0.5, 2.0])
    >>> report = check_gradients(scaled, x, w, regimes=["given"])
    >>> [(finding.path, finding.cause) for finding in report.findings]
    [('args[0]', 'local-derivative')]
    >>> report.findings[0].message
    'that of `tanh` is missing'
    """
    names = [regimes] if isinstance(regimes, str) else list(regimes)
    names = list(REGIMES) if names == ["default"] else names
    if unknown := [name for name in names if name not in REGIMES]:
        raise ValueError(f"regimes names {unknown}; there are {list(REGIMES)}, or 'default'")
    with jax.enable_x64(True):
        check = _Check(f, args, reference, known or {}, key)
        if problem := check.traced():
            return Report((Finding("", "structure", problem),), {}, ())
        return check.report(names)


class _Check:
    """One function, its arguments, and what has been found out about its gradient."""

    def __init__(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        reference: Callable[..., Any] | None,
        known: Mapping[str, float],
        seed: int,
    ):
        with_paths, tree = jax.tree.flatten_with_path(args)
        arrays = [a if isinstance(a, jax.Array) else jnp.asarray(a) for _, a in with_paths]
        floating = tuple(bool(jnp.issubdtype(a.dtype, jnp.floating)) for a in arrays)
        if not any(floating):
            raise ValueError("args hold no floats, so there is no gradient to check")
        self.flat = Flat(f, tree, floating)
        self.primal = f if reference is None else reference
        self.reference = bare(self.flat) if reference is None else Flat(reference, tree, floating)
        self.given = tuple(a for a, m in zip(arrays, floating, strict=True) if m)
        self.leaves = tuple(a.astype(jnp.float64) for a in self.given)
        self.others = tuple(a for a, m in zip(arrays, floating, strict=True) if not m)
        names = ("args" + jax.tree_util.keystr(path) for path, _ in with_paths)
        self.paths = [name for name, m in zip(names, floating, strict=True) if m]
        self.rng, self.key, self.known = np.random.default_rng(seed), jax.random.key(seed), known
        self.notes: list[str] = []
        if reference is None and not rules(f, *args):
            self.notes.append("f calls no custom_vjp: what was checked is JAX's own gradient")

    def traced(self) -> str | None:
        """What JAX refuses of the gradient's structure, if anything."""
        y = jax.eval_shape(self.flat, self.leaves, self.others)
        if not y:
            raise ValueError("f returns no floats, so there is no gradient to check")
        try:
            jax.eval_shape(partial(gradient, self.flat), self.leaves, self.others, y)
        except (TypeError, ValueError) as error:
            return str(error).splitlines()[0]
        return None

    def report(self, names: Sequence[str]) -> Report:
        """All of it, up to the first regime in which something is wrong."""
        found: list[Finding] = []
        power: dict[str, float] = dict.fromkeys(self.paths, 0.0)
        done = []
        for name in names:
            fresh, strength = self.regime(name)
            if not fresh and strength is None:
                continue
            found += fresh
            done.append(name)
            if fresh:  # what is wrong here is wrong elsewhere for the same reason
                break
            power = {
                path: max(power[path], s) for path, s in zip(power, strength or (), strict=True)
            }
        if not found:
            found += self.again() + self.numerics()
        return Report(tuple(found), power, tuple(done), tuple(dict.fromkeys(self.notes)))

    def regime(self, name: str) -> tuple[list[Finding], list[float] | None]:
        """What is wrong at such values, and what would have been found; None where f has none."""
        leaves = tuple(
            jnp.asarray(REGIMES[name](np.asarray(a), _typical(a), self.rng)) for a in self.leaves
        )
        cotangents = self.cotangents(leaves)
        seen = self.look(leaves, cotangents)
        if not all(np.isfinite(y).all() for y in seen.y_exact):
            if name == "given":
                return [
                    Finding("", "nonfinite", "f itself is not finite, so nothing follows")
                ], None
            self.notes.append(f"at {name} values f is not finite")
            return [], None
        if broken := _contract(seen, self.paths, name):
            return broken, None
        found = []
        for i, path in enumerate(self.paths):
            vague = ~np.isfinite(seen.exact[i])
            if vague.any() and name != "given":
                self.notes.append(f"at {name} values autodiff has no finite gradient of {path}")
            wrong = ~(abs(seen.hand[i] - seen.exact[i]) <= seen.allowed[i])
            if name != "given":
                wrong &= ~vague
            if not wrong.any():
                continue
            verdict = self.kink(leaves, cotangents, seen, i, wrong)
            if verdict == "valid":
                self.notes.append(
                    f"at {name} values {path} sits on a kink, where another valid slope is taken "
                    "than JAX would"
                )
            else:
                found.append(self.explained(name, leaves, cotangents[0], seen, i, wrong, verdict))
        return found, _strength(seen)

    def cotangents(self, leaves: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Two of them, Gaussian, and such that every output counts alike."""
        y = _values(self.flat, leaves, self.others)

        def drawn() -> tuple[Any, ...]:
            return tuple(jnp.asarray(self.rng.standard_normal(a.shape) / _typical(a)) for a in y)

        return drawn(), drawn()

    def look(self, leaves: tuple[Any, ...], cotangents: Any) -> Seen:
        """The gradient beside the exact one, as numpy arrays.

        At ties and on kinks a few ulps change the gradient itself, and nothing could be told from
        its spread; there the point stays where it is.
        """
        for ulps in (8.0, 0.0):
            seen = look(self.flat, self.reference, leaves, self.others, *cotangents, self.key, ulps)
            seen = jax.tree.map(np.asarray, seen)
            if max(_strength(seen)) < WEAK:
                break
        return seen

    def kink(
        self, leaves: tuple[Any, ...], cotangents: Any, seen: Seen, i: int, wrong: np.ndarray
    ) -> str:
        """ "valid" for a slope between those around the point, "outside", or "wrong" around too."""
        # At random, and where the choice made here is the one to make, should it be a slope at all.
        ways = [[self.rng.standard_normal(a.shape) for a in leaves] for _ in range(NEARBY)]
        chosen = [np.nan_to_num(h - e) for h, e in zip(seen.hand, seen.exact, strict=True)]
        for sign in (1, -1):
            noise = [0.1 * self.rng.standard_normal(a.shape) for a in leaves]
            ways.append([sign * o / _typical(o) + n for o, n in zip(chosen, noise, strict=True)])
        slopes = []
        for way in ways:
            near = tuple(
                a + NEAR * _typical(a) * jnp.asarray(w) for a, w in zip(leaves, way, strict=True)
            )
            there = self.look(near, cotangents)
            hand, exact, allowed = (t[i] for t in there[:3])
            if not (abs(hand - exact) <= allowed)[wrong].all():
                return "wrong"
            slopes.append(exact[wrong])
        low, high, mine = np.min(slopes, 0), np.max(slopes, 0), seen.hand[i][wrong]
        margin = CURVED * (_typical(seen.exact[i]) + abs(mine))
        return "valid" if ((low - margin <= mine) & (mine <= high + margin)).all() else "outside"

    def explained(
        self,
        name: str,
        leaves: tuple[Any, ...],
        v: tuple[Any, ...],
        seen: Seen,
        i: int,
        wrong: np.ndarray,
        verdict: str,
    ) -> Finding:
        """The finding for leaf i, with its cause."""
        off = np.where(np.isfinite(seen.hand[i]), abs(seen.hand[i] - seen.exact[i]), np.inf)
        worst = np.argsort(-np.where(wrong, off, -1), axis=None)[: min(wrong.sum(), 20)]
        indices = tuple(tuple(int(k) for k in np.unravel_index(n, wrong.shape)) for n in worst)
        if verdict == "outside":
            words = "at a kink it lies outside of the slopes on its sides, so it is none of them"
            return Finding(self.paths[i], "local-derivative", words, indices, "", name)
        named = dict(zip(self.paths, map(np.asarray, leaves), strict=True))
        others = dict(zip(self.paths, seen.exact, strict=True))
        del others[self.paths[i]]
        for k, (y, dy) in enumerate(zip(seen.y_exact, v, strict=True)):
            named |= {f"output {k}": y, f"the cotangent of output {k}": np.asarray(dy)}
        shapes = {path: tensor.shape for path, tensor in named.items()}
        case = causes.Case(
            self.paths[i],
            seen.hand[i],
            seen.exact[i],
            wrong,
            others,
            named,
            causes.constants(shapes, self.known),
            partial(self.parts, leaves, v, i),
            partial(self.owed, leaves, v, seen, i),
        )
        cause = causes.explain(case)
        return Finding(self.paths[i], cause.cause, cause.message, indices, cause.source, name)

    def parts(self, leaves: tuple[Any, ...], v: tuple[Any, ...], i: int) -> np.ndarray | None:
        """What each example adds to the exact gradient of leaf i, if outputs have examples."""
        sizes = {a.shape[:1] for a in v}
        (n,) = next(iter(sizes)) if len(sizes) == 1 and sizes != {()} else (0,)
        if not 2 <= n <= MANY_EXAMPLES:
            return None
        return np.asarray(_parts(self.reference, leaves, self.others, v, n)[i])

    def owed(
        self, leaves: tuple[Any, ...], v: tuple[Any, ...], seen: Seen, i: int
    ) -> list[tuple[Edge, np.ndarray]]:
        """What the exact gradient of leaf i owes to each edge of the primal."""
        met = edges(self.primal, *self.reference.arguments(leaves, self.others))
        if not 0 < len(met) <= MANY_EDGES:
            return []
        without = _without_edges(
            replace(self.flat, f=self.primal), leaves, self.others, v, len(met)
        )[i]
        return list(zip(met, seen.exact[i] - np.asarray(without), strict=True))

    def again(self) -> list[Finding]:
        """Whether it is the same uncompiled and vmapped."""
        v, _ = self.cotangents(self.leaves)
        want = _gradient(self.flat, self.leaves, self.others, v)
        ways: dict[str, Callable[[], Any]] = {
            "called again": lambda: _gradient(self.flat, self.leaves, self.others, v),
            "not compiled": lambda: gradient(self.flat, self.leaves, self.others, v),
            "vmapped": lambda: jax.tree.map(
                lambda a: a[1], _vmapped(self.flat, *_twice((self.leaves, self.others, v)))
            ),
        }
        found = []
        for way, call in ways.items():
            try:
                got = call()
            except NotImplementedError as error:
                self.notes.append(f"it cannot be {way}: {str(error).splitlines()[0]}")
                continue
            for path, g, w in zip(("output", *self.paths), _ends(got), _ends(want), strict=True):
                if not _close(np.asarray(g), np.asarray(w)):
                    words = f"{way}, it gives something else than compiled"
                    found.append(Finding(path, "nondeterministic", words))
        return found

    def numerics(self) -> list[Finding]:
        """What it loses in the arguments' own dtype, beside what autodiff loses there."""
        if all(a.dtype == jnp.float64 for a in self.given):
            return []
        v, _ = self.cotangents(self.leaves)
        with jax.enable_x64(False):
            y = jax.eval_shape(self.flat, self.given, self.others)
            low = tuple(np.asarray(a).astype(o.dtype) for a, o in zip(v, y, strict=True))
            _, hand = _gradient(self.flat, self.given, self.others, low)
            _, auto = _exact(self.reference, self.given, self.others, low)
        wide = tuple(jnp.asarray(a, jnp.float64) for a in low)
        _, exact = _exact(self.reference, self.leaves, self.others, wide)
        found = []
        for path, given, *found_here in zip(self.paths, self.given, hand, auto, exact, strict=True):
            mine, theirs, right = (np.asarray(a, np.float64) for a in found_here)
            unit = float(jnp.finfo(given.dtype).eps) / 2 * _typical(right)
            lost, usual = (_root_mean_square(a - right) / unit for a in (mine, theirs))
            if not lost <= LOSSES * max(usual, LEAST) and np.isfinite(usual):
                words = (
                    f"in {given.dtype} it loses {lost:.3g} ulps where autodiff loses {usual:.2g}"
                )
                found.append(Finding(path, "precision", words))
        return found


def _strength(seen: Seen) -> list[float]:
    """For each leaf the relative error that would have been found in any of its elements."""
    return [
        float(np.max(a, initial=0, where=np.isfinite(a))) / _typical(e)
        for a, e in zip(seen.allowed, seen.exact, strict=True)
    ]


def _contract(seen: Seen, paths: Sequence[str], regime: str) -> list[Finding]:
    """The primal under differentiation, and linearity in the cotangent."""
    found = []
    for k, (y, exact) in enumerate(zip(seen.y, seen.y_exact, strict=True)):
        if not _close(y, exact):
            words = f"output {k} is off by {abs(y - exact).max():.1e} under differentiation"
            found.append(Finding("", "primal-mismatch", words, regime=regime))
    for i, path in enumerate(paths):
        at = {name: gradients[i] for name, gradients in seen.contract.items()}
        if not np.isfinite(at["one"]).all():
            continue
        if at["one"].any() and (at["double"] == at["one"]).all():
            words = "twice the cotangent gives the same gradient"
            found.append(Finding(path, "ignores-cotangent", words, regime=regime))
        elif at["zero"].any():
            words = "the gradient is not 0 where the cotangent is"
            found.append(Finding(path, "constant-term", words, regime=regime))
        elif not (
            _close(at["double"], 2 * at["one"], LINEAR)
            and _close(at["mixed"], 1.7 * at["one"] - 37.3 * at["other"], LINEAR)
        ):
            words = "the gradient at a sum of cotangents is not the sum of the gradients"
            found.append(Finding(path, "nonlinear", words, regime=regime))
    return found


def _close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-10) -> bool:
    """Alike but for the rounding of a long computation in float64, unless told otherwise."""
    unit = _typical(b) + abs(b)
    return bool((abs(a - b) <= tolerance * unit).all()) or np.array_equal(a, b, equal_nan=True)


def _typical(a: Any) -> float:
    """The root mean square, or 1 where it is 0 or not finite."""
    size = _root_mean_square(a)
    return size if np.isfinite(size) and size > 0 else 1.0


def _root_mean_square(a: Any) -> float:
    a = np.asarray(a, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.square(a).mean())) if a.size else 0.0


def _twice(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.stack([a, a]), tree)


def _ends(found: Any) -> list[Any]:
    """The first output, and all gradients."""
    y, grads = found
    return [y[0], *grads]


@partial(jax.jit, static_argnums=0)
def _values(f: Flat, leaves: Any, others: Any) -> Any:
    return f(leaves, others)


_gradient = jax.jit(gradient, static_argnums=0)
_exact = jax.jit(exact_gradient, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _vmapped(f: Flat, leaves: Any, others: Any, v: Any) -> Any:
    return jax.vmap(partial(gradient, f))(leaves, others, v)


@partial(jax.jit, static_argnums=(0, 4))
def _parts(reference: Flat, leaves: Any, others: Any, v: Any, n: int) -> Any:
    def part(k: jax.Array) -> Any:
        only = tuple(
            jnp.where((jnp.arange(n) == k).reshape(-1, *[1] * (a.ndim - 1)), a, 0) for a in v
        )
        return exact_gradient(reference, leaves, others, only)[1]

    return jax.lax.map(part, jnp.arange(n))


@partial(jax.jit, static_argnums=(0, 4))
def _without_edges(reference: Flat, leaves: Any, others: Any, v: Any, n: int) -> Any:
    scaled = with_edges_scaled(reference.f)

    def without(k: jax.Array) -> Any:
        def primal(*leaves: Any) -> Any:
            alphas = jnp.where(jnp.arange(n) == k, 0.0, 1.0)
            return floats(scaled(alphas, *reference.arguments(leaves, others)))

        return jax.vjp(primal, *leaves)[1](v)

    return jax.lax.map(without, jnp.arange(n))
