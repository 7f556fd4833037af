import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_agree

import jnn
from jnn.layer import LayerError


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(
    "equation, sizes, shape, w_shape",
    [
        ("...d,dhk->...hk", (2, 3), (5, 7, 4), (4, 2, 3)),
        ("...d,dhk->...hk", (2, 3), (5, 4), (4, 2, 3)),
        ("nqhk,hkd->nqd", (6,), (2, 3, 4, 5), (4, 5, 6)),
        ("nqhk,khd->ndq", (6,), (2, 3, 4, 5), (5, 4, 6)),
        ("ntc,ts->nsc", (3,), (2, 4, 5), (4, 3)),
        ("...tc,ts->...sc", (3,), (2, 6, 4, 5), (4, 3)),
    ],
)
def test_it_is_einsum(equation, sizes, shape, w_shape, x64):
    layer, x = jnn.Einsum(equation, sizes), normal(*shape)
    params, _ = layer.init(jax.random.key(0), x)
    y, cache = layer.forward(params, x, jnn.Eval())
    want, vjp = jax.vjp(lambda w, x: jnp.einsum(equation, x, w), params["w"].reshape(w_shape), x)
    assert_agree(y, want, 1e-14)
    dy = normal(*y.shape, seed=1)
    grads, dx = layer.backward(params, cache, dy)
    dw, want_dx = vjp(dy)
    assert_agree((grads["w"].reshape(w_shape), dx), (dw, want_dx), 1e-14)


def test_a_bias_is_added_to_the_new_axes(x64):
    layer, x = jnn.Einsum("ntc,tab->nbca", (2, 3)), normal(4, 5, 6)
    params, _ = layer.init(jax.random.key(0), x)
    b = normal(6, seed=1)
    y, _ = layer.forward(params | {"b": b}, x, jnn.Eval())
    want = jnp.einsum("ntc,tab->nbca", x, params["w"].reshape(5, 2, 3))
    assert_agree(y, want + b.reshape(2, 3).T[:, None], 1e-14)


def test_sizes_may_be_numpys_and_are_kept_as_pythons():
    layer = jnn.Einsum("nd,dh->nh", (np.int64(2),))
    assert layer == jnn.Einsum("nd,dh->nh", 2) and repr(layer) == "Einsum('nd,dh->nh', (2,))"


@pytest.mark.parametrize(
    "equation, sizes, x, message",
    [
        ("nd->nh", (2,), (2, 3), "it must be of x and w, such as"),
        ("nd,dh", (2,), (2, 3), "it must be of x and w, such as"),
        (7, (2,), (2, 3), "equation is 7; it must be of x and w"),
        ("nd,hd->nh", (2,), (2, 3), "the axes of w must be one or more that x has"),
        ("nd,ndh->nh", (2,), (2, 3), "the axes of w must be one or more that x has"),
        ("nd,d->n", (), (2, 3), "the axes of w must be one or more that x has"),
        ("nde,dh->nh", (2,), (2, 3, 4), "the axes of x must be summed with w or kept in y"),
        ("ndd,dh->nh", (2,), (2, 3, 3), "an axis comes twice"),
        ("nd,dh->hn", (2,), (2, 3), "the examples must be the first axis of x and of y"),
        ("...d,dh->...h", 2.5, (2, 3), "sizes is 2.5; it must be a tuple of positive integers"),
        ("...d,dhk->...hk", (2,), (2, 3), "one for each of the new axes h, k"),
        ("ntd,dh->nth", (2,), (2, 3), "the equation says 'ntd'"),
        ("nd,dh->nh", (2,), (2, 3, 4), "the equation says 'nd'"),
        ("nd,dh->nh", (2,), (2, 0), "there is nothing along an axis that is summed"),
    ],
)
def test_what_makes_no_sense_is_refused(equation, sizes, x, message):
    with pytest.raises(LayerError, match=re.escape(message)):
        jnn.Einsum(equation, sizes).init(jax.random.key(0), jnp.ones(x))
