"""What is checked of data before anything compiles."""

from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jnn.layer import Eval, Layer, shape_of
from jnn.losses import Loss, show_first

Pair = tuple[Any, jax.Array]  # x, an array or a tuple of them, and y


def whole(name: str, value: Any) -> int:
    """The value as an int, if it is a whole number of at least 1 that steps can be counted in."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) < 2**31:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to 2147483647")
    return int(value)


def check_parts(net: Any, loss: Any) -> None:
    """Refuses a network that is no layer and a loss that is no loss."""
    for what, value, kind in (("net", net, Layer), ("loss", loss, Loss)):
        if not isinstance(value, kind):
            mend = (
                f"write {value.__name__}(...)"
                if isinstance(value, type)
                else f"see jnn.{kind.__name__}"
            )
            raise ValueError(f"{what} is {value!r}; it must be a {kind.__name__.lower()}: {mend}")
        hash(value)  # jit would refuse it too, but in its own words


def transformed(transform: Any, x: Any) -> Any:
    """`x` as the network sees it: through `transform.apply`, where there is a transform; of a tuple
    its first entry."""
    if transform is None:
        return x
    return (transform.apply(x[0]), *x[1:]) if isinstance(x, tuple) else transform.apply(x)


def checked(
    name: str, net: Layer, loss: Loss, data: tuple[Any, Any], transform: Any = None
) -> Pair:
    """The (x, y) of `data` on the device, once what can be wrong with their values is ruled out.

    x is an array, or a tuple of arrays, or of such tuples, for a network of several inputs.

    Inside a compiled program nothing could be said of values: a label out of range would count as
    another class, and one number that is not finite would spoil everything after it. So all of it
    is looked at here, on the host, once for a data set; `name` is what errors call it.

    numpy arrays are copied, for JAX may go on reading one that its owner has overwritten.

    Raises ValueError (LayerError where the network or the loss refuses the shapes or the targets).

    >>> import jnn
    >>> data = np.ones((4, 2), np.float32), np.array([0, 1, 2, 3])
    >>> checked("data", jnn.Dense(3), jnn.SoftmaxCrossEntropy(), data)
    Traceback (most recent call last):
    jnn.layer.LayerError: SoftmaxCrossEntropy(): 1 of 4 labels lie outside 0..2, \
the first being 3 at index 3; mend the data, or give the last layer more outputs
    """
    check_parts(net, loss)
    fitted = hasattr(transform, "apply") and not isinstance(transform, type)
    if transform is not None and not fitted:
        raise ValueError(
            f"transform is {transform!r}; it must be a fitted transform with a method apply(x), "
            "such as jnn.preprocessing.Standardize.fit(x)"
        )
    if any(leaf is transform for leaf in jax.tree.leaves(transform)):
        raise ValueError(
            f"transform is a {type(transform).__name__}, which JAX cannot look into; make it a "
            "pytree, by jax.tree_util.register_dataclass for example"
        )
    if not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(f"{name} is a {type(data).__name__}; it must be a pair of arrays (x, y)")
    x, y = _hosts(f"{name}.x", data[0]), _host(f"{name}.y", data[1])
    for v in jax.tree.leaves(x):
        if len(v) != len(y):
            raise ValueError(
                f"{name} has {len(v)} examples in x and {len(y)} in y; they must agree"
            )
    if len(y) == 0:
        raise ValueError(f"{name} holds no examples; there must be at least one")
    labels = isinstance(x, np.ndarray) and x.ndim == 1 and np.issubdtype(x.dtype, np.integer)
    if labels and y.ndim > 1:
        raise ValueError(f"{name} has x {shape_of(x)} and y {shape_of(y)}: give (x, y), not (y, x)")
    shape = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, jax.dtypes.canonicalize_dtype(v.dtype)), x
    )

    def predict(key: jax.Array, x: Any, transform: Any) -> jax.Array:
        x = transformed(transform, x)
        params, state = net.init(key, x)
        return net.forward(params, x, Eval(state))[0]

    key = jax.eval_shape(jax.random.key, 0)
    loss.check_values(jax.eval_shape(predict, key, shape, transform), y)
    return _device(data[0], x), _device(data[1], y)


def checked_pair(
    net: Layer, loss: Loss, data: Any, validation: Any, transform: Any, batch_size: int
) -> tuple[Pair, Pair | None]:
    """`data` and, where given, `validation`, both checked; the first must fill a batch."""
    arrays = checked("data", net, loss, data, transform)
    if batch_size > len(arrays[1]):
        raise ValueError(
            f"batch_size is {batch_size}; the data hold only {len(arrays[1])} examples"
        )
    if validation is None:
        return arrays, None
    held_out = checked("validation", net, loss, validation, transform)
    got, want = (
        " and ".join(f"{v.dtype} {v.shape[1:]}" for v in jax.tree.leaves(pair))
        for pair in (held_out, arrays)
    )
    if got != want:
        raise ValueError(
            f"validation has {got} for each example and data {want}; they must agree in shapes and "
            "dtypes"
        )
    return arrays, held_out


def _hosts(name: str, x: Any) -> Any:
    """`_host` of an array, or of each of a tuple."""
    if not isinstance(x, tuple):
        return _host(name, x)
    if not x:
        raise ValueError(f"{name} is an empty tuple; it must hold an array for each input")
    return tuple(_hosts(f"{name}[{i}]", v) for i, v in enumerate(x))


def _host(name: str, v: Any) -> np.ndarray:
    """The array, seen from the host, if its dtype and its numbers are fit for training."""
    if isinstance(v, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array; fill it or drop what is masked: no mask is kept"
        )
    array = np.asarray(v)
    real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    if array.ndim == 0 or not real:
        raise ValueError(f"{name} is {shape_of(array)}; it must be an array of numbers, (n, ...)")
    narrow = jax.dtypes.canonicalize_dtype(array.dtype)
    if jnp.issubdtype(narrow, jnp.floating):
        with np.errstate(over="ignore"):  # what no longer fits is infinite, and refused below
            array = array.astype(narrow, copy=False)
    if jnp.issubdtype(array.dtype, jnp.floating) and (bad := ~np.isfinite(array)).any():
        raise ValueError(
            f"{name} holds {bad.sum()} numbers that are not finite, the first being "
            f"{show_first(array, bad)}; remove or fill them"
        )
    if jnp.issubdtype(narrow, jnp.integer):
        limits = np.iinfo(narrow)
        if (bad := (array < limits.min) | (array > limits.max)).any():
            raise ValueError(
                f"{name} holds {show_first(array, bad)}, which {narrow} cannot; "
                "use smaller numbers, or switch on jax_enable_x64"
            )
    return array


def _device(v: Any, host: Any) -> Any:
    if isinstance(v, tuple):
        return tuple(map(_device, v, host))
    if isinstance(v, jax.Array):
        return v
    return jax.device_put(np.array(host, jax.dtypes.canonicalize_dtype(host.dtype), copy=True))
