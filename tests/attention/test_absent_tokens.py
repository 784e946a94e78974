"""Tokens that are not numbers, or that carry no mass, and numbers that do not fit."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from transportx import attention as att

TOKENS = jr.normal(jr.key(0), (6, 3))
Q, K, V = jr.normal(jr.key(1), (3, 3, 3))
CLUSTER, LOST = jnp.ones((5, 2)), jnp.full((1, 2), jnp.nan)


def test_padding_at_the_origin_of_the_sphere_changes_no_token_and_no_derivative():
    field = att.TokenField(att.Attention(Q, K, V, att.Softmax(1.2)), sphere=True)

    @jax.jit
    @jax.value_and_grad
    def moved(tokens, weights):
        unit = field.retract(tokens, weights)
        return jnp.sum((unit + 0.3 * field(jnp.zeros(()), unit, weights))[:6] ** 3)

    padded = jnp.concatenate([TOKENS, jnp.zeros((1, 3))])
    value, slopes = moved(padded, jnp.append(jnp.full(6, 1 / 6), 0.0))
    expected, exact = moved(TOKENS, jnp.full(6, 1 / 6))
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(slopes[:6], exact, atol=1e-13)
    assert np.all(slopes[6] == 0)
    # With a mass it has no place on the sphere.
    assert jnp.isnan(moved(padded, jnp.full(7, 1 / 7))[0])


def test_a_token_of_weight_zero_that_is_not_a_number_counts_for_nothing():
    weights = jnp.append(jnp.full(6, 1 / 6), 0.0)
    lost = jnp.concatenate([TOKENS, jnp.full((1, 3), jnp.nan)])
    for mixing in (att.Softmax(1.2), att.Unnormalised(1.2), att.LinearAttention()):
        attention = att.Attention(Q, K, V, mixing)
        found, expected = attention(TOKENS, lost, weights), attention(TOKENS, TOKENS)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_integers_that_stand_for_tokens_that_are_not_numbers_are_negative():
    tokens = jnp.concatenate([CLUSTER, LOST])
    count = jax.jit(lambda x, r: (att.cluster_labels(x, radius=r), att.num_clusters(x, radius=r)))
    labels, number = count(tokens, 0.1)
    assert labels.tolist() == [0, 0, 0, 0, 0, -1]
    assert number == -1
    assert count(jnp.concatenate([CLUSTER, CLUSTER[:1]]), 0.1)[1] == 1
    for radius in (0.0, -1.0, jnp.nan):
        assert count(tokens, radius)[1] == -1


def test_a_path_that_is_lost_has_no_plateau_and_no_time():
    times = jnp.arange(4.0)
    apart = jnp.concatenate([CLUSTER[:5], 3 + CLUSTER[:1]])
    lost = jnp.full((6, 2), jnp.nan)
    clocks = {
        "lost": ([lost] * 4, -1, jnp.nan),
        "lost_at_last": ([apart, apart, apart, lost], -1, jnp.nan),
        "met_before": ([apart, apart, 0 * apart, lost], -1, 2.0),
        "never_met": ([apart] * 4, 2, jnp.inf),
    }
    for name, (path, clusters, time) in clocks.items():
        path = jnp.stack(path)
        plateau = att.longest_plateau(times, att.cluster_counts(path, radius=0.5))
        assert plateau.clusters == clusters, name
        assert jnp.isnan(plateau.start) == (clusters < 0), name
        found = att.time_to_cluster(times, path, radius=0.5)
        np.testing.assert_array_equal(found, time, err_msg=name)


def test_angles_of_what_is_no_direction_have_no_histogram():
    tokens, weights = jnp.concatenate([CLUSTER, LOST]), jnp.append(jnp.ones(5), 0.0)
    assert jnp.isnan(att.angle_histogram(tokens, bins=4)).all()
    assert jnp.isnan(att.angle_histogram(tokens.at[5].set(0.0), bins=4)).all()
    assert jnp.isnan(att.order_parameter(tokens))
    assert att.angle_histogram(tokens, weights, bins=4).tolist() == [1, 0, 0, 0]
    padded = tokens.at[5].set(0.0)
    np.testing.assert_allclose(att.order_parameter(padded, weights), 1, rtol=1e-14)


def test_histograms_of_halves_count_in_single():
    # 300 tokens on each of two axes: shares of one half, which halves would not count to.
    tokens = jnp.repeat(jnp.eye(2, dtype=jnp.bfloat16), 300, axis=0)
    shares = att.angle_histogram(tokens, bins=3)
    assert shares.dtype == jnp.bfloat16
    np.testing.assert_allclose(shares.astype(float), [0.5, 0.5, 0], atol=1e-2)


@pytest.mark.parametrize("bad", [0.0, -1.0, jnp.inf])
def test_temperatures_and_radii_that_do_not_fit_give_nan_where_traced(bad):
    bad = jnp.asarray(bad)
    mixings = att.Softmax(bad), att.L2(bad), att.Unnormalised(bad), att.LinearAttention(bad)
    for mixing in mixings:
        assert jnp.isnan(att.Attention(Q, K, V, mixing)(TOKENS, TOKENS)).all()
    attention = att.Attention(Q, K, V, att.Softmax(1.0))
    assert bad == 0 or jnp.isnan(att.lipschitz_bound(attention, radius=bad))
    assert jnp.isnan(att.lipschitz_bound(att.Attention(Q, K, V, att.Softmax(bad)), radius=1.0))
    with pytest.raises(ValueError, match="`radius`"):
        att.field_lipschitz_bound(attention, radius=-1.0)
    with pytest.raises(ValueError, match="`radius`"):
        att.field_lipschitz_bound(attention, radius=jnp.ones(2))
