"""Training as a flow: what it keeps, how fast it falls, and exact laws of linear neurons."""

import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
import transportx.gradient_flows as gf
import transportx.mean_field as mf
from tests.helpers import check_reverse, quick
from tests.mean_field.networks import (
    KEYS,
    RISKS,
    SIGNS,
    WEIGHTS,
    D,
    E,
    N,
    X,
    Y,
    check_lost,
    network,
    trained,
)
from transportx.evolution import AdaptiveSteps, FixedSteps

PRECISE: dict[str, Any] = {"steps": AdaptiveSteps(1e-10, 1e-10, diffrax.Dopri8())}


def drift_of_invariants(made):
    kept = jax.vmap(mf.invariants)(made.networks)
    return jnp.max(jnp.abs(kept - kept[:1]))


@pytest.mark.slow
def test_relu_neurons_keep_their_invariants_over_the_whole_training():
    # The velocity jumps where a neuron meets a datum, so the order of a solver is lost there.
    options = {"t1": 3.0, "steps": FixedSteps(20_000, diffrax.Heun())}
    made = trained(mf.Risk(X, Y), network(mf.Relu()), **options)
    assert made.risk[-1] < 0.8 * made.risk[0]
    assert drift_of_invariants(made) < 1e-6


def test_powers_keep_theirs_and_a_ridge_lets_them_decay_at_its_rate():
    ridge, t1 = 0.3, 2.0
    times = jnp.linspace(0, t1, 3)
    run = quick(
        lambda risk: mf.train(risk, network(mf.RectifiedPower(2.5)), t1=t1, times=times, **PRECISE)
    )
    free, held = (run(mf.Risk(X, SIGNS, mf.logistic_loss, level)) for level in (0.0, ridge))
    assert free.completed
    assert held.completed
    assert jnp.max(jnp.abs(free.final.inner - free.networks.inner[0])) > 0.1
    assert drift_of_invariants(free) < 1e-8
    before, _, after = jax.vmap(mf.invariants)(held.networks)
    assert jnp.allclose(after, jnp.exp(-2 * ridge * t1) * before, atol=1e-8)


DYNAMICS = {"wasserstein": gf.Wasserstein(), "birth_death": gf.WassersteinFisherRao(reaction=3.0)}


@pytest.mark.parametrize("name", DYNAMICS)
def test_risk_falls_at_the_rate_of_the_dissipation(name):
    step = 0.005
    options = {"times": step * jnp.arange(5.0), "dynamics": DYNAMICS[name]}
    made = trained(
        RISKS["softmax"], network(), t1=4 * step, steps=FixedSteps(4, diffrax.Dopri5()), **options
    )
    before, near, _, behind, after = made.risk
    slope = (before - 8 * near + 8 * behind - after) / (12 * step)
    assert jnp.allclose(slope, -made.dissipation[2], rtol=1e-6)
    if name == "wasserstein":
        positions = jnp.concatenate([made.networks.inner, made.networks.outer], axis=2)
        weights = jnp.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * step)
        speed = WEIGHTS @ jnp.sum(jnp.tensordot(weights, positions, 1) ** 2, axis=1)
        assert jnp.allclose(made.dissipation[2], speed, rtol=1e-6)


def test_weights_react_as_the_integral_of_the_first_variation_says():
    # Without data the first variation is the ridge's, and neurons shrink exponentially.
    ridge, rate, t1 = 0.7, 1.5, 2.0
    start = network(mf.Relu())
    empty = mf.Risk(jnp.zeros((1, D)), jnp.zeros((1, E)), ridge=ridge)
    made = trained(empty, start, t1=t1, dynamics=gf.WassersteinFisherRao(reaction=rate), **PRECISE)
    squares = sum(jnp.sum(part**2, axis=1) for part in jax.tree.leaves(start.neurons))
    expected = WEIGHTS * jnp.exp(-rate * squares * (1 - jnp.exp(-2 * ridge * t1)) / 4)
    expected = expected / jnp.sum(expected) * jnp.sum(WEIGHTS)
    assert jnp.allclose(made.final.masses, expected, atol=1e-9)
    assert jnp.allclose(made.final.inner, jnp.exp(-ridge * t1) * start.inner, atol=1e-9)


# Linear neurons.


@functools.cache
def closed():
    """A program of the equation of moments: of a risk, moments, a time and a temperature."""

    def run(risk, moments, t1, temperature):
        return mf.linear_training(risk, moments, t1=t1, temperature=temperature)

    return quick(run)


@functools.cache
def linear():
    """A program of precise training: of a risk, linear neurons and a time."""
    return quick(lambda risk, start, t1: mf.train(risk, start, t1=t1, **PRECISE))


@pytest.mark.slow
def test_moments_of_linear_neurons_obey_their_own_equation():
    risk, start, t1 = RISKS["square"], network(mf.Identity()), 2.0
    expected = closed()(risk, mf.second_moments(start), t1, 0.0)
    assert expected.completed
    made = linear()(risk, start, t1)
    assert made.completed
    assert jnp.allclose(mf.second_moments(made.final), expected.moments[-1], atol=1e-8)
    assert jnp.allclose(made.risk[-1], expected.risk[-1], atol=1e-8)
    # Between steps the solver interpolates, less precisely.
    assert jnp.allclose(made.risk, expected.risk, atol=1e-4)


def test_balanced_scalar_neurons_learn_by_a_logistic_law():
    # In the first coordinate of input and output; the others are zero, and stay so.
    slope, t1 = 1.7, 1.3
    x, theta = X.at[:, 1:].set(0), jnp.linspace(-0.3, 0.5, N)[:, None]
    start = mf.Network(theta * jnp.eye(1, D), theta * jnp.eye(1, E), WEIGHTS, mf.Identity())
    made = linear()(mf.Risk(x, slope * x[:, :E], ridge=0.0), start, t1)
    # q' = 2 sigma q (slope - q) for q the product of the layers.
    sigma, q0 = jnp.mean(x[:, 0] ** 2), WEIGHTS @ theta[:, 0] ** 2
    expected = slope / (1 + (slope / q0 - 1) * jnp.exp(-2 * sigma * slope * t1))
    found = mf.second_moments(made.final)[D, 0]
    assert jnp.allclose(found, expected, atol=1e-8)
    assert jnp.allclose(made.risk[-1], sigma * (expected - slope) ** 2 / 2, atol=1e-8)


def wide_linear(weight, n=2000):
    made = mf.random_network(n, dim=D, num_outputs=E, activation=mf.Identity(), key=KEYS[3])
    return made.with_neurons(made.neurons, jnp.full(n, weight))


@functools.cache
def noisy():
    """A program of Langevin training: of a network, a temperature and a key."""
    risk = mf.Risk(X, Y, ridge=0.5)

    def run(start, temperature, key):
        dynamics = gf.Langevin(temperature)
        return mf.train(risk, start, t1=1.0, steps=50, dynamics=dynamics, key=key)

    return jax.jit(run)


def test_langevin_has_the_moments_of_the_noisy_equation():
    risk, temperature, n = mf.Risk(X, Y, ridge=0.5), jnp.array(0.2), 2000
    start = wide_linear(jnp.array(1 / n))
    made = noisy()(start, temperature, KEYS[4])
    assert made.completed
    law = mf.second_moments(start)
    with_noise, without = (closed()(risk, law, 1.0, T).moments[-1] for T in (0.2, 0.0))
    # Five standard errors of a second moment, and what 50 Euler-Maruyama steps leave.
    slack = 5 * jnp.max(jnp.diag(with_noise)) * jnp.sqrt(2 / n) + 0.02
    assert jnp.max(jnp.abs(mf.second_moments(made.final) - with_noise)) < slack
    # The noise is felt: without it the moments are further away.
    assert jnp.max(jnp.abs(without - with_noise)) > 1.5 * slack


def test_noise_that_blows_up_is_not_finite():
    made = noisy()(wide_linear(jnp.array(1e30)), jnp.array(0.2), KEYS[4])
    assert made.status == tx.Status.NON_FINITE
    check_lost(made)


def test_moments_that_fail_say_so():
    risk, law = mf.Risk(X, Y), jnp.eye(D + E)
    steps = AdaptiveSteps(1e-10, 1e-10, diffrax.Heun(), max_steps=3)
    made = quick(lambda m: mf.linear_training(risk, m, t1=5.0, steps=steps))(law)
    assert made.status == tx.Status.MAX_STEPS
    assert jnp.all(jnp.isnan(made.moments[-1]))
    assert jnp.isnan(made.risk[-1])


# Widths.

WIDTHS = (100, 1_000, 10_000)
COPIES = 8


def risks_at_widths(activation):
    """Risks of independent networks at one time, a row for each width.

    Neurons of weight zero count for nothing: one program serves every width.
    """
    risk, widest = mf.Risk(X, Y), max(WIDTHS)
    options = {"t1": 1.0, "steps": FixedSteps(10, diffrax.Heun()), "times": jnp.array([0, 1.0])}

    @jax.jit
    def run(key, n):
        made = mf.random_network(widest, dim=D, num_outputs=E, key=key, activation=activation)
        kept = jnp.arange(float(widest)) < n
        start = made.with_neurons(made.neurons, jnp.where(kept, 1 / n, 0))
        return mf.train(risk, start, **options).risk[-1]

    keys = jr.split(KEYS[5], (len(WIDTHS), COPIES))
    rows = zip(WIDTHS, keys, strict=True)
    return np.array([[float(run(key, jnp.float64(n))) for key in row] for n, row in rows])


def rate(errors):
    """Exponent of the width, by least squares."""
    return np.polyfit(np.log(WIDTHS), np.log(errors), 1)[0]


def test_risks_of_wide_linear_networks_approach_the_exact_limit_at_rate_one_half():
    limit = closed()(mf.Risk(X, Y), jnp.eye(D + E), 1.0, 0.0).risk[-1]
    risks = risks_at_widths(mf.Identity())
    errors = np.sqrt(np.mean((risks - float(limit)) ** 2, axis=1))
    assert errors[-1] < 0.02 * limit
    assert -0.65 < rate(errors) < -0.35


# Derivatives.


@pytest.mark.slow
def test_trainings_differentiate_in_everything():
    def end(inner, weights, y, ridge, t1):
        start = mf.Network(inner, network().outer, weights, mf.Tanh(), 4)
        made = mf.train(
            mf.Risk(X, y, ridge=ridge),
            start,
            t1=t1,
            steps=2,
            dynamics=DYNAMICS["birth_death"],
            times=t1 * jnp.array([0.0, 1.0]),
        )
        return made.risk[-1], made.final.inner, made.final.masses

    check_reverse(end, network().inner, WEIGHTS, Y, jnp.float64(0.1), jnp.float64(1.2))
