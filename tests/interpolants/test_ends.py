"""Predictions, and fields made of them, at both ends of paths and warps: Gaussian conditioning."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests import tables

SCALE = 0.8
MEAN, COVARIANCE = tables._ends(3)[2:]
X = jr.normal(jr.key(20), (3,))
ENDS = jnp.array([0.0, 0.3, 1.0])
WARPS = {
    "plain": lambda path: path,
    "from_rest": lambda path: tx.interpolants.Warped(path, tx.interpolants.Power(2.0)),
    "odd_power": lambda path: tx.interpolants.Warped(path, tx.interpolants.Power(2.5)),
}
PATHS = {
    (name, warp): wrap(path)
    for name, path in tables.INTERPOLANTS.items()
    for warp, wrap in WARPS.items()
    # Some are warped already, or differ from another one in the middle alone; an odd power
    # differs from two in its rates alone.
    if warp == "plain"
    or name in ("linear", "encoding_decoding")
    or (warp == "from_rest" and name not in ("sigmoid", "learnt", "noised", "trigonometric"))
}


def conditional(path, t):
    """Score, noise and denoiser of x_t = beta x1 + sigma e, by Gaussian conditioning in numpy."""
    alpha, beta, gamma = (float(c) for c in path.coefficients(jnp.asarray(t)))
    variance = (SCALE * alpha) ** 2 + gamma**2
    law = beta**2 * np.asarray(COVARIANCE) + variance * np.eye(3)
    gap = np.linalg.solve(law, np.asarray(X) - beta * np.asarray(MEAN))
    denoiser = np.asarray(MEAN) + beta * np.asarray(COVARIANCE) @ gap
    return -gap, np.sqrt(variance) * gap, denoiser


def exact(path):
    return tx.fields.GaussianField(jnp.zeros(3), SCALE**2 * jnp.eye(3), MEAN, COVARIANCE, path)


def networks(path):
    """The exact score, noise and denoiser of a Gaussian target, as networks would be called."""

    def gap(t, x):
        alpha, beta, gamma = path.coefficients(t)
        variance = (SCALE * alpha) ** 2 + gamma**2
        return (
            beta,
            variance,
            jnp.linalg.solve(beta**2 * COVARIANCE + variance * jnp.eye(3), x - beta * MEAN),
        )

    def noise(t, x, args):
        deviation = tx.interpolants.noised_target(path, t, SCALE).sigma
        return deviation * gap(t, x)[2]

    def denoiser(t, x, args):
        beta, _, residual = gap(t, x)
        return MEAN + beta * COVARIANCE @ residual

    return {
        tx.interpolants.from_score: lambda t, x, args: -gap(t, x)[2],
        tx.interpolants.from_noise: noise,
        tx.interpolants.from_denoiser: denoiser,
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS.values(), ids=map("-".join, PATHS))
def test_scores_and_velocities_have_their_limits_at_both_ends(path):
    """Values against numpy and the exact field; slopes in the point are finite and right."""
    field = exact(path)
    score = tx.fields.ScoreOf(field, path, SCALE)
    velocities = [
        tx.fields.VelocityFrom(network, path, convert, SCALE)
        for convert, network in networks(path).items()
    ]

    @jax.jit
    def at(t):
        known = tx.interpolants.from_velocity(path, t, X, field(t, X), source_scale=SCALE)
        slope = jax.jacrev(lambda x: score(t, x))(X)
        return score(t, X), slope, known, field(t, X), [v(t, X) for v in velocities]

    for t in ENDS:
        found, slope, known, velocity, others = at(t)
        expected, noise, denoiser = conditional(path, t)
        # Where a velocity does not tell the score it is taken a root of a rounding unit away,
        # or a fourth root: 1e-4, squared by a noise that falls like a square.
        np.testing.assert_allclose(found, expected, atol=3e-6)
        law = np.linalg.inv(covariance_at(path, t))
        np.testing.assert_allclose(slope, -law, atol=1e-4)
        for other in others:
            np.testing.assert_allclose(other, velocity, atol=1e-6)
        told = tx.interpolants.noised_target(path, t, SCALE)
        if told.turning != 0 or told.all_noise:
            np.testing.assert_allclose(known.noise, noise, atol=1e-10)
        if told.turning != 0:
            np.testing.assert_allclose(known.denoiser, denoiser, atol=1e-7)
        else:
            assert np.isnan(known.denoiser).all() or told.all_target


def covariance_at(path, t):
    alpha, beta, gamma = (float(c) for c in path.coefficients(jnp.asarray(t)))
    return beta**2 * np.asarray(COVARIANCE) + ((SCALE * alpha) ** 2 + gamma**2) * np.eye(3)


GUIDED = {name: PATHS[name] for name in PATHS if name[0] in ("linear", "encoding_decoding")}
GUIDED["bridge", "plain"] = PATHS["brownian_bridge", "plain"]


@pytest.mark.parametrize("path", GUIDED.values(), ids=map("-".join, GUIDED))
def test_guided_fields_are_those_of_the_posterior_at_both_ends(path):
    """Targets N(0, I) seen with noise: the posterior's exact field; gradients are finite."""
    operator, seen, noise = jnp.array([[1.0, -0.5, 0.3]]), jnp.array([0.7]), 0.4
    source = jnp.zeros(3), SCALE**2 * jnp.eye(3)
    white = tx.fields.GaussianField(*source, jnp.zeros(3), jnp.eye(3), path)
    gain = operator.T / (operator @ operator.T + noise**2)
    posterior = (gain @ seen), jnp.eye(3) - gain @ operator
    expected = tx.fields.GaussianField(*source, *posterior, path)
    field = tx.fields.ObservationGuided(
        white, path, lambda x: operator @ x, seen, noise, source_scale=SCALE, rtol=1e-12
    )

    @jax.jit
    def at(t):
        return field(t, X), jax.jacrev(lambda x: field(t, x))(X), expected(t, X)

    for t in jnp.array([0.0, 0.3, 0.5, 1.0]):
        found, slope, wanted = at(t)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        assert jnp.all(jnp.isfinite(slope))


def test_rescheduled_from_rest_and_to_noise_alone():
    old = tx.interpolants.Warped(tx.interpolants.Linear(), tx.interpolants.Power(2.0))
    for new in (tx.interpolants.Trigonometric(), tx.interpolants.BrownianBridge(0.7)):
        field = tx.fields.Rescheduled(exact(old), old, new, SCALE)
        found, expected = (jax.jit(jax.vmap(f, (0, None)))(ENDS, X) for f in (field, exact(new)))
        np.testing.assert_allclose(found, expected, atol=3e-6)


def test_no_time_is_made_up_for_a_ratio_that_a_path_never_has():
    exploding = tx.interpolants.VarianceExploding(0.5, 8.0)
    field = tx.fields.Rescheduled(exact(exploding), exploding, tx.interpolants.Linear(), SCALE)
    # The old ratios go from 6.4 to 0.4: those of the new at 0.05 and 0.95 are 15.2 and 0.042.
    found = jax.vmap(lambda t: field(t, X))(jnp.array([0.05, 0.4, 0.95]))
    assert np.isnan(found[0]).all()
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[1], exact(tx.interpolants.Linear())(jnp.array(0.4), X))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_are_computed_in_float32(dtype):
    """Each conversion differs from float64 by the roundings of its inputs and its output."""
    path = tx.interpolants.VariancePreserving()
    x, v = X.astype(dtype), exact(path)(jnp.array(0.6), X).astype(dtype)
    t = jnp.asarray(0.6, dtype)
    found = tx.interpolants.from_velocity(path, t, x, v, source_scale=SCALE)
    wide = (a.astype(jnp.float64) for a in (t, x, v))
    expected = tx.interpolants.from_velocity(path, *wide, source_scale=SCALE)
    eps = float(jnp.finfo(dtype).eps)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype(jnp.float64), other, rtol=eps, atol=1e-5)
    ends = path(t, x, v, x)
    for one, other in zip(
        ends, path(t.astype(jnp.float64), *(a.astype(jnp.float64) for a in (x, v, x))), strict=True
    ):
        np.testing.assert_allclose(one.astype(jnp.float64), other, rtol=eps, atol=1e-5)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_scales_are_refused_or_give_nan(bad):
    """Python numbers by name while tracing, traced ones by NaN."""
    t, path = jnp.array(0.3), tx.interpolants.Linear()
    makers = {
        "sigma": tx.interpolants.BrownianBridge,
        "rate_min": tx.interpolants.VariancePreserving,
        "sigma_min": tx.interpolants.VarianceExploding,
        "power": lambda value: tx.interpolants.Warped(path, tx.interpolants.Power(value)),
        "sharpness": lambda value: tx.interpolants.Warped(path, tx.interpolants.Sigmoid(value)),
        "source_scale": lambda value: tx.fields.ScoreOf(lambda t, x, args: x, path, value),
    }
    for name, make in makers.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            make(bad)

    @jax.jit
    def poisoned(bad):
        paths = [make(bad) for name, make in makers.items() if name != "source_scale"]
        sums = [sum(path.coefficients(t), jnp.zeros(())) for path in paths]
        return jnp.stack([*sums, makers["source_scale"](bad)(t, X)[0]])

    assert np.isnan(poisoned(jnp.array(bad))).all()
