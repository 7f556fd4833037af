import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.convolutions import FORMS, Window, conv, pull, weigh
from jnn.layer import LayerError


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def begun(layer, x):
    return layer.init(jax.random.key(0), x)[0]


def test_a_convolution_is_its_formula(x64):
    layer = jnn.Conv(2, 3, stride=2, dilation=2, padding=((2, 1), (0, 3)))
    x = normal(2, 8, 7, 3)
    params = begun(layer, x)
    y, _ = layer.forward(params, x, jnn.Eval())
    padded = np.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)))
    for i, j in np.ndindex(y.shape[1:3]):
        seen = padded[:, 2 * i : 2 * i + 5 : 2, 2 * j : 2 * j + 5 : 2]
        want = np.einsum("nhwc,hwcf->nf", seen, params["w"])
        np.testing.assert_allclose(y[:, i, j], want, rtol=1e-12)


def test_groups_see_their_own_channels_alone(x64):
    x = normal(2, 4, 4, 6)
    layer = jnn.Conv(4, groups=2, bias=False)
    w = begun(layer, x)["w"]
    y, _ = layer.forward({"w": w}, x, jnn.Eval())
    for g in range(2):
        part, out = x[..., 3 * g : 3 * g + 3], slice(2 * g, 2 * g + 2)
        want, _ = jnn.Conv(2, bias=False).forward({"w": w[..., out]}, part, jnn.Eval())
        assert_agree(y[..., out], want, 1e-14)


def test_a_kernel_of_one_is_a_dense_layer(x64):
    x = normal(2, 3, 4, 5)
    params = begun(jnn.Conv(6, 1), x)
    y, _ = jnn.Conv(6, 1).forward(params, x, jnn.Eval())
    want, _ = jnn.Dense(6).forward(params | {"w": params["w"][0, 0]}, x, jnn.Eval())
    assert_agree(y, want, 1e-14)


@pytest.mark.parametrize(
    "padding, size, stride, length",
    [("same", 7, 2, 4), ("VALID", 7, 2, 3), (1, 7, 1, 7), (((2, 0),), 7, 3, 3), ("SAME", 2, 5, 1)],
)
def test_padding_says_how_many_positions_there_are(padding, size, stride, length):
    layer, x = jnn.Conv(1, 3, stride=stride, padding=padding), jnp.ones((1, size, 2))
    assert layer.forward(begun(layer, x), x, jnn.Eval())[0].shape == (1, length, 1)


def test_the_odd_zero_of_same_comes_after():
    layer, x = jnn.Conv(1, 2, bias=False), jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    y, _ = layer.forward({"w": jnp.ones((2, 1, 1))}, x, jnn.Eval())
    assert y.ravel().tolist() == [3, 5, 3]


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((0, 2), (1, 0))])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 3), (4, 2)])
def test_a_transpose_does_what_the_convolution_does_to_cotangents(padding, kernel, stride, x64):
    if padding != "SAME" and kernel == 2:
        padding = "VALID"
    up = jnn.ConvTranspose(3, kernel, stride=stride, padding=padding, bias=False)
    x = normal(2, 4, 3, 2)
    params = begun(up, x)
    y, _ = up.forward(params, x, jnn.Eval())
    down = jnn.Conv(2, kernel, stride=stride, padding=padding, bias=False)
    w = jnp.swapaxes(params["w"], -1, -2)
    seen, cache = down.forward({"w": w}, jnp.zeros_like(y), jnn.Eval())
    assert seen.shape == x.shape
    assert_agree(y, down.pull({"w": w}, cache, x), 1e-14)


def test_a_transpose_of_valid_padding_gives_all_that_is_reached():
    layer, x = jnn.ConvTranspose(1, 3, stride=2, dilation=2, padding="VALID"), jnp.ones((1, 4, 1))
    assert layer.forward(begun(layer, x), x, jnn.Eval())[0].shape == (1, 2 * 3 + 2 * 2 + 1, 1)


# Kernel, stride, dilation, groups, padding.
CASES = list(product((1, 3), (1, 2), (1, 2), (1, 4), ((0, 0), (2, 1), (1, -1))))


@pytest.mark.slow
@pytest.mark.parametrize("axes", [1, 2])
def test_all_forms_agree(axes, x64):
    for kernel, stride, dilation, groups, pads in CASES:
        spatial = (9, 8)[:axes]
        x, w = normal(3, *spatial, 4), normal(*(kernel,) * axes, 4 // groups, 8, seed=1)
        found = []
        for form in FORMS:
            window = Window(*((v,) * axes for v in (kernel, stride, pads, dilation)), groups, form)
            y = conv(x, w, window)
            dy = normal(*y.shape, seed=2)
            found.append((y, pull(dy, w, window, spatial), weigh(x, dy, window)))
        assert_agree(*found, 1e-12)


def test_weights_are_weighed_a_few_images_at_a_time_and_none_is_left_out(x64, monkeypatch):
    monkeypatch.setattr("jnn.convolutions.CACHED", 2 * 16 * 9 * 2)
    window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, "unfolded")
    x, dy = normal(5, 4, 4, 2), normal(5, 4, 4, 3, seed=1)
    want = sum(weigh(x[i : i + 1], dy[i : i + 1], window) for i in range(5))
    assert_agree(weigh(x, dy, window), want, 1e-14)


def test_no_convolution_of_the_gradient_of_weights_is_left_to_xla_on_a_cpu():
    # Within a compiled loop it takes a hundred times as long there as outside.
    if jax.default_backend() != "cpu":
        pytest.skip("on a GPU XLA has fast kernels for all three")
    layer, x = jnn.Conv(16), jnp.ones((2, 8, 8, 16))
    params = begun(layer, x)

    def step(params, x):
        y, cache = layer.forward(params, x, jnn.Eval())
        return layer.backward(params, cache, y)

    program = str(jax.make_jaxpr(step)(params, x))
    assert program.count("conv_general_dilated[") == 2  # y and dx


@pytest.mark.parametrize(
    "make, shape, message",
    [
        (lambda: jnn.Conv(0), (1, 4, 4, 2), "features is 0; it must be a positive integer"),
        (lambda: jnn.Conv(2, 0), (1, 4, 4, 2), "kernel_size is 0; it must be a positive integer,"),
        (lambda: jnn.Conv(2, (3, -1)), (1, 4, 4, 2), "kernel_size is (3, -1); it must be"),
        (lambda: jnn.Conv(2, stride=1.5), (1, 4, 4, 2), "stride is 1.5; it must be a positive"),
        (lambda: jnn.Conv(2, dilation=()), (1, 4, 4, 2), "dilation is (); it must be a positive"),
        (lambda: jnn.Conv(2, padding="FULL"), (1, 4, 4, 2), "padding is 'FULL'; it must be 'SAME'"),
        (lambda: jnn.Conv(2, padding=-1), (1, 4, 4, 2), "padding is -1; it must be 'SAME'"),
        (lambda: jnn.Conv(2, padding=(1, 1)), (1, 4, 4, 2), "padding is (1, 1); it must be 'SAME'"),
        (lambda: jnn.Conv(2, padding=True), (1, 4, 4, 2), "padding is True; it must be 'SAME'"),
        (lambda: jnn.Conv(3, groups=2), (1, 4, 4, 2), "groups is 2; it must divide features=3"),
        (lambda: jnn.Conv(4, groups=4), (1, 4, 4, 2), "groups=4 must divide its channels"),
        (lambda: jnn.Conv(2, form="fft"), (1, 4, 4, 2), "form is 'fft'; it must be one of"),
        (lambda: jnn.Conv(2, weight=0.1), (1, 4, 4, 2), "weight is 0.1; it must be an initializer"),
        (lambda: jnn.Conv(2), (4, 2), "it must be (n, ..., c) with channels last"),
        (lambda: jnn.Conv(2), (1, 0, 4, 2), "it must be (n, ..., c) with channels last"),
        (lambda: jnn.Conv(2, (3, 3)), (1, 4, 2), "x has 1 spatial axes: give one entry for each"),
        (lambda: jnn.Conv(2, 5, padding="VALID"), (1, 4, 9, 2), "reaches over (5, 5) does not fit"),
        (lambda: jnn.ConvTranspose(2, 1, padding=3), (1, 4, 2), "padding=3 leaves nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(make, shape, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        begun(make(), jnp.ones(shape))


def test_parameters_of_other_channels_are_refused():
    layer = jnn.Conv(2)
    params = begun(layer, jnp.ones((1, 4, 4, 3)))
    with pytest.raises(LayerError, match=r"w is float32 \(3, 3, 3, 2\); .* shape \(3, 3, 1, 2\)"):
        layer.forward(params, jnp.ones((1, 4, 4, 1)), jnn.Eval())
