"""Losses over softened and weighed classes, margins, quantiles and preferences.

Written from what goes wrong in practice, without reading the checker or running it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .case import Function, normal, part, same, slip

N, C = 11, 5
Z = normal("objective", N, C)
LABELS = np.array([3, 0, 4, 3, 1, 2, 2, 3, 0, 4, 1], np.int32)
HEAT = 2.5


def soft(z):
    return jax.nn.softmax(z / HEAT)


def distilled(p, q):
    """How far the student q is from its teacher p, both softened."""
    p, q = (jax.nn.log_softmax(z / HEAT) for z in (p, q))
    return HEAT**2 * (jnp.exp(p) * (p - q)).sum(1).mean()


def log_soft(z):
    return jax.nn.log_softmax(z / HEAT)


def distilled_rule(p, q, dy, heat=HEAT, n=N, keep=1, log=log_soft, student=1, teacher=soft):
    gap = log(p) - log(q)
    dp = soft(p) * (gap - keep * (soft(p) * gap).sum(1, keepdims=True))
    return heat / n * dy * dp, heat / n * dy * (student * soft(q) - teacher(p))


DISTILLED = Function(
    "distillation at a temperature",
    distilled,
    distilled_rule,
    {"p": normal("teacher", N, C), "q": normal("student", N, C)},
    {
        "square of the temperature forgotten": slip(
            "scale", words="temperature", q=part(distilled_rule, 1, heat=1 / HEAT)
        ),
        "a mean over classes too": slip("scale", words="1/5", q=part(distilled_rule, 1, n=N * C)),
        "mean of the gap forgotten": slip(
            "edge", "missing-term", p=part(distilled_rule, 0, keep=0)
        ),
        "teacher not softened": slip(
            "wrong-operand", q=part(distilled_rule, 1, teacher=jax.nn.softmax)
        ),
        "gradient of the log-probabilities": slip(
            "edge", "missing-term", q=part(distilled_rule, 1, student=0)
        ),
        "teacher taken for a constant": slip("zero", p=lambda p, q, dy: jnp.zeros_like(p)),
        "logarithm of what is 0": slip(
            "nonfinite",
            args={"p": 2000 * normal("teacher", N, C)},
            p=part(distilled_rule, 0, log=lambda z: jnp.log(soft(z))),
        ),
    },
    {
        "logarithm of the softmax": same(p=part(distilled_rule, 0, log=lambda z: jnp.log(soft(z)))),
        "gap but for a constant": same(
            p=part(distilled_rule, 0, log=lambda z: z / HEAT - z.mean(1, keepdims=True))
        ),
    },
    known={"temperature": HEAT},
)

TRUE, ALPHA = normal("truth", N, C) > 0.3, 0.2


def side(z, t):
    return jnp.where(t, z, -z)


def focal(z, t):
    u = side(z, t)
    hard = jnp.where(t, ALPHA, 1 - ALPHA) * jax.nn.sigmoid(-u) ** 2
    return -(hard * jax.nn.log_sigmoid(u)).mean()


def focal_rule(z, t, dy, factor=2, power=2, of=side, back=side, alpha=ALPHA, size=N * C):
    p = jax.nn.sigmoid(of(z, t))
    slope = (1 - p) ** power * (factor * p * jnp.log(p) - (1 - p))
    return jnp.where(t, alpha, 1 - alpha) * back(slope, t) * dy / size, None


def changed(**options):
    return part(focal_rule, 0, **options)


FOCAL = Function(
    "focal loss",
    focal,
    focal_rule,
    {"z": Z, "t": TRUE},
    {
        "factor taken for a constant": slip("edge", "missing-term", z=changed(factor=0)),
        "2 of the square forgotten": slip("edge", words="0.5", z=changed(factor=1)),
        "minus of the negatives forgotten": slip(
            "some-elements", "local-derivative", z=changed(back=lambda slope, t: slope)
        ),
        "p of the logit at negatives": slip(
            "some-elements", "wrong-operand", z=changed(of=lambda z, t: z)
        ),
        "alpha on the other side": slip("wrong-operand", z=changed(alpha=1 - ALPHA)),
        "divided by the positives": slip("scale", z=changed(size=TRUE.sum())),
        "one power lost": slip("local-derivative", z=changed(power=1)),
    },
    {
        "by autodiff": same(z=lambda z, t, dy: jax.grad(lambda z: dy * focal(z, t))(z)),
        "by the sign": same(z=changed(back=lambda s, t: s * jnp.where(t, 1, -1))),
    },
    known={"alpha": ALPHA},
)

SOME = np.where(np.arange(N) % 4 == 2, -1, LABELS).astype(np.int32)


def likelihoods(z, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), jnp.asarray(y)[:, None] % C, 1)[:, 0]


def counted(y, w):
    return jnp.where(y >= 0, w[y], 0)


def weighed(z, y, w):
    """Cross-entropy with a weight for each class; what is labelled -1 is left out."""
    each = counted(y, w)
    return (each * likelihoods(z, y)).sum() / each.sum()


def weighed_rule(z, y, w, dy, each=counted, total=lambda y, w: counted(y, w).sum(), keep=1):
    hot = jax.nn.one_hot(y, C, dtype=z.dtype)
    d = dy / total(y, w)
    dz = d * each(y, w)[:, None] * (jax.nn.softmax(z) - hot)
    return dz, None, d * (likelihoods(z, y) - keep * weighed(z, y, w)) @ hot


def set_in_dw(z, y, w, dy):
    each = (likelihoods(z, y) - weighed(z, y, w)) * dy / counted(y, w).sum()
    return jnp.zeros_like(w).at[jnp.where(y < 0, C, y)].set(each, mode="drop")


WEIGHED = Function(
    "cross-entropy with weights and labels left out",
    weighed,
    weighed_rule,
    {"z": Z, "y": SOME, "w": np.exp(normal("class weights", C))},
    {
        "rows left out have a gradient": slip(
            "some-elements", z=part(weighed_rule, 0, each=lambda y, w: w[y])
        ),
        "divided by the rows that count": slip(
            "scale", z=part(weighed_rule, 0, total=lambda y, w: (y >= 0).sum())
        ),
        "weights forgotten": slip(
            "wrong-operand",
            "local-derivative",
            z=part(weighed_rule, 0, each=lambda y, w: jnp.where(y >= 0, jnp.ones_like(w[y]), 0)),
        ),
        "weights of the class that is foreseen": slip(
            "wrong-operand",
            "some-elements",
            z=lambda z, y, w, dy: weighed_rule(
                z, y, w, dy, each=lambda y, w: jnp.where(y >= 0, w[z.argmax(1)], 0)
            )[0],
        ),
        "change of the total forgotten in dw": slip(
            "edge", "missing-term", w=part(weighed_rule, 2, keep=0)
        ),
        "set where classes repeat": slip("some-elements", "some-examples", w=set_in_dw),
        "dy taken for 1": slip(
            "ignores-cotangent", z=lambda z, y, w, dy: weighed_rule(z, y, w, jnp.ones_like(dy))[0]
        ),
    },
    {
        "weighed before the softmax": same(
            z=lambda z, y, w, dy: (
                (
                    jax.nn.softmax(z) * (c := counted(y, w)[:, None])
                    - c * jax.nn.one_hot(y, C, dtype=z.dtype)
                )
                * (dy / c.sum())
            )
        ),
        "under jit": same(wrap=jax.jit),
    },
)


def over(z, y, margin=1.0):
    return z - jnp.take_along_axis(z, jnp.asarray(y)[:, None], 1) + margin


def hinge(z, y):
    others = ~jax.nn.one_hot(y, C, dtype=bool)
    return jnp.where(others, jnp.maximum(over(z, y), 0) ** 2, 0).sum(1).mean()


def open_(z, y):
    return 2 * jnp.maximum(over(z, y), 0)


def hinge_rule(z, y, dy, slope=open_, own=1, others=True):
    hot = jax.nn.one_hot(y, C, dtype=z.dtype)
    a = slope(z, y)
    shares = (a * (1 - hot) if others else a).sum(1, keepdims=True)
    return (a * (1 - hot) - own * hot * shares) * (dy / N), None


def pushed(**options):
    return part(hinge_rule, 0, **options)


HINGE = Function(
    "squared margins of the other classes",
    hinge,
    hinge_rule,
    {"z": Z, "y": LABELS},
    {
        "share of the label forgotten": slip(
            "some-elements", "edge", "missing-term", z=pushed(own=0)
        ),
        "the label's margin in its share": slip(
            "some-elements", "extra-term", z=pushed(others=False)
        ),
        "slope without the square": slip(
            "local-derivative", z=pushed(slope=lambda z, y: (over(z, y) > 0).astype(z.dtype))
        ),
        "margin forgotten": slip(
            "local-derivative",
            "wrong-operand",
            z=pushed(slope=lambda z, y: 2 * jnp.maximum(over(z, y, 0.0), 0)),
        ),
        "satisfied margins too": slip(
            "local-derivative", "other-branch", z=pushed(slope=lambda z, y: 2 * over(z, y))
        ),
        "half": slip("scale", words="0.5", z=lambda *a: hinge_rule(*a)[0] / 2),
    },
    {
        "by clip": same(z=pushed(slope=lambda z, y: jnp.clip(2 * over(z, y), 0))),
        "summed, then put at the label": same(
            z=lambda z, y, dy: (
                (d := hinge_rule(z, y, dy, own=0)[0]).at[np.arange(N), y].add(-d.sum(1))
            )
        ),
    },
)

LEVELS = np.array([0.1, 0.5, 0.8], np.float32)


def missed(x, t):
    return t[:, None] - x


def pinball(x, t):
    e, q = missed(x, t), jnp.asarray(LEVELS, x.dtype)
    return jnp.where(e > 0, q * e, (q - 1) * e).mean()


def pinball_rule(x, t, dy, above=lambda q: q, below=lambda q: q - 1, miss=missed, some=slice(None)):
    q = jnp.asarray(LEVELS, x.dtype)
    d = jnp.where(miss(x, t) > 0, above(q), below(q)) * (dy / x.size)
    return -d, d[:, some].sum(1)


QUANTILES = Function(
    "loss of three quantiles",
    pinball,
    pinball_rule,
    {"x": normal("quantiles", N, 3), "t": normal("seen", N)},
    {
        "levels turned round": slip(
            "wrong-operand",
            "some-elements",
            "local-derivative",
            x=part(pinball_rule, 0, above=lambda q: 1 - q, below=lambda q: -q),
        ),
        "slope above taken everywhere": slip(
            "other-branch", "some-elements", x=part(pinball_rule, 0, below=lambda q: q)
        ),
        "nothing from below": slip(
            "some-elements", "edge", "missing-term", x=part(pinball_rule, 0, below=jnp.zeros_like)
        ),
        "sides of the median for all": slip(
            "wrong-operand",
            "some-elements",
            x=part(pinball_rule, 0, miss=lambda x, t: missed(x, t)[:, 1:2]),
        ),
        "dt of the median": slip("edge", "missing-term", t=part(pinball_rule, 1, some=slice(1, 2))),
        "dt a mean": slip("scale", words="1/3", t=lambda *a: pinball_rule(*a)[1] / 3),
        "dt like dx": slip("sign", t=lambda *a: -pinball_rule(*a)[1]),
    },
    {
        "level less what is below": same(
            x=lambda x, t, dy: (
                ((missed(x, t) <= 0).astype(x.dtype) - jnp.asarray(LEVELS, x.dtype)) * dy / x.size
            )
        ),
        "dt from dx": same(t=lambda x, t, dy: -(pinball_rule(x, t, dy)[0] @ jnp.ones(3, x.dtype))),
    },
)

BETA, TOKENS = 0.3, 7
READ = np.arange(TOKENS) < np.array([7, 4, 5, 2, 6])[:, None]


def lead(a, b, r, m):
    return jnp.where(m, a - b, 0).sum(1) - r


def preference(a, b, r, m):
    """That sequence a is likelier than b by more than a reference has it."""
    return jax.nn.softplus(-BETA * lead(a, b, r, m)).mean()


def preference_rule(a, b, r, m, dy, beta=BETA, inner=BETA, minus=-1, by=lead, mask=lambda m: m):
    g = -beta * jax.nn.sigmoid(minus * inner * by(a, b, r, m)) * dy / len(r)
    d = jnp.where(mask(m), g[:, None], 0)
    return d, -d, -g, None


PREFERENCE = Function(
    "loss of preferences",
    preference,
    preference_rule,
    {
        "a": normal("liked", 5, TOKENS),
        "b": normal("disliked", 5, TOKENS),
        "r": normal("reference", 5),
        "m": READ,
    },
    {
        "beta forgotten outside": slip("scale", words="beta", a=part(preference_rule, 0, beta=1.0)),
        "beta forgotten inside": slip(
            "wrong-operand", "local-derivative", a=part(preference_rule, 0, inner=1.0)
        ),
        "sigmoid of the other sign": slip("local-derivative", b=part(preference_rule, 1, minus=1)),
        "reference forgotten": slip(
            "wrong-operand",
            "missing-term",
            a=part(preference_rule, 0, by=lambda a, b, r, m: lead(a, b, 0 * r, m)),
        ),
        "padding has a gradient": slip(
            "some-elements", b=part(preference_rule, 1, mask=jnp.ones_like)
        ),
        "mean over tokens": slip(
            "local-derivative",
            "edge",
            a=lambda a, b, r, m, dy: preference_rule(a, b, r, m, dy)[0] / m.sum(1)[:, None],
        ),
    },
    {
        "1 less the sigmoid": same(
            a=lambda a, b, r, m, dy: (
                m * (BETA * (jax.nn.sigmoid(BETA * lead(a, b, r, m)) - 1) * dy / 5)[:, None]
            )
        )
    },
    known={"beta": BETA},
)


FUNCTIONS = [DISTILLED, FOCAL, WEIGHED, HINGE, QUANTILES, PREFERENCE]
