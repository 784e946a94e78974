"""Measured orders of convergence: every solver of a flow, and the samplers with noise."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import transportx as tx

# A field that is not linear in x, from N(0, 1) to two points seen through noise.
DATA, WIDTH = np.array([-0.7, 0.6]), 0.15
PATH = tx.interpolants.Warped(tx.interpolants.Linear(WIDTH), tx.interpolants.Sigmoid(4.0))
FIELD = tx.fields.EmpiricalField(jnp.asarray(DATA)[:, None], PATH)
PLAIN = np.array([-1.6, -0.3, 0.1, 0.8])
# Between the points a particle is left in doubt for long. Its errors are the largest: of
# order five they stand above rounding at steps small enough to see the order.
IN_DOUBT = np.array([0.0])


def rank_kept(x):
    """A flow of the line keeps ranks: where the mixture at the end has the rank of x."""
    rank = scipy.stats.norm.cdf(x)

    def miss(y):
        return np.mean(scipy.stats.norm.cdf((y - DATA) / WIDTH)) - rank

    return scipy.optimize.brentq(miss, -9, 9, xtol=1e-15)


def error(sampler, x0, num_steps):
    found = np.asarray(sampler(FIELD, jnp.asarray(x0)[:, None], num_steps))[:, 0]
    return np.max(np.abs(found - np.array([rank_kept(x) for x in x0])))


def stepping(solver):
    return lambda field, x0, n: tx.sampling.flow(
        field, x0, steps=tx.evolution.FixedSteps(n, solver)
    )


def exponential(order):
    return lambda field, x0, n: tx.sampling.exponential_flow(
        field, x0, path=PATH, steps=n, order=order
    )


def hardly_corrected(field, x0, n):
    """Langevin steps of a size below every error here leave the predictor's."""
    return tx.sampling.predictor_corrector(
        field,
        x0,
        score=tx.fields.ScoreOf(field, PATH),
        key=jr.key(170),
        steps=n,
        signal_to_noise=1e-7,
    )


SAMPLERS = {
    "euler": (stepping(diffrax.Euler()), 1),
    "heun": (stepping(diffrax.Heun()), 2),
    "midpoint": (stepping(diffrax.Midpoint()), 2),
    "rk4": (stepping(tx.sampling.RK4()), 4),
    "tsit5": (stepping(diffrax.Tsit5()), 5),
    "dopri5": (stepping(diffrax.Dopri5()), 5),
    "exponential 1": (exponential(1), 1),
    "exponential 2": (exponential(2), 2),
    "predictor-corrector": (hardly_corrected, 1),
}


@pytest.mark.parametrize(("sampler", "order"), SAMPLERS.values(), ids=SAMPLERS.keys())
def test_errors_fall_at_the_order_of_the_sampler(sampler, order):
    x0 = PLAIN if order < 4 else IN_DOUBT
    coarse, fine = error(sampler, x0, 160), error(sampler, x0, 320)
    # The next term of the error moves the measured order by up to a tenth.
    assert np.isclose(np.log2(coarse / fine), order, atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Heun(), 2)])
def test_covariances_converge_at_the_weak_order_of_the_solver(solver, order):
    """A linear equation: the covariance of one path, exactly, from its derivative in the noise."""
    path = tx.interpolants.Trigonometric()
    field = tx.fields.GaussianField(
        jnp.zeros(1), jnp.eye(1), jnp.zeros(1), jnp.full((1, 1), 0.3), path
    )
    score = tx.fields.ScoreOf(field, path)

    def deviation(num_steps):
        """Root of the variance at t = 0.8 by the recursion of the scheme, applied to numbers."""
        h = 0.8 / num_steps

        def drift(t, x):
            x = jnp.full(1, x)
            return (field(t, x) + 0.5 * score(t, x))[0]

        def step(variance, n):
            t = n * h
            slope, then = drift(t, 1.0), drift(t + h, 1.0)
            if order == 1:
                growth, kick = 1 + h * slope, 1.0
            else:
                growth = 1 + h / 2 * (slope + then * (1 + h * slope))
                kick = 1 + h / 2 * then
            return growth**2 * variance + kick**2 * h, None

        return jax.lax.scan(step, 1.0, jnp.arange(num_steps, dtype=float))[0]

    samples = tx.sampling.diffuse(
        field,
        jr.normal(jr.key(95), (200_000, 1)),
        score=score,
        noise=jnp.ones_like,
        key=jr.key(96),
        steps=tx.evolution.FixedSteps(10, solver),
        t1=0.8,
    )
    # The sampler takes the scheme's steps: four standard errors of a variance.
    assert np.isclose(float(jnp.var(samples)), float(deviation(10)), rtol=4 * np.sqrt(2 / 2e5))
    exact = np.cos(0.4 * np.pi) ** 2 + 0.3 * np.sin(0.4 * np.pi) ** 2
    coarse, fine = (abs(float(deviation(n)) - exact) for n in (100, 200))
    assert np.isclose(np.log2(coarse / fine), order, atol=0.1)


def test_langevin_steps_miss_by_the_square_of_the_signal_to_noise():
    """On N(0, 1), at rest, the variance V of steps delta = 2 r^2 / V is 1 + r^2, exactly."""

    def excess(ratio):
        x1 = tx.sampling.predictor_corrector(
            lambda t, x, args: jnp.zeros_like(x),
            jr.normal(jr.key(172), (200_000, 1)),
            score=lambda t, x, args: -x,
            key=jr.key(173),
            steps=2,
            num_corrections=40,
            signal_to_noise=ratio,
        )
        return float(jnp.var(x1)) - 1

    for ratio in (0.35, 0.7):
        # Four standard errors of a variance.
        assert np.isclose(excess(ratio), ratio**2, atol=4 * np.sqrt(2 / 2e5) * (1 + ratio**2))
