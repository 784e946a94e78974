"""Entropic closed forms: against Sinkhorn on grids, duality, differential equations, limits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import transportx as tx
from tests.helpers import check_derivatives
from tests.tables import covariance

gaussians = tx.gaussians


def ends(dim, seed=0):
    """Two Gaussians whose covariances do not commute where dim > 1."""
    keys = jr.split(jr.key(seed), 4)
    return (
        jr.normal(keys[0], (dim,)),
        covariance(keys[1], dim),
        jr.normal(keys[2], (dim,)),
        covariance(keys[3], dim),
    )


def as_numpy(*arrays) -> Any:
    return tuple(np.asarray(array) for array in arrays)


# Numerical transport on tensor grids. The trapezoid rule is exact to rounding for Gaussians
# that are sampled finely and vanish at the ends; the kernel is a product over the axes.


class Weights(NamedTuple):
    axes: Any
    points: Any
    weights: Any


class Numerical(NamedTuple):
    value: Any
    mass: Any
    m0: Any
    S0: Any
    m1: Any
    S1: Any
    cross: Any
    source: Weights
    f: Any
    map: Any


def sampled(mass, mean, matrix, num=90):
    """Points and weights of mass * N(mean, matrix), nine deviations to each side."""
    reach = 9 * np.sqrt(np.diag(matrix))
    axes = [np.linspace(m - r, m + r, num) for m, r in zip(mean, reach, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    weights = scipy.stats.multivariate_normal(mean, matrix).pdf(points).reshape(points.shape[:-1])
    return Weights(axes, points, mass * weights / weights.sum())


def over_axes(kernels, values):
    for axis, kernel in enumerate(kernels):
        values = np.moveaxis(np.tensordot(kernel, values, (1, axis)), 0, axis)
    return values


def moments(points, weights):
    flat, weights = points.reshape(-1, points.shape[-1]), weights.ravel() / weights.sum()
    mean = weights @ flat
    return mean, (flat - mean).T @ (weights[:, None] * (flat - mean))


def fixed_point(a, b, there, back, powers):
    """Sinkhorn's scalings of weights a and b, to rounding."""
    u, v = np.ones_like(a), np.ones_like(b)
    for _ in range(2000):
        previous, u = u, over_axes(there, b * v) ** -powers[0]
        v = over_axes(back, a * u) ** -powers[1]
        if np.abs(a * (u / previous - 1)).sum() < 1e-13:
            return u, v
    raise AssertionError("no fixed point")


def numerical(law, epsilon, masses=(1.0, 1.0), rhos=(np.inf, np.inf)):
    """Sinkhorn's plan, and what it says."""
    m0, S0, m1, S1 = as_numpy(*law)
    a, b = sampled(masses[0], m0, S0), sampled(masses[1], m1, S1)
    apart = [x[:, None] - y for x, y in zip(a.axes, b.axes, strict=True)]
    there = [np.exp(-(gaps**2) / epsilon) for gaps in apart]
    back = [kernel.T for kernel in there]
    powers = [1 / (1 + epsilon / rho) for rho in rhos]
    u, v = fixed_point(a.weights, b.weights, there, back, powers)
    au, bv = a.weights * u, b.weights * v
    reached = over_axes(there, bv)
    first, second = au * reached, bv * over_axes(back, au)
    (ma, Sa), (mb, Sb), mass = moments(a.points, first), moments(b.points, second), first.sum()
    sums = [over_axes(there, bv * y) for y in np.moveaxis(b.points, -1, 0)]
    image = np.stack(sums, axis=-1) / reached[..., None]
    grid = tuple(range(first.ndim))
    cross = np.tensordot(a.points - ma, first[..., None] * (image - mb), (grid, grid)) / mass
    # KL(P | a x b) holds -C / epsilon, which cancels the cost.
    value = np.sum(first * np.log(u)) + np.sum(second * np.log(v)) - mass + np.prod(masses)
    value *= epsilon
    for rho, p, q in zip(rhos, (first, second), (a.weights, b.weights), strict=True):
        value += rho * np.sum(scipy.special.kl_div(p, q)) if np.isfinite(rho) else 0
    return Numerical(value, mass, ma, Sa, mb, Sb, cross, a, epsilon * np.log(u), image)


# The balanced plan


@pytest.mark.parametrize(("dim", "epsilon"), [(1, 0.3), (1, 5.0), (2, 0.7), (2, 3.0)])
def test_entropic_plan_is_that_of_sinkhorn(dim, epsilon):
    law = ends(dim)
    plan, expected = gaussians.entropic_plan(*law, epsilon=epsilon), numerical(law, epsilon)
    np.testing.assert_allclose(plan.value, expected.value, rtol=1e-10)
    np.testing.assert_allclose(plan.cross, expected.cross, atol=1e-10)
    # Far out, weights vanish beside rounding and the iteration is free to say anything.
    near = expected.source.weights > 1e-12
    points = jnp.asarray(expected.source.points[near])
    np.testing.assert_allclose(jax.vmap(plan.map)(points), expected.map[near], atol=1e-8)
    shifts = jax.vmap(plan.f)(points) - expected.f[near]
    np.testing.assert_allclose(shifts, shifts[0], atol=1e-8)


def test_potentials_are_the_log_density_of_the_plan():
    m0, S0, m1, S1 = law = ends(3)
    epsilon = 0.4
    plan = gaussians.entropic_plan(*law, epsilon=epsilon)
    x, y = jr.normal(jr.key(1), (2, 3))
    joint = np.block([[S0, plan.cross], [plan.cross.T, S1]])
    normal: Any = scipy.stats.multivariate_normal
    expected = (
        normal(np.concatenate([m0, m1]), joint).logpdf(np.concatenate([x, y]))
        - normal(*as_numpy(m0, S0)).logpdf(x)
        - normal(*as_numpy(m1, S1)).logpdf(y)
    )
    logs = (plan.f(x) + plan.g(y) - jnp.sum((x - y) ** 2)) / epsilon
    np.testing.assert_allclose(logs, expected, rtol=1e-11)
    np.testing.assert_allclose(plan.f(m0), plan.g(m1), rtol=1e-14)


def test_conditional_covariance_is_that_of_the_joint_law():
    _, S0, _, S1 = law = ends(3)
    plan = gaussians.entropic_plan(*law, epsilon=0.4)
    left = S1 - plan.cross.T @ jnp.linalg.solve(S0, plan.cross)
    np.testing.assert_allclose(0.2 * plan.map.matrix, left, atol=1e-12)


def test_swapped_ends_give_the_transposed_plan():
    m0, S0, m1, S1 = ends(3)
    plan = gaussians.entropic_plan(m0, S0, m1, S1, epsilon=0.4)
    swapped = gaussians.entropic_plan(m1, S1, m0, S0, epsilon=0.4)
    np.testing.assert_allclose(swapped.cross, plan.cross.T, atol=1e-12)
    np.testing.assert_allclose(swapped.value, plan.value, rtol=1e-12)
    np.testing.assert_allclose(swapped.f(m0), plan.g(m0), rtol=1e-12)


def test_little_entropy_gives_optimal_transport_and_much_gives_independence():
    m0, S0, m1, S1 = law = ends(3)
    sharp = gaussians.entropic_plan(*law, epsilon=1e-6)
    np.testing.assert_allclose(sharp.value, gaussians.wasserstein2_squared(*law), atol=1e-4)
    np.testing.assert_allclose(sharp.map.matrix, gaussians.transport_map(*law).matrix, atol=1e-5)
    blurred = gaussians.entropic_plan(*law, epsilon=1e7)
    independent = jnp.sum((m0 - m1) ** 2) + jnp.trace(S0) + jnp.trace(S1)
    np.testing.assert_allclose(blurred.value, independent, rtol=1e-6)
    np.testing.assert_allclose(blurred.cross, 0, atol=1e-5)


def test_entropic_plan_of_laws_on_a_line_is_that_of_the_line():
    line = ends(1)
    u, v = jnp.array([0.6, 0.8, 0.0]), jnp.array([0.0, 0.6, 0.8])
    m0, S0, m1, S1 = line
    flat = (m0 * u, S0 * jnp.outer(u, u), m1 * u, S1 * jnp.outer(u, u))
    plan = gaussians.entropic_plan(*flat, epsilon=0.4)
    expected = gaussians.entropic_plan(*line, epsilon=0.4)
    # Roots of rounding, 1e-8, on numbers of order one.
    np.testing.assert_allclose(plan.value, expected.value, atol=1e-7)
    np.testing.assert_allclose(plan.cross, expected.cross * jnp.outer(u, u), atol=1e-7)
    point = gaussians.entropic_plan(m0 * v, jnp.zeros((3, 3)), *flat[2:], epsilon=0.4)
    apart = jnp.sum((m0 * v - m1 * u) ** 2)
    np.testing.assert_allclose(point.value, apart + jnp.trace(S1), rtol=1e-12)


# Sinkhorn divergence


@pytest.mark.parametrize("dim", [1, 2])
def test_sinkhorn_divergence_is_that_of_sinkhorn(dim):
    m0, S0, m1, S1 = law = ends(dim)
    pairs = (law, (m0, S0, m0, S0), (m1, S1, m1, S1))
    both, first, second = (numerical(pair, 0.9).value for pair in pairs)
    divergence = gaussians.debiased_divergence(*law, epsilon=0.9)
    np.testing.assert_allclose(divergence, both - (first + second) / 2, rtol=1e-9)


def test_sinkhorn_divergence_runs_from_wasserstein_to_the_distance_of_means():
    m0, _, m1, _ = law = ends(3)
    # The divergence errs by epsilon^2, the value by epsilon log epsilon.
    sharp = gaussians.debiased_divergence(*law, epsilon=1e-3)
    np.testing.assert_allclose(sharp, gaussians.wasserstein2_squared(*law), atol=1e-5)
    blurred = gaussians.debiased_divergence(*law, epsilon=1e5)
    np.testing.assert_allclose(blurred, jnp.sum((m0 - m1) ** 2), rtol=1e-4)


def test_sinkhorn_divergence_and_its_gradient_vanish_at_equal_laws():
    m0, S0, *_ = ends(3)
    value, gradient = jax.value_and_grad(gaussians.debiased_divergence, argnums=(0, 1))(
        m0, S0, m0, S0, epsilon=0.5
    )
    np.testing.assert_allclose(value, 0, atol=1e-14)
    np.testing.assert_allclose(gradient[0], 0, atol=1e-14)
    np.testing.assert_allclose(gradient[1], 0, atol=1e-13)


# Unbalanced plans

PENALTIES = [(1.0, 1.0), (0.6, 2.5), (4.0, 0.3)]


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("rhos", PENALTIES)
def test_entropic_unbalanced_is_that_of_sinkhorn(dim, rhos):
    m0, S0, m1, S1 = law = ends(dim)
    plan = gaussians.entropic_unbalanced(
        1.3, m0, S0, 0.6, m1, S1, epsilon=0.8, rho_a=rhos[0], rho_b=rhos[1]
    )
    expected = numerical(law, 0.8, (1.3, 0.6), rhos)
    for name in ("value", "mass", "m0", "S0", "m1", "S1", "cross"):
        np.testing.assert_allclose(getattr(plan, name), getattr(expected, name), atol=1e-10)


def kl(mass, mean, matrix, other_mass, other_mean, other_matrix):
    """KL between two Gaussians with masses, by the chain rule for the mass."""
    inverse, apart = np.linalg.inv(other_matrix), mean - other_mean
    shape = np.trace(inverse @ matrix) - mean.size - np.linalg.slogdet(inverse @ matrix)[1]
    log_ratio = np.log(mass / other_mass)
    return mass * ((shape + apart @ inverse @ apart) / 2 + log_ratio - 1) + other_mass


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("rhos", PENALTIES)
def test_unbalanced_plan_carries_a_dual_certificate(dim, rhos):
    # f = -rho_a log(dP_1 / da) and g alike: optimal if f(x) + g(y) <= |x - y|^2, with
    # equality on the plan, here the graph of the optimal map between the marginals.
    m0, S0, m1, S1 = ends(dim)
    plan = gaussians.unbalanced(1.3, m0, S0, 0.6, m1, S1, rho_a=rhos[0], rho_b=rhos[1])
    marginals: Any = as_numpy(plan.m0, plan.m1, plan.S0, plan.S1)
    answer: Any = ot.gaussian.bures_wasserstein_mapping(*marginals)
    matrix, offset = answer

    def potential(rho, mass, end, marginal, points):
        logs = [scipy.stats.multivariate_normal(*law).logpdf(points) for law in (marginal, end)]
        return -rho * (np.log(float(plan.mass) / mass) + logs[0] - logs[1])

    x, y = 2 * jr.normal(jr.key(5), (2, 200, dim))
    image = np.asarray(x) @ matrix.T + offset
    f = potential(rhos[0], 1.3, (m0, S0), (plan.m0, plan.S0), x)
    g, best = (potential(rhos[1], 0.6, (m1, S1), (plan.m1, plan.S1), z) for z in (y, image))
    assert (f + g <= np.sum((x - y) ** 2, axis=1)).all()
    np.testing.assert_allclose(f + best, np.sum((x - image) ** 2, axis=1), atol=1e-9)
    ma, Sa, mb, Sb = as_numpy(plan.m0, plan.S0, plan.m1, plan.S1)
    distance: Any = ot.gaussian.bures_wasserstein_distance(ma, mb, Sa, Sb)
    primal = (
        plan.mass * distance**2
        + rhos[0] * kl(float(plan.mass), ma, Sa, 1.3, *as_numpy(m0, S0))
        + rhos[1] * kl(float(plan.mass), mb, Sb, 0.6, *as_numpy(m1, S1))
    )
    np.testing.assert_allclose(plan.value, primal, rtol=1e-11)
    np.testing.assert_allclose(plan.cross, plan.S0 @ matrix.T, atol=1e-11)


def test_entropic_unbalanced_tends_to_both_of_its_limits():
    m0, S0, m1, S1 = law = ends(3)
    rhos = {"rho_a": 0.6, "rho_b": 2.5}
    sharp = gaussians.entropic_unbalanced(1.3, m0, S0, 0.6, m1, S1, epsilon=1e-7, **rhos)
    exact = gaussians.unbalanced(1.3, m0, S0, 0.6, m1, S1, **rhos)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sharp, exact)
    strict = gaussians.entropic_unbalanced(
        1.0, m0, S0, 1.0, m1, S1, epsilon=0.5, rho_a=1e6, rho_b=1e6
    )
    balanced = gaussians.entropic_plan(*law, epsilon=0.5)
    # The error is of order 1 / rho, times the square of the potentials.
    np.testing.assert_allclose(strict.value, balanced.value, atol=1e-4)
    np.testing.assert_allclose(strict.cross, balanced.cross, atol=1e-4)
    np.testing.assert_allclose(strict.S1, S1, atol=1e-4)
    np.testing.assert_allclose(strict.mass, 1, atol=1e-4)


def test_mass_between_points_balances_cost_entropy_and_penalties():
    zero, m0, m1 = jnp.zeros((2, 2)), jnp.array([0.3, 0.1]), jnp.array([-0.4, 0.9])
    plan = gaussians.entropic_unbalanced(
        1.3, m0, zero, 0.6, m1, zero, epsilon=0.5, rho_a=0.7, rho_b=2.0
    )
    slope = (
        jnp.sum((m0 - m1) ** 2)
        + 0.5 * jnp.log(plan.mass / (1.3 * 0.6))
        + 0.7 * jnp.log(plan.mass / 1.3)
        + 2.0 * jnp.log(plan.mass / 0.6)
    )
    np.testing.assert_allclose(slope, 0, atol=1e-13)


# Bridges

SIGMA = 0.8


@pytest.mark.parametrize("dim", [1, 3])
def test_bridge_starts_and_ends_where_it_should(dim):
    m0, S0, m1, S1 = law = ends(dim)
    for t, mean, matrix in ((0, m0, S0), (1, m1, S1)):
        found = gaussians.bridge(t, *law, sigma=SIGMA)
        np.testing.assert_allclose(found[0], mean, atol=1e-14)
        np.testing.assert_allclose(found[1], matrix, atol=1e-12)


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
def test_drift_and_noise_carry_the_law_and_no_force_acts(time):
    law, t = ends(3), jnp.array(time)
    one = jnp.ones_like(t)
    (mean, S), (mean_rate, rate) = jax.jvp(
        lambda t: gaussians.bridge(t, *law, sigma=SIGMA), (t,), (one,)
    )
    drift, drift_rate = jax.jvp(
        lambda t: gaussians.bridge_drift(t, *law, sigma=SIGMA), (t,), (one,)
    )
    U = drift.matrix
    np.testing.assert_allclose(drift(mean), mean_rate, atol=1e-13)
    np.testing.assert_allclose(U @ S + S @ U + SIGMA**2 * np.eye(3), rate, atol=1e-11)
    np.testing.assert_array_equal(U, U.T)
    # Hamilton-Jacobi: a gradient drift of the Brownian reference obeys u' + Du u = 0.
    np.testing.assert_allclose(drift_rate.matrix, -U @ U, atol=1e-10)


def test_ends_of_the_bridge_are_coupled_as_sinkhorn_says():
    # Cov(X_0, X_1) = S0 F^T with F' = U_t F from the identity.
    law = ends(2)
    drift = jax.jit(lambda t: gaussians.bridge_drift(t, *law, sigma=SIGMA).matrix)
    answer = scipy.integrate.solve_ivp(
        lambda t, flat: (np.asarray(drift(t)) @ flat.reshape(2, 2)).ravel(),
        (0.0, 1.0),
        np.eye(2).ravel(),
        rtol=1e-10,
        atol=1e-12,
    )
    cross = np.asarray(law[1]) @ answer.y[:, -1].reshape(2, 2).T
    np.testing.assert_allclose(cross, numerical(law, 2 * SIGMA**2).cross, atol=1e-8)


def test_bridge_between_unit_gaussians_couples_them_by_the_golden_ratio():
    # The pair of the benchmarks: the correlation of its ends solves r^2 + r = 1.
    mean, unit = jnp.full(5, 0.1), jnp.eye(5)
    plan = gaussians.entropic_plan(-mean, unit, mean, unit, epsilon=2.0)
    np.testing.assert_allclose(plan.cross, (np.sqrt(5) - 1) / 2 * unit, atol=1e-14)
    _, matrix = gaussians.bridge(0.5, -mean, unit, mean, unit, sigma=1.0)
    np.testing.assert_allclose(matrix, (0.75 + (np.sqrt(5) - 1) / 4) * unit, atol=1e-14)


def test_bridge_of_little_noise_is_the_geodesic():
    law = ends(3)
    for found, expected in zip(
        gaussians.bridge(0.3, *law, sigma=1e-4), gaussians.geodesic(0.3, *law), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-7)


# Every closed form


def plan_of(m0, S0, m1, S1, parameter):
    return gaussians.entropic_plan(m0, S0, m1, S1, epsilon=parameter)


def divergence_of(m0, S0, m1, S1, parameter):
    return gaussians.debiased_divergence(m0, S0, m1, S1, epsilon=parameter)


def unbalanced_of(m0, S0, m1, S1, parameter):
    return gaussians.unbalanced(1.3, m0, S0, parameter, m1, S1, rho_a=1.2, rho_b=2 * parameter)


def entropic_unbalanced_of(m0, S0, m1, S1, parameter):
    return gaussians.entropic_unbalanced(
        parameter, m0, S0, 0.7, m1, S1, epsilon=parameter, rho_a=1.2, rho_b=1 + parameter
    )


def bridge_of(m0, S0, m1, S1, parameter):
    law = (m0, S0, m1, S1)
    drift = gaussians.bridge_drift(parameter, *law, sigma=parameter)
    return gaussians.bridge(parameter, *law, sigma=parameter), drift


every_form = pytest.mark.parametrize(
    "form",
    [plan_of, divergence_of, unbalanced_of, entropic_unbalanced_of, bridge_of],
)


def symmetrised(form):
    """The closed form as a function of matrices that may be moved in any direction."""
    return lambda m0, S0, m1, S1, parameter: form(
        m0, (S0 + S0.T) / 2, m1, (S1 + S1.T) / 2, parameter
    )


@every_form
def test_closed_form_differentiates_also_at_repeated_eigenvalues(form):
    m0, S0, m1, S1 = ends(2)
    pairs = ((m0, m1), (S0, jnp.eye(2)), (m1, m0), (S1, jnp.eye(2)), jnp.array([0.6, 0.8]))
    check_derivatives(jax.vmap(symmetrised(form)), *(jnp.stack(pair) for pair in pairs))


def test_gradient_of_the_value_differentiates_also_at_repeated_eigenvalues():
    m0, _, m1, _ = ends(2)
    value = symmetrised(lambda *law: plan_of(*law).value)
    law = (m0, jnp.eye(2), m1, jnp.eye(2), jnp.array(0.6))
    check_derivatives(jax.grad(value, argnums=(0, 1, 2, 3, 4)), *law)


@every_form
def test_loop_vmap_and_jit_agree_and_float32_is_near(form):
    laws = [ends(3, seed) for seed in range(2)]
    parameter = jnp.array(0.6)
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *laws)
    mapped = jax.jit(jax.vmap(form, in_axes=(0, 0, 0, 0, None)))(*batch, parameter)
    for index, law in enumerate(laws):
        for one, many in zip(
            jax.tree.leaves(form(*law, parameter)), jax.tree.leaves(mapped), strict=True
        ):
            np.testing.assert_allclose(many[index], one, rtol=1e-11, atol=1e-11)
    single = form(*(part.astype(jnp.float32) for part in laws[0]), 0.6)
    for one, many in zip(jax.tree.leaves(single), jax.tree.leaves(mapped), strict=True):
        assert one.dtype == jnp.float32
        # A few dozen roundings of 6e-8, and condition numbers of about ten.
        np.testing.assert_allclose(one, many[0], rtol=2e-4, atol=1e-4)


@every_form
@pytest.mark.parametrize("bad", [jnp.diag(jnp.array([1.0, -0.1])), -9 * jnp.eye(2)])
def test_a_matrix_that_is_not_a_covariance_gives_nan(form, bad):
    mean, good, parameter = jnp.zeros(2), jnp.eye(2), jnp.array(0.6)
    for law in ((mean, bad, mean, good), (mean, good, mean, bad)):
        answer = form(*law, parameter)
        matrices = [leaf for leaf in jax.tree.leaves(answer) if leaf.ndim != 1]
        assert all(jnp.isnan(leaf).all() for leaf in matrices)


# Refusals

M, S = jnp.zeros(2), jnp.eye(2)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussians.entropic_plan(M, S, M, S, epsilon=0.0), "`epsilon` is 0.0.*positive"),
        (
            lambda: gaussians.entropic_plan(M, S, M, jnp.eye(3), epsilon=1.0),
            r"`S1` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.debiased_divergence(M, S, M, S, epsilon=-1.0),
            "`epsilon` is -1.0.*positive",
        ),
        (
            lambda: gaussians.debiased_divergence(M, S, jnp.zeros(3), S, epsilon=1.0),
            r"`m1` has shape .*; give shape \(d,\)",
        ),
        (
            lambda: gaussians.unbalanced(0, M, S, 1, M, S, rho_a=1.0, rho_b=1.0),
            "`mass0` is 0.*positive",
        ),
        (
            lambda: gaussians.unbalanced(1, M, S, -2, M, S, rho_a=1.0, rho_b=1.0),
            "`mass1` is -2.*positive",
        ),
        (
            lambda: gaussians.unbalanced(1, M, S, 1, M, S, rho_a=0.0, rho_b=1.0),
            "`rho_a` is 0.0.*positive",
        ),
        (
            lambda: gaussians.unbalanced(1, M, jnp.eye(3), 1, M, S, rho_a=1.0, rho_b=1.0),
            r"`S0` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.entropic_unbalanced(
                1, M, S, 1, M, S, epsilon=1.0, rho_a=1.0, rho_b=float("inf")
            ),
            "`rho_b` is inf.*finite",
        ),
        (
            lambda: gaussians.entropic_unbalanced(
                1, M, S, 1, M, S, epsilon=0.0, rho_a=1.0, rho_b=1.0
            ),
            "`epsilon` is 0.0.*positive",
        ),
        (lambda: gaussians.bridge(0.5, M, S, M, S, sigma=0.0), "`sigma` is 0.0.*positive"),
        (
            lambda: gaussians.bridge(0.5, M, jnp.eye(3), M, S, sigma=1.0),
            r"`S0` has shape .*; give shape \(d, d\)",
        ),
        (lambda: gaussians.bridge_drift(0.5, M, S, M, S, sigma=-1.0), "`sigma` is -1.0.*positive"),
        (
            lambda: gaussians.bridge_drift(0.5, M, S, M, jnp.eye(3), sigma=1.0),
            r"`S1` has shape .*; give shape \(d, d\)",
        ),
    ],
)
def test_bad_input_is_refused_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
