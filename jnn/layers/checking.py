"""The checks of arguments that leaves have in common."""

import math
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from jnn.layer import Layer, Params, fail, form_of, shape_of


def is_whole(value: Any) -> bool:
    """Whether it is an integer, Python's or numpy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_whole(layer: Layer, name: str) -> None:
    """Refuses a field that is no positive integer; it is kept as Python's own."""
    value = getattr(layer, name)
    if not is_whole(value) or value < 1:
        fail(layer, f"{name} is {value!r}; it must be a positive integer")
    object.__setattr__(layer, name, int(value))


def check_integer(layer: Layer, name: str) -> None:
    """Refuses a field that is no integer, such as an axis; it is kept as Python's own."""
    value = getattr(layer, name)
    if not is_whole(value):
        fail(layer, f"{name} is {value!r}; it must be an integer, -1 for the last axis")
    object.__setattr__(layer, name, int(value))


def check_flags(layer: Layer) -> None:
    """Refuses a field that switches something on or off and is neither True nor False."""
    for f in fields(cast(Any, layer)):
        value = getattr(layer, f.name)
        if isinstance(f.default, bool) and not isinstance(value, bool | np.bool_):
            fail(layer, f"{f.name} is {value!r}; it must be True or False")


def check_positive(layer: Layer, name: str) -> None:
    """Refuses a field that is no positive finite number; a numpy scalar would decide a dtype."""
    value = getattr(layer, name)
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        fail(layer, f"{name} is {value!r}; it must be a positive finite number")
    object.__setattr__(layer, name, float(value))


def check_initializer(layer: Layer, name: str) -> None:
    """Refuses a field that cannot draw weights."""
    value = getattr(layer, name)
    if not callable(value):
        fail(
            layer,
            f"{name} is {value!r}; it must be an initializer, "
            "such as jnn.initializers.normal(0.02)",
        )


def check_params(layer: Layer, params: Params, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses parameters that are not a dict of floating-point arrays of these shapes."""
    if not isinstance(params, Mapping) or set(params) != set(shapes):
        fail(layer, f"params is {form_of(params)}; it must hold {sorted(shapes)}, as init makes")
    for name, shape in shapes.items():
        p: Any = params[name]
        if tuple(p.shape) != shape or not jnp.issubdtype(p.dtype, jnp.floating):
            fail(
                layer,
                f"{name} is {shape_of(p)}; for such inputs it must be floating-point numbers of "
                f"shape {shape}: give inputs like those that init was shown",
            )


def check_dtype(layer: Layer, x: Any, params: Params) -> None:
    """Refuses parameters whose dtype is not that of x."""
    for name, p in params.items():
        if p.dtype != x.dtype:
            fail(
                layer,
                f"x is {shape_of(x)} and {name} is {shape_of(p)}; their dtypes must be equal: "
                f"cast one, for example x.astype({str(p.dtype)!r})",
            )
