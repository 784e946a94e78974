"""Importance times: their law, no bias, the variance that they are for."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx

UNIFORM = tx.losses.ImportanceTimes(jnp.ones(16))


def integrand(t):
    """Large near t = 0; its integral over [0, 1] is 1 / 0.1 - 1 / 1.1."""
    return (t + 0.1) ** -2


INTEGRAL = 1 / 0.1 - 1 / 1.1


def learnt():
    t = tx.losses.uniform_times(20_000, jnp.float64, key=jr.key(150))
    return UNIFORM.updated(t, integrand(t), rate=1.0)


def exact_variance(times):
    """Of the integrand times the weight, bin by bin with a Gauss rule."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    edges = np.arange(16)[:, None] / 16
    t = jnp.asarray(edges + (nodes + 1)[None, :] / 32)
    density = jax.vmap(jax.vmap(times.density))(t)
    return float(jnp.sum(weights[None, :] / 32 * integrand(t) ** 2 / density)) - INTEGRAL**2


def test_equal_losses_give_uniform_times():
    assert np.allclose(jax.vmap(UNIFORM.weight)(jnp.linspace(0.0, 1.0, 9)), 1, atol=1e-14)


def test_times_have_the_density_that_is_stated():
    times = learnt()
    drawn = np.asarray(times(50_000, jnp.float64, key=jr.key(152)))
    masses = np.asarray(jax.vmap(times.density)((jnp.arange(16.0) + 0.5) / 16)) / 16
    assert np.isclose(masses.sum(), 1, atol=1e-12)
    reached = np.concatenate([[0], np.cumsum(masses)])

    def law(t):
        return np.interp(t, np.linspace(0, 1, 17), reached)

    assert scipy.stats.kstest(drawn, law).pvalue > 1e-3


@pytest.mark.slow
def test_a_weighted_loss_keeps_its_mean_and_loses_variance():
    """A field that misses by a known amount: loss(t) is the integrand, through flow_matching."""
    times = learnt()
    zeros = jnp.zeros((1, 1))

    def field(t, x, args):
        return jnp.full_like(x, jnp.sqrt(integrand(t)))

    def loss(law, key):
        return tx.losses.flow_matching(
            field, tx.interpolants.Linear(), zeros, zeros, key=key, times=law, weight=law.weight
        )

    keys = jr.split(jr.key(153), 40_000)
    for law in (UNIFORM, times):
        losses = np.asarray(jax.vmap(lambda key, law=law: loss(law, key))(keys))
        variance = exact_variance(law)
        assert abs(losses.mean() - INTEGRAL) < 4 * np.sqrt(variance / losses.size)
        # Relative error of a variance, from the sample's own fourth moment.
        spread = np.std((losses - losses.mean()) ** 2) / np.sqrt(losses.size)
        assert abs(losses.var() - variance) < 4 * spread
    assert exact_variance(times) < exact_variance(UNIFORM) / 8


def test_only_bins_with_losses_move_and_by_the_rate():
    t, losses = jnp.array([0.01, 0.02, 0.99, 1.0]), jnp.array([1.0, 3.0, 0.5, 0.5])
    found = jax.jit(lambda t, losses: UNIFORM.updated(t, losses, rate=0.25))(t, losses)
    expected = np.ones(16)
    expected[0], expected[-1] = 1 + 0.25 * (5 - 1), 1 + 0.25 * (0.25 - 1)
    assert np.allclose(found.mean_squares, expected, atol=1e-14)


def test_the_uniform_share_bounds_the_weight():
    times = tx.losses.ImportanceTimes(jnp.array([0.0, 0.0, 1.0]), 0.2)
    weights = jax.vmap(times.weight)(jnp.array([0.1, 0.5, 0.9]))
    # The last bin takes the share of 0.8, three times as dense.
    assert np.allclose(weights, [5, 5, 1 / 2.6], rtol=1e-13)


def test_times_keep_their_dtype_and_off_the_ends():
    times = UNIFORM(100_000, jnp.float32, key=jr.key(154))
    assert times.dtype == jnp.float32
    assert jnp.all((times > 0) & (times < 1))


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: tx.losses.ImportanceTimes(jnp.ones(0)), "mean_squares"),
        (lambda: tx.losses.ImportanceTimes(jnp.ones(4), 0.0), "uniform_share"),
        (lambda: UNIFORM.updated(jnp.ones(3), jnp.ones(2)), "losses"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        call()
