"""What is checked: a function and its arguments; and when two gradients are alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jnn.gradcheck.exact import MOST, Measured, bare, exact_gradient
from jnn.gradcheck.flat import Flat, gradient
from jnn.gradcheck.primal import BRIEFLY, Census
from jnn.gradcheck.sizes import typical

UNIT = float(np.finfo(np.float64).eps) / 2  # of float64
ULPS = 256  # of a dtype narrower than float64, which a long computation may well lose


@contextmanager
def exactly() -> Iterator[None]:
    """x64 is on within; keys may be used again, for one draw is looked at many times, and NaN is
    looked at rather than raised."""
    with (
        jax.enable_x64(True),
        jax.debug_key_reuse(False),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        yield


class Target:
    """A function, its arguments in float64, and the reference that its gradient must equal.

    Of the arguments numbered in `still` no gradient is asked. Make and use it within `exactly`.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        reference: Callable[..., Any] | None,
        roots: Sequence[str],
        seed: int | jax.Array,
        still: Sequence[int] = (),
    ):
        if not callable(f):
            kind = type(f).__name__
            raise ValueError(f"f is a {kind}; it must be a function, whose arguments follow")
        with_paths, tree = jax.tree.flatten_with_path(args)
        if any(isinstance(a, Tracer) for _, a in with_paths):
            raise ValueError(
                "args hold tracers; check it outside of jit, grad and vmap, at numbers"
            )
        arrays = [a if isinstance(a, jax.Array) else jnp.asarray(a) for _, a in with_paths]
        floating = tuple(
            bool(jnp.issubdtype(a.dtype, jnp.floating)) and path[0].idx not in still
            for a, (path, _) in zip(arrays, with_paths, strict=True)
        )
        if not any(floating):
            raise ValueError("args hold no floats, so there is no gradient to check")
        self.given = tuple(a for a, m in zip(arrays, floating, strict=True) if m)
        self.given_others = tuple(a for a, m in zip(arrays, floating, strict=True) if not m)
        self.leaves, self.others = (
            tuple(map(_float64, given)) for given in (self.given, self.given_others)
        )
        self.roots = roots
        self.names = tuple(
            f"{roots[path[0].idx]}{jax.tree_util.keystr(path[1:])}" for path, _ in with_paths
        )
        self.paths = [name for name, m in zip(self.names, floating, strict=True) if m]
        if isinstance(seed, jax.Array):
            seed = np.asarray(jax.random.key_data(seed)).tolist()
        self.rng = np.random.default_rng(seed)
        self.notes: list[str] = []
        self.flat, met = self.fitted(Flat(f, tree, floating))
        if met.complex or any(jnp.iscomplexobj(a) for a in arrays):
            self.notes.append("what is complex of args and outputs is not checked")
        self.primal = self.flat
        if reference is None and not met.rules:
            self.notes.append("f calls no custom_vjp: what was checked is JAX's own gradient")
        if reference is not None:
            self.primal, _ = self.fitted(Flat(reference, tree, floating))
        eps = max(met.eps)
        self.unit = eps / 2
        self.reference, self.measured = self.differentiable(bare(self.primal), eps)

    @cached_property
    def outputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What f returns for float64."""
        return jax.eval_shape(self.flat, self.leaves, self.others)

    @property
    def integers(self) -> dict[str, np.ndarray]:
        """The arguments that hold integers, by name."""
        still = [n for n, m in zip(self.names, self.flat.floating, strict=True) if not m]
        return {
            name: np.asarray(a)
            for name, a in zip(still, self.others, strict=True)
            if jnp.issubdtype(a.dtype, jnp.integer)
        }

    def fitted(self, flat: Flat) -> tuple[Flat, Census]:
        """It as it can be evaluated in float64, and what is met in its program."""

        def met(flat: Flat) -> Census:
            walk = Census()
            y = jax.eval_shape(partial(flat.walked, walk), self.leaves, self.others)
            walk.complex = any(map(jnp.iscomplexobj, jax.tree.leaves(y)))
            return walk

        try:
            if not (wide := met(flat)).narrow:
                return flat, wide
        except Exception:  # of whatever kind: what fails for its own dtypes too fails below
            pass
        canonicalize = partial(jax.dtypes.canonicalize_dtype, allow_extended_dtype=True)
        with jax.enable_x64(False):
            typed = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, canonicalize(a.dtype)),
                (self.given, self.given_others),
            )
        flat = replace(flat, typed=typed)
        return flat, met(flat)

    def differentiable(self, primal: Flat, eps: float) -> tuple[Flat, bool]:
        """It, or what is measured by finite differences in its stead, and whether it is."""
        y = jax.eval_shape(primal, self.leaves, self.others)
        try:
            jax.eval_shape(partial(exact_gradient, primal), self.leaves, self.others, y)
            return primal, False
        except Exception as error:  # JAX has many for what it cannot differentiate
            size = sum(a.size for a in self.leaves)
            reason = f"JAX cannot differentiate f's primal ({str(error).splitlines()[0]})"
            if size > MOST:
                raise ValueError(
                    f"{reason}, and the {size} numbers in args are too many for finite "
                    f"differences: give reference=, or smaller args, of {MOST} numbers at most"
                ) from error
            self.notes.append(f"{reason}; finite differences stand in for it")
            return Measured(primal.f, primal.tree, primal.floating, primal.typed, eps), True

    def refused(self) -> str | None:
        """What JAX refuses of the gradient's structure, if anything."""
        if not self.outputs:
            raise ValueError("f returns no floats, so there is no gradient to check")
        try:
            jax.eval_shape(partial(gradient, self.flat), self.leaves, self.others, self.outputs)
        except (TypeError, ValueError) as error:
            return str(error).splitlines()[0]
        return None

    def draws(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Two Gaussian cotangents."""

        def drawn() -> tuple[np.ndarray, ...]:
            return tuple(self.rng.standard_normal(a.shape) for a in self.outputs)

        return drawn(), drawn()


def _float64(a: jax.Array) -> jax.Array:
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return a
    return jnp.asarray(np.asarray(a).astype(np.float64))


def close(
    a: np.ndarray, b: np.ndarray, unit: float, tolerance: float = 1e-10, noise: Any = 0.0
) -> bool:
    """Alike but for the rounding of a long computation, and for noise that was measured."""
    with np.errstate(invalid="ignore"):
        allowed = max(tolerance, ULPS * unit) * (typical(b) + abs(b)) + noise
        alike = (abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b))
    return bool(np.all(alike))


compiled = jax.jit(gradient, static_argnums=0, compiler_options=BRIEFLY)
compiled_exact = jax.jit(exact_gradient, static_argnums=0, compiler_options=BRIEFLY)
