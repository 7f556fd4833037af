"""Transforms follow their formulas on any data, and go back to where they came from."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import distance

import jnn
from jnn.preprocessing import PCA, Center, Chain, MinMax, Standardize, Whiten

RANDOM = np.random.default_rng(0)
# Features of different scales that hang together, and one that is constant.
MIXED = RANDOM.standard_normal((200, 5)) @ RANDOM.standard_normal((5, 5)) * [1, 2, 0.5, 1, 3] + 4
FEATURES = np.insert(MIXED, 2, 0.1, axis=1)
IMAGES = RANDOM.integers(0, 256, (60, 3, 2, 4), np.uint8)
IMAGES[:, 1, 1, :2] = 7

KINDS = [Center, Standardize, MinMax, PCA, Whiten]
FITS = {
    **{kind.__name__: kind.fit for kind in KINDS},
    **{f"{kind.__name__} by channel": partial(kind.fit, channels=True) for kind in KINDS[:3]},
    "Chain": lambda x: Chain.fit(x, Standardize.fit, PCA.fit),
}
over_fits = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
over_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
over_dtypes = pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__
)

apply = jax.jit(lambda t, x: t.apply(x))
invert = jax.jit(lambda t, z: t.invert(z))


def by_numpy(name, x, axis=0):
    """What a transform does to float64 data, in the lectures' words."""
    centred = x - x.mean(axis)
    if name == "Center":
        return centred
    if name == "Standardize":
        std = x.std(axis)
        return centred / np.where(np.ptp(x, axis) > 0, std, 1)
    if name == "MinMax":
        low, span = x.min(axis), np.ptp(x, axis)
        return np.where(span > 0, 2 * (x - low) / np.where(span > 0, span, 1) - 1, 0)
    flat = centred.reshape(len(x), -1)
    u, s, _ = np.linalg.svd(flat.T @ flat / len(x))
    u = u * np.sign(u[np.abs(u).argmax(axis=0), np.arange(len(u))])
    rotated = flat @ u
    return rotated if name == "PCA" else rotated / np.sqrt(s + 1e-5)


@over_kinds
@pytest.mark.parametrize("x", [MIXED, FEATURES, IMAGES / 255], ids=["mixed", "features", "images"])
def test_it_follows_the_lectures_formula(x64, kind, x):
    want = by_numpy(kind.__name__, x)
    got = apply(kind.fit(x), x)
    if kind in (PCA, Whiten):  # the axes of no variance at all may be any
        varies = np.linalg.matrix_rank(x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(0))
        want, got = want[:, :varies], got[:, :varies]
    assert distance(got, want) < 1e-11


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: kind.__name__)
def test_channels_are_all_axes_but_the_last(x64, kind):
    x = IMAGES.astype(float)
    t = kind.fit(x, channels=True)
    assert {leaf.shape for leaf in jax.tree.leaves(t)} == {(4,)}
    assert distance(apply(t, x), by_numpy(kind.__name__, x, axis=(0, 1, 2))) < 1e-13


@over_fits
def test_bytes_are_cast_before_anything_is_done_with_them(fit):
    """Row 15 of the traps: in uint8, 3 - 5 = 254."""
    t, wide = fit(IMAGES), fit(IMAGES.astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, t, wide)
    for x in (IMAGES, jnp.asarray(IMAGES)):
        z = apply(t, x)
        assert z.dtype == jnp.float32
        np.testing.assert_array_equal(z, apply(wide, IMAGES.astype(np.float32)))
    assert distance(invert(t, z), IMAGES) < 1e-5


def test_whole_numbers_below_their_mean_do_not_wrap_around():
    t = Center.fit(np.array([[3], [5], [250]], np.uint8))
    np.testing.assert_allclose(t.apply(np.array([[0]], np.uint8)), [[-86]])


@over_fits
@pytest.mark.parametrize("x", [FEATURES, IMAGES.astype(float)], ids=["features", "images"])
def test_invert_goes_back(x64, fit, x):
    t = fit(x)
    back = invert(t, apply(t, x))
    assert back.shape == x.shape and distance(back, x) < 1e-13


@over_fits
def test_invert_goes_back_in_float32(fit):
    """A sum of six terms rounds seven times, at worst all the same way; PCA takes two of them.

    Its basis, rows and columns having length 1, magnifies the first sum's error by sqrt(6) twice,
    the second's once. Six more come from the mean and the scale, forth and back.
    """
    x = FEATURES.astype(np.float32)
    t = fit(x)
    assert distance(invert(t, apply(t, x)), x) < (7 * (6 + 6**0.5) + 6) * 2.0**-24


@over_fits
def test_what_is_constant_becomes_zero_and_comes_back(fit):
    for value in (0.1, 0.0, -1e30):
        x = np.full((7, 3, 2), value)
        t = fit(x)
        z = apply(t, x)
        assert not z.any()
        np.testing.assert_array_equal(invert(t, z), x.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: kind.__name__)
def test_a_constant_feature_that_varies_later_is_only_shifted(kind):
    t = kind.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(t.apply(np.array([[2.0, 5.25]])), [[0.0, 0.25]])


def test_the_training_data_fill_minus_one_to_one_and_never_leave_it():
    x = (np.random.default_rng(1).standard_normal((60, 300)) * 3 + 1000).astype(np.float32)
    t = MinMax.fit(x)
    for z in (apply(t, x), t.apply(x), jax.jit(lambda x: t.apply(x))(x)):
        assert (z.min(axis=0) == -1).all() and (z.max(axis=0) == 1).all()


@pytest.mark.parametrize("offset", [0.0, 3000.0, 1e6])
def test_a_large_offset_costs_no_digits(offset):
    """float32 is a grid of 1/16 at 1e6; what is on the grid is still centred and scaled right."""
    x = (np.random.default_rng(1).standard_normal((400, 3)) + offset).astype(np.float32)
    exact = x.astype(np.float64)
    want = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    t = Standardize.fit(x)
    for z in (apply(t, x), t.apply(x), jax.jit(lambda x: t.apply(x))(x)):
        # Rounded are std, x - mean, that less the rest, 1 / std, and the product.
        assert distance(z, want) < 5 * 2.0**-24
    # Back again, z times std and plus the rest are rounded too, and then the sum with the mean.
    bound = 2.0**-24 * (6 * np.abs(exact - exact.mean(axis=0)) + np.abs(exact))
    assert (np.abs(np.asarray(invert(t, z), float) - exact) <= bound).all()


def condition(x):
    variance = np.linalg.eigvalsh(np.cov(x, rowvar=False, bias=True))
    return variance[-1] / variance[0]


def test_whitened_data_have_the_identity_as_covariance(x64):
    """Off by a rounding of every term, magnified by how much more one axis varies than another."""
    z = np.asarray(apply(Whiten.fit(MIXED, eps=0), MIXED))
    bound = (len(MIXED) + 10 * MIXED.shape[1]) * 2.0**-53 * condition(MIXED)
    assert np.abs(z.T @ z / len(z) - np.eye(5)).max() < bound < 1e-6


def test_eps_leaves_a_variance_of_v_at_v_over_v_plus_eps(x64):
    t = Whiten.fit(MIXED, eps=0.5)
    z = np.asarray(apply(t, MIXED))
    variance = np.asarray(t.pca.variance)
    np.testing.assert_allclose(z.T @ z / len(z), np.diag(variance / (variance + 0.5)), atol=1e-12)


def test_whitening_without_eps_leaves_what_does_not_vary_at_zero(x64):
    x = np.concatenate([MIXED, MIXED[:, :1] * 2], axis=1)  # a feature twice over
    t = Whiten.fit(x, eps=0)
    z = np.asarray(apply(t, x))
    np.testing.assert_allclose(z.var(axis=0), [1, 1, 1, 1, 1, 0], atol=1e-10)
    assert distance(invert(t, z), x) < 1e-13


@pytest.mark.parametrize("x", [MIXED, MIXED[:4]], ids=["tall", "wide"])
def test_components_are_orthonormal_ordered_and_of_fixed_sign(x64, x):
    t = PCA.fit(x)
    basis, variance = np.asarray(t.basis), np.asarray(t.variance)
    assert basis.shape == (5, min(x.shape))
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(variance)), atol=1e-14)
    assert (np.diff(variance) < 0).all()
    assert (basis[np.abs(basis).argmax(axis=0), np.arange(len(variance))] > 0).all()
    np.testing.assert_allclose(np.var(apply(t, x), axis=0), variance, atol=1e-13)


def test_k_components_are_the_nearest_that_k_can_tell(x64):
    """What they leave out is the variance of the other axes: Eckart and Young."""
    t = PCA.fit(MIXED, k=2)
    z = apply(t, MIXED)
    assert z.shape == (200, 2)
    left = ((np.asarray(invert(t, z)) - MIXED) ** 2).sum(axis=1).mean()
    every = PCA.fit(MIXED)
    np.testing.assert_allclose(left, every.variance[2:].sum(), rtol=1e-12)
    np.testing.assert_allclose(t.basis, every.basis[:, :2])


@over_fits
def test_it_is_a_pytree_that_jit_and_vmap_take(fit):
    x = FEATURES.astype(np.float32)
    t = fit(x)
    z = t.apply(x)
    assert distance(apply(t, x), z) < 1e-6
    assert distance(jax.vmap(t.apply)(x), z) < 1e-6
    assert distance(jax.jit(jax.vmap(t.invert))(z), t.invert(z)) < 1e-6
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), t, fit(2 * x))
    stacked = jax.vmap(apply, (0, None))(both, x)
    assert stacked.shape == (2, *z.shape) and distance(stacked[0], z) < 1e-6


@over_fits
def test_one_example_or_many_axes_of_them(fit):
    x = FEATURES[:6].astype(np.float32)
    t = fit(FEATURES)
    z = t.apply(x)
    assert distance(t.apply(x[2]), z[2]) < 1e-6
    assert distance(t.apply(x.reshape(2, 3, -1)), z.reshape(2, 3, -1)) < 1e-6
    assert distance(t.invert(z[2]), x[2]) < 1e-6


def test_it_runs_inside_a_compiled_step_on_bytes():
    net, loss = jnn.Serial(jnn.Flatten(), jnn.Dense(3)), jnn.SoftmaxCrossEntropy()
    gradient = jnn.backprop(net, loss)
    t = Standardize.fit(IMAGES, channels=True)
    params, _ = net.init(jax.random.key(0), jnp.ones((1, 3, 2, 4)))
    y = np.arange(len(IMAGES)) % 3

    @jax.jit
    def step(t, params, x):
        return gradient(params, t.apply(x), y, jnn.Train(jax.random.key(1)))

    (value, _), _ = step(t, params, IMAGES)
    (want, _), _ = gradient(params, t.apply(IMAGES), y, jnn.Train(jax.random.key(1)))
    np.testing.assert_allclose(value, want, rtol=1e-5)


@over_fits
@over_dtypes
def test_results_have_the_dtype_of_their_input(x64, fit, dtype):
    """Fitted in float32 or float64, whichever: low precision is computed wide and rounded once."""
    x = jnp.asarray(FEATURES[:8], dtype)
    for like in (np.float32, np.float64):
        t = fit(FEATURES.astype(like))
        assert all(leaf.dtype == like for leaf in jax.tree.leaves(t))
        z, wide = t.apply(x), t.apply(x.astype(like))
        assert z.dtype == t.invert(z).dtype == dtype and not z.weak_type
        if jnp.finfo(dtype).bits < 32 and not isinstance(t, Chain):
            np.testing.assert_array_equal(z, wide.astype(dtype))


def test_float64_data_are_kept_in_float32_without_x64():
    t = Standardize.fit(FEATURES)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(t))
    assert t.apply(FEATURES).dtype == jnp.float32


def test_an_array_that_its_owner_overwrites_is_copied():
    t, buffer = Center.fit(np.zeros((4, 1000))), np.empty((400, 1000), np.float32)
    made = []
    for i in range(10):
        buffer[:] = i
        made.append(t.apply(buffer))
    assert [float(z.min()) for z in made] == [float(z.max()) for z in made] == list(range(10))


def test_blocks_change_nothing(x64, monkeypatch):
    whole = Whiten.fit(MIXED), Whiten.fit(MIXED[:4])
    monkeypatch.setattr("jnn.data.statistics.BLOCK", 15)
    parts = Whiten.fit(MIXED), Whiten.fit(MIXED[:4])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_chain_is_its_transforms_in_a_row():
    t = Chain.fit(FEATURES, Standardize.fit, partial(PCA.fit, k=2))
    first, second = t.transforms
    np.testing.assert_array_equal(t.apply(FEATURES), second.apply(first.apply(FEATURES)))
    z = t.apply(FEATURES)
    np.testing.assert_array_equal(t.invert(z), first.invert(second.invert(z)))


REFUSED = {
    "empty": (np.ones((0, 3)), "x is float64 (0, 3), which is empty"),
    "without features": (np.ones((3, 0)), "x is float64 (3, 0), which is empty"),
    "no axes": (np.float32(1), "x is float32 (); it must be an array of numbers, (n, ...)"),
    "text": (np.array(["a"]), "x is <U1 (1,); it must be an array of numbers"),
    "complex": (np.ones((2, 2), complex), "x is complex128 (2, 2); it must be an array of numbers"),
    "masked": (np.ma.masked_less(np.arange(4.0)[:, None], 2), "x is a masked array"),
    "nan": (
        np.array([[1, 2], [np.nan, np.inf]]),
        "x holds 2 numbers that are not finite in float32, the first at index (1, 0)",
    ),
    "too large for float32": (
        np.array([[1.0], [1e300]]),
        "1 numbers that are not finite in float32",
    ),
}


@over_kinds
@pytest.mark.parametrize(("x", "message"), REFUSED.values(), ids=REFUSED)
def test_data_that_cannot_be_fitted_to_are_refused_by_name(kind, x, message):
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\.fit: .*{re.escape(message)}"):
        kind.fit(x)


@over_kinds
def test_fitting_inside_jit_is_refused(kind):
    with pytest.raises(ValueError, match="x is traced; fit looks at values: call it outside jit"):
        jax.jit(kind.fit)(jnp.ones((3, 2)))


@over_kinds
def test_a_wrong_feature_shape_is_refused_by_name(kind):
    t = kind.fit(IMAGES)
    for shape in ((5, 2, 3, 4), (5, 24), (4,), ()):
        with pytest.raises(ValueError, match=rf"{kind.__name__}: x is .* must be \(3, 2, 4\)"):
            t.apply(jnp.ones(shape))
    last = r"\(24,\)" if kind in (PCA, Whiten) else r"\(3, 2, 4\)"
    with pytest.raises(ValueError, match=rf"{kind.__name__}: z is .* must be {last}"):
        t.invert(jnp.ones((5, 7)))
    with pytest.raises(ValueError, match="must hold real numbers"):
        t.apply(jnp.ones((5, 3, 2, 4), jnp.complex64))


@pytest.mark.parametrize("k", [0, 7, -1, 2.0, True, "2"])
def test_a_bad_k_is_refused(k):
    for kind in (PCA, Whiten):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.fit: k is .* from 1 to 6"):
            kind.fit(FEATURES, k)


@pytest.mark.parametrize("eps", [-1e-5, np.nan, np.inf, None])
def test_a_bad_eps_is_refused(eps):
    with pytest.raises(ValueError, match=r"Whiten: eps is .* finite number of at least 0"):
        Whiten.fit(FEATURES, eps=eps)


def test_channels_need_an_axis_and_a_chain_a_transform():
    with pytest.raises(ValueError, match=r"Center\.fit: x is float64 \(3,\); .*channels"):
        Center.fit(np.ones(3), channels=True)
    with pytest.raises(ValueError, match="no transform to fit"):
        Chain.fit(FEATURES)
