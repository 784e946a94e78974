"""Networks of two times: what they see, how they start, and what they leave as it was."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import transportx as tx
from tests.tables import in_float64

S, T = jnp.array(0.2), jnp.array(0.7)
SHAPE = (2, 4, 1)
SIZES: dict[str, Any] = {"patch": 2, "width": 8, "depth": 1, "heads": 2, "num_labels": 3}


def moved(network):
    """The network with its parameters moved: a new one is zero, which would hide everything."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)
    return eqx.combine(unravel(flat + 0.1 * jr.normal(jr.key(7), flat.shape, flat.dtype)), static)


@pytest.fixture(scope="module")
def dit():
    return eqx.filter_jit(lambda: tx.fields.DiTFlowMap(SHAPE, **SIZES, key=jr.key(0)))()


@pytest.fixture(scope="module")
def image():
    return jr.normal(jr.key(1), SHAPE)


def test_mlp_follows_both_times_and_its_condition():
    u = in_float64(tx.fields.MLPFlowMap(2, 8, 2, condition_dim=3, num_frequencies=2, key=jr.key(0)))
    x, condition = jnp.ones(2), jnp.arange(3.0)
    rates = jax.jit(jax.jacfwd(lambda s, t, c: u(s, t, x, c), (0, 1, 2)))(S, T, condition)
    assert all(jnp.all(rate != 0) for rate in rates)
    assert u.condition_dim == 3
    plain = in_float64(tx.fields.MLPFlowMap(2, 8, 1, key=jr.key(0)))
    assert jnp.array_equal(plain(S, T, x, condition), plain(S, T, x))


def test_a_new_transformer_is_zero_and_does_not_see_the_last_time(dit, image):
    field = moved(dit.network)
    u = in_float64(eqx.tree_at(lambda u: u.network, dit, field))
    label = jnp.array(1)
    velocity = eqx.filter_jit(in_float64(field))(S, image, label)
    assert jnp.max(jnp.abs(velocity)) > 0.1
    for t in (S, T):
        np.testing.assert_allclose(u(S, t, image, label), velocity, rtol=1e-12, atol=1e-12)
    assert not jnp.any(in_float64(dit)(S, T, image, label))


def test_a_trained_transformer_follows_both_times_and_its_label(dit, image):
    call = eqx.filter_jit(in_float64(moved(dit)))
    given = [(S, T, 1), (S + 0.1, T, 1), (S, T + 0.1, 1), (S, T, 2), (S, T, 3)]
    outputs = [call(s, t, image, jnp.array(label)) for s, t, label in given]
    for i, first in enumerate(outputs):
        assert all(jnp.max(jnp.abs(first - other)) > 1e-3 for other in outputs[i + 1 :])


def rebuilt(u, **options):
    """The same parameters in a transformer with other options."""
    make = eqx.Partial(tx.fields.DiTFlowMap, SHAPE, **SIZES, **options, key=jr.key(0))
    shapes, rest = eqx.partition(
        eqx.filter_eval_shape(make), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    leaves = jax.tree.leaves(eqx.filter(u, eqx.is_inexact_array))
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), leaves), rest)


@eqx.filter_jit
def along_the_path(u, x, label):
    """What losses of flow maps need: d_s u + Du v, and its gradient in the parameters."""
    s, t = S.astype(x.dtype), T.astype(x.dtype)

    def rate(u):
        return jax.jvp(lambda s, x: u(s, t, x, label), (s, x), (jnp.ones_like(s), x))[1]

    gradient = eqx.filter_grad(lambda u: jnp.sum(rate(u) ** 2))(u)
    return rate(u), ravel_pytree(eqx.filter(gradient, eqx.is_inexact_array))[0]


def errors(found, expected):
    """Relative distance of each array from the expected one."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True)]
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]


@pytest.mark.slow
def test_forward_derivatives_of_transformers_that_recompute_or_round(dit, image):
    """With `keep` all digits, with `bfloat16` its own; gradients of the derivatives too."""
    u, label = moved(dit), jnp.array(1)
    wide = in_float64(u)
    exact = along_the_path(wide, image, label)
    again = rebuilt(wide, keep=jax.checkpoint_policies.nothing_saveable)
    assert all(error < 1e-12 for error in errors(along_the_path(again, image, label), exact))
    single = image.astype(jnp.float32)
    rounded = along_the_path(rebuilt(u, bfloat16=True), single, label)
    # Half a unit of 8 bits a factor, and a few of them in all.
    for error in errors(rounded, exact):
        assert 2.0**-12 < error < 2.0**-5


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.fields.MLPFlowMap(2, 4, 0, key=jr.key(0)), "`depth` is 0; give an integer"),
        (
            lambda: tx.fields.MLPFlowMap(2, 4, 1, condition_dim=3, key=jr.key(0))(
                S, T, jnp.ones(2), jnp.ones(2)
            ),
            r"`args` has shape \(2,\); give a vector of shape \(3,\)",
        ),
        (
            lambda: tx.fields.MLPFlowMap(2, 4, 1, key=jr.key(0))(S, T, jnp.ones(3)),
            r"`x` has shape \(3,\); give one point of shape \(2,\)",
        ),
        (lambda: tx.fields.DiTFlowMap((3, 4, 1), **SIZES, key=jr.key(0)), "`patch` is 2 .*; give"),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("without_type_checks")
def test_bad_images_are_named_with_a_cure(dit, image):
    with pytest.raises(ValueError, match=r"`x` has shape \(4, 4, 1\); give one image of shape"):
        dit(S, T, jnp.ones((4, 4, 1)), jnp.array(1))
    with pytest.raises(ValueError, match="`args` is None in a conditional"):
        dit(S, T, image)
