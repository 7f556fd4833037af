"""The same function at other shapes: where slips hide, and the least at which one still shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.gradcheck.target import Target, close, compiled, compiled_exact

SHAPES = "one example", "all axes 1", "all axes alike"
TINY = (1, 2, 3)  # lengths that are tried for all axes at once
TRIES = 6  # axes that are shortened by themselves where that did not do
FEW = 12  # numbers of an example that are worth printing
PRIMES = 5, 7, 11, 13, 17, 19, 23, 29  # lengths that no two axes share


@dataclass(frozen=True)
class Reshaped:
    """Arguments that may be had at other shapes. Axes of one length are taken to be one."""

    make: Callable[[Any], Target]  # of arguments
    args: tuple[Any, ...]

    @property
    def lengths(self) -> list[int]:
        """Those of all axes, the greatest first, but for those that are 1."""
        found = {n for a in jax.tree.leaves(self.args) for n in np.shape(a)}
        return sorted(found - {0, 1}, reverse=True)

    def regimes(self) -> Iterator[tuple[str, Mapping[int, int]]]:
        """Shapes at which slips hide, and the new length of each axis."""
        shapes = [np.shape(a) for a in jax.tree.leaves(self.args)]
        lengths = self.lengths
        if leading := [shape[0] for shape in shapes if len(shape) > 1 and shape[0] > 1]:
            yield SHAPES[0], {leading[0]: 1}
        if lengths:
            yield SHAPES[1], dict.fromkeys(lengths, 1)
        if len(lengths) > 1:
            yield SHAPES[2], dict.fromkeys(lengths, lengths[-1])

    def moderate(self, path: str) -> tuple[Any, ...] | None:
        """Arguments with short axes, all unlike if they may be, with a wrong gradient of `path`."""
        ascending = self.lengths[::-1]
        halves = {n: n >> max(0, n.bit_length() - 4) for n in ascending}
        for new in (dict(zip(ascending, PRIMES, strict=False)), halves):
            args = self.at({n: min(n, new.get(n, PRIMES[-1])) for n in ascending})
            if self.fails(args, path):
                return args
        return None

    def at(self, new: Mapping[int, int], args: Any = None) -> tuple[Any, ...]:
        """The first elements along each axis; integers wrapped, lest they point beyond them."""
        least = min(new.values(), default=0)

        def cut(a: Any) -> Any:
            a = a if isinstance(a, jax.Array) else np.asarray(a)
            a = a[tuple(slice(new.get(n, n)) for n in a.shape)]
            if jnp.issubdtype(a.dtype, jnp.integer) and a.size and a.max() >= least > 0:
                a = jnp.where(a < 0, a, a % least)
            return a

        return jax.tree.map(cut, self.args if args is None else args)

    def smallest(self, path: str) -> tuple[Any, ...] | None:
        """Arguments as small, and if so of halves, as still give a wrong gradient of `path`."""
        args, found = self.args, False
        for length in TINY:
            small = self.at({n: min(n, length) for n in self.lengths})
            if self.fails(small, path):
                args, found = small, True
                break
        else:
            for n in self.lengths[:TRIES]:
                small = self.at({n: 2}, args)
                if self.fails(small, path):
                    args, found = small, True
        if not found:
            return None
        halves = jax.tree.map(_halves, args)
        return halves if self.fails(halves, path) else args

    def fails(self, args: tuple[Any, ...], path: str) -> bool:
        """Whether the gradient of `path` is wrong there; not where there is none at all."""
        try:
            target = self.make(args)
            v, _ = target.draws()
            at = target.leaves, target.others, v
            _, hand = compiled(target.flat, *at)
            _, exact, _ = compiled_exact(target.reference, *at)
            i = target.paths.index(path)
        except Exception:  # of whatever kind a function may raise at shapes that are not its own
            return False
        mine, right = np.asarray(hand[i]), np.asarray(exact[i])
        return bool(np.isfinite(right).all()) and not close(mine, right, target.unit)


def shown(args: Sequence[Any], roots: Sequence[str]) -> str:
    """Arguments in words: their values if they are few, else their shapes."""
    leaves = jax.tree.leaves_with_path(args)
    few = sum(np.size(a) for _, a in leaves) <= FEW

    def one(a: Any) -> str:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return "a key"
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        values = np.asarray(a, np.float64 if floating else None).tolist()
        return str(values) if few else f"{a.dtype}{list(a.shape)}"

    return ", ".join(
        f"{roots[path[0].idx]}{jax.tree_util.keystr(path[1:])} = {one(a)}" for path, a in leaves
    )


def _halves(a: Any) -> Any:
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return a
    return (np.rint(2 * np.asarray(a, np.float64)) / 2).astype(a.dtype)
