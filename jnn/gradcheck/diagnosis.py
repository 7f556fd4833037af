"""From a wrong gradient to its cause: what the hypotheses of `causes` ask for, when they do."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck import causes
from jnn.gradcheck.exact import exact_gradient
from jnn.gradcheck.flat import Flat
from jnn.gradcheck.probe import Seen
from jnn.gradcheck.report import Finding
from jnn.gradcheck.target import Target
from jnn.gradcheck.variants import Variant, Variants

MANY_EXAMPLES = 64  # are more than their parts are sought among


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
        case = causes.Case(
            target.paths[i],
            seen.hand[i],
            seen.exact[i],
            self.wrong[i],
            others,
            named,
            causes.constants(shapes, self.known),
            target.integers,
            partial(self.parts, i),
            partial(self.changed, i),
        )
        cause = causes.explain(case)
        indices = seen.worst(i, self.wrong[i])
        return Finding(
            target.paths[i], cause.cause, cause.message, indices, cause.source, self.regime
        )

    def parts(self, i: int) -> np.ndarray | None:
        """What each example adds to the exact gradient of leaf i, if outputs have examples."""
        sizes = {a.shape[:1] for a in self.seen.v}
        (n,) = next(iter(sizes)) if len(sizes) == 1 and sizes != {()} else (0,)
        if not 2 <= n <= MANY_EXAMPLES:
            return None
        target = self.target
        return np.asarray(_parts(target.reference, self.leaves, target.others, self.seen.v, n)[i])

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
        found = []
        for k, variant in enumerate(variants):
            everywhere = all(
                causes.same(hand, g[k]) for hand, g in zip(self.seen.hand, gradients, strict=True)
            )
            found.append((variant, gradients[i][k], everywhere))
        return found


@partial(jax.jit, static_argnums=(0, 4))
def _parts(reference: Flat, leaves: Any, others: Any, v: Any, n: int) -> Any:
    def part(k: jax.Array) -> Any:
        only = tuple(
            jnp.where((jnp.arange(n) == k).reshape(-1, *[1] * (a.ndim - 1)), a, 0) for a in v
        )
        return exact_gradient(reference, leaves, others, only)[1]

    return jax.lax.map(part, jnp.arange(n))
