"""Guided fields where the guided law is known: tilted Gaussians and mixtures, posteriors."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from diffrax import Dopri8

import transportx as tx
from tests import tables

SCALE = 0.8
MEAN, COVARIANCE = tables._ends(3)[2:]
SOURCE = jnp.zeros(3), SCALE**2 * jnp.eye(3)
WHITE = tx.gaussians.Mixture(jnp.ones(1), SOURCE[0][None], SOURCE[1][None])
X = jr.normal(jr.key(140), (3,))
# The origin and the axes: the images of these tell an affine map.
PROBES = jnp.concatenate([jnp.zeros((1, 3)), SCALE * jnp.eye(3)])
PATHS = {name: tables.INTERPOLANTS[name] for name in ("linear", "trigonometric", "wide_end")}

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


def affine_law(field, args=None):
    """Mean and covariance that the flow of an affine field gives the source."""

    @jax.jit
    def carried(x0, args):
        return tx.sampling.flow(
            field, x0, args, steps=tx.evolution.AdaptiveSteps(1e-11, 1e-11, Dopri8())
        )

    mean, *images = np.asarray(carried(PROBES, args))
    matrix = np.stack(images, axis=1) - mean[:, None]
    return mean, matrix @ matrix.T


@pytest.mark.parametrize("path", [PATHS["trigonometric"], PATHS["wide_end"]])
def test_a_linear_energy_of_gaussian_targets_is_guided_exactly(path):
    """exp(-w a x) tilts N(m, S) to N(m - w S a, S); the energy's a comes with the example."""
    slope = jnp.array([0.5, -1.0, 0.3])
    field = tx.fields.EnergyGuided(
        tx.fields.GaussianField(*SOURCE, MEAN, COVARIANCE, path),
        path,
        lambda x1, slope: slope @ x1,
        strength=1.7,
        source_scale=SCALE,
    )
    mean, covariance = affine_law(field, jnp.tile(slope, (4, 1)))
    left, _, _ = path.coefficients(jnp.array(1.0))
    assert np.allclose(mean, MEAN - 1.7 * COVARIANCE @ slope, atol=1e-8)
    assert np.allclose(covariance, COVARIANCE + (left * SCALE) ** 2 * jnp.eye(3), atol=1e-8)


def test_no_strength_is_no_guidance():
    path = PATHS["trigonometric"]
    plain = tx.fields.GaussianField(*SOURCE, MEAN, COVARIANCE, path)
    options = {"strength": 0.0, "source_scale": SCALE}
    energy = tx.fields.EnergyGuided(plain, path, lambda x1, args: jnp.sum(x1**4), **options)
    known = tx.fields.ClassifierGuided(plain, path, lambda t, x, args: x @ x, **options)
    for t in (0.3, 1.0):
        for field in (energy, known):
            assert jnp.allclose(field(jnp.array(t), X), plain(jnp.array(t), X), atol=1e-13)


def tilted(mixture, strength, centre):
    """The mixture times exp(-strength |x - centre|^2 / 2), normalised, in numpy."""
    weights, means, covariances = [], [], []
    parts = (np.asarray(leaf) for leaf in jax.tree.leaves(mixture))
    for weight, mean, covariance in zip(*parts, strict=True):
        tight = np.linalg.inv(np.linalg.inv(covariance) + strength * np.eye(3))
        covariances.append(tight)
        means.append(tight @ (np.linalg.solve(covariance, mean) + strength * centre))
        wide = covariance + np.eye(3) / strength
        weights.append(weight * scipy.stats.multivariate_normal.pdf(centre, mean, wide))
    weights = jnp.array(weights) / sum(weights)
    return tx.gaussians.Mixture(weights, jnp.array(means), jnp.array(covariances))


@every_path
def test_a_known_tilt_gives_the_field_of_the_tilted_target(path):
    target = tables.mixture(jr.key(141), [0.3, 0.7], 3)
    other = tilted(target, 0.9, np.array([0.4, -1.0, 0.2]))
    plain, exact = (tx.fields.MixtureField(WHITE, end, path) for end in (target, other))

    def log_likelihood(t, x, args):
        return exact.law(t).log_density(x) - plain.law(t).log_density(x)

    field = tx.fields.ClassifierGuided(plain, path, log_likelihood, source_scale=SCALE)
    found, expected = (
        jax.jit(jax.vmap(f, (0, None)))(jnp.array([0.0, 0.01, 0.4, 0.9]), X) for f in (field, exact)
    )
    assert jnp.allclose(found[1:], expected[1:], atol=1e-9)
    # At the source itself a limit is taken to half of the digits, of a field of size 1.
    assert jnp.allclose(found[0], expected[0], atol=1e-6)


OPERATOR = jnp.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]])
OBSERVATION = jnp.array([0.7, -1.2])
NOISE = 0.4


def posterior(covariance):
    """Of x ~ N(MEAN, covariance) given OBSERVATION, by the gain of Kalman."""
    prior, operator = np.asarray(covariance), np.asarray(OPERATOR)
    seen = operator @ prior @ operator.T + NOISE**2 * np.eye(2)
    gain = prior @ operator.T @ np.linalg.inv(seen)
    mean = np.asarray(MEAN) + gain @ (np.asarray(OBSERVATION) - operator @ np.asarray(MEAN))
    return mean, prior - gain @ operator @ prior


def observed(path, covariance, **options):
    plain = tx.fields.GaussianField(*SOURCE, MEAN, covariance, path)
    return tx.fields.ObservationGuided(
        plain,
        path,
        lambda x: OPERATOR @ x,
        OBSERVATION,
        NOISE,
        source_scale=SCALE,
        rtol=1e-12,
        **options,
    )


def test_white_targets_end_in_their_posterior():
    mean, covariance = affine_law(observed(PATHS["linear"], jnp.eye(3)))
    expected = posterior(jnp.eye(3))
    assert np.allclose(mean, expected[0], atol=1e-8)
    assert np.allclose(covariance, expected[1], atol=1e-8)


def test_the_given_variance_makes_other_targets_exact():
    path, spread = PATHS["trigonometric"], 2.5

    def variance(t):
        """Of x1 given x_t, where x1 has covariance 2.5 I."""
        beta, sigma, _, _ = tx.interpolants.noised_target(path, t, SCALE)
        return spread * sigma**2 / (beta**2 * spread + sigma**2)

    expected = posterior(spread * jnp.eye(3))
    exact = observed(path, spread * jnp.eye(3), variance=variance)
    mean, covariance = affine_law(exact)
    assert np.allclose(mean, expected[0], atol=1e-8)
    assert np.allclose(covariance, expected[1], atol=1e-8)
    t, rough = jnp.array(0.5), observed(path, spread * jnp.eye(3))
    assert jnp.max(jnp.abs(rough(t, X) - exact(t, X))) > 1e-2


@pytest.mark.parametrize(("noise", "dtype"), [(0.0, jnp.float64), (0.01, jnp.float32)])
def test_stiff_observations_are_solved_and_not_called_breakdowns(noise, dtype):
    """Blurred vectors of 300: against numpy's dense solve, and its residual in float32."""
    kernel = jnp.array([0.25, 0.5, 0.25], dtype)
    start = jnp.linspace(-1, 1, 300, dtype=dtype)
    t, path = jnp.asarray(0.5, dtype), PATHS["linear"]

    def blurred(x):
        return jnp.convolve(x, kernel, mode="valid")

    def still(t, x, args):
        return jnp.zeros_like(x)

    observation = jnp.cos(9 * start[1:-1])
    field = tx.fields.ObservationGuided(
        still, path, blurred, observation, noise, rtol=1e-5, max_steps=5000
    )
    found = jax.jit(lambda x: field(t, x))(start)
    matrix = np.asarray(jax.jacobian(blurred)(start), np.float64)
    # Of a still particle at half time: D = x, and the gain of a slope is the slope.
    gap = np.asarray(observation, np.float64) - matrix @ np.asarray(start, np.float64)
    system = 0.5 * matrix @ matrix.T + noise**2 * np.eye(298)
    expected = matrix.T @ np.linalg.solve(system, gap)
    miss = np.asarray(found, np.float64) - expected
    # The system applied to the miss is what the residual bounds.
    assert np.max(np.abs(matrix @ miss)) < 1e-3 * np.max(np.abs(matrix @ expected))


def test_an_unfinished_solve_is_not_passed_off_as_an_answer():
    field = observed(PATHS["linear"], jnp.eye(3), max_steps=1)
    assert jnp.all(jnp.isnan(field(jnp.array(0.4), X)))


def test_bad_arguments_are_named():
    still, path = lambda t, x, args: x, PATHS["linear"]
    make = tx.fields.ObservationGuided
    with pytest.raises(ValueError, match="`noise`"):
        make(still, path, lambda x: x, X, -1.0)
    with pytest.raises(ValueError, match="`observation`"):
        make(still, path, lambda x: x[:2], X, 0.1)(jnp.array(0.3), X)
    with pytest.raises(ValueError, match="`max_steps`"):
        make(still, path, lambda x: x, X, 0.1, max_steps=0)
