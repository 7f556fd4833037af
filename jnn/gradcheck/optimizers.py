"""The check of any optimizer against the formulas of its paper."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck import slips
from jnn.gradcheck.report import Finding, Report
from jnn.layer import Params
from jnn.optimizers.protocol import pair, update_with

Arrays = list[np.ndarray]  # one for each parameter
Known = Mapping[str, float | Callable[[int], float]]

SHAPES = {"w": (4, 3), "b": (3,), "out": {"w": (3, 2), "b": (2,)}}
SIZES = (1.0, 30.0, 0.3, 3.0)  # of their gradients, in turn
LATE = 1000  # steps, after which 1 - 0.999^t is still seen to move
REPLICATES = 3  # of a run, a few ulps apart
SPREADS = 12  # standard deviations of what rounding does to them are still rounding
# Beside the last operations', constants are rounded: of the digits of 1 - b^t up to 1 / (1 - b)
# ulps are lost, here and not there, and b is at most 0.9999.
ULPS = 1e4
LOW = ("float32", "bfloat16", "float16")
UNIT = float(np.finfo(np.float64).eps) / 2


class Look(NamedTuple):
    """A run: with an array for each parameter, steps along the first axis."""

    xs: Arrays
    mine: Arrays
    right: Arrays
    allowed: Arrays  # the difference that rounding accounts for


class OptimizerReport(Report):
    """The verdict on an optimizer; as `Report`, with updates for gradients."""

    def __str__(self) -> str:
        if self:
            lines = [
                f"updates right: of {', '.join(self.power)}, with {', '.join(self.regimes)} "
                f"gradients; a relative error of {max(self.power.values(), default=0):.0e} in any "
                "of them would have been found"
            ]
        else:
            n = len(self.findings)
            lines = [f"updates WRONG: {n} finding" + "s" * (n > 1)]
        for f in self.findings:
            lines += [f"  {f.path}: {f.cause}, with {f.regime} gradients", f"    {f.message}"]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def check_optimizer(
    optimizer: Any,
    formula: Any,
    params: Params | None = None,
    *,
    steps: int = 12,
    known: Known | None = None,
    key: int = 0,
) -> Report:
    """Whether an optimizer takes the steps of its paper, and if not, which slip was made, in words.

    optimizer   any (init, update) pair
    formula     what one array does, in numpy: formula(t, x, g, *memory) -> (dx, *memory), or dx
                alone, with t = 1 at first. What it remembers are its further arguments, and their
                defaults are what they start from. Or another pair, to be agreed with
    params      a tree whose shapes and sizes are used; by default weights and biases in two layers
    steps       of each short run, 3 at least
    known       constants to recognise a slip by, such as {"lr": 0.1, "b1": 0.9, "b2": 0.999,
                "eps": 1e-8, "decay": 0.01}
    key         a number, from which gradients are drawn

    Both are led along the formula's own path, in float64, through four runs: with changing
    gradients; with tiny ones, about eps and its root in size; with ones that are zero at first and
    at last; and with changing ones up to a late step, the 1000th. An update is wrong where

        |dx - formula's| > 1e4 u (|dx| + |formula's|) + 12 (sd + rms of sd) sqrt(1 + 1/K)

    sd being that of the difference over K = 3 runs a few ulps apart. NaN never passes. The message
    begins with what went wrong: bias correction, epsilon, decay, step count, momentum, learning
    rate.

    Beside that, the contract: a state that keeps its structure, so that a loop can carry it;
    updates of the dtypes of the parameters, finite for zero gradients; nothing mutated; the same
    compiled and called again. x64 is switched on inside and only there.

    Raises ValueError where `optimizer` is no pair, `params` holds something else than floats,
    `steps` is below 3, or `formula` returns another shape than x.

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
    optimizer = pair("check_optimizer", optimizer)
    if steps < 3:
        raise ValueError(f"steps is {steps}; it must be at least 3, for slips show in the second")
    with jax.enable_x64(True):
        check = _Check(optimizer, formula, params, steps, dict(known or {}), key)
        broken = check.structure()
        if broken:
            return OptimizerReport(tuple(broken), {}, (), tuple(check.notes))
        found, power = check.updates()
        found += check.contract()
        return OptimizerReport(tuple(found), power, tuple(check.runs), tuple(check.notes))


class _Formula:
    """The reference, where it is a formula for one array."""

    def __init__(self, formula: Any):
        if not callable(formula):
            raise ValueError(
                f"formula is {formula!r}; it must be formula(t, x, g, *memory) -> (dx, *memory), "
                "or an (init, update) pair"
            )
        try:
            inspect.signature(formula).bind(1, 0, 0)
        except TypeError as error:
            raise ValueError(
                f"formula must take (t, x, g, *memory), memory with defaults to start from: {error}"
            ) from None
        self.leaf = formula

    def follow(self, start: Arrays, gs: Arrays) -> tuple[Arrays, Arrays]:
        """(xs, dxs), steps along the first axis, of a run that takes its own steps."""
        columns = []
        for x, g in zip(start, gs, strict=True):
            rows, memory = [], ()
            for t, now in enumerate(g, 1):
                dx, memory = self.step(t, x, now, memory)
                rows.append((x, dx))
                x = x + dx
            columns.append([np.stack(column) for column in zip(*rows, strict=True)])
        return [xs for xs, _ in columns], [dxs for _, dxs in columns]

    def again(self, xs: Arrays, gs: Arrays, variant: slips.Variant, i: int) -> np.ndarray:
        """dxs of parameter i for given parameters and gradients, were the formula another."""
        dxs, memory = [], ()
        for t, (x, g) in enumerate(zip(xs[i], gs[i], strict=True), 1):
            memory = () if variant.forgets else memory
            g, x = variant.gradient(x, g), variant.parameter(x)
            dx, memory = self.step(variant.time(t), x, g, memory)
            dxs.append(dx)
        return np.stack(dxs)

    def step(self, t: int, x: np.ndarray, g: np.ndarray, memory: Any) -> tuple[np.ndarray, Any]:
        with np.errstate(all="ignore"):
            given = self.leaf(np.float64(t), x, g, *memory)
        dx, *memory = given if isinstance(given, tuple) else (given,)
        if np.shape(dx) != x.shape:
            raise ValueError(
                f"formula returned {np.shape(dx)} for an array of shape {x.shape}; it must return "
                "(dx, *memory), with dx of the shape of x, or dx alone"
            )
        return np.asarray(dx, np.float64), memory


class _Pair:
    """The reference, where it is a pair."""

    def __init__(self, optimizer: Any, tree: Any, steps: int):
        self.pair, self.tree, self.steps = pair("formula", optimizer), tree, steps

    def follow(self, start: Arrays, gs: Arrays) -> tuple[Arrays, Arrays]:
        xs = [np.broadcast_to(x, g.shape) for x, g in zip(start, gs, strict=True)]
        return self.run(xs, gs, np.zeros(len(gs[0]), int), follows=True)

    def again(self, xs: Arrays, gs: Arrays, variant: slips.Variant, i: int) -> np.ndarray:
        t = np.arange(1, len(gs[0]) + 1)
        by = np.array([variant.time(int(k)) for k in t]) - t
        changed = [variant.gradient(x, g) for x, g in zip(xs, gs, strict=True)]
        led = [variant.parameter(x) for x in xs]
        return self.run(led, changed, by, forgets=variant.forgets)[1][i]

    def run(
        self, xs: Arrays, gs: Arrays, by: np.ndarray, follows: bool = False, forgets: bool = False
    ) -> tuple[Arrays, Arrays]:
        x = self.tree.unflatten([jnp.asarray(x[0]) for x in xs])
        carry, parts = (self.pair.init(x), x), []
        for at in range(0, len(by), self.steps):
            some = [[a[at : at + self.steps] for a in arrays] for arrays in (xs, gs, [by])]
            some = (*map(self.tree.unflatten, some[:2]), *some[2])
            carry, (x, dx) = _led(self.pair, follows, forgets, carry, *some)
            parts.append([np.asarray(a) for t in (x, dx) for a in self.tree.flatten_up_to(t)])
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return columns[: len(xs)], columns[len(xs) :]


class _Check:
    """One optimizer, beside its formula, and the gradients for both."""

    def __init__(
        self, optimizer: Any, formula: Any, params: Any, steps: int, known: Any, seed: int
    ):
        self.optimizer, self.known, self.notes = optimizer, known, []
        self.rng = rng = np.random.default_rng(seed)
        if params is None:
            params = jax.tree.map(np.ones, SHAPES, is_leaf=lambda s: isinstance(s, tuple))
        with_paths, self.tree = jax.tree.flatten_with_path(params)
        if not with_paths or not all(
            jnp.issubdtype(jnp.result_type(a), jnp.floating) for _, a in with_paths
        ):
            raise ValueError("params must hold arrays of floats, and at least one")
        self.paths = ["params" + jax.tree_util.keystr(path) for path, _ in with_paths]
        self.steps = steps
        is_pair = isinstance(formula, tuple) or hasattr(formula, "update")
        self.formula = _Pair(formula, self.tree, steps) if is_pair else _Formula(formula)
        given = [np.asarray(a, np.float64) for _, a in with_paths]
        self.start = [rng.standard_normal(a.shape) * (_rms(a) or 1) for a in given]
        eps = known.get("eps", 1e-8)
        late = -(-LATE // steps) * steps

        def changing(count: int) -> Arrays:
            sizes = (SIZES[i % len(SIZES)] for i in range(len(given)))
            pairs = zip(sizes, given, strict=True)
            return [size * rng.standard_normal((count, *a.shape)) for size, a in pairs]

        def tiny(g: np.ndarray) -> np.ndarray:
            low, high = np.log(eps / 100), np.log(10 * np.sqrt(eps))
            return np.exp(rng.uniform(low, high, g.shape[1:])) * np.sign(g) * (0.5 + abs(g) % 1)

        on = np.arange(steps)
        self.runs = {
            "changing": changing(steps),
            "tiny": [tiny(g) for g in changing(steps)],
            "zero": [
                np.where(_along((on >= steps // 4) & (on < steps - steps // 3), g), g, 0)
                for g in changing(steps)
            ],
            "late": changing(late),
        }

    def updates(self) -> tuple[list[Finding], dict[str, float]]:
        """What is wrong with the updates, and the relative error that would have been found."""
        looks = {name: self.look(gs) for name, gs in self.runs.items()}
        found: list[Finding] = []
        power = dict.fromkeys(self.paths, 0.0)
        wrong: dict[int, tuple[str, int]] = {}
        for name, (_, mine, right, allowed) in looks.items():
            for i, path in enumerate(self.paths):
                off = ~(abs(mine[i] - right[i]) <= allowed[i])
                if off.any():
                    first = int(np.argmax(off.reshape(len(off), -1).any(axis=1))) + 1
                    wrong.setdefault(i, (name, first))
                    continue
                sizes = np.sqrt(np.square(right[i]).reshape(len(off), -1).mean(axis=1))
                worst = allowed[i].reshape(len(off), -1).max(axis=1)
                seen = worst[sizes > 0] / sizes[sizes > 0]
                power[path] = max(power[path], float(seen.max(initial=0)))
        for i, (name, first) in wrong.items():
            slip = self.slip(looks, i, name, first)
            message = f"{slip.message}; first at step {first}"
            found.append(Finding(self.paths[i], slip.cause, message, regime=name))
        return _merged(found, self.paths, [a.ndim for a in self.start]), power

    def slip(self, looks: Mapping[str, Look], i: int, name: str, first: int) -> slips.Cause:
        """Why parameter i goes wrong in a run from a step on."""
        runs = {
            run: slips.Run(look.xs[i], self.runs[run][i], *(a[i] for a in look[1:]))
            for run, look in looks.items()
        }

        def again(run: str, variant: slips.Variant) -> np.ndarray:
            return self.formula.again(looks[run].xs, self.runs[run], variant, i)

        right = zip(self.paths, looks["changing"].right, strict=True)
        others = {path: a for path, a in right if path != self.paths[i]}
        return slips.explain(slips.Case(runs, name, first, again, others, self.known))

    def look(self, gs: Arrays) -> Look:
        """One run of both, and replicates to know the rounding by."""
        kept, offs = [], []
        for k in range(REPLICATES):

            def jitter(a: np.ndarray, k: int = k) -> np.ndarray:
                return a * (1 + 16 * UNIT * self.rng.uniform(-1, 1, a.shape) * (k > 0))

            some = [jitter(g) for g in gs]
            xs, right = self.formula.follow([jitter(a) for a in self.start], some)
            mine = self.take(xs, some)
            kept.append((xs, mine, right))
            with np.errstate(invalid="ignore"):
                offs.append([a - b for a, b in zip(mine, right, strict=True)])
        xs, mine, right = kept[0]
        allowed = []
        for a, b, *differences in zip(mine, right, *offs, strict=True):
            with np.errstate(invalid="ignore"):
                sd = np.std(differences, axis=0, ddof=1)
                spread = sd + _rms(sd[np.isfinite(sd)])
                floor = ULPS * UNIT * (abs(a) + abs(b))
                allowed.append(floor + SPREADS * spread * np.sqrt(1 + 1 / REPLICATES))
        return Look(xs, mine, right, allowed)

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

    def structure(self) -> list[Finding]:
        """What keeps the optimizer from running at all: trees, shapes and dtypes."""
        found = []

        def once(params: Any) -> Any:
            state = self.optimizer.init(params)
            return state, *update_with(self.optimizer, params, state, params, jnp.ones(()))

        for name in ("float64", *LOW):
            with jax.enable_x64(name == "float64"):
                try:
                    params = jax.eval_shape(partial(self.params, name))
                    state, updates, after = jax.eval_shape(once, params)
                except Exception as error:  # whatever another's code raises when traced
                    words = f"in {name} it cannot be traced: {_first_line(error)}"
                    return [*found, Finding("update", "structure", words)]
            if words := _unlike(after, state):
                words = f"in {name} the state after an update {words}: no loop can carry it"
                found.append(Finding("state", "structure", words))
            if words := _unlike(updates, params):
                words = f"in {name} the updates are not like the parameters: the tree {words}"
                found.append(Finding("updates", "structure", words))
        try:
            jax.eval_shape(once, {})
        except Exception as error:  # as above
            self.notes.append(f"without parameters it raises: {_first_line(error)}")
        return found

    def contract(self) -> list[Finding]:
        """Mutation, determinism, and zero gradients in low precision."""
        found = []
        x, g = self.start, [g[0] for g in self.runs["changing"]]
        given = [self.tree.unflatten([jnp.asarray(a) for a in arrays]) for arrays in (g, x)]
        given.insert(1, self.optimizer.init(given[1]))
        copy = jax.tree.map(lambda a: a, given)  # other containers, the same arrays
        before = jax.tree.leaves(given)
        first, _ = update_with(self.optimizer, *given, jnp.ones(()))
        after = jax.tree.leaves(given)
        if len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True)):
            words = "an update changes the gradients, state or parameters that it is given in place"
            found.append(Finding("update", "nondeterministic", words))
        steps = [np.repeat(a[None], self.steps, axis=0) for a in (*x, *g)]
        compiled = [a[0] for a in self.take(steps[: len(x)], steps[len(x) :])]
        again, _ = update_with(self.optimizer, *copy, jnp.ones(()))
        for way, other in (("called again", again), ("compiled", compiled)):
            if not _close(other, first):
                words = f"{way}, an update gives something else than called once"
                found.append(Finding("update", "nondeterministic", words))
        with jax.enable_x64(False):
            finite = _finite_at_zero(self.optimizer, {d: self.params(d) for d in LOW})
        for dtype in (d for d, fine in finite.items() if not fine):
            words = f"in {dtype} the update for a zero gradient is not finite"
            if dtype == "float32":
                found.append(Finding("update", "nonfinite", words, regime="zero"))
            else:  # where a usual epsilon, or 1 - 0.999, is 0; it may be meant for float32 alone
                self.notes.append(words)
        return found


def _merged(found: Sequence[Finding], paths: Sequence[str], ranks: Sequence[int]) -> list[Finding]:
    """Findings with what they share said once, and what sets parameters apart."""
    if len(found) == len(paths) > 1 and len({(f.cause, f.message, f.regime) for f in found}) == 1:
        f = found[0]
        return [Finding("params", f.cause, f.message, regime=f.regime)]
    hit = {f.path for f in found}
    wrong = {rank for path, rank in zip(paths, ranks, strict=True) if path in hit}
    right = {rank for path, rank in zip(paths, ranks, strict=True) if path not in hit}
    if not (wrong and right) or wrong & right:
        return list(found)
    kind = "rank " + " and ".join(map(str, sorted(wrong)))
    kind += ", such as biases," if max(wrong) < 2 else ""
    words = f"; parameters of {kind} alone are wrong"
    return [Finding(f.path, f.cause, f.message + words, regime=f.regime) for f in found]


def _along(mask: np.ndarray, g: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *[1] * (g.ndim - 1))


def _rms(a: np.ndarray) -> float:
    return float(np.sqrt(np.square(a).mean())) if a.size else 0.0


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _unlike(tree: Any, model: Any) -> str:
    """How a tree differs from another in structure, shapes or dtypes; "" where it does not."""
    if jax.tree.structure(tree) != jax.tree.structure(model):
        return "has another structure"
    for (path, a), b in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(model), strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            name = jax.tree_util.keystr(path)
            return f"has {a.dtype}{list(a.shape)} for {b.dtype}{list(b.shape)} at {name or 'it'}"
    return ""


def _close(tree: Any, model: Any) -> bool:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(model), strict=True)
    return all(np.allclose(a, b, rtol=1e-10, atol=1e-300, equal_nan=True) for a, b in pairs)


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


@partial(jax.jit, static_argnums=(0, 1, 2))
def _led(
    optimizer: Any, follows: bool, forgets: bool, carry: Any, xs: Any, gs: Any, by: Any
) -> Any:
    """Steps whose count is shifted: whole numbers in a state are such counts."""

    def counted(tree: Any, by: Any) -> Any:
        def moved(a: Any) -> Any:
            counts = jnp.ndim(a) == 0 and jnp.issubdtype(jnp.result_type(a), jnp.integer)
            return a + by.astype(a.dtype) if counts else a

        return jax.tree.map(moved, tree)

    def step(carry: Any, at: Any) -> Any:
        (state, x), (given, g, by) = carry, at
        x = x if follows else given
        state = counted(optimizer.init(x) if forgets else state, by)
        dx, after = update_with(optimizer, g, state, x, jnp.ones(()))
        return (counted(after, -by), jax.tree.map(jnp.add, x, dx)), (x, dx)

    return jax.lax.scan(step, carry, (xs, gs, by))
