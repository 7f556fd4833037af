"""Functions by their names, as the command line is given them: `mine.py:norm`, `pack.losses:f`."""

import difflib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax


def function(text: str) -> Callable[..., Any]:
    """The function that is named like package.module:function or path/to/file.py:function.

    Raises ValueError where it cannot be had, and says why and what was probably meant.

    >>> function("jax.numpy:tanh").__name__
    'tanh'
    """
    where, name = text.rsplit(":", 1) if ":" in text else (text, "")
    module = _module(where)
    own = [
        n
        for n, v in vars(module).items()
        if callable(v) and not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
    ]
    there = f"{where} has {', '.join(own[:12])}" if own else f"{where} defines no function"
    if not name:
        raise ValueError(f"{text!r} names no function: write {where}:FUNCTION; {there}")
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=3)
            mend = f"did you mean {' or '.join(close)}?" if close else there
            raise ValueError(f"there is no {name} in {where}; {mend}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{text} is no function but {found!r:.60}; {there}")
    return found


def _module(where: str) -> ModuleType:
    here = os.getcwd()
    if not {"", here} & set(sys.path):  # as `python -m` has it
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        if where.endswith(".py") or os.sep in where:
            return _from_file(Path(where))
        if not all(part.isidentifier() for part in where.split(".")):
            raise _Misnamed(f"{where!r} is neither like package.module nor a path to a .py file")
        return importlib.import_module(where)
    except _Misnamed:
        raise
    except SystemExit as error:
        raise ValueError(
            f"importing {where} ended the process, status {error.code}: let it run nothing of its "
            'own unless __name__ == "__main__"'
        ) from None
    except Exception as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{where}.".startswith(f"{missing}."):
            raise ValueError(_not_found(missing)) from None
        raise ValueError(told(error, f"importing {where}")) from error


class _Misnamed(ValueError):
    """Raised here, not by what was imported."""


def _from_file(path: Path) -> ModuleType:
    if not path.is_file() or path.suffix != ".py":
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=1)
        mend = f"; did you mean {path.parent / close[0]}?" if close else ""
        raise _Misnamed(f"there is no Python file {path.absolute()}{mend}")
    path = path.resolve()
    root, package = path.parent, []
    while (root / "__init__.py").exists():  # so that its relative imports work
        package.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if package:
        return importlib.import_module(".".join([*package, path.stem]))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _not_found(name: str) -> str:
    parent, _, last = name.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", [])
    if not parent:
        standard = sysconfig.get_path("stdlib")
        known = {standard, f"{standard}/lib-dynload"}  # to whoever looks for a module of theirs
        places = [p or os.getcwd() for p in sys.path if p not in known and os.path.isdir(p or ".")]
    names = {path.stem for place in places for path in Path(place).glob("*.py")}
    names |= {path.parent.name for place in places for path in Path(place).glob("*/__init__.py")}
    close = [f"{parent}.{n}".strip(".") for n in difflib.get_close_matches(last, names, n=1)]
    mend = f"did you mean {close[0]}?" if close else "a file is named as path/to/file.py:function"
    return f"there is no module {name} in {', '.join(dict.fromkeys(places)) or parent}; {mend}"


def told(error: BaseException, doing: str) -> str:
    """One line on an error, and where it was raised if that is not here."""
    words = str(error).strip().splitlines()
    message = words[0] if words else ""
    ours = (str(Path(__file__).parent.parent), str(Path(jax.__file__).parent))
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith((*ours, "<")) and "importlib" not in f.filename
    ]
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}:{error.lineno})"
        message = error.msg
    elif frames:
        where = f" ({frames[-1].filename}:{frames[-1].lineno})"
    elif isinstance(error, ValueError):  # of the checker itself, which says what is wrong
        return f"{doing}: {message}"
    else:
        where = ""
    where = where.replace(f"({Path.cwd()}{os.sep}", "(")
    return f"{doing} raised {type(error).__name__}: {message}{where}"
