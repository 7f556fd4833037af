"""Arguments in words, as the command line takes them: `f32[11,7]`, `i32[11]<7`, `key`, `0.1`."""

import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = {
    **{f"f{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "bf16": "bfloat16",
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "bool": "bool",
}
WORDS = {"true": True, "false": False, "none": None}
SYNTAX = """\
  'f32[11,7]'          Gaussian draws; f16, bf16 and f64 likewise; 'f32[]' is a scalar
  'f32[7]=1'           all of one value
  'i32[11]<7'          integers from 0 to 6, both of them too; 'bool[11]' for a mask
  key                  a JAX key
  0.1, 3, true, none   constants, of which no gradient is asked
  x.npy, x.npz:name    an array in a file"""
_ARRAY = re.compile(r"(?P<dtype>\w+)(\[(?P<shape>[\d, ]*)\](?P<how>[<=]?)(?P<value>.*))?")


def arguments(specs: Sequence[str], seed: int) -> tuple[Any, ...]:
    """What the words describe; all that is drawn follows from the seed.

    Arrays are NumPy's, for those of JAX would be narrowed where x64 is off. Raises ValueError for
    what it cannot read, and says what was probably meant.

    >>> x, labels, rate = arguments(["f32[11,7]", "i32[11]<7", "0.1"], seed=0)
    >>> x.shape, int(labels.max()), rate
    ((11, 7), 6, 0.1)
    """
    rng = np.random.default_rng(seed)
    return tuple(_argument(spec.strip(), rng) for spec in specs)


def described(argument: Any) -> str:
    """An argument in the same words, arrays by dtype and shape: `{'w': f32[7,5]}`."""
    return str(jax.tree.map(_described, argument, is_leaf=lambda a: a is None))


class _Bare(str):
    def __repr__(self) -> str:
        return str(self)


def _described(leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        return _Bare(leaf) if isinstance(leaf, str) else leaf
    name = leaf.dtype.name if isinstance(leaf.dtype, np.dtype) else "key"
    short = next((short for short, long in DTYPES.items() if long == name), name)
    return _Bare(f"{short}[{','.join(map(str, leaf.shape))}]")


def _argument(spec: str, rng: np.random.Generator) -> Any:
    if spec == "key":
        return jax.random.key(int(rng.integers(2**31)))
    if spec.lower() in WORDS:
        return WORDS[spec.lower()]
    for number in (int, float):
        try:
            return number(spec)
        except ValueError:
            pass
    path, _, name = spec.partition(".npz:")
    if spec.endswith((".npy", ".npz")) or name:
        return _loaded(Path(path + ".npz" if name else spec), name)
    found = _ARRAY.fullmatch(spec)
    if found is None or not (found["dtype"] in DTYPES or "[" in spec):
        raise ValueError(f"cannot read the argument {spec!r}; it must be one of\n{SYNTAX}")
    return _drawn(spec, found, rng)


def _drawn(spec: str, found: re.Match[str], rng: np.random.Generator) -> np.ndarray:
    short, shape, how, value = found["dtype"], found["shape"], found["how"], found["value"]
    dtypes = DTYPES | {long: long for long in DTYPES.values()}
    if short not in dtypes:
        close = difflib.get_close_matches(short, dtypes, n=1, cutoff=0.5)
        mend = f"did you mean {close[0]}?" if close else f"there are {', '.join(DTYPES)}"
        raise ValueError(f"{spec!r}: there is no dtype {short!r}; {mend}")
    dtype = jnp.dtype(dtypes[short])
    if shape is None:
        raise ValueError(f"{spec!r} lacks a shape: '{spec}[11,7]' is a matrix, '{spec}[]' a scalar")
    try:
        sizes = tuple(int(size) for size in shape.rstrip(", ").split(",")) if shape else ()
    except ValueError:
        raise ValueError(f"{spec!r}: [{shape}] is no shape; write it like [11,7]") from None
    whole = jnp.issubdtype(dtype, jnp.integer)
    if how == "=":
        try:
            fill = WORDS.get(value.lower(), value) or 0
            return np.full(sizes, int(fill) if whole else float(fill), dtype)
        except (ValueError, OverflowError):
            raise ValueError(f"{spec!r}: {value!r} is no value of {dtype}") from None
    if whole:
        if how != "<" or not value.isdecimal() or not 0 < int(value) <= np.iinfo(dtype).max:
            raise ValueError(
                f"{spec!r} lacks what its integers are below: quote it, as '{short}[{shape}]<7'"
            )
        drawn = rng.integers(int(value), size=math.prod(sizes))
        drawn[:2] = (0, int(value) - 1)[: drawn.size]  # slips like the borders
        return rng.permutation(drawn).reshape(sizes).astype(dtype)
    if how or value:
        raise ValueError(f"{spec!r}: {how + value!r} is for integers; '{short}[{shape}]' is drawn")
    if short == "bool":
        return rng.integers(2, size=sizes).astype(bool)
    return np.asarray(rng.standard_normal(sizes)).astype(dtype)


def _loaded(path: Path, name: str) -> np.ndarray:
    try:
        with path.open("rb") as file:  # NumPy would leave a damaged one open
            found = np.load(file, allow_pickle=False)
            if path.suffix == ".npz":
                if name not in found.files:
                    names = ", ".join(found.files)
                    raise ValueError(f"it holds {names}; say which, as {path}:NAME")
                found = found[name]
    except FileNotFoundError:
        raise ValueError(f"there is no file {path} in {Path.cwd()}") from None
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from None
    if found.dtype.kind not in "fiub":
        raise ValueError(f"{path} holds {found.dtype}; it must hold floats, integers or booleans")
    return found
