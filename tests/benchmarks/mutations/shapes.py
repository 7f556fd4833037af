"""What resizes, shifts, reflects, looks up, groups or draws values.

Written from what goes wrong in practice, without reading the checker or running it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

N = 11


def upsampled(x):
    """Twice as many values, each a quarter of the way from one to its neighbour."""
    p = jnp.pad(x, [(0, 0), (1, 1)], "edge")
    left, right = p[:, :-2] + 3 * x, 3 * x + p[:, 2:]
    return jnp.stack([left, right], 2).reshape(len(x), -1) / 4


def upsampled_rule(x, dy, own=3, near=1, border=1, after=1, turn=1):
    a, b = jnp.moveaxis(dy.reshape(*x.shape, 2)[..., ::turn] / 4, 2, 0)
    to_left, to_right = near * a, after * near * b
    dx = (own * (a + b)).at[:, :-1].add(to_left[:, 1:]).at[:, 1:].add(to_right[:, :-1])
    return (dx.at[:, 0].add(border * to_left[:, 0]).at[:, -1].add(border * to_right[:, -1]),)


UPSAMPLED = Function(
    "linear interpolation to twice the length",
    upsampled,
    upsampled_rule,
    {"x": normal("coarse", 3, 7)},
    {
        "clamped ends forgotten": slip(
            "some-elements", "missing-term", "edge", x=part(upsampled_rule, 0, border=0)
        ),
        "nearest": slip("local-derivative", x=part(upsampled_rule, 0, own=4, near=0)),
        "weights exchanged": slip(
            "edge", "local-derivative", x=part(upsampled_rule, 0, own=1, near=3)
        ),
        "a mean": slip("scale", words="0.5", x=lambda x, dy: upsampled_rule(x, dy)[0] / 2),
        "neighbours on the right forgotten": slip(
            "missing-term", "edge", x=part(upsampled_rule, 0, after=0)
        ),
        "even for odd": slip("wrong-operand", x=part(upsampled_rule, 0, turn=-1)),
    },
    {
        "by a matrix": same(x=lambda x, dy: dy @ upsampled(jnp.eye(7, dtype=dy.dtype)).T),
    },
)

LENGTHS = np.array([7, 2, 5], np.int32)


def inside(n):
    return (jnp.arange(7) < jnp.asarray(n)[:, None])[..., None]


def lengthwise(x, n):
    """Means over time of what is not padding."""
    return jnp.where(inside(n), x, 0).sum(1) / jnp.asarray(n, x.dtype)[:, None]


def lengthwise_rule(x, n, dy, by=lambda n: n, to=inside):
    d = (dy / jnp.asarray(by(n), dy.dtype)[:, None])[:, None]
    return jnp.where(to(n), d, jnp.zeros_like(x)), None


LENGTHWISE = Function(
    "means of sequences of many lengths",
    lengthwise,
    lengthwise_rule,
    {"x": normal("padded", 3, 7, 2), "n": LENGTHS},
    {
        "padding has a gradient": slip(
            "other-branch", "some-elements", x=part(lengthwise_rule, 0, to=lambda n: True)
        ),
        "divided by the longest": slip(
            "wrong-operand",
            "local-derivative",
            x=part(lengthwise_rule, 0, by=lambda n: jnp.full(3, 7)),
        ),
        "last of each lost": slip(
            "some-elements", x=part(lengthwise_rule, 0, to=lambda n: inside(jnp.asarray(n) - 1))
        ),
        "divided by the lengths before": slip(
            "wrong-operand", x=part(lengthwise_rule, 0, by=lambda n: jnp.roll(jnp.asarray(n), 1))
        ),
        "by way of bfloat16": slip(
            "precision",
            x=lambda x, n, dy: lengthwise_rule(x, n, dy)[0].astype(jnp.bfloat16).astype(dy.dtype),
        ),
        "dy of norm 1": slip(
            "nonlinear", x=lambda x, n, dy: lengthwise_rule(x, n, dy / jnp.linalg.norm(dy))[0]
        ),
    },
    {
        "masked, then divided": same(
            x=lambda x, n, dy: inside(n) * dy[:, None] / jnp.asarray(n, dy.dtype)[:, None, None]
        )
    },
)

AT = np.array([[2, 0, 2, 6, 1], [5, 5, 5, 3, 0], [4, 1, 6, 0, 4]], np.int32)
EACH = np.arange(3, dtype=np.int32)[:, None]


def gathered(x, i, s):
    """Places of each example, some of them more than once, with a weight for each slot."""
    return jnp.asarray(x)[EACH, i] * s[:, None]


def gathered_rule(x, i, s, dy, at=lambda i: i, weigh=lambda s: s, put="add", of=None):
    d = dy * weigh(s)[:, None]
    dx = getattr(jnp.zeros_like(x).at[EACH, at(i)], put)(d)
    return dx, None, (dy * (jnp.asarray(x)[EACH, i] if of is None else of(x))).sum((0, 2))


GATHERED = Function(
    "weighed places of each example",
    gathered,
    gathered_rule,
    {"x": normal("places", 3, 7, 2), "i": AT, "s": 1 + 0.3 * normal("slots", 5)},
    {
        "set for add": slip("some-elements", x=part(gathered_rule, 0, put="set")),
        "places of the first example": slip(
            "wrong-operand",
            "some-elements",
            x=part(gathered_rule, 0, at=lambda i: jnp.broadcast_to(i[:1], AT.shape)),
        ),
        "places from 1": slip("permutation", x=part(gathered_rule, 0, at=lambda i: (i + 1) % 7)),
        "weights forgotten": slip(
            "wrong-operand", "local-derivative", x=part(gathered_rule, 0, weigh=jnp.ones_like)
        ),
        "x not gathered in ds": slip(
            "wrong-operand", s=part(gathered_rule, 2, of=lambda x: x[:, :5])
        ),
        "ds a mean over examples": slip(
            "scale", words="1/3", s=lambda *a: gathered_rule(*a)[2] / 3
        ),
    },
    {
        "by one-hot": same(
            x=lambda x, i, s, dy: jnp.einsum(
                "nkd,k,nkt->ntd", dy, s, jax.nn.one_hot(i, 7, dtype=dy.dtype)
            )
        ),
        "ds by the output": same(
            s=lambda x, i, s, dy: jnp.where(
                s == 0,
                gathered_rule(x, i, s, dy)[2],
                (dy * gathered(x, i, s)).sum((0, 2)) / jnp.where(s == 0, 1, s),
            )
        ),
    },
)


def before(x):
    return jnp.pad(x, [(1, 0), (0, 0)])[:-1]


def after(x):
    return jnp.pad(x, [(0, 1), (0, 0)])[1:]


def mixed(x, m):
    """Each step mixed with the one before."""
    return m * x + (1 - m) * before(x)


def mixed_rule(x, m, dy, back=after, weigh=lambda m: m, past=1):
    dx = weigh(m) * dy + (1 - weigh(m)) * back(dy)
    return dx, (dy * (x - past * before(x))).sum(0)


MIXED = Function(
    "steps mixed with the ones before",
    mixed,
    mixed_rule,
    {"x": normal("steps", N, 3), "m": np.abs(np.sin(normal("mix", 3)))},
    {
        "shifted onwards again": slip("wrong-operand", x=part(mixed_rule, 0, back=before)),
        "round to the first": slip(
            "some-elements",
            "wrong-operand",
            x=part(mixed_rule, 0, back=lambda dy: jnp.roll(dy, -1, 0)),
        ),
        "weights exchanged": slip(
            "wrong-operand", "local-derivative", x=part(mixed_rule, 0, weigh=lambda m: 1 - m)
        ),
        "the one before forgotten": slip(
            "edge", "missing-term", x=part(mixed_rule, 0, back=jnp.zeros_like)
        ),
        "the one before forgotten in dm": slip(
            "edge", "missing-term", m=part(mixed_rule, 1, past=0)
        ),
        "dm not summed": slip("structure", m=lambda x, m, dy: dy * (x - before(x))),
    },
    {
        "multiplied, then shifted": same(x=lambda x, m, dy: m * dy + after((1 - m) * dy)),
        "dm by parts": same(m=lambda x, m, dy: (dy * x).sum(0) - (after(dy) * x).sum(0)),
    },
)


def reflected(x):
    return jnp.pad(x, [(0, 0), (2, 2)], "reflect")


def reflected_rule(x, dy, to=(1, 2, -2, -3), put="add", some=2):
    dx = dy[:, 2:-2]
    for i, j in zip(to, (1, 0, -2, -1), strict=True):
        if i >= 0 or some > 1:
            dx = getattr(dx.at[:, i], put)(dy[:, j])
    return (dx,)


REFLECTED = Function(
    "reflected ends",
    reflected,
    reflected_rule,
    {"x": normal("between mirrors", 5, 7)},
    {
        "reflections forgotten": slip(
            "some-elements", "edge", "missing-term", x=lambda x, dy: dy[:, 2:-2]
        ),
        "set for add": slip("some-elements", x=part(reflected_rule, 0, put="set")),
        "ends repeated": slip(
            "some-elements", "local-derivative", x=part(reflected_rule, 0, to=(0, 0, -1, -1))
        ),
        "ends in the mirror": slip(
            "some-elements", "local-derivative", x=part(reflected_rule, 0, to=(0, 1, -1, -2))
        ),
        "only on the left": slip(
            "some-elements", "edge", "missing-term", x=part(reflected_rule, 0, some=1)
        ),
    },
    {
        "by autodiff": same(x=lambda x, dy: jax.vjp(reflected, x)[1](dy)[0]),
        "by a matrix": same(x=lambda x, dy: dy @ reflected(jnp.eye(7, dtype=dy.dtype)).T),
    },
)

EDGES = normal("edge scores", N)
TARGETS = np.array([0, 2, 1, 0, 3, 0, 2, 3, 1, 0, 3], np.int32)


def summed(v, n):
    return jax.ops.segment_sum(v, n, 4)


def shares(s, n):
    e = jnp.exp(s - jax.ops.segment_max(s, n, 4)[n])
    return e / summed(e, n)[n]


def unshifted(s, n):
    return jnp.exp(s) / summed(jnp.exp(s), n)[n]


def attended(s, v, n):
    """What the edges of a graph bring to each node, by a softmax over its own edges."""
    return summed(shares(s, n)[:, None] * v, n)


def attended_rule(s, v, n, dy, share=shares, mean=lambda d, n: summed(d, n)[n], at=lambda n: n):
    p, d = share(s, n), dy[at(n)]
    dp = (d * v).sum(1)
    return p * (dp - mean(p * dp, n)), p[:, None] * d, None


ATTENDED = Function(
    "attention along the edges of a graph",
    attended,
    attended_rule,
    {"s": EDGES, "v": normal("messages", N, 2), "n": TARGETS},
    {
        "sums of the nodes forgotten": slip(
            "edge", "missing-term", s=part(attended_rule, 0, mean=lambda d, n: 0)
        ),
        "sum of all edges": slip(
            "wrong-operand", s=part(attended_rule, 0, mean=lambda d, n: d.sum())
        ),
        "softmax over all edges in dv": slip(
            "wrong-operand",
            "local-derivative",
            v=part(attended_rule, 1, share=lambda s, n: jax.nn.softmax(s)),
        ),
        "shares alike in dv": slip(
            "wrong-operand",
            "local-derivative",
            v=part(attended_rule, 1, share=lambda s, n: shares(0 * s, n)),
        ),
        "nodes from 1": slip(
            "wrong-operand", v=part(attended_rule, 1, at=lambda n: (jnp.asarray(n) + 1) % 4)
        ),
        "ds a mean over features": slip(
            "scale", words="0.5", s=lambda *a: attended_rule(*a)[0] / 2
        ),
        "not shifted": slip(
            "nonfinite", args={"s": 900 * EDGES}, s=part(attended_rule, 0, share=unshifted)
        ),
    },
    {
        "sums of the output": same(
            s=lambda s, v, n, dy: shares(s, n) * (dy[n] * (v - attended(s, v, n)[n])).sum(1)
        ),
        "not shifted where it need not be": same(s=part(attended_rule, 0, share=unshifted)),
    },
)

HOLD = 0.25


def codes(x, e):
    return jnp.square(jnp.asarray(x)[:, None] - e).sum(2).argmin(1)


def quantised(x, e):
    """The nearest codes straight through, and what draws codes and values to each other."""
    q, stop = jnp.asarray(e)[codes(x, e)], jax.lax.stop_gradient
    return x + stop(q - x), jnp.square(stop(x) - q).mean() + HOLD * jnp.square(x - stop(q)).mean()


def quantised_rule(x, e, dys, through=1, hold=HOLD, leak=0, put="add", near=codes):
    (dy, dl), i = dys, near(x, e)
    off = 2 * dl * (x - jnp.asarray(e)[i]) / x.size
    return through * dy + hold * off, getattr(jnp.zeros_like(e).at[i], put)(leak * dy - off)


QUANTISED = Function(
    "nearest codes straight through",
    quantised,
    quantised_rule,
    {"x": normal("values", N, 3), "e": normal("codes", 5, 3)},
    {
        "not straight through": slip("edge", "missing-term", x=part(quantised_rule, 0, through=0)),
        "codes hear the output": slip("edge", "extra-term", e=part(quantised_rule, 1, leak=1)),
        "hold forgotten": slip("edge", words="hold", x=part(quantised_rule, 0, hold=1)),
        "both losses draw x": slip("edge", "extra-term", x=part(quantised_rule, 0, hold=1 + HOLD)),
        "set where codes repeat": slip("some-elements", e=part(quantised_rule, 1, put="set")),
        "codes pushed away": slip("sign", e=lambda *a: -quantised_rule(*a)[1]),
        "code of the greatest product": slip(
            "wrong-operand",
            "some-elements",
            x=part(quantised_rule, 0, near=lambda x, e: (x @ e.T).argmax(1)),
        ),
    },
    {
        "codes by one-hot": same(
            e=lambda x, e, dys: (
                (h := jax.nn.one_hot(codes(x, e), 5, dtype=e.dtype)).T
                @ (h @ e - x)
                * (2 * dys[1] / x.size)
            )
        ),
    },
    known={"hold": HOLD},
)


def latent(m, s, e):
    """A sample with logarithmic variance s, and how far from a standard normal it was drawn."""
    return m + jnp.exp(s / 2) * e, (m**2 + jnp.exp(s) - s - 1).sum(1) / 2


def latent_rule(m, s, e, dys, half=0.5, drawn=2, keep=1, one=1, each=lambda dk: dk[:, None]):
    dy, dk = dys
    dk = each(dk)
    ds = half * jnp.exp(s / drawn) * e * dy + dk * (jnp.exp(s) - one) / 2
    return dy + keep * dk * m, ds, jnp.exp(s / drawn) * dy


LATENT = Function(
    "latent sample and its divergence",
    latent,
    latent_rule,
    {"m": normal("mean", N, 3), "s": normal("log variance", N, 3), "e": normal("noise", N, 3)},
    {
        "half forgotten in the sample": slip("edge", words="2", s=part(latent_rule, 1, half=1)),
        "variance for its root": slip(
            "wrong-operand", "local-derivative", e=part(latent_rule, 2, drawn=1)
        ),
        "divergence forgotten in dm": slip("edge", "missing-term", m=part(latent_rule, 0, keep=0)),
        "1 forgotten in ds": slip("edge", "missing-term", s=part(latent_rule, 1, one=0)),
        "divergence of all in each": slip(
            "structure", "wrong-operand", m=part(latent_rule, 0, each=jnp.sum)
        ),
        "dm and de exchanged": slip("swapped", m=part(latent_rule, 2), e=part(latent_rule, 0)),
        "divergence taken for a loss": slip(
            "constant-term", s=part(latent_rule, 1, each=lambda dk: jnp.ones_like(dk)[:, None])
        ),
    },
    {
        "by the sample": same(
            s=lambda m, s, e, dys: (
                (dys[0] * (latent(m, s, e)[0] - m) + dys[1][:, None] * jnp.expm1(s)) / 2
            )
        ),
    },
)

FUNCTIONS = [UPSAMPLED, LENGTHWISE, GATHERED, MIXED, REFLECTED, ATTENDED, QUANTISED, LATENT]
