import jax
import jax.numpy as jnp
import pytest

from jnn.masks import mask, weights

PARAMS = {
    "dense1": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)},
    "stack": {"norm1": {"scale": jnp.ones((4, 3))}, "dense1": {"b": jnp.ones((4, 3))}},
}


def chosen(where):
    marked = jax.tree.leaves_with_path(mask(PARAMS, where))
    return {jax.tree_util.keystr(p, simple=True, separator=".") for p, m in marked if m}


def test_weights_are_neither_biases_nor_scales_even_when_stacked():
    assert chosen(weights) == {"dense1.w"}


def test_patterns_and_functions_choose_by_dotted_path():
    assert chosen("stack.*") == {"stack.norm1.scale", "stack.dense1.b"}
    assert chosen(("*.w", "*.scale")) == {"dense1.w", "stack.norm1.scale"}
    assert chosen(lambda path, leaf: leaf.ndim == 1) == {"dense1.b"}


def test_it_is_fixed_under_jit():
    jax.eval_shape(lambda p: [jnp.ones(int(m)) for m in jax.tree.leaves(mask(p, weights))], PARAMS)


@pytest.mark.parametrize("where", ["dense9.*", ("*.w", "*.v")])
def test_a_pattern_that_fits_nothing_is_refused(where):
    with pytest.raises(ValueError, match=r"fits none of the parameters \['dense1.b'"):
        mask(PARAMS, where)


@pytest.mark.parametrize("where", [None, 3, ["*.w"]])
def test_what_is_no_choice_is_refused(where):
    with pytest.raises(ValueError, match=r"where is .* it must be a pattern"):
        mask(PARAMS, where)
