"""The check of any optimizer against the formulas of its paper."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.report import Finding, Report
from jnn.gradcheck.sizes import root_mean_square, typical
from jnn.gradcheck.slips import explain
from jnn.gradcheck.target import UNIT, close, exactly
from jnn.gradcheck.updates import Case, Formula, Run
from jnn.layer import Params
from jnn.optimizers.protocol import pair, update_with

Arrays = list[np.ndarray]  # one for each parameter

SHAPES = {"w": (4, 3), "b": (3,), "out": {"w": (3, 2), "b": (2,)}}
SIZES = (1.0, 30.0, 0.3, 3.0)  # of their gradients, in turn
LATE = 300  # steps, more than a counter of 8 bits holds, or one in bfloat16
REPLICATES = 3  # of a run, a few ulps apart
SPREADS = 12  # standard deviations of what rounding does to them are still rounding
# Beside the last operations', constants are rounded: of the digits of 1 - b^t up to 1 / (1 - b)
# ulps are lost, here and not there, and b is at most 0.9999.
ULPS = 1e4
LOW = ("float32", "bfloat16", "float16")


class OptimizerReport(Report):
    """The verdict on an optimizer; as `Report`, of updates."""

    def __str__(self) -> str:
        return "updates" + super().__str__().removeprefix("gradients")

    def _called(self, cause: str) -> str:
        return cause  # what they are called is said of gradients


def check_optimizer(
    optimizer: Any,
    formula: Any,
    params: Params | None = None,
    *,
    steps: int = 12,
    known: Mapping[str, float] | None = None,
    key: int = 0,
) -> Report:
    """Whether an optimizer takes the steps of its paper, and if not, which slip was made, in words.

    optimizer   any (init, update) pair
    formula     what one array does, in numpy: formula(t, x, g, *memory) -> (dx, *memory), or dx
                alone, with t = 1 at first. What it remembers, be it the state of an optimizer that
                is trusted, are its further arguments, which start from their defaults
    params      a tree whose shapes and sizes are used; by default weights and biases in two layers
    steps       of each short run, 3 at least
    known       constants to recognise a slip by, such as {"lr": 0.1, "b1": 0.9, "b2": 0.999,
                "eps": 1e-8, "decay": 0.01}
    key         a number, from which gradients are drawn

    Both are led along the formula's own path, in float64, through four runs: with changing
    gradients; with tiny ones, about eps and its root in size; with ones that are zero at first and
    at last; and with changing ones up to a late step, the 300th. An update is wrong where

        |dx - formula's| > 1e4 u (|dx| + |formula's|) + 12 (sd + rms of sd) sqrt(1 + 1/K)

    sd being that of the difference over K = 3 runs a few ulps apart. NaN never passes. The message
    begins with what went wrong: bias correction, epsilon, decay, step count, momentum, learning
    rate.

    Beside that, the contract: a state that keeps its structure, so that a loop can carry it;
    updates of the dtypes of the parameters, finite for zero gradients; nothing mutated; the same
    compiled again. x64 is switched on inside and only there.

    Raises ValueError where `optimizer` is no pair, `params` holds something else than floats,
    `steps` is below 3, or `formula` returns another shape than x.

    >>> import numpy as np
    >>> from jnn.optimizers import adam
    >>> def paper(t, x, g, m=0, v=0):
    ...     m = 0.9 * m + 0.1 * g
    ...     v = 0.999 * v + 0.001 * g**2
    ...     m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
    ...     return -0.1 * m_hat / (np.sqrt(v_hat) + 1e-8), m, v
    >>> bool(check_optimizer(adam(0.1), paper))
    True
    >>> report = check_optimizer(adam(0.1, bias_correction=False), paper)
    >>> report.findings[0].message
    'bias correction: that of both moments is missing; first at step 1'
    """
    optimizer, rule = pair("check_optimizer", optimizer), Formula(formula)
    if steps < 3:
        raise ValueError(f"steps is {steps}; it must be at least 3, for slips show in the second")
    with exactly():
        check = _Check(optimizer, rule, params, steps, dict(known or {}), key)
        broken, runs = check.structure()
        if not runs:
            return OptimizerReport(tuple(broken), {}, ())
        found, power = check.updates()
        more, notes = check.contract()
        findings = (*found, *more, *broken)
        return OptimizerReport(findings, power, tuple(check.gradients), tuple(notes))


class _Check:
    """One optimizer, beside its formula, and the gradients for both."""

    def __init__(
        self,
        optimizer: Any,
        formula: Formula,
        params: Any,
        steps: int,
        known: Mapping[str, float],
        seed: int,
    ):
        self.optimizer, self.formula, self.steps, self.known = optimizer, formula, steps, known
        self.rng = rng = np.random.default_rng(seed)
        if params is None:
            params = jax.tree.map(np.ones, SHAPES, is_leaf=lambda s: isinstance(s, tuple))
        with_paths, self.tree = jax.tree.flatten_with_path(params)
        dtypes = [jnp.result_type(a) for _, a in with_paths]
        if not dtypes or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
            raise ValueError("params must hold arrays of floats, and at least one")
        self.paths = ["params" + jax.tree_util.keystr(path) for path, _ in with_paths]
        given = [np.asarray(a, np.float64) for _, a in with_paths]
        self.start = [typical(a) * rng.standard_normal(a.shape) for a in given]
        eps = known.get("eps", 1e-8)

        def changing(count: int) -> Arrays:
            sizes = (SIZES[i % len(SIZES)] for i in range(len(given)))
            pairs = zip(sizes, given, strict=True)
            return [size * rng.standard_normal((count, *a.shape)) for size, a in pairs]

        def tiny(g: np.ndarray) -> np.ndarray:
            low, high = np.log(eps / 100), np.log(10 * np.sqrt(eps))
            return np.exp(rng.uniform(low, high, g.shape[1:])) * np.sign(g) * (0.5 + abs(g) % 1)

        def zero(g: np.ndarray) -> np.ndarray:
            g[: steps // 4] = g[steps - steps // 3 :] = 0
            return g

        self.gradients = {
            "changing": changing(steps),
            "tiny": [tiny(g) for g in changing(steps)],
            "zero": [zero(g) for g in changing(steps)],
            "late": changing(-(-LATE // steps) * steps),  # whole loops, compiled already
        }

    def updates(self) -> tuple[list[Finding], dict[str, float]]:
        """What is wrong with the updates, and the relative error that would have been found."""
        looks = {name: self.look(gs) for name, gs in self.gradients.items()}
        found: list[Finding] = []
        power: dict[str, float] = {}
        for i, path in enumerate(self.paths):
            runs = {name: look[i] for name, look in looks.items()}
            power[path] = max(map(_power, runs.values()))
            if any(run.off.any() for run in runs.values()):
                case = Case(self.formula, runs, self.known)
                slip = explain(case)
                message = f"{slip.message}; first at step {case.first}"
                found.append(Finding(path, slip.cause, message, regime=case.run))
        return _merged(found, self.paths, [a.ndim for a in self.start]), power

    def look(self, gs: Arrays) -> list[Run]:
        """One run of both, for each parameter, and replicates to know the rounding by."""
        kept = []
        for k in range(REPLICATES):

            def jitter(a: np.ndarray, k: int = k) -> np.ndarray:
                return a * (1 + 16 * UNIT * self.rng.uniform(-1, 1, a.shape) * (k > 0))

            some = [jitter(g) for g in gs]
            both = zip(self.start, some, strict=True)
            led = [self.formula.follow(jitter(x), g) for x, g in both]
            mine = self.take([xs for xs, _ in led], some)
            kept.append([(xs, a, right) for a, (xs, right) in zip(mine, led, strict=True)])
        runs = []
        for g, *copies in zip(gs, *kept, strict=True):
            x, mine, right = copies[0]
            with np.errstate(invalid="ignore"):
                sd = np.std([a - b for _, a, b in copies], axis=0, ddof=1)
                spread = sd + root_mean_square(sd[np.isfinite(sd)])
                allowed = ULPS * UNIT * (abs(mine) + abs(right))
                allowed += SPREADS * spread * np.sqrt(1 + 1 / REPLICATES)
            runs.append(Run(x, g, mine, right, allowed))
        return runs

    def take(self, xs: Arrays, gs: Arrays) -> Arrays:
        """The optimizer's updates for given parameters and gradients."""
        state = self.optimizer.init(self.tree.unflatten([jnp.asarray(x[0]) for x in xs]))
        parts = []
        for at in range(0, len(gs[0]), self.steps):
            some = ([a[at : at + self.steps] for a in arrays] for arrays in (xs, gs))
            state, dxs = _loop(self.optimizer, state, *map(self.tree.unflatten, some))
            parts.append([np.asarray(a) for a in self.tree.flatten_up_to(dxs)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def params(self, dtype: str) -> Any:
        return self.tree.unflatten([jnp.asarray(a, dtype) for a in self.start])

    def structure(self) -> tuple[list[Finding], bool]:
        """What keeps the optimizer from running, trees, shapes and dtypes; and whether it runs all
        the same, in float32 at least."""
        found, runs = [], True

        def once(params: Any) -> Any:
            state = self.optimizer.init(params)
            before = jax.tree.leaves((state, params))
            result = state, *update_with(self.optimizer, params, state, params, jnp.ones(()))
            after = jax.tree.leaves((state, params))
            if len(before) != len(after) or any(map(lambda a, b: a is not b, before, after)):
                words = "an update changes the gradients, state or parameters in place"
                found.append(Finding("update", "nondeterministic", words))
            return result

        for name in ("float64", *LOW):
            with jax.enable_x64(name == "float64"):
                try:
                    params = jax.eval_shape(partial(self.params, name))
                    state, updates, after = jax.eval_shape(once, params)
                except Exception as error:  # whatever another's code raises when traced
                    first = f"{error}".partition("\n")[0]
                    words = f"in {name} it cannot be traced: {type(error).__name__}: {first}"
                    return [Finding("update", "structure", words)], False
            if words := _unlike(after, state):
                words = f"in {name} the state after an update {words}: no loop can carry it"
                found.append(Finding("state", "structure", words))
            if words := _unlike(updates, params):
                words = f"in {name} the updates are not like the parameters: the tree {words}"
                found.append(Finding("updates", "structure", words))
            runs = runs and (not found or name in ("bfloat16", "float16"))
        return list(dict.fromkeys(found)), runs

    def contract(self) -> tuple[list[Finding], list[str]]:
        """Determinism, and zero gradients in low precision; findings and notes."""
        found, notes = [], []
        x = self.tree.unflatten([jnp.asarray(a) for a in self.start])
        g = self.tree.unflatten([jnp.asarray(g[0]) for g in self.gradients["changing"]])

        def first(x: Any, g: Any) -> Any:
            return update_with(self.optimizer, g, self.optimizer.init(x), x, jnp.ones(()))[0]

        steps = ([np.repeat(a[None], self.steps, 0) for a in jax.tree.leaves(t)] for t in (x, g))
        looped, again = self.take(*steps), self.tree.flatten_up_to(jax.jit(first)(x, g))
        pairs = zip(looped, again, strict=True)
        if not all(close(dxs[0], np.asarray(dx), UNIT) for dxs, dx in pairs):
            words = "compiled again, an update gives something else"
            found.append(Finding("update", "nondeterministic", words))
        with jax.enable_x64(False):
            finite = _finite_at_zero(self.optimizer, {d: self.params(d) for d in LOW})
        for dtype in (d for d, fine in finite.items() if not fine):
            words = f"in {dtype} the update for a zero gradient is not finite"
            if dtype == "float32":
                found.append(Finding("update", "nonfinite", words, regime="zero"))
            else:  # where a usual epsilon, or 1 - 0.999, is 0; it may be meant for float32 alone
                notes.append(words)
        return found, notes


def _power(run: Run) -> float:
    """The smallest error of an update, relative to the typical one of its step, that is found."""
    pairs = zip(run.right, run.allowed, strict=True)
    sizes = [(root_mean_square(right), allowed.max(initial=0)) for right, allowed in pairs]
    return max((worst / size for size, worst in sizes if size), default=0.0)


def _merged(found: Sequence[Finding], paths: Sequence[str], ranks: Sequence[int]) -> list[Finding]:
    """Findings with what they share said once, and what sets parameters apart."""
    if len(found) == len(paths) > 1 and len({replace(f, path="") for f in found}) == 1:
        return [replace(found[0], path="params")]
    hit = {f.path for f in found}
    wrong = {rank for path, rank in zip(paths, ranks, strict=True) if path in hit}
    right = {rank for path, rank in zip(paths, ranks, strict=True) if path not in hit}
    if not (wrong and right) or wrong & right:
        return list(found)
    kind = "rank " + " and ".join(map(str, sorted(wrong)))
    kind += ", such as biases," if max(wrong) < 2 else ""
    words = f"; parameters of {kind} alone are wrong"
    return [replace(f, message=f.message + words) for f in found]


def _unlike(tree: Any, model: Any) -> str:
    """How a tree differs from another in structure, shapes or dtypes; "" where it does not."""
    if jax.tree.structure(tree) != jax.tree.structure(model):
        return "has another structure"
    for (path, a), b in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(model), strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            name = jax.tree_util.keystr(path)
            return f"has {a.dtype}{list(a.shape)} for {b.dtype}{list(b.shape)} at {name or 'it'}"
    return ""


@partial(jax.jit, static_argnums=0)
def _finite_at_zero(optimizer: Any, trees: Any) -> Any:
    """Of parameters in several dtypes, whether the first update is finite for gradients of 0."""

    def finite(params: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = update_with(optimizer, zeros, optimizer.init(params), params, jnp.ones(()))
        return jnp.all(jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(updates)]))

    return {dtype: finite(params) for dtype, params in trees.items()}


@partial(jax.jit, static_argnums=0)
def _loop(optimizer: Any, state: Any, xs: Any, gs: Any) -> Any:
    def step(state: Any, at: Any) -> Any:
        x, g = at
        dx, state = update_with(optimizer, g, state, x, jnp.ones(()))
        return state, dx

    return jax.lax.scan(step, state, (xs, gs))
