"""The contract: a layer is a frozen value with four pure functions.

    init(key, x)               -> (params, state)   x: an array or a jax.ShapeDtypeStruct
    forward(params, x, mode)   -> (y, cache)
    backward(params, cache, dy) -> (grads, dx)      in the order of jax.vjp over (params, x)
    observe(state, cache)      -> state

`cache` holds what `backward` needs and nothing else: arrays (and None) only, never the
parameters, and of one structure whatever the mode, so that `jit`, `scan`, `cond` and `vmap`
can carry it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, Self, cast

import jax
import jax.numpy as jnp

from jnn.factors import grad, is_factor

Params = Any  # a nested dict of arrays: params["dense1"]["w"]
State = Any  # what evaluation needs beside the parameters, such as running moments
Cache = Any  # what backward needs of forward
Tree = Any  # any pytree of arrays


class Train(NamedTuple):
    """Forward as in training: random layers draw from `key`; only frozen ones read the state."""

    key: jax.Array
    state: State = ()


class Eval(NamedTuple):
    """Forward as in use: layers that keep running state read it from `state`; nothing is random."""

    state: State = ()


Mode = Train | Eval

# A parameter of this name belongs to one use of a layer: combinators that use a layer in several
# places with the same parameters give each place its own. What `jnn.taps` sees is carried by it.
OWN = "(own)"


class LayerError(ValueError):
    """Wrong input to a layer. The message names the layer, the path to it, and the mend."""

    def __init__(self, layer: object, problem: str):
        super().__init__(layer, problem)  # as pickle will call it
        self.layer, self.problem = layer, problem
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{'.'.join(self.path)} = " if self.path else ""
        return f"{where}{self.layer!r}: {self.problem}"


@contextmanager
def inside(name: str, layer: "Layer") -> Iterator[None]:
    """Adds `name` to the path of any error raised while a combinator works on that child."""
    try:
        yield
    except LayerError as error:
        error.path = (name, *error.path)
        raise
    except Exception as error:
        error.add_note(f"in layer {name} = {layer!r}")
        raise


class Unhashable(TypeError):
    """A field by which a layer cannot be told from others, so that it cannot be compiled."""


class Printed:
    """A dataclass that prints as it is written, `Dense(3)`, leaving out what is at its default.

    It equals another of its class that holds the same: what fields declare and what an `__init__`
    of its own sets, for a static argument that jit mistook for another would reuse its program.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # @dataclass would make its own for every subclass, but leaves what it finds.
        for name in ("__repr__", "__eq__", "__hash__"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(cls, name))

    def _held(self) -> tuple[tuple[str, Any], ...]:
        ignored = {f.name for f in fields(cast(Any, self)) if not f.compare}
        ignored |= {
            k for k in vars(self) if isinstance(getattr(type(self), k, None), cached_property)
        }
        return tuple((k, v) for k, v in sorted(vars(self).items()) if k not in ignored)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._held() == cast(Printed, other)._held()

    def __hash__(self) -> int:
        held = self._held()
        try:
            return hash((type(self), held))
        except Unhashable:  # of a layer within, which is named already
            raise
        except TypeError:
            bad = ", ".join(name for name, value in held if not _hashable(value))
            raise Unhashable(
                f"{type(self).__name__}: the field {bad} cannot be hashed, as jit needs; make it a "
                "parameter in init, or a number, a string or a tuple of them"
            ) from None

    def __repr__(self) -> str:
        shown = []
        for f in fields(cast(Any, self)):
            value = getattr(self, f.name)
            text = getattr(value, "__name__", repr(value))
            if f.default is MISSING:
                shown.append(text)
            elif value != f.default:
                shown.append(f"{f.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class Layer(Printed):
    """The base of all layers, itself a layer without parameters, state or cache to speak of.

    A leaf states `pull` and, if it has parameters, `factors`, from which `backward` follows, or
    `factored` in place of both; or it states `backward` itself. A combinator states `children` and
    `map` as well.

    Hyper-parameters are the fields of the dataclass and must be hashable, so that a layer is a
    valid static argument of `jax.jit` and equal layers compile once.

    >>> @dataclass(frozen=True)
    ... class Twice(Layer):
    ...     def forward(self, params, x, mode):
    ...         return 2 * x, None
    ...     def pull(self, params, cache, dy):
    ...         return 2 * dy
    >>> y, cache = Twice().forward({}, jnp.ones(2), Eval())
    >>> Twice().backward({}, cache, jnp.ones(2))[1].tolist()
    [2.0, 2.0]

    One with a parameter, ds = sum over examples of x dy, which can be asked for more than that sum:

    >>> from jnn.factors import Affine, sqnorm
    >>> @dataclass(frozen=True)
    ... class Scale(Layer):
    ...     def init(self, key, x):
    ...         return {"s": jnp.ones(x.shape[-1], x.dtype)}, {}
    ...     def forward(self, params, x, mode):
    ...         return params["s"] * x, x
    ...     def pull(self, params, x, dy):
    ...         return params["s"] * dy
    ...     def factors(self, params, x, dy):
    ...         return {"s": Affine(x, dy)}
    >>> params, x = {"s": jnp.ones(2)}, jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> sqnorm(Scale().factors(params, x, jnp.ones((2, 2)))["s"]).tolist()
    [5.0, 25.0]
    """

    def init(self, key: jax.Array, x: Any) -> tuple[Params, State]:
        """Fresh parameters and state for inputs like `x`; empty dicts where there are none."""
        del key, x
        return {}, {}

    def forward(self, params: Params, x: Any, mode: Mode) -> tuple[Any, Cache]:
        """The output, and what `backward` will need of this pass."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(params, x, mode)")

    def backward(self, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any]:
        """The vector-Jacobian product of `forward` with `dy`: gradients like `params`, and dx."""
        factors, dx = self.factored(params, cache, dy)
        return jax.tree.map(grad, factors, is_leaf=is_factor), dx

    def factored(self, params: Params, cache: Cache, dy: Any) -> tuple[Tree, Any]:
        """Both `factors` and `pull`. A leaf in which they share work states this alone."""
        dx = self.pull(params, cache, dy)  # first, for it looks at dy
        return self.factors(params, cache, dy), dx

    def pull(self, params: Params, cache: Cache, dy: Any) -> Any:
        """dx alone: the cotangent pulled back through this layer."""
        if type(self).factored is not Layer.factored:
            return self.factored(params, cache, dy)[1]
        if type(self).backward is not Layer.backward:
            return self.backward(params, cache, dy)[1]
        raise NotImplementedError(
            f"{type(self).__name__} must define pull(params, cache, dy) -> dx, "
            "or backward(params, cache, dy) -> (grads, dx)"
        )

    def factors(self, params: Params, cache: Cache, dy: Any) -> Tree:
        """A tree like `params` whose leaves are factors of the gradients (see `jnn.factors`)."""
        if type(self).factored is not Layer.factored:
            return self.factored(params, cache, dy)[0]
        return {}

    @property
    def states_factors(self) -> bool:
        """Whether it is a leaf that states its factors, or has no parameters to state any for.

        Those of a class are not those of one that is made from it and states another backward.
        """
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, Layer)]
        stated = next(kind for kind in kinds if "factors" in vars(kind) or "factored" in vars(kind))
        backward = next(kind for kind in kinds if "backward" in vars(kind))
        return backward is Layer or (stated is not Layer and issubclass(stated, backward))

    def apart(self, cache: Cache) -> bool:
        """Whether what comes of an example depends on that example alone."""
        del cache
        return True

    def observe(self, state: State, cache: Cache) -> State:
        """The state after a training step whose forward pass left `cache`."""
        del cache
        return state

    def observed(self, cache: Cache) -> Cache:
        """The part of `cache` that `observe` reads, in its place; the rest is left out.

        It only chooses, so that it may be handed caches that are stacked, or of which parts are
        None. A combinator that drops its children's caches keeps this.
        """
        return None if type(self).observe is Layer.observe else cache

    @property
    def children(self) -> tuple[tuple[str, "Layer"], ...]:
        """The (name, layer) pairs that a combinator is made of; none for a leaf.

        A child is named "" whose params and state are the combinator's own, so that it has no level
        of its own in any path.
        """
        return ()

    def map(self, f: Callable[[str, "Layer"], "Layer"]) -> Self:
        """The same combinator with f(name, child) for each child; a leaf is returned unchanged."""
        del f
        return self

    def head(self) -> str:
        """How a combinator heads its children where the network is printed as a tree."""
        return type(self).__name__

    def __str__(self) -> str:
        return "\n".join(_tree(self))


def leaves(layer: Layer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Layer]]:
    """The leaves of a network with their dotted paths, in order; a lone leaf has the path "".

    >>> import jnn
    >>> [path for path, _ in leaves(jnn.Serial(jnn.Dense(3), ("out", jnn.Serial(jnn.Tanh()))))]
    ['dense1', 'out.tanh1']
    """
    if not layer.children:
        yield ".".join(path), layer
    for name, child in layer.children:
        yield from leaves(child, below(path, name))


def below(path: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The path of the child of that name; "" has no level of its own."""
    return (*path, name) if name else path


def _tree(layer: Layer) -> Iterator[str]:
    """The lines of a network as text."""
    heads = []
    while len(layer.children) == 1 and not layer.children[0][0]:
        heads.append(layer.head())
        layer = layer.children[0][1]
    heads.append(layer.head() if layer.children else repr(layer))
    yield " of ".join(heads)
    width = max((len(name) for name, _ in layer.children), default=0)
    for name, child in layer.children:
        first, *rest = _tree(child)
        yield f"  {name:{width}}  {first}"
        yield from (f"  {line}" for line in rest)


def fail(layer: object, problem: str) -> NoReturn:
    """Raises the error that every check of a layer ends in."""
    raise LayerError(layer, problem)


def check_key(key: Any) -> None:
    """Refuses what is no JAX key, such as the number that one is made of."""
    if not hasattr(key, "dtype") or not hasattr(key, "shape"):
        raise ValueError(f"key is {key!r}; it must be a JAX key: jax.random.key({key!r})")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if key.shape != (() if typed else (2,)) or not (typed or key.dtype == jnp.uint32):
        raise ValueError(f"key is {shape_of(key)}; it must be one JAX key: jax.random.key(seed)")


def check_mode(layer: object, mode: Any) -> None:
    """Refuses what is neither Train nor Eval."""
    if not isinstance(mode, Train | Eval):
        fail(layer, f"mode is {mode!r}; it must be jnn.Train(key) or jnn.Eval(state)")


def pair_of(layer: object, result: Any, rule: str) -> tuple[Any, Any]:
    """A pair that a layer has returned; `rule` says what it must return."""
    if not isinstance(result, tuple) or len(result) != 2:
        fail(layer, f"{rule}; it returned a {type(result).__name__}")
    return result


def shape_of(x: Any) -> str:
    """How errors show an array: `float32 (2, 3)`."""
    return f"{x.dtype} {tuple(x.shape)}"


def form_of(params: Any) -> str:
    """How errors show what is not of the form that it must be."""
    if hasattr(params, "shape") and hasattr(params, "dtype"):
        return shape_of(params)
    if isinstance(params, Mapping):
        return f"a dict of {sorted(params)}"
    if isinstance(params, tuple) and len(params) == 2:
        return "a pair (init returns (params, state): unpack it)"
    return f"a {type(params).__name__}"


def check_floating(layer: object, x: Any) -> None:
    """Refuses an `x` that holds no floating-point numbers; a jax.ShapeDtypeStruct will do.

    Integers are refused rather than cast: uint8 images would wrap around in arithmetic.
    """
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        fail(layer, f"x is a {type(x).__name__}; it must be an array of floating-point numbers")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        fail(
            layer,
            f"x is {shape_of(x)}; it must hold floating-point numbers: cast it first, "
            "x.astype(jnp.float32), and scale it (images: divide by 255)",
        )


def floating(layer: object, x: Any) -> jax.Array:
    """`x` as an array of floating-point numbers, or an error."""
    check_floating(layer, x)
    return jnp.asarray(x)


def known(flag: bool) -> jax.Array:
    """The flag as an array for a cache, whose value is known while the program is traced."""
    with jax.ensure_compile_time_eval():
        return jnp.full((), flag)


def form(x: jax.Array) -> jax.Array:
    """An array of no bytes by which a cache remembers the shape and dtype of `x`.

    A tuple of numbers would not survive jit and scan. `formed` reads it.

    >>> formed(form(jnp.ones((2, 3))))
    ShapeDtypeStruct(shape=(2, 3), dtype=float32)
    """
    return jnp.empty((*x.shape, 0), x.dtype)


def formed(kept: jax.Array) -> jax.ShapeDtypeStruct:
    """The shape and dtype that `form` put into a cache."""
    return jax.ShapeDtypeStruct(kept.shape[:-1], kept.dtype)


def moving(tree: Tree) -> Tree:
    """The tree with None for what has no cotangent: integers, and the float0 that JAX has of them.

    >>> moving((jnp.ones(1), jnp.ones(1, bool)))[1] is None
    True
    """

    def one(v: Any) -> Any:
        floating = jnp.issubdtype(getattr(v, "dtype", jnp.float32), jnp.floating)
        return v if floating else None

    return jax.tree.map(one, tree)


def check_cotangent(layer: object, dy: Any, y: Any) -> None:
    """Refuses a `dy` whose shape or dtype is not that of the output `y` (anything with both).

    Where the output is a tree of arrays, so must be `dy`.
    """
    if not hasattr(y, "shape"):
        if problem := unlike(dy, y):
            fail(layer, f"dy is not like the output: {problem}")
        return
    if not hasattr(dy, "shape") or not hasattr(dy, "dtype"):
        fail(
            layer,
            f"dy is a {type(dy).__name__}; it must be an array like the output, {shape_of(y)} "
            "(does the layer after this one return (grads, dx), in this order?)",
        )
    if dy.shape != y.shape or dy.dtype != y.dtype:
        fail(
            layer,
            f"dy is {shape_of(dy)} but the output was {shape_of(y)}; "
            "pass a cotangent of the output's shape and dtype",
        )


def unlike(tree: Tree, pattern: Tree) -> str | None:
    """The first difference in names, shapes or dtypes between two trees, in words, if any.

    >>> unlike({"w": jnp.ones(2)}, {"w": jnp.ones(3)})
    "['w'] is float32 (2,) where float32 (3,) belongs"
    """
    got, want = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(t)}
        for t in (tree, pattern)
    )
    missing, surplus = (
        ", ".join(sorted(a - b)) for a, b in ((want.keys(), got.keys()), (got.keys(), want.keys()))
    )
    if missing or surplus:
        found = (
            ("missing: " + missing) * bool(missing),
            ("not belonging: " + surplus) * bool(surplus),
        )
        return "; ".join(text for text in found if text)
    for path in want:
        if shape_of(got[path]) != shape_of(want[path]):
            named = f"{path} is " * bool(path)
            return f"{named}{shape_of(got[path])} where {shape_of(want[path])} belongs"
    return None
