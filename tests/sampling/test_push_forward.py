"""Densities carried along, and bits: against Gaussian densities and discrete entropies."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

ENDS = tables._ends(3)
FIELD = tx.fields.GaussianField(*ENDS)
X0 = jr.normal(jr.key(160), (5, 3))
FINE: dict[str, Any] = {"steps": 100}


def base_log_prob(x):
    return tx.gaussians.log_density(x, *ENDS[:2])


LOG_PROB0 = jax.vmap(base_log_prob)(X0)


def log_density(x, t):
    m0, S0, m1, S1 = (np.asarray(part) for part in ENDS)
    covariance: Any = (1 - t) ** 2 * S0 + t**2 * S1
    return scipy.stats.multivariate_normal.logpdf(
        np.asarray(x), mean=(1 - t) * m0 + t * m1, cov=covariance
    )


def test_densities_on_the_way_are_those_of_the_gaussians_and_of_the_way_back():
    times = jnp.array([0.0, 0.25, 0.5, 1.0])
    made = tx.sampling.push_forward(FIELD, X0, LOG_PROB0, times=times, **FINE)
    x, log_prob = made.x, made.log_prob
    assert jnp.all(made.completed)
    for t, points, found in zip(times, x, log_prob, strict=True):
        assert np.allclose(found, log_density(points, float(t)), atol=1e-8)
    again = tx.sampling.log_prob(FIELD, x[-1], base_log_prob=base_log_prob, **FINE)
    assert jnp.allclose(log_prob[-1], again, atol=1e-8)


def test_conditions_and_shapes_follow_their_examples():
    """x' = c x on images adds -c d to every log-density."""
    images, rates = jr.normal(jr.key(161), (4, 2, 3, 1)), jnp.linspace(-1.0, 1.0, 4)
    made = tx.sampling.push_forward(
        lambda t, x, rate: rate * x, images, jnp.arange(4.0), rates, t0=0.2, t1=0.7, steps=20
    )
    x1, found = made.x, made.log_prob
    growth = 0.5 * rates
    assert jnp.allclose(x1, jnp.exp(growth)[:, None, None, None] * images, atol=1e-12)
    assert jnp.allclose(found, jnp.arange(4.0) - 6 * growth, atol=1e-12)


def test_over_no_time_nothing_changes():
    found = tx.sampling.push_forward(FIELD, X0, LOG_PROB0, t0=0.5, t1=0.5)
    assert jnp.array_equal(found.x, X0)
    assert jnp.array_equal(found.log_prob, LOG_PROB0)
    made = tx.sampling.push_forward(
        FIELD, X0, LOG_PROB0, t0=0.5, t1=0.5, times=jnp.array([0.5, 0.5])
    )
    assert jnp.array_equal(made.x, jnp.stack([X0, X0]))
    assert jnp.array_equal(made.log_prob, jnp.stack([LOG_PROB0, LOG_PROB0]))


def test_densities_differentiate():
    def carried(rate, x0, log_prob0):
        def field(t, x, args):
            return rate * jnp.sin(x)

        steps = tx.evolution.FixedSteps(3)
        made = tx.sampling.push_forward(field, x0, log_prob0, steps=steps)
        return made.x, made.log_prob

    check_derivatives(carried, jnp.array(0.7), X0, LOG_PROB0)


def test_uniform_data_cost_the_bits_of_their_levels():
    bits = tx.sampling.bits_per_dimension(jnp.zeros(5), 12, 1 / 256)
    assert np.allclose(bits, 8, atol=1e-13)


def test_a_histogram_costs_the_entropy_of_its_bins():
    """A density that is flat in each bin: Jensen's bound is attained, whatever the width."""
    width = 0.37
    edges = width * np.arange(-20, 21)
    masses = np.diff(scipy.stats.norm.cdf(edges))
    masses = masses / masses.sum()
    bits = tx.sampling.bits_per_dimension(jnp.log(masses / width), 1, width)
    entropy = scipy.stats.entropy(masses, base=2)
    assert np.isclose(masses @ np.asarray(bits), entropy, atol=1e-12)


def test_a_smooth_density_costs_more_than_the_discrete_entropy_by_the_square_of_the_width():
    """Dequantised Gaussian bins, E over x of the bits, by a Gauss rule in each bin."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    excess = []
    for width in (0.4, 0.2):
        edges = width * np.arange(-50, 51)
        masses = np.diff(scipy.stats.norm.cdf(edges))
        points = edges[:-1, None] + width * (nodes + 1) / 2
        bits = tx.sampling.bits_per_dimension(
            jnp.asarray(scipy.stats.norm.logpdf(points)), 1, width
        )
        cost = masses @ (np.asarray(bits) @ weights / 2)
        excess.append(cost - scipy.stats.entropy(masses, base=2))
    assert min(excess) > 0
    assert np.isclose(np.log2(excess[0] / excess[1]), 2, atol=0.05)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: tx.sampling.push_forward(FIELD, X0, LOG_PROB0[:3]), "log_prob0"),
        (lambda: tx.sampling.push_forward(FIELD, X0, LOG_PROB0, t1=1.2), "t1"),
        (lambda: tx.sampling.push_forward(FIELD, X0[:0], LOG_PROB0[:0]), "x0"),
        (lambda: tx.sampling.push_forward(FIELD, X0, LOG_PROB0, times=jnp.array([2.0])), "times"),
        (lambda: tx.sampling.bits_per_dimension(LOG_PROB0, 0, 1.0), "num_dims"),
        (lambda: tx.sampling.bits_per_dimension(LOG_PROB0, 3, 0.0), "bin_width"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        call()
