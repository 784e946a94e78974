"""Predictions of x_t from each other, against conditional Gaussians; change of schedule."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

SCALE = 0.8
MEAN, COVARIANCE = tables._ends(3)[2:]
X = jr.normal(jr.key(20), (3,))

every_path = pytest.mark.parametrize(
    "path", tables.INTERPOLANTS.values(), ids=tables.INTERPOLANTS.keys()
)


def conditional(path, t):
    """Score, noise and denoiser of x_t = beta x1 + sigma e, by Gaussian conditioning in numpy."""
    alpha, beta, gamma = (float(c) for c in path.coefficients(jnp.asarray(t)))
    variance = (SCALE * alpha) ** 2 + gamma**2
    law = beta**2 * np.asarray(COVARIANCE) + variance * np.eye(3)
    gap = np.linalg.solve(law, np.asarray(X) - beta * np.asarray(MEAN))
    denoiser = np.asarray(MEAN) + beta * np.asarray(COVARIANCE) @ gap
    return -gap, np.sqrt(variance) * gap, denoiser


def exact(path):
    source = jnp.zeros(3), SCALE**2 * jnp.eye(3)
    return tx.fields.GaussianField(*source, MEAN, COVARIANCE, path)


def field_and_time(path, t):
    t = jnp.asarray(t)
    return exact(path)(t, X), t


@pytest.mark.parametrize(
    ("name", "t"),
    [
        (name, t)
        for name in tables.INTERPOLANTS
        for t in (0.2, 0.75)
        # Before one half this one shows nothing of the target.
        if (name, t) != ("encoding_decoding", 0.2)
    ],
)
def test_every_prediction_follows_from_every_other(name, t):
    path = tables.INTERPOLANTS[name]
    score, noise, denoiser = conditional(path, t)
    velocity, t = field_and_time(path, t)
    given = {
        tx.interpolants.from_velocity: velocity,
        tx.interpolants.from_score: jnp.asarray(score),
        tx.interpolants.from_noise: jnp.asarray(noise),
        tx.interpolants.from_denoiser: jnp.asarray(denoiser),
    }
    for convert, prediction in given.items():
        found = convert(path, t, X, prediction, source_scale=SCALE)
        expected = (velocity, score, noise, denoiser)
        for one, other in zip(found, expected, strict=True):
            assert np.allclose(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["linear", "trigonometric", "sigmoid"])
def test_a_velocity_tells_noise_and_target_up_to_both_ends(name):
    path = tables.INTERPOLANTS[name]
    for t in (0.0, 1.0):
        _, noise, denoiser = conditional(path, t)
        velocity, time = field_and_time(path, t)
        found = tx.interpolants.from_velocity(path, time, X, velocity, source_scale=SCALE)
        assert np.allclose(found.denoiser, denoiser, atol=1e-10)
        if t == 0:
            assert np.allclose(found.noise, noise, atol=1e-10)


@every_path
def test_scores_are_slopes_of_the_log_density(path):
    velocity, t = field_and_time(path, 0.6)
    alpha, beta, gamma = path.coefficients(t)
    variance = (SCALE * alpha) ** 2 + gamma**2
    law = beta**2 * COVARIANCE + variance * jnp.eye(3)
    slope = jax.grad(lambda x: tx.gaussians.log_density(x, beta * MEAN, law))(X)
    found = tx.interpolants.from_velocity(path, t, X, velocity, source_scale=SCALE)
    assert jnp.allclose(found.score, slope, atol=1e-10)
    field = tx.fields.ScoreOf(exact(path), path, SCALE)
    assert jnp.allclose(field(t, X), slope, atol=1e-10)


def test_the_score_of_a_mixture_from_its_velocity():
    """Not Gaussian: the score of the mixture at time t by autodiff of its log-density."""
    path = tx.interpolants.Trigonometric()
    target = tables.mixture(jr.key(21), [0.2, 0.5, 0.3], 3)
    source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 3)), SCALE**2 * jnp.eye(3)[None])
    field, t = tx.fields.MixtureField(source, target, path), jnp.array(0.4)
    law = field.law(t)

    def log_density(x):
        logs = jax.vmap(tx.gaussians.log_density, (None, 0, 0))(x, law.means, law.covariances)
        return jax.scipy.special.logsumexp(logs, b=law.weights)

    found = tx.fields.ScoreOf(field, path, SCALE)(t, X)
    assert jnp.allclose(found, jax.grad(log_density)(X), atol=1e-10)


def network_of(path, index):
    """The exact score, noise or denoiser of a Gaussian target, as a network would be called."""

    def network(t, x, args):
        alpha, beta, gamma = path.coefficients(t)
        variance = (SCALE * alpha) ** 2 + gamma**2
        gap = jnp.linalg.solve(beta**2 * COVARIANCE + variance * jnp.eye(3), x - beta * MEAN)
        deviation = jnp.sqrt(variance) if path.has_noise else SCALE * alpha
        return (-gap, deviation * gap, MEAN + beta * COVARIANCE @ gap)[index]

    return network


every_conversion = pytest.mark.parametrize(
    ("convert", "index"),
    [
        (tx.interpolants.from_score, 0),
        (tx.interpolants.from_noise, 1),
        (tx.interpolants.from_denoiser, 2),
    ],
)


@every_conversion
def test_a_network_of_any_prediction_samples_alike(convert, index):
    path = tx.interpolants.Linear(0.05)
    field = tx.fields.VelocityFrom(network_of(path, index), path, convert, SCALE)
    x0 = SCALE * jr.normal(jr.key(22), (4, 3))
    for steps in (8, tx.evolution.AdaptiveSteps(1e-3, 1e-3)):
        found, reference = (tx.sampling.flow(f, x0, steps=steps) for f in (field, exact(path)))
        assert jnp.allclose(found, reference, atol=1e-10)


def sine_and_slope(field):
    return jax.value_and_grad(lambda x, t: jnp.sum(jnp.sin(field(t, x))))


@every_conversion
@pytest.mark.parametrize("name", ["linear", "trigonometric", "variance_preserving"])
def test_velocities_go_to_their_limits_at_both_ends(name, convert, index):
    path, times = tables.INTERPOLANTS[name], jnp.array([0.0, 0.3, 1.0])
    field = tx.fields.VelocityFrom(network_of(path, index), path, convert, SCALE)
    expected = jax.vmap(sine_and_slope(exact(path)), (None, 0))(X, times)
    apart = jax.lax.map(lambda t: sine_and_slope(field)(X, t), times)
    together = jax.vmap(sine_and_slope(field), (None, 0))(X, times)
    for found in (apart, together):
        for one, other in zip(found, expected, strict=True):
            assert jnp.allclose(one, other, atol=1e-8)


@pytest.mark.parametrize("new", ["trigonometric", "variance_preserving", "brownian_bridge"])
@pytest.mark.parametrize("old", ["linear", "sigmoid"])
def test_a_rescheduled_field_is_the_exact_field_of_the_new_path(old, new):
    old, new = tables.INTERPOLANTS[old], tables.INTERPOLANTS[new]
    field = tx.fields.Rescheduled(exact(old), old, new, SCALE)
    for t in (0.0, 0.3, 0.8, 0.99):
        velocity, t = field_and_time(new, t)
        # Bisection ends at a rounding unit, which a slow start of the old path magnifies.
        assert jnp.allclose(field(t, X), velocity, atol=1e-8, rtol=1e-8)


def test_the_time_of_an_angle_is_where_it_was_taken():
    path = tx.interpolants.VariancePreserving()
    times = jnp.linspace(0.0, 1.0, 11)
    angles = jax.vmap(lambda t: tx.interpolants.noised_target(path, t, SCALE).angle)(times)
    found = jax.vmap(lambda a: tx.interpolants.time_of_angle(path, a, SCALE))(angles)
    assert jnp.allclose(found, times, atol=1e-8)


def test_predictions_differentiate():
    path = tx.interpolants.VariancePreserving()
    check_derivatives(
        lambda x, v, scale: tx.interpolants.from_velocity(
            path, jnp.array(0.4), x, v, source_scale=scale
        ),
        X,
        jr.normal(jr.key(23), (3,)),
        jnp.array(SCALE),
    )
