"""Learned free energies: populations whose moments are known in closed form, and bad ones."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
import scipy.linalg

import transportx as tx
import transportx.gradient_flows as gf
import transportx.learned_energies as le
from tests.helpers import check_derivatives, quick
from transportx._status import judge
from transportx.learned_energies._least_squares import least_squares
from transportx.learned_energies._snapshots import running_integrals

STIFF = np.array([[1.0, 0.3], [0.3, 0.6]])
CENTRE = np.array([0.5, -1.0])
START = np.array([[2.0, -0.4], [-0.4, 0.5]])
TEMPERATURE, ATTRACTION = 0.3, 0.25
QUADRATICS = le.Monomials(2, 2)


def sphered(n, seed):
    """Points whose mean is zero and whose covariance is the identity, both exactly."""
    x = np.random.default_rng(seed).normal(size=(n, 2))
    x = x - x.mean(axis=0)
    return np.linalg.solve(np.linalg.cholesky(x.T @ x / n), x.T).T


def populations(times, sizes, temperature, attraction):
    """Clouds with the exact moments of points that fall into a bowl and attract each other."""
    clouds = []
    pull = STIFF + 2 * attraction * np.eye(2)
    rest = temperature * np.linalg.inv(pull)
    for seed, (time, n) in enumerate(zip(times, sizes, strict=True)):
        mean = CENTRE + scipy.linalg.expm(-time * STIFF) @ np.array([1.0, 2.0])
        shrink = scipy.linalg.expm(-time * pull)
        root = np.linalg.cholesky(rest + shrink @ (START - rest) @ shrink)
        clouds.append(jnp.asarray(mean + sphered(n, seed) @ root.T))
    return clouds


def exact_coefficients():
    """Of x2, x1, x2^2, x1 x2, x1^2, as the monomials are ordered."""
    slope = -STIFF @ CENTRE
    by_power = {(1, 0): slope[0], (0, 1): slope[1], (1, 1): STIFF[0, 1]}
    by_power |= {(2, 0): STIFF[0, 0] / 2, (0, 2): STIFF[1, 1] / 2}
    return np.array([by_power[tuple(row)] for row in QUADRATICS.exponents])


ATTRACTORS = (gf.Interaction(tx.geometry.SquaredEuclidean()),)


@pytest.fixture(scope="module")
def weak():
    """The fit of five populations of unequal sizes at times that span `last`."""
    times = np.array([0.0, 0.15, 0.4, 0.7, 1.0])
    sizes = 40, 30, 50, 35, 40
    options = {"terms": ATTRACTORS, "ridge": 1e-12}
    fit = quick(lambda clouds, t: le.fit_weak_form(clouds, t, QUADRATICS, **options))

    def at(last):
        clouds = populations(last * times, sizes, TEMPERATURE, ATTRACTION)
        return fit(clouds, jnp.asarray(last * times))

    return at


def errors(fit: Any):
    energy = fit.energy
    found = np.concatenate([energy.potential.coefficients, energy.coefficients])
    exact = np.append(exact_coefficients(), ATTRACTION)
    return np.append(found - exact, energy.temperature - TEMPERATURE)


def test_bowl_attraction_and_temperature_are_those_that_made_the_moments(weak):
    coarse, fine = weak(0.4), weak(0.2)
    assert fine.determined
    assert fine.rank == 7
    assert np.max(np.abs(errors(fine))) < 5e-4
    # The cubics err by the fourth power of the steps, and the condition grows with their inverse.
    assert np.linalg.norm(errors(coarse)) > 4 * np.linalg.norm(errors(fine))


def test_running_integrals_of_cubics_are_exact():
    times = np.array([0.0, 0.1, 0.5, 0.7, 1.5, 1.6])
    cubic = np.polynomial.Polynomial([0.3, -1.0, 2.0, 0.7])
    exact = cubic.integ()(times) - cubic.integ()(0.0)
    assert np.allclose(running_integrals(jnp.asarray(times)) @ cubic(times), exact, rtol=1e-12)
    two = running_integrals(jnp.array([1.0, 3.0])) @ jnp.array([2.0, 5.0])
    assert jnp.allclose(two, jnp.array([0.0, 7.0]), rtol=1e-12)


def test_coefficients_and_their_errors_are_those_of_regression():
    rng = np.random.default_rng(0)
    matrix, noise = rng.normal(size=(60, 4)) * [1, 10, 0.1, 1], rng.normal(size=60)
    values = matrix @ [1.0, 0.5, 30.0, 0.0] + 0.5 * noise
    solved = least_squares(jnp.asarray(matrix), jnp.asarray(values), ridge=1e-12, threshold=0.0)
    exact, left = np.linalg.lstsq(matrix, values, rcond=None)[:2]
    variance = left[0] / 56
    deviations = np.sqrt(variance * np.diag(np.linalg.inv(matrix.T @ matrix)))
    assert np.allclose(solved.coefficients, exact, rtol=1e-8, atol=1e-9)
    assert np.allclose(solved.deviations, deviations, rtol=1e-8)
    assert np.allclose(solved.misfit, np.sqrt(variance), rtol=1e-8)
    # What is not there goes, and the rest is what it would be without.
    sparse = least_squares(jnp.asarray(matrix), jnp.asarray(values), ridge=1e-12, threshold=3.0)
    alone = np.linalg.lstsq(matrix[:, :3], values, rcond=None)[0]
    assert sparse.kept.tolist() == [True, True, True, False]
    assert np.allclose(sparse.coefficients, np.append(alone, 0), rtol=1e-8)
    # The last is the temperature, which cannot be negative.
    turned = jnp.asarray(-matrix[:, ::-1])
    signed = least_squares(
        turned, jnp.asarray(values), last_positive=True, ridge=1e-12, threshold=0.0
    )
    assert signed.coefficients[-1] == 0
    assert not signed.kept[-1]


def test_claimed_errors_are_the_scatter_of_fits_to_many_draws_of_a_double_well():
    # The law on cells is exact, by the exponential of a reversible generator.
    temperature, times, width = 0.5, np.linspace(0, 0.9, 7), 6 / 240
    cells = -3 + width * (np.arange(240) + 0.5)
    half_steps = np.diff(0.5 * cells**4 - cells**2 + 0.3 * cells) / (2 * temperature)
    rates = np.diag(np.exp(-half_steps), -1) + np.diag(np.exp(half_steps), 1)
    rates = (rates - np.diag(rates.sum(axis=0))) * temperature / width**2
    start = np.exp(-((cells - 0.8) ** 2) / 0.1)
    laws = np.stack([scipy.linalg.expm(rates * time) @ start for time in times])
    levels = jnp.asarray(np.cumsum(laws, axis=1) / laws.sum(axis=1)[:, None])

    def fit(key):
        heights, places = jr.uniform(key, (2, 7, 400))
        cell = jax.vmap(jnp.searchsorted)(levels, heights)
        points = jnp.asarray(cells)[cell] + width * (places - 0.5)
        made = le.fit_weak_form(points[:, :, None], jnp.asarray(times), le.Monomials(1, 4))
        potential = made.energy.potential
        assert isinstance(potential, le.LinearPotential)
        found = jnp.append(potential.coefficients, made.energy.temperature)
        return found, made.deviations, made.misfit

    found, claimed, misfit = quick(lambda keys: jax.lax.map(fit, keys))(jr.split(jr.key(0), 300))
    # 300 draws know a deviation to four percent.
    ratio = jnp.median(claimed, axis=0) / jnp.std(found, axis=0)
    assert jnp.all((ratio > 0.85) & (ratio < 1.2)), ratio
    assert abs(jnp.mean(misfit) - 1) < 0.1


def test_two_features_that_are_one_leave_it_undetermined():
    times = jnp.array([0.0, 0.1, 0.2])
    clouds = jnp.stack(populations(times, (30,) * 3, 0.0, 0.0))
    same = {"entropy": False, "tests": QUADRATICS}
    fit = quick(
        lambda x: le.fit_weak_form(x, times, lambda x: jnp.stack([x[0], x[1], 2 * x[0]]), **same)
    )
    twice = fit(clouds)
    assert twice.status == tx.Status.UNDETERMINED
    assert twice.rank == 2
    broken = fit(clouds.at[1, 3, 0].set(jnp.nan))
    assert broken.status == tx.Status.NON_FINITE


def test_the_flow_of_the_answer_has_the_moments_it_was_fitted_to(weak):
    energy = weak(0.2).energy
    noiseless = le.LearnedEnergy(energy.potential, energy.terms, energy.coefficients, 0.0)
    start, _, _, _, end = populations(np.array([0, 0, 0, 0, 0.2]), (40,) * 5, 0.0, ATTRACTION)
    run = quick(lambda x: gf.flow(noiseless.functional, x, t1=0.2, steps=100).x[-1])(start)
    assert np.allclose(jnp.mean(run, axis=0), jnp.mean(end, axis=0), atol=5e-3)
    assert np.allclose(jnp.cov(run.T), jnp.cov(end.T), atol=5e-3)


def test_coefficients_differentiate_in_points_and_times():
    clouds = jnp.stack(populations(np.array([0.0, 0.2, 0.4]), (7,) * 3, 0.2, 0.0))

    def coefficients(x, times):
        fit = le.fit_weak_form(x, times, QUADRATICS)
        energy: Any = fit.energy
        return energy.potential.coefficients, energy.temperature, fit.deviations

    check_derivatives(coefficients, clouds, jnp.array([0.0, 0.2, 0.5]), step=1e-5, tol=1e-5)


@pytest.fixture(scope="module")
def drifting():
    """A cloud that moves as a whole, its points in another order each time."""
    x, shift = sphered(24, 0), np.array([0.4, -0.2])
    times = np.array([0.0, 0.5, 1.5])
    rng = np.random.default_rng(1)
    clouds = jnp.stack([jnp.asarray(rng.permutation(x + t * shift)) for t in times])
    return clouds, jnp.asarray(times), shift


def test_what_moves_as_a_whole_moves_by_its_mean(drifting):
    clouds, times, shift = drifting
    options = {"epsilon": 0.3, "at": 0.25, "solver": tx.ot.Newton(tol=1e-8)}
    moved = quick(lambda x: le.transport_displacements(x, times, **options))(clouds)
    assert jnp.all(moved.converged)
    assert np.allclose(moved.velocities, shift, atol=1e-5)
    left = clouds[1:] - 0.75 * np.diff(times)[:, None, None] * shift
    assert np.allclose(moved.x, left, atol=1e-5)


def test_jko_steps_of_a_bowl_obey_their_first_order_condition():
    # One implicit step of each length: x' = (1 + tau A)^-1 x, the map of a convex function.
    x = sphered(24, 2) @ np.diag([1.5, 0.7]) + 1.0
    taus = np.array([0.3, 0.2])
    clouds = [x]
    for tau in taus:
        clouds.append(clouds[-1] @ np.linalg.inv(np.eye(2) + tau * STIFF))
    times = jnp.asarray(np.append(0.0, np.cumsum(taus)))
    snapshots = jnp.asarray(np.stack(clouds))
    moved = le.transport_displacements(snapshots, times, epsilon=0.003, at=1.0)
    fit = le.fit_first_order(snapshots, times, QUADRATICS, displacements=moved, entropy=False)
    assert fit.determined, tx.Status[fit.status]
    found = jax.hessian(fit.energy.potential)(jnp.zeros(2))
    assert np.allclose(found, STIFF, atol=0.02)


def ended(*converged):
    """Statuses of as many transports."""
    return judge((jnp.array(converged), tx.Status.CONVERGED), otherwise=tx.Status.MAX_STEPS)


def test_a_network_of_known_form_finds_the_least_squares():
    x = jnp.asarray(sphered(30, 3) * [1.0, 0.5])
    velocities = jr.normal(jr.key(0), (1, 30, 2)) - x[None]
    weights = jnp.full((1, 30), 1 / 30)
    moved = le.Displacements(x[None], velocities, weights, ended(True))
    start = le.LinearPotential(QUADRATICS, jnp.zeros(5))
    options = {"optimizer": optax.sgd(0.02), "batch": 256}
    made = quick(
        lambda moved: le.fit_network(
            start, moved, num_steps=1500, temperature=0.2, key=jr.key(1), **options
        )
    )(moved)
    slopes = np.asarray(jax.vmap(jax.jacfwd(QUADRATICS))(x))
    gram = np.einsum("nud,nvd->uv", slopes, slopes) / 30
    curved = np.array([2.0 if 2 in row else 0.0 for row in QUADRATICS.exponents])
    pushed = 0.2 * curved - np.einsum("nud,nd->u", slopes, np.asarray(velocities[0])) / 30
    exact = np.linalg.solve(gram, pushed)
    assert made.status == tx.Status.DETERMINED
    potential: Any = made.energy.potential
    assert np.allclose(potential.coefficients, exact, atol=0.05)


def test_displacements_are_fitted_by_the_weighted_regression_of_velocities():
    rng = np.random.default_rng(4)
    x, weights = rng.normal(size=(2, 9, 2)), rng.dirichlet(np.ones(9), size=2)
    # The second population is smaller, and filled up.
    weights[1] = np.where(np.arange(9) < 7, weights[1], 0) / weights[1, :7].sum()
    # Squared distances pull towards the mean.
    pull = 2 * (x - np.einsum("kn,knd->kd", weights, x)[:, None, :])
    velocities = 0.3 * rng.normal(size=x.shape) - x @ STIFF - 0.4 * pull
    given = (jnp.asarray(a) for a in (x, velocities, weights))
    moved = le.Displacements(*given, status=ended(True, True))
    fit = quick(lambda m: le.fit_displacements(m, QUADRATICS, terms=ATTRACTORS, ridge=1e-12))
    made = fit(moved)
    slopes = np.asarray(jax.vmap(jax.vmap(jax.jacfwd(QUADRATICS)))(jnp.asarray(x)))
    rows = np.concatenate([slopes, pull[:, :, None, :]], axis=2).swapaxes(2, 3)
    root = np.sqrt(9 * weights)[:, :, None]
    matrix, values = -(rows * root[..., None]).reshape(-1, 6), (velocities * root).reshape(-1)
    exact, left = np.linalg.lstsq(matrix, values, rcond=None)[:2]
    energy: Any = made.energy
    assert made.determined, tx.Status[made.status]
    found = np.concatenate([energy.potential.coefficients, energy.coefficients])
    assert np.allclose(found, exact, rtol=1e-7)
    assert np.allclose(made.misfit, np.sqrt(left[0] / (values.size - 6)), rtol=1e-7)
    lost = moved._replace(status=ended(True, False))
    assert fit(lost).status == tx.Status.NOT_TRANSPORTED


TIMES = jnp.array([0.0, 1.0, 2.0])
CLOUDS = jnp.zeros((3, 4, 2))
ORIGIN, PAIR = CLOUDS[0], TIMES[:2]
STILL = le.Displacements(CLOUDS, CLOUDS, CLOUDS[:, :, 0], ended(True, True, True))


def _first_order(**options):
    """Of displacements over one step more than the populations have."""
    return le.fit_first_order(CLOUDS, TIMES, QUADRATICS, displacements=STILL, **options)


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("snapshots", lambda: le.fit_weak_form(CLOUDS[:1], TIMES[:1], QUADRATICS)),
        (
            r"snapshots\[1\]",
            lambda: le.fit_weak_form([CLOUDS[0], CLOUDS[0, :, :1]], TIMES, QUADRATICS),
        ),
        ("snapshots", lambda: le.fit_weak_form(CLOUDS[:, :0], TIMES, QUADRATICS)),
        ("times", lambda: le.fit_weak_form(CLOUDS, TIMES[:2], QUADRATICS)),
        ("times", lambda: le.fit_weak_form(CLOUDS, TIMES[::-1], QUADRATICS)),
        ("threshold", lambda: le.fit_weak_form(CLOUDS, TIMES, QUADRATICS, threshold=-1.0)),
        ("ridge", lambda: _first_order(ridge=0.0)),
        ("displacements", lambda: _first_order()),
        ("ridge", lambda: le.fit_displacements(STILL, QUADRATICS, ridge=0.0)),
        ("epsilon", lambda: le.transport_displacements(CLOUDS, TIMES, epsilon=0.0)),
        (
            "snapshots",
            lambda: le.fit_weak_form(
                CLOUDS, TIMES, le.Monomials(2, 4), tests=lambda x: x, entropy=False
            ),
        ),
        (
            "num_steps",
            lambda: le.fit_network(
                QUADRATICS, STILL, optimizer=optax.sgd(0.1), num_steps=0, batch=1, key=jr.key(0)
            ),
        ),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_refused_by_name(named, call):
    with pytest.raises(ValueError, match=f"`{named}"):
        call()
