"""Losses of other predictions: exact minimisers, and what an error adds (Pythagoras)."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
from tests import tables

PATH = tx.interpolants.Noised(tx.interpolants.Linear(0.1), tx.interpolants.BridgeNoise(0.3))
SCALE = 0.8
MEAN, COVARIANCE = tables._ends(3)[2:]
FIELD = tx.fields.GaussianField(jnp.zeros(3), SCALE**2 * jnp.eye(3), MEAN, COVARIANCE, PATH)
TILT = 0.3 * jr.normal(jr.key(110), (3, 3))
BATCH, REPEATS = 4000, 40


def exact(t, x):
    """All predictions of the exact field."""
    return tx.interpolants.from_velocity(PATH, t, x, FIELD(t, x), source_scale=SCALE)


def latent_noise(t, x):
    """E[z | x_t]: gamma over the variance of all noise, times what is not target."""
    found, gamma = exact(t, x), PATH.coefficients(t)[2]
    return gamma * found.noise / tx.interpolants.noised_target(PATH, t, SCALE).sigma


def sigma_squared(t):
    return tx.interpolants.noised_target(PATH, t, SCALE).sigma ** 2


# A loss, its exact network, and what an error e adds to it, over |e|^2 / d.
LOSSES = {
    "velocity": (tx.losses.flow_matching, lambda t, x: exact(t, x).velocity, jnp.ones_like),
    "denoiser": (tx.losses.denoiser_matching, lambda t, x: exact(t, x).denoiser, jnp.ones_like),
    "noise": (
        lambda *args, **options: tx.losses.noise_matching(*args, source_scale=SCALE, **options),
        lambda t, x: exact(t, x).noise,
        jnp.ones_like,
    ),
    "score": (
        lambda *args, **options: tx.losses.score_matching(*args, source_scale=SCALE, **options),
        lambda t, x: exact(t, x).score,
        sigma_squared,
    ),
    "sliced score": (
        tx.losses.sliced_score_matching,
        lambda t, x: exact(t, x).score,
        lambda t: jnp.full_like(t, 0.5),
    ),
    "latent noise": (tx.losses.latent_noise_matching, latent_noise, jnp.ones_like),
}


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "network", "share"), LOSSES.values(), ids=LOSSES.keys())
def test_an_error_adds_its_square_to_the_least_loss(loss, network, share):
    @jax.jit
    def excess(key):
        x0_key, x1_key, loss_key = jr.split(key, 3)
        x0 = SCALE * jr.normal(x0_key, (BATCH, 3))
        x1 = jr.multivariate_normal(x1_key, MEAN, COVARIANCE, (BATCH,))

        def total(size):
            def tilted(t, x, args):
                return network(t, x) + size * (TILT @ x)

            # Off the ends, where the noise of a bridge makes single velocities large.
            times = tx.losses.BetaTimes(3.0, 3.0)
            return loss(tilted, PATH, x0, x1, key=loss_key, times=times)

        return total(1.0) - total(0.0)

    found = np.array([excess(key) for key in jr.split(jr.key(111), REPEATS)])
    nodes, weights = np.polynomial.legendre.leggauss(30)
    expected = 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = jnp.asarray(node)
        _, beta, _ = PATH.coefficients(t)
        second = beta**2 * (COVARIANCE + jnp.outer(MEAN, MEAN)) + sigma_squared(t) * jnp.eye(3)
        square = jnp.trace(TILT @ second @ TILT.T) / 3
        expected += weight * scipy.stats.beta.pdf(node, 3, 3) * float(share(t) * square)
    error = np.std(found, ddof=1) / np.sqrt(REPEATS)
    assert abs(np.mean(found) - expected) < 4 * error
    # The interval is narrow enough to see a wrong factor.
    assert error < 0.02 * expected


def test_a_weight_of_times_counts_and_keeps_the_minimiser():
    x0, x1 = jr.normal(jr.key(112), (2, 6, 3))

    def still(t, x, args):
        return jnp.zeros_like(x)

    def loss(**options):
        return tx.losses.flow_matching(
            still, tx.interpolants.Linear(), x0, x1, key=jr.key(113), **options
        )

    # Velocities of straight lines do not depend on time.
    drawn = tx.losses.uniform_times(6, jnp.float64, key=jr.split(jr.key(113))[0])
    squares = jnp.mean((x1 - x0) ** 2, axis=1)
    assert np.isclose(float(loss(weight=lambda t: t**2)), float(jnp.mean(drawn**2 * squares)))
    assert loss(weight=jnp.zeros_like) == 0


@pytest.mark.parametrize(
    ("times", "law"),
    [
        (tx.losses.BetaTimes(2.0, 5.0), scipy.stats.beta(2, 5)),
        (tx.losses.BetaTimes(1.0, 1.0), scipy.stats.uniform()),
    ],
)
def test_times_have_their_law(times, law):
    drawn = np.asarray(times(20_000, jnp.float64, key=jr.key(114)))
    assert scipy.stats.kstest(drawn, law.cdf).pvalue > 1e-3


def test_logits_of_times_are_normal():
    times = tx.losses.LogitNormalTimes(0.5, 1.5)
    drawn = np.asarray(times(20_000, jnp.float64, key=jr.key(115)))
    logits = scipy.special.logit(drawn)
    assert scipy.stats.kstest(logits, scipy.stats.norm(0.5, 1.5).cdf).pvalue > 1e-3


def test_times_stay_off_the_ends_in_float32():
    for times in (tx.losses.LogitNormalTimes(0.0, 50.0), tx.losses.BetaTimes(0.01, 0.01)):
        drawn = times(1000, jnp.float32, key=jr.key(116))
        assert drawn.dtype == jnp.float32
        assert jnp.all((drawn > 0) & (drawn < 1))


def test_conditions_travel_and_parameters_differentiate():
    x0, x1 = jr.normal(jr.key(117), (2, 6, 3))
    labels = jnp.arange(6.0)

    def total(rate):
        def network(t, x, label):
            return rate * label * x

        return sum(
            loss(network, PATH, x0, x1, labels, key=jr.key(118)) for loss, _, _ in LOSSES.values()
        )

    step, rate = 1e-6, jnp.array(0.7)
    slope = (total(rate + step) - total(rate - step)) / (2 * step)
    assert np.isclose(float(jax.grad(total)(rate)), float(slope), rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: tx.losses.latent_noise_matching(_same, _LINEAR, x, x, key=jr.key(0)), "path"),
        (
            lambda x: tx.losses.sliced_score_matching(
                _same, _LINEAR, x, x, key=jr.key(0), num_probes=0
            ),
            "num_probes",
        ),
        (lambda x: tx.losses.score_matching(_same, _LINEAR, x, x[:, :2], key=jr.key(0)), "x0"),
        (lambda x: tx.losses.LogitNormalTimes(deviation=0.0), "deviation"),
        (lambda x: tx.losses.BetaTimes(0.0, 1.0), "a"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        call(jnp.ones((4, 3)))


_LINEAR = tx.interpolants.Linear()


def _same(t, x, args):
    return x
