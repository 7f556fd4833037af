"""The three products of a convolution, each in two forms, and the choice between them.

    conv     y  = sum over k of x[s i + d k - p] w[k]
    pull     dx = the cotangent of x, which is what a transposed convolution computes
    weigh    dw = sum over examples and positions of x[s i + d k - p] (x) dy[i]

"lax" is XLA's own convolution. "unfolded" puts what every output sees side by side and is a matrix
product from there; a few images at a time where nothing but a sum is wanted, so that what is
unfolded stays in the cache. On a GPU "lax" is the form for all three. On a CPU the gradient of the
weights must not be: within a compiled loop XLA has no fast kernel for its shape, and takes some
hundred times as long as outside; and with few channels the unfolded product is faster.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import jax
import jax.numpy as jnp

from jnn.precision import accumulator, wide_matmul

FORMS = ("lax", "unfolded")
FEW = 32  # inputs that an output sees, up to which XLA's convolution is slower on a CPU
CACHED = 2**19  # numbers that may be unfolded at a time


@dataclass(frozen=True)
class Window:
    """What every output of a convolution sees: a static value, with an entry for each axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    form: str | None = None  # one of FORMS, or None for the better one where it runs

    @property
    def reach(self) -> tuple[int, ...]:
        """From the first number that an output sees to the last, both counted."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def lengths(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """How many outputs there are along every axis; below 1 where the kernel does not fit."""
        axes = zip(spatial, self.padding, self.reach, self.stride, strict=True)
        return tuple((low + size + high - reach) // s + 1 for size, (low, high), reach, s in axes)


def conv(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """y (n, ..., out) of x (n, ..., in) and w (kernel, in / groups, out), in float32 or wider."""
    few = window.groups == 1 and math.prod(w.shape[:-1]) <= FEW
    if _form(window, "unfolded" if few else "lax") == "lax":
        return _lax(x, w, window.stride, window.padding, (1,) * len(window.kernel), window)
    return _grouped_matmul(unfolded(x, window), _grouped_weights(w, window), window)


def pull(dy: jax.Array, w: jax.Array, window: Window, spatial: tuple[int, ...]) -> jax.Array:
    """The cotangent of an x of that spatial shape, in float32 or wider."""
    if _form(window, "lax") == "lax":
        axes = zip(
            spatial, dy.shape[1:-1], window.padding, window.reach, window.stride, strict=True
        )
        pads = []
        for size, outputs, (low, _), reach, s in axes:
            before = reach - 1 - low
            pads.append((before, size - ((outputs - 1) * s + 1) - before + reach - 1))
        flipped = jnp.flip(swapped(w, window.groups), range(len(window.kernel)))
        return _lax(dy, flipped, (1,) * len(window.kernel), tuple(pads), window.stride, window)
    weights = jnp.swapaxes(_grouped_weights(w, window), -1, -2)
    back = _grouped_matmul(dy, weights, window)
    size = math.prod(window.kernel)
    into = back.shape[-1] // window.groups // size
    parts = back.reshape(*back.shape[:-1], window.groups, size, into)
    channels = window.groups * into
    around = tuple(low + n + high for n, (low, high) in zip(spatial, window.padding, strict=True))
    dx = jnp.zeros((len(dy), *around, channels), back.dtype)
    for i, at in enumerate(places(window, dy.shape[1:-1])):
        dx = dx.at[(slice(None), *at)].add(parts[..., i, :].reshape(*dy.shape[:-1], channels))
    return padded(dx, tuple((-low, -high) for low, high in window.padding))


def weigh(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """The gradient of w, (kernel, in / groups, out), in float32 or wider."""
    if _form(window, "unfolded") == "lax":
        return _lax_weigh(x, dy, window)
    n, outputs = len(x), math.prod(dy.shape[1:-1])
    size = max(1, CACHED // max(1, outputs * math.prod(window.kernel) * x.shape[-1]))
    shape = (*window.kernel, x.shape[-1] // window.groups, dy.shape[-1])

    def some(x: jax.Array, dy: jax.Array) -> jax.Array:
        both = unfolded(x, window), dy
        pairs = (_by_group(a.reshape(-1, a.shape[-1]), window) for a in both)
        dw = jnp.einsum("mgi,mgo->igo", *pairs, preferred_element_type=accumulator(dy.dtype))
        return dw.reshape(shape)

    whole = n // size * size
    if whole <= size:
        return some(x, dy) if n else jnp.zeros(shape, accumulator(dy.dtype))

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + some(*pair), None

    xs, dys = (v[:whole].reshape(-1, size, *v.shape[1:]) for v in (x, dy))
    # The last for the first, that what is added to varies over the devices that x and dy do.
    first = some(x[whole:], dy[whole:]) if whole < n else some(xs[0], dys[0])
    return jax.lax.scan(add, first, (xs, dys) if whole < n else (xs[1:], dys[1:]))[0]


def swapped(w: jax.Array, groups: int) -> jax.Array:
    """Weights (kernel, in / groups, out) with in and out exchanged: (kernel, out / groups, in)."""
    *kernel, into, out = w.shape
    apart = w.reshape(*kernel, into, groups, out // groups)
    return jnp.swapaxes(apart, -3, -1).reshape(*kernel, out // groups, groups * into)


def _form(window: Window, on_cpu: str) -> str:
    return window.form or (on_cpu if jax.default_backend() == "cpu" else "lax")


def _lax(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    spread: tuple[int, ...],
    window: Window,
) -> jax.Array:
    spatial = "DHW"[-len(stride) :]
    return jax.lax.conv_general_dilated(
        x,
        w,
        stride,
        padding,
        spread,
        window.dilation,
        (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        window.groups,
        preferred_element_type=accumulator(x.dtype),
    )


def _lax_weigh(x: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """As a convolution of x by dy: examples are what is summed over, channels are the examples."""
    spatial = "DHW"[-len(window.stride) :]
    axes = zip(
        x.shape[1:-1],
        dy.shape[1:-1],
        window.padding,
        window.reach,
        window.stride,
        strict=True,
    )
    pads = [
        (low, (outputs - 1) * s + reach - size - low) for size, outputs, (low, _), reach, s in axes
    ]
    return jax.lax.conv_general_dilated(
        x,
        dy,
        window.dilation,
        pads,
        None,
        window.stride,
        (f"C{spatial}N", f"I{spatial}O", f"{spatial}NC"),
        batch_group_count=window.groups,
        preferred_element_type=accumulator(x.dtype),
    )


def unfolded(x: jax.Array, window: Window) -> jax.Array:
    """What every output sees: (n, ..., groups kernel in/groups), a group's numbers together."""
    parts = seen(x, window)
    if window.groups == 1:
        return jnp.concatenate(parts, axis=-1)
    apart = [_by_group(part, window) for part in parts]
    return jax.lax.collapse(jnp.stack(apart, axis=-2), -3)


def seen(x: jax.Array, window: Window) -> list[jax.Array]:
    """For every place in the kernel, what all outputs see of x there."""
    around = padded(x, window.padding)
    return [around[(slice(None), *at)] for at in places(window, window.lengths(x.shape[1:-1]))]


def places(window: Window, outputs: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """For every place in the kernel, where in a padded x the outputs see it."""
    for place in product(*map(range, window.kernel)):
        axes = zip(place, window.dilation, window.stride, outputs, strict=True)
        yield tuple(slice(d * k, d * k + s * (n - 1) + 1, s) for k, d, s, n in axes)


def padded(x: jax.Array, padding: tuple[tuple[int, int], ...]) -> jax.Array:
    """x with zeros around it, or where a number is negative with so many of its own cut off."""
    pads = ((0, 0), *padding, (0, 0))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads])


def _grouped_weights(w: jax.Array, window: Window) -> jax.Array:
    """(groups, kernel in / groups, out / groups)."""
    flat = w.reshape(math.prod(w.shape[:-1]), window.groups, w.shape[-1] // window.groups)
    return jnp.swapaxes(flat, 0, 1)


def _grouped_matmul(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """x (..., groups i) by w (groups, i, o): (..., groups o), in float32 or wider."""
    if window.groups == 1:
        return wide_matmul(x, w[0])
    y = jnp.einsum(
        "...gi,gio->...go", _by_group(x, window), w, preferred_element_type=accumulator(x.dtype)
    )
    return jax.lax.collapse(y, -2)


def _by_group(x: jax.Array, window: Window) -> jax.Array:
    return x.reshape(*x.shape[:-1], window.groups, x.shape[-1] // window.groups)
