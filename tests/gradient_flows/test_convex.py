"""JKO steps by input-convex networks: against closed steps, and steps of quantiles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
import transportx.gradient_flows as gf

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

MEAN, COVARIANCE = jnp.array([1.0, -2.0]), jnp.array([[1.5, 0.6], [0.6, 0.8]])
PRECISION = jnp.linalg.inv(COVARIANCE)
POTENTIAL = gf.Potential(lambda x: (x - MEAN) @ PRECISION @ (x - MEAN) / 2)
AFFINE = gf.ConvexPotential(2, 1, 0, key=jr.key(0))
WEIGHTS = jnp.array([0.1, 0.2, 0.0, 0.3, 0.15, 0.25])


def standardised(cloud, weights):
    """Moved and stretched to mean zero and covariance one under the weights."""
    cloud = cloud - (weights @ cloud)[None, :]
    root = jnp.linalg.cholesky(cloud.T @ (weights[:, None] * cloud))
    return cloud @ jnp.linalg.inv(root).T


@quick
def descend(cloud, temperature):
    return gf.convex_flow(
        POTENTIAL, AFFINE, cloud, WEIGHTS, t1=0.6, steps=3, temperature=temperature, tol=1e-7
    )


CLOUD = standardised(jr.normal(jr.key(1), (6, 2)), WEIGHTS)


def test_gaussians_take_the_closed_steps_of_fokker_planck_and_keep_their_densities():
    made = descend(CLOUD, 1.0)
    assert made.completed
    # In the precision's own axes a scale s solves (s' - s) / tau + p s' - 1 / s' = 0.
    rates, axes = np.linalg.eigh(PRECISION)
    scales, mean = np.ones(2), -axes.T @ MEAN
    for _ in range(3):
        first = 1 + 0.2 * rates
        scales = (scales + np.sqrt(scales**2 + 0.8 * first)) / (2 * first)
        mean = mean / first
    expected: Any = MEAN + axes @ mean, axes @ np.diag(scales**2) @ axes.T
    last = made.x[-1]
    centred = last - (WEIGHTS @ last)[None, :]
    assert jnp.allclose(WEIGHTS @ last, expected[0], atol=1e-6)
    assert jnp.allclose(centred.T @ (WEIGHTS[:, None] * centred), expected[1], atol=1e-6)
    # Other points, of weight zero too, go where the same maps take them, and bring densities.
    pushed = jax.jit(gf.ConvexFlow.push)(made, CLOUD)
    assert jnp.allclose(pushed.x, made.x, atol=1e-12)
    law = scipy.stats.multivariate_normal
    densities = law([0.0, 0.0]).logpdf(CLOUD) - pushed.log_determinants[-1]
    assert jnp.allclose(densities, law(expected[0], expected[1]).logpdf(last), atol=1e-6)
    entropies = made.energy - jax.vmap(POTENTIAL.value, (0, None))(made.x, WEIGHTS)
    assert jnp.allclose(entropies[-1], -np.sum(np.log(scales)), atol=1e-6)


def test_without_temperature_affine_steps_are_implicit_euler():
    made = descend(CLOUD, 0.0)
    assert made.completed
    shrink = np.linalg.matrix_power(np.linalg.inv(np.eye(2) + 0.2 * np.asarray(PRECISION)), 3)
    assert jnp.allclose(made.x[-1], MEAN[None, :] + (CLOUD - MEAN[None, :]) @ shrink, atol=1e-6)


@pytest.mark.slow
def test_networks_take_the_steps_of_quantiles_into_two_wells():
    ends = np.linspace(-3, 3, 41)
    masses = np.diff(scipy.stats.norm.cdf(ends))
    nodes, masses = jnp.asarray(ends), jnp.asarray(masses / masses.sum())
    wells = gf.Potential(lambda x: jnp.sum((x**2 - 1) ** 2))
    line = quick(
        lambda nodes: gf.line_flow(
            lambda lengths: wells + 0.3 * gf.Entropy(lengths), nodes, masses, t1=0.2, steps=2
        )
    )(nodes)
    network = gf.ConvexPotential(1, 8, 1, key=jr.key(1))
    middles = ((nodes[1:] + nodes[:-1]) / 2)[:, None]
    made = quick(
        lambda x: gf.convex_flow(
            wells, network, x, masses, t1=0.2, steps=2, temperature=0.3, max_steps=200
        )
    )(middles)
    assert line.completed
    assert made.completed
    assert jnp.all(made.residuals <= 1e-4)
    # Wells 2 apart; beyond the second nodes hardly any mass is.
    moved = made.push(nodes[:, None]).x[-1, :, 0]
    assert jnp.max(jnp.abs(moved - line.nodes[-1])[2:-2]) < 0.02
    # What volumes grow by is what the maps' own derivatives say.
    slopes = jax.jacrev(lambda z: jnp.sum(made.push(z).x[-1]))(middles)
    assert jnp.allclose(jnp.log(slopes[:, 0]), made.push(middles).log_determinants[-1])
    fallen = made.energy[-1] - made.energy[0]
    assert abs(fallen / (line.energy[-1] - line.energy[0]) - 1) < 5e-3


def test_networks_are_convex():
    network = gf.ConvexPotential(3, 7, 2, key=jr.key(2))
    moved = jax.tree.map(lambda leaf: leaf + jr.normal(jr.key(3), leaf.shape), network)
    x, y = jr.normal(jr.key(4), (2, 50, 3))
    middle = jax.vmap(moved)((x + y) / 2)
    assert jnp.all(middle < (jax.vmap(moved)(x) + jax.vmap(moved)(y)) / 2)


@pytest.mark.slow
def test_float32_meets_its_tolerance():
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), CLOUD)
    pull = gf.Interaction(gf.Gaussian(jnp.float32(1.0)))
    made = quick(lambda x: gf.convex_flow(pull, AFFINE, x, t1=0.1, steps=1))(narrow)
    assert made.completed
    assert made.x.dtype == made.energy.dtype == jnp.float32


def test_failures_end_in_a_status():
    cut = functools.partial(gf.convex_flow, POTENTIAL, AFFINE, t1=0.6, steps=2, max_steps=1)
    short = quick(cut)(CLOUD)
    assert short.status == tx.Status.MAX_STEPS
    broken = descend(CLOUD.at[0, 0].set(jnp.nan), 1.0)
    assert broken.status == tx.Status.NON_FINITE


@pytest.mark.parametrize(
    ("named", "changed"),
    [
        ("functional", {"functional": POTENTIAL + gf.Entropy(jnp.ones(6))}),
        ("temperature", {"temperature": -1.0}),
        ("t1", {"t1": 0.0}),
        ("tol", {"tol": 0.0}),
        ("steps", {"steps": 0}),
        ("max_steps", {"max_steps": 0}),
        ("weights", {"weights": jnp.ones(5)}),
        ("potential", {"potential": gf.ConvexPotential(3, 1, 0, key=jr.key(0))}),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_refused_by_name(named, changed):
    given = {"functional": POTENTIAL, "potential": AFFINE, "x0": CLOUD, "t1": 1.0, "steps": 1}
    with pytest.raises(ValueError, match=named):
        gf.convex_flow(**{**given, **changed})
