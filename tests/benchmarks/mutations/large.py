"""What ten thousand elements and a mean hide from a look at their sum."""

import jax
import jax.numpy as jnp

from .case import Function, normal, part, same, slip

X = normal("large", 100, 100)


def leaky(x, slope=0.1):
    return jnp.where(x > 0, x, slope * x)


def mean(x):
    return jnp.square(leaky(x)).mean()


def mean_rule(x, dy, slope=0.1, times=1.0):
    return (times * 2 / x.size * dy * leaky(x) * jnp.where(x > 0, 1, slope),)


LARGE = Function(
    "mean square of 10000 leaky ReLUs",
    mean,
    mean_rule,
    {"x": X},
    {
        "0": slip("zero", x=part(mean_rule, 0, times=0.0)),
        "negated": slip("sign", x=part(mean_rule, 0, times=-1.0)),
        "1e-9 too large": slip("scale", x=part(mean_rule, 0, times=1 + 1e-9)),
        "slope of 0 below 0": slip(
            "some-elements", "edge", "missing-term", x=part(mean_rule, 0, slope=0)
        ),
        "slope of 0.11 below 0": slip(
            "some-elements", "local-derivative", "edge", x=part(mean_rule, 0, slope=0.11)
        ),
        "one element doubled": slip(
            "some-elements", words="2 times", x=lambda *a: mean_rule(*a)[0].at[41, 7].mul(2)
        ),
        "last row lost": slip(
            "some-elements", words="99", x=lambda *a: mean_rule(*a)[0].at[-1].set(0)
        ),
        "two rows exchanged": slip(
            "permutation",
            "some-elements",
            x=lambda *a: (g := mean_rule(*a)[0]).at[:2].set(g[1::-1]),
        ),
    },
    {
        "by autodiff of the square": same(
            x=lambda x, dy: dy * jax.grad(lambda x: (leaky(x) ** 2).sum())(x) / x.size
        )
    },
)

FUNCTIONS = [LARGE]
