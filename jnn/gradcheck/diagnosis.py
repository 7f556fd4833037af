"""From a wrong gradient to its cause: what the hypotheses of `causes` ask for, when they do."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.case import Case, constants, same
from jnn.gradcheck.causes import explain
from jnn.gradcheck.contract import rounded
from jnn.gradcheck.edits import Edit, Edits
from jnn.gradcheck.exact import exact_gradient
from jnn.gradcheck.flat import Flat
from jnn.gradcheck.primal import BRIEFLY, Values
from jnn.gradcheck.probe import Seen
from jnn.gradcheck.report import Finding
from jnn.gradcheck.sizes import typical
from jnn.gradcheck.target import Target, compiled, compiled_exact
from jnn.gradcheck.variants import Variant, Variants

MANY_EXAMPLES = 64  # are more than their parts are sought among
MIXED = 1e-9  # of the greatest element is no rounding


@dataclass(frozen=True)
class Diagnosis:
    """One look at a target that found some of its gradients wrong."""

    target: Target
    known: Mapping[str, float]
    leaves: tuple[Any, ...]
    seen: Seen
    wrong: Mapping[int, np.ndarray]  # by leaf, which elements
    regime: str

    def findings(self) -> list[Finding]:
        """One for each leaf that is wrong."""
        return [self.finding(i) for i in self.wrong]

    def finding(self, i: int) -> Finding:
        """What is wrong with leaf i."""
        target, seen = self.target, self.seen
        named = dict(zip(target.paths, map(np.asarray, self.leaves), strict=True))
        others = dict(zip(target.paths, seen.exact, strict=True))
        del others[target.paths[i]]
        for k, (y, dy) in enumerate(zip(seen.y_exact, self.seen.v, strict=True)):
            named |= {f"output {k}": y, f"the cotangent of output {k}": np.asarray(dy)}
        shapes = {path: tensor.shape for path, tensor in named.items()}
        case = Case(
            target.paths[i],
            seen.hand[i],
            seen.exact[i],
            self.wrong[i],
            rounded(seen, i, target.unit),
            others,
            named,
            constants(shapes, self.known),
            target.integers,
            partial(self.parts, i),
            partial(self.changed, i),
            partial(self.edited, i),
            partial(self.mixed, i),
            partial(self.depends, i),
            self.values,
        )
        cause = explain(case)
        indices = seen.worst(i, self.wrong[i])
        line, code = cause.source
        return Finding(
            target.paths[i], cause.cause, cause.message, indices, line, self.regime, code
        )

    def parts(self, i: int, axis: int) -> np.ndarray | None:
        """What each place along an axis of the outputs adds to the exact gradient of leaf i; None
        where they have not such an axis in common."""
        sizes = {a.shape[axis : axis + 1] for a in self.seen.v}
        (n,) = next(iter(sizes)) if len(sizes) == 1 and sizes != {()} else (0,)
        if not 2 <= n <= MANY_EXAMPLES:
            return None
        target, v = self.target, self.seen.v
        return np.asarray(_parts(target.reference, self.leaves, target.others, v, n, axis)[i])

    @cached_property
    def variants(self) -> tuple[list[Variant], tuple[np.ndarray, ...]]:
        """Every variant of the primal, and the gradients that it gives, by leaf."""
        if self.target.measured:
            return [], ()
        of = Variants(self.target.primal, self.target.names)
        try:
            return of.gradients(self.leaves, self.target.others, self.seen.v)
        except ValueError as error:
            if "everse-mode" in str(error):  # as through a while loop
                return [], ()
            raise

    def changed(self, i: int) -> list[tuple[Variant, np.ndarray, bool]]:
        """Each variant's gradient of leaf i, and whether all its gradients are those found."""
        variants, gradients = self.variants
        return [(v, gradients[i][k], self.everywhere(gradients, k)) for k, v in enumerate(variants)]

    @cached_property
    def edits(self) -> tuple[list[Edit], tuple[np.ndarray, ...]]:
        """Every edit of the exact gradient, and the gradients that it gives, by leaf."""
        if self.target.measured:
            return [], ()
        target, v = self.target, self.seen.v
        floating = zip(target.names, target.flat.floating, strict=True)
        names = [*target.paths, *(name for name, moves in floating if not moves)]
        names += ["the cotangent" + f" of output {k}" * (len(v) > 1) for k in range(len(v))]
        of = Edits(target.reference, tuple(names))
        return of.gradients(self.leaves, target.others, v)

    def edited(self, i: int) -> list[tuple[Edit, np.ndarray, bool]]:
        """Each edit's gradient of leaf i, and whether all its gradients are those found."""
        edits, gradients = self.edits
        return [
            (edit, gradients[i][k], self.everywhere(gradients, k)) for k, edit in enumerate(edits)
        ]

    def mixed(self, i: int) -> list[tuple[str, int, bool, bool]]:
        """Of the cotangent and of leaf i, by axis, whether elements of the leaf's gradient depend
        on what stands elsewhere along it, and whether those of the exact one do."""
        target, leaves, v = self.target, self.leaves, self.seen.v
        found = []
        for axis, n in enumerate(leaves[i].shape):
            if n < 2:
                continue
            first = np.arange(n) == 0
            other = list(leaves)
            moved = leaves[i] + 0.1 * target.rng.standard_normal(leaves[i].shape)
            other[i] = jnp.where(_along(first, axis, leaves[i]), moved, leaves[i])
            changes = [(target.paths[i], tuple(other), v, 1)]
            if all(a.shape[axis : axis + 1] == (n,) for a in v):
                only = tuple(np.where(_along(first, axis, a), a, 0) for a in v)
                changes.insert(0, ("the cotangent", leaves, only, 0))
            for what, at, cotangent, less in changes:
                hand = compiled(target.flat, at, target.others, cotangent)[1][i]
                exact = compiled_exact(target.reference, at, target.others, cotangent)[1][i]
                does, must = (
                    bool(
                        abs(np.compress(~first, np.asarray(there) - less * here, axis)).max()
                        > MIXED * abs(here).max()
                    )
                    for here, there in ((self.seen.hand[i], hand), (self.seen.exact[i], exact))
                )
                found.append((what, axis, does, must))
        return found

    def depends(self, i: int) -> dict[str, tuple[bool, bool]]:
        """Whether leaf i's gradient moves with each argument, and whether the exact one does."""
        target, v, found = self.target, self.seen.v, {}
        for k, path in enumerate(target.paths):
            moved = list(self.leaves)
            moved[k] = moved[k] + typical(moved[k]) * target.rng.standard_normal(moved[k].shape)
            hand = compiled(target.flat, tuple(moved), target.others, v)[1][i]
            exact = compiled_exact(target.reference, tuple(moved), target.others, v)[1][i]
            found[path] = (
                not same(np.asarray(hand), self.seen.hand[i]),
                not same(np.asarray(exact), self.seen.exact[i]),
            )
        return found

    def values(self) -> dict[str, np.ndarray]:
        """What the primal computes on its way, by name."""
        target, walk = self.target, Values()
        target.primal.walked(walk, self.leaves, target.others)
        return walk.values

    def everywhere(self, gradients: tuple[np.ndarray, ...], k: int) -> bool:
        """Whether the function's gradients are those of change k."""
        return all(same(h, g[k]) for h, g in zip(self.seen.hand, gradients, strict=True))


def _along(which: Any, axis: int, a: Any) -> Any:
    """Flags along an axis of an array, to be spread over all of it."""
    return which.reshape(-1, *[1] * (a.ndim - axis - 1))


@partial(jax.jit, static_argnums=(0, 4, 5), compiler_options=BRIEFLY)
def _parts(reference: Flat, leaves: Any, others: Any, v: Any, n: int, axis: int) -> Any:
    def part(k: jax.Array) -> Any:
        only = tuple(jnp.where(_along(jnp.arange(n) == k, axis, a), a, 0) for a in v)
        return exact_gradient(reference, leaves, others, only)[1]

    return jax.lax.map(part, jnp.arange(n))
