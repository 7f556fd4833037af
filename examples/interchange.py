"""jnn within other libraries and theirs within jnn: the same network, four ways.

    python examples/interchange.py [PICTURE]

A jnn network becomes an ordinary JAX function with `as_function`, its hand-written backward pass
included, and so a part of a Flax module (NNX or Linen) or of an Equinox one. `lift` makes a layer
of anybody's function. Optimizers are (init, update) pairs either way: optax trains jnn's networks
in `jnn.fit`. Parameters are pytrees, which safetensors stores under dotted names. Needs the peers:
pip install -e '.[bench]'.
"""
# pyright: reportMissingImports=false, reportArgumentType=false

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jnn

STEPS, LR = 60, 3e-3
x, y = (v[:512] for v in jnn.data.digits().train)
body = jnn.Serial(jnn.Flatten(), jnn.Dense(32), jnn.GELU())  # without state, and nothing random
hidden = jnn.as_function(body)


def cost(scores: Any) -> Any:
    """Any loss will do; this is optax's."""
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()


def in_linen() -> list[float]:
    """jnn's body and Flax Linen's head, in one Linen module."""
    import flax.linen as nn
    import optax

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            params = self.param("body", lambda key: body.init(key, x)[0])
            return nn.Dense(10)(hidden(params, x, jnn.Eval()))

    net, adam = Net(), optax.adam(LR)
    params = net.init(jax.random.key(0), x)
    state, losses = adam.init(params), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, grads = jax.value_and_grad(lambda p: cost(net.apply(p, x)))(params)
        updates, state = adam.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(STEPS):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses


def in_nnx() -> list[float]:
    """jnn's body as a parameter of a Flax NNX module."""
    import optax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            params, _ = body.init(rngs.params(), x)
            self.body = nnx.data(jax.tree.map(nnx.Param, params))
            self.head = nnx.Linear(32, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            params = jax.tree.map(lambda p: p[...], self.body, is_leaf=_is_param)
            return self.head(hidden(params, x, jnn.Eval()))

    def _is_param(v: Any) -> bool:
        return isinstance(v, nnx.Param)

    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(LR), wrt=nnx.Param)

    @nnx.jit
    def step(net: Any, optimizer: Any) -> Any:
        value, grads = nnx.value_and_grad(lambda net: cost(net(x)))(net)
        optimizer.update(net, grads)
        return value

    return [float(step(net, optimizer)) for _ in range(STEPS)]


def in_equinox() -> list[float]:
    """jnn's body as a field of an Equinox module."""
    import equinox as eqx
    import optax

    class Net(eqx.Module):
        body: Any
        head: eqx.nn.Linear

        def __call__(self, x: Any) -> Any:
            return jax.vmap(self.head)(hidden(self.body, x, jnn.Eval()))

    one, two = jax.random.split(jax.random.key(0))
    net, adam = Net(body.init(one, x)[0], eqx.nn.Linear(32, 10, key=two)), optax.adam(LR)
    state, losses = adam.init(eqx.filter(net, eqx.is_array)), []

    @eqx.filter_jit
    def step(net: Any, state: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(lambda net: cost(net(x)))(net)
        updates, state = adam.update(grads, state, net)
        return eqx.apply_updates(net, updates), state, value

    for _ in range(STEPS):
        net, state, value = step(net, state)
        losses.append(float(value))
    return losses


def theirs_in_jnn() -> tuple[list[float], Any]:
    """A Linen and an Equinox layer in a jnn network, trained by optax in jnn's compiled run."""
    import equinox as eqx
    import flax.linen as nn
    import optax

    # Linen keeps parameters apart from the module already.
    dense = nn.Dense(32)
    linen = jnn.lift(lambda key, x: dense.init(key, jnp.zeros(x.shape)), dense.apply)

    # An Equinox module is parted into its arrays, which are the parameters, and the rest.
    def linear(key: Any) -> Any:
        return eqx.nn.Linear(32, 10, key=key)

    rest = eqx.filter(linear(jax.random.key(0)), eqx.is_array, inverse=True)
    equinox = jnn.lift(
        lambda key, x: eqx.filter(linear(key), eqx.is_array),
        lambda params, x: jax.vmap(eqx.combine(params, rest))(x),
    )
    net = jnn.Serial(jnn.Flatten(), ("linen", linen), jnn.GELU(), ("equinox", equinox))
    run = jnn.run(
        net,
        jnn.SoftmaxCrossEntropy(),
        optax.adam(LR),
        (x, y),
        key=jax.random.key(0),
        epochs=STEPS,
        batch_size=len(x),
        chunk=1,
    )
    records = list(run)
    return [record.loss for record in records], records[-1].state.params


def stored(params: Any) -> Any:
    """Parameters written by safetensors under dotted names, and read again."""
    from safetensors.numpy import load_file, save_file

    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(v)
        for path, v in jax.tree.leaves_with_path(params)
    }
    with TemporaryDirectory() as directory:
        path = Path(directory, "net.safetensors")
        save_file(flat, path)
        found = load_file(path)
    return jax.tree.map_with_path(
        lambda path, _: found[jax.tree_util.keystr(path, simple=True, separator=".")], params
    )


def main(picture: str = "interchange.png") -> dict[str, list[float]]:
    """Trains the network four ways, draws the losses, and returns them."""
    jnn.plots.check_new(picture)
    theirs, params = theirs_in_jnn()
    losses = {
        "jnn in Flax Linen": in_linen(),
        "jnn in Flax NNX": in_nnx(),
        "jnn in Equinox": in_equinox(),
        "Linen and Equinox in jnn": theirs,
    }
    for name, values in losses.items():
        print(f"{name:25} loss {values[0]:.3f}, after {STEPS} steps {values[-1]:.3f}")
    same = jax.tree.map(np.array_equal, stored(params), params)
    print(f"parameters through safetensors: {'all' if all(jax.tree.leaves(same)) else 'not'} equal")
    title = "one network in four libraries, trained by optax"
    jnn.plots.save(jnn.plots.lines(losses, "step", "loss", title), picture)
    print(f"picture in {picture}")
    return losses


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (FileExistsError, ModuleNotFoundError) as error:
        sys.exit(
            f"{error} (the peers come with pip install -e '.[bench]')"
            if isinstance(error, ModuleNotFoundError)
            else str(error)
        )
