"""What moves or chooses values: rows, windows, orders, segments, running sums."""

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, same, slip

V, N, D = 13, 11, 3
IDS = np.array([5, 0, 12, 5, 2, 5, 9, 0, 11, 3, 12], np.int32)
SHARE = (1 / np.bincount(IDS, minlength=V)[IDS]).astype(np.float32)[:, None]
FIRST = np.array([i not in IDS[:n] for n, i in enumerate(IDS)])


def embedding(table, ids):
    return table[ids]


def added(table, ids, dy):
    return jnp.zeros_like(table).at[ids].add(dy)


EMBEDDING = Function(
    "embedding",
    embedding,
    lambda table, ids, dy: (added(table, ids, dy), None),
    {"table": normal("table", V, D), "ids": IDS},
    {
        "set for add": slip(
            "some-elements",
            "some-examples",
            table=lambda t, i, dy: jnp.zeros_like(t).at[i].set(dy),
        ),
        "mean of repeats": slip(
            "some-elements",
            words="more than once",
            table=lambda t, i, dy: added(t, i, dy * SHARE.astype(dy.dtype)),
        ),
        "repeats left out": slip(
            "some-elements",
            "some-examples",
            table=lambda t, i, dy: added(t, i, jnp.where(FIRST[:, None], dy, 0)),
        ),
        "row 0 taken for padding": slip(
            "some-elements", "some-examples", table=lambda t, i, dy: added(t, i, dy).at[0].set(0)
        ),
        "last row lost": slip(
            "some-elements", "some-examples", table=lambda t, i, dy: added(t, i, dy).at[-1].set(0)
        ),
        "ids from 1": slip(
            "permutation", "wrong-operand", table=lambda t, i, dy: added(t, (i + 1) % V, dy)
        ),
    },
    {
        "by one-hot": same(
            table=lambda t, i, dy: jax.nn.one_hot(i, V, dtype=dy.dtype, axis=0) @ dy
        ),
        "by segments": same(table=lambda t, i, dy: jax.ops.segment_sum(dy, i, V)),
        "one by one": same(
            table=lambda t, i, dy: jax.lax.fori_loop(
                0, N, lambda n, s: s.at[jnp.asarray(i)[n]].add(dy[n]), jnp.zeros_like(t)
            )
        ),
    },
)

PLACES = np.array([7, 9, 4], np.int32)


SCATTER = Function(
    "rows overwritten",
    lambda x, u: jnp.asarray(x).at[PLACES].set(u),
    lambda x, u, dy: (dy.at[PLACES].set(0), dy[PLACES]),
    {"x": normal("rows", N, D), "u": normal("new rows", 3, D)},
    {
        "dx of overwritten rows": slip("some-elements", x=lambda x, u, dy: dy),
        "du of the first rows": slip("wrong-operand", "permutation", u=lambda x, u, dy: dy[:3]),
        "du in ascending order": slip("permutation", u=lambda x, u, dy: dy[np.sort(PLACES)]),
        "du forgotten": slip("zero", u=lambda x, u, dy: jnp.zeros_like(u)),
    },
    {
        "by a mask": same(
            x=lambda x, u, dy: jnp.where(np.isin(np.arange(N), PLACES)[:, None], 0, dy)
        )
    },
)


def conv(x, w):
    return jax.lax.conv(x, w, (1, 1), "VALID")


def conv_rule(x, w, dy):
    return jax.vjp(conv, x, w)[1](dy)


def flipped(w):
    return w[:, :, ::-1, ::-1]


CONV = Function(
    "convolution",
    conv,
    conv_rule,
    {"x": normal("image", 3, 2, 7, 5), "w": normal("kernel", 5, 2, 3, 3)},
    {
        "kernel not flipped in dx": slip(
            "wrong-operand", x=lambda x, w, dy: conv_rule(x, flipped(w), dy)[0]
        ),
        "dw flipped": slip("permutation", w=lambda *a: flipped(conv_rule(*a)[1])),
        "dw with rows for columns": slip(
            "transpose", w=lambda *a: conv_rule(*a)[1].transpose(0, 1, 3, 2)
        ),
        "dw of the first image": slip(
            "some-examples", w=lambda x, w, dy: conv_rule(x[:1], w, dy[:1])[1]
        ),
        "dw divided by the images": slip("scale", words="1/3", w=lambda *a: conv_rule(*a)[1] / 3),
        "dx off by one pixel": slip("permutation", x=lambda *a: jnp.roll(conv_rule(*a)[0], 1, 3)),
        "dx without its border": slip(
            "some-elements",
            x=lambda *a: jnp.pad(conv_rule(*a)[0][..., 1:-1], [(0, 0)] * 3 + [(1, 1)]),
        ),
    },
    {
        "dx by a full convolution": same(
            x=lambda x, w, dy: jax.lax.conv_general_dilated(
                dy, flipped(w).transpose(1, 0, 2, 3), (1, 1), [(2, 2), (2, 2)]
            )
        ),
        "dw image by image": same(
            w=lambda x, w, dy: sum(conv_rule(x[i : i + 1], w, dy[i : i + 1])[1] for i in range(3))
        ),
    },
)


def windows(x):
    """Three values from every second on, along the last axis: x of 9 in 4 windows."""
    return jnp.stack([x[..., i : i + 7 : 2] for i in range(3)], -1)


def max_pool(x):
    return windows(x).max(-1)


def chosen(x, dy, choose=jnp.argmax):
    return jax.nn.one_hot(choose(windows(x), axis=-1), 3, dtype=dy.dtype) * dy[..., None]


def put_back(x, d, set=False):
    """The transpose of `windows`; where they overlap the sum, or the last."""
    dx = jnp.zeros_like(x)
    for i in range(3):
        at = dx.at[..., i : i + 7 : 2]
        dx = at.set(d[..., i]) if set else at.add(d[..., i])
    return dx


MAX_POOL = Function(
    "greatest of overlapping windows",
    max_pool,
    lambda x, dy: (put_back(x, chosen(x, dy)),),
    {"x": normal("signal", 5, 9)},
    {
        "set where windows overlap": slip(
            "some-elements", x=lambda x, dy: put_back(x, chosen(x, dy), set=True)
        ),
        "the least": slip(
            "wrong-operand",
            "local-derivative",
            x=lambda x, dy: put_back(x, chosen(x, dy, jnp.argmin)),
        ),
        "a mean": slip(
            "wrong-operand",
            "local-derivative",
            x=lambda x, dy: put_back(x, jnp.stack([dy / 3] * 3, -1)),
        ),
        "all that tie": slip(
            "some-elements",
            "local-derivative",
            args={"x": np.rint(normal("signal", 5, 9))},
            x=lambda x, dy: put_back(
                x,
                jnp.where(windows(x) == max_pool(x)[..., None], dy[..., None], 0),
            ),
        ),
        "last window lost": slip(
            "some-elements",
            x=lambda x, dy: put_back(x, chosen(x, dy.at[..., -1].set(0))),
        ),
    },
    {
        "the last that ties": same(
            x=lambda x, dy: put_back(
                x, chosen(x, dy, lambda w, axis: 2 - jnp.argmax(w[..., ::-1], axis))
            )
        )
    },
)

COUNTS = np.array([2, 3, 3, 3, 3, 3, 2], np.float32)


def neighbours(x):
    return jnp.pad(x, [(0, 0), (1, 1)])


def mean_pool(x):
    p = neighbours(x)
    return (p[:, :-2] + p[:, 1:-1] + p[:, 2:]) / COUNTS.astype(x.dtype)


def mean_pool_rule(x, dy, counts=COUNTS):
    p = neighbours(dy / counts.astype(dy.dtype))
    return (p[:, :-2] + p[:, 1:-1] + p[:, 2:],)


MEAN_POOL = Function(
    "mean of neighbours, fewer at the border",
    mean_pool,
    mean_pool_rule,
    {"x": normal("neighbours", 5, 7)},
    {
        "by 3 at the border": slip(
            "some-elements",
            "wrong-operand",
            "local-derivative",
            x=lambda x, dy: mean_pool_rule(x, dy, np.full(7, 3))[0],
        ),
        "not divided": slip(
            "local-derivative", "edge", x=lambda x, dy: mean_pool_rule(x, dy, np.ones(7))[0]
        ),
        "divided after the sum": slip(
            "some-elements", "wrong-operand", x=lambda x, dy: mean_pool(dy)
        ),
        "left neighbour lost": slip(
            "edge",
            "missing-term",
            x=lambda x, dy: (p := neighbours(dy / COUNTS.astype(dy.dtype)))[:, 2:] + p[:, 1:-1],
        ),
    },
    {
        "by a matrix": same(
            x=lambda x, dy: (
                (dy / COUNTS.astype(dy.dtype))
                @ jnp.asarray(np.tri(7, k=1) * np.tri(7, k=1).T, dy.dtype)
            )
        )
    },
)


def order(x):
    return jnp.argsort(x, axis=1)


def along(x, i):
    return jnp.take_along_axis(x, i, 1)


SORT = Function(
    "sort",
    lambda x: jnp.sort(x, axis=1),
    lambda x, dy: (along(dy, order(order(x))),),
    {"x": normal("unsorted", 5, 7)},
    {
        "left sorted": slip("permutation", x=lambda x, dy: dy),
        "ordered, not put back": slip("permutation", x=lambda x, dy: along(dy, order(x))),
        "in descending order": slip(
            "permutation", x=lambda x, dy: along(dy[:, ::-1], order(order(x)))
        ),
    },
    {
        "by scatter": same(
            x=lambda x, dy: jnp.zeros_like(x).at[jnp.arange(5)[:, None], order(x)].set(dy)
        ),
    },
)


def top(x, dy, k=3):
    return jnp.zeros_like(x).at[jnp.arange(5)[:, None], jax.lax.top_k(x, k)[1]].set(dy[:, :k])


TOP = Function(
    "three greatest",
    lambda x: jax.lax.top_k(x, 3)[0],
    lambda x, dy: (top(x, dy),),
    {"x": normal("top", 5, 7)},
    {
        "to the first three": slip(
            "permutation", "wrong-operand", x=lambda x, dy: jnp.pad(dy, [(0, 0), (0, 4)])
        ),
        "only the greatest": slip("some-elements", x=lambda x, dy: top(x, dy, 1)),
        "divided by k": slip("scale", words="1/3", x=lambda x, dy: top(x, dy) / 3),
        "in ascending order": slip("permutation", x=lambda x, dy: top(x, dy[:, ::-1])),
    },
    {
        "by one-hot": same(
            x=lambda x, dy: jnp.einsum(
                "nk,nki->ni", dy, jax.nn.one_hot(jax.lax.top_k(x, 3)[1], 7, dtype=dy.dtype)
            )
        )
    },
)

SEGMENTS = np.array([0, 2, 1, 0, 3, 0, 2, 3, 1, 0, 3], np.int32)
SIZES = np.bincount(SEGMENTS).astype(np.float32)[:, None]


def segment_mean(x, s):
    return jax.ops.segment_sum(x, s, 4) / SIZES.astype(x.dtype)


def segment_rule(x, s, dy, sizes=SIZES):
    return (dy / jnp.asarray(sizes, dy.dtype))[s], None


SEGMENT_MEAN = Function(
    "mean of segments",
    segment_mean,
    segment_rule,
    {"x": normal("members", N, D), "s": SEGMENTS},
    {
        "not divided": slip(
            "local-derivative",
            "edge",
            x=lambda x, s, dy: segment_rule(x, s, dy, np.ones((4, 1)))[0],
        ),
        "divided by all": slip(
            "wrong-operand",
            "local-derivative",
            "edge",
            x=lambda x, s, dy: segment_rule(x, s, dy, np.full((4, 1), N))[0],
        ),
        "sizes of other segments": slip(
            "wrong-operand", x=lambda x, s, dy: segment_rule(x, s, dy, SIZES[::-1])[0]
        ),
        "only first members": slip(
            "some-elements",
            x=lambda x, s, dy: segment_rule(x, s, dy)[0].at[5:].set(0),
        ),
    },
    {
        "by a product": same(
            x=lambda x, s, dy: jax.nn.one_hot(s, 4, dtype=dy.dtype) @ (dy / SIZES.astype(dy.dtype))
        )
    },
)

CUMSUM = Function(
    "running sum",
    lambda x: jnp.cumsum(x, 0),
    lambda x, dy: (jnp.cumsum(dy[::-1], 0)[::-1],),
    {"x": normal("steps", N, D)},
    {
        "forwards again": slip("wrong-operand", "transpose", x=lambda x, dy: jnp.cumsum(dy, 0)),
        "without its own": slip(
            "missing-term", "edge", x=lambda x, dy: jnp.cumsum(dy[::-1], 0)[::-1] - dy
        ),
        "not turned back": slip("permutation", x=lambda x, dy: jnp.cumsum(dy[::-1], 0)),
        "end lost": slip(
            "some-examples",
            x=lambda x, dy: jnp.cumsum(dy.at[-1].set(0)[::-1], 0)[::-1],
        ),
    },
    {
        "all but those before": same(x=lambda x, dy: dy.sum(0) - jnp.cumsum(dy, 0) + dy),
        "by a matrix": same(x=lambda x, dy: jnp.tri(N, dtype=dy.dtype).T @ dy),
    },
)

FUNCTIONS = [
    EMBEDDING,
    SCATTER,
    CONV,
    MAX_POOL,
    MEAN_POOL,
    SORT,
    TOP,
    SEGMENT_MEAN,
    CUMSUM,
]
