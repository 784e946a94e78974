"""Gaussian closed forms: against POT, scipy, finite differences and the line."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

import transportx as tx
from tests.helpers import check_derivatives
from tests.tables import covariance, mixture

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


def degenerate(seed, rank, dim=5):
    """A covariance of less than full rank."""
    root = jr.normal(jr.key(seed), (dim, rank))
    return root @ root.T


# Square roots


def test_sqrtm_is_that_of_scipy():
    matrix = covariance(jr.key(0), 5)
    np.testing.assert_allclose(
        gaussians.sqrtm(matrix), scipy.linalg.sqrtm(np.asarray(matrix)), atol=1e-12
    )


def test_sqrtm_of_a_singular_matrix_squares_to_it():
    matrix = degenerate(0, 2)
    root = gaussians.sqrtm(matrix)
    # Eigenvalues of 1e-16 have roots of 1e-8, but these square back.
    np.testing.assert_allclose(root @ root, matrix, atol=1e-12)
    np.testing.assert_array_equal(gaussians.sqrtm(jnp.zeros((3, 3))), jnp.zeros((3, 3)))


def test_sqrtm_of_a_matrix_that_is_not_semidefinite_is_nan():
    matrix = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    assert jnp.isnan(gaussians.sqrtm(matrix)).all()
    assert jnp.isnan(jax.grad(lambda m: jnp.sum(gaussians.sqrtm(m)))(matrix)).all()


@pytest.mark.parametrize(
    "matrix",
    [jnp.eye(3), jnp.diag(jnp.array([4.0, 1.0, 1.0])), covariance(jr.key(1), 3), jnp.eye(1)],
    ids=["identity", "repeated", "general", "one"],
)
def test_sqrtm_differentiates_twice_also_at_repeated_eigenvalues(matrix):
    def root(moved):
        return gaussians.sqrtm((moved + moved.T) / 2)

    check_derivatives(root, matrix, order=2, tol=1e-5)


def test_hessian_of_the_trace_of_a_root_is_that_on_the_line():
    # tr sqrt(diag(v)) is a sum of square roots, with second derivatives -v^(-3/2) / 4.
    values = jnp.array([1.0, 1.0, 4.0])
    hessian = jax.hessian(lambda v: jnp.trace(gaussians.sqrtm(jnp.diag(v))))(values)
    np.testing.assert_allclose(hessian, np.diag([-1 / 4, -1 / 4, -1 / 32]), atol=1e-13)


# Optimal transport


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_transport_map_is_symmetric_positive_and_pushes_source_to_target(dim):
    m0, S0, m1, S1 = ends(dim)
    assert dim == 1 or jnp.max(jnp.abs(S0 @ S1 - S1 @ S0)) > 0.1
    transport = gaussians.transport_map(m0, S0, m1, S1)
    np.testing.assert_allclose(transport.matrix @ S0 @ transport.matrix.T, S1, atol=1e-11)
    np.testing.assert_allclose(transport.matrix, transport.matrix.T, atol=1e-14)
    assert (jnp.linalg.eigvalsh(transport.matrix) > 0).all()
    np.testing.assert_allclose(transport(m0), m1, atol=1e-14)


def test_transport_map_is_that_of_pot():
    m0, S0, m1, S1 = ends(4)
    answer: Any = ot.gaussian.bures_wasserstein_mapping(*as_numpy(m0, m1, S0, S1))
    matrix, offset = answer
    transport = gaussians.transport_map(m0, S0, m1, S1)
    np.testing.assert_allclose(transport.matrix, matrix, atol=1e-11)
    x = jnp.array([1.0, -2.0, 0.5, 3.0])
    np.testing.assert_allclose(transport(x), matrix @ np.asarray(x) + offset, atol=1e-11)


def test_transport_map_onto_a_singular_target_pushes_forward():
    m0, S0, m1, _ = ends(5)
    S1 = degenerate(3, 2)
    matrix = gaussians.transport_map(m0, S0, m1, S1).matrix
    # Roots of rounding, 1e-8, multiply numbers of order ten.
    np.testing.assert_allclose(matrix @ S0 @ matrix, S1, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_wasserstein2_is_that_of_pot(dim):
    m0, S0, m1, S1 = ends(dim)
    expected: Any = ot.gaussian.bures_wasserstein_distance(*as_numpy(m0, m1, S0, S1))
    np.testing.assert_allclose(gaussians.wasserstein2(m0, S0, m1, S1), expected, rtol=1e-11)
    np.testing.assert_allclose(
        gaussians.wasserstein2_squared(m0, S0, m1, S1), expected**2, rtol=1e-11
    )


def test_wasserstein2_of_the_line_is_the_distance_of_means_and_deviations():
    squared = gaussians.wasserstein2_squared(
        jnp.array([1.0]), jnp.array([[4.0]]), jnp.array([-2.0]), jnp.array([[0.25]])
    )
    np.testing.assert_allclose(squared, 3**2 + 1.5**2, rtol=1e-14)


def test_wasserstein2_is_the_least_cost_over_joint_covariances():
    # Any joint Gaussian with these marginals costs |dm|^2 + tr(S0 + S1 - 2 G).
    m0, S0, m1, S1 = ends(3)
    squared = gaussians.wasserstein2_squared(m0, S0, m1, S1)
    r0, r1 = np.linalg.cholesky(S0), np.linalg.cholesky(S1)
    rotations = scipy.stats.ortho_group.rvs(3, size=4000, random_state=0)
    crosses = np.einsum("ij,njk,lk->nil", r0, rotations, r1)
    independent = np.sum((m0 - m1) ** 2) + np.trace(S0 + S1)
    costs = independent - 2 * np.trace(crosses, axis1=1, axis2=2)
    assert costs.min() >= squared
    # 4000 rotations come within a few degrees of the best one.
    assert costs.min() < squared + 0.05 * (independent - squared)


def test_wasserstein2_is_a_metric():
    m0, S0, m1, S1 = ends(3)
    m2, S2, *_ = ends(3, seed=1)
    one = gaussians.wasserstein2(m0, S0, m1, S1)
    np.testing.assert_allclose(gaussians.wasserstein2(m1, S1, m0, S0), one, rtol=1e-12)
    # The square is zero up to rounding, 1e-15; its root up to 1e-7.
    assert gaussians.wasserstein2(m0, S0, m0, S0) < 1e-7
    around = gaussians.wasserstein2(m0, S0, m2, S2) + gaussians.wasserstein2(m2, S2, m1, S1)
    assert one < around


def test_wasserstein2_squared_differentiates_twice():
    m0, S0, m1, S1 = ends(2)

    def squared(m0, S0, m1, S1):
        S0, S1 = (S0 + S0.T) / 2, (S1 + S1.T) / 2
        return gaussians.wasserstein2_squared(m0, S0, m1, S1)

    check_derivatives(squared, m0, S0, m1, S1, order=2, tol=1e-5)


def test_gradient_at_equal_laws_is_zero():
    m0, S0, *_ = ends(3)
    mean, matrix = jax.grad(gaussians.wasserstein2_squared, argnums=(0, 1))(m0, S0, m0, S0)
    np.testing.assert_allclose(mean, 0, atol=1e-14)
    np.testing.assert_allclose(matrix, 0, atol=1e-12)
    gradient = jax.grad(gaussians.wasserstein2)(m0, jnp.eye(3), m0, jnp.eye(3))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(("rank0", "rank1"), [(1, 1), (2, 5), (5, 2), (2, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_bures_of_singular_covariances_is_a_distance_of_points_on_subspaces(rank0, rank1, dtype):
    S0, S1 = degenerate(0, rank0).astype(dtype), degenerate(1, rank1).astype(dtype)
    # tr (S0^1/2 S1 S0^1/2)^1/2 is the nuclear norm of the product of any two factors.
    factors = (jr.normal(jr.key(seed), (5, rank)) for seed, rank in ((0, rank0), (1, rank1)))
    left, right = (np.asarray(factor) for factor in factors)
    expected = np.sum(left**2) + np.sum(right**2) - 2 * np.linalg.norm(left.T @ right, "nuc")
    # Roots of rounding: 1e-8 or 3e-4, on numbers of order ten.
    tolerance = 10 * float(jnp.sqrt(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(gaussians.bures_squared(S0, S1), expected, rtol=tolerance)


def test_bures_of_laws_on_orthogonal_lines_is_the_sum_of_their_variances():
    u = jnp.array([0.6, 0.8, 0.1])
    v = jnp.cross(u, jnp.array([0.3, 0.2, 0.9]))
    squared = gaussians.bures_squared(jnp.outer(u, u), jnp.outer(v, v))
    np.testing.assert_allclose(squared, u @ u + v @ v, rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [jnp.diag(jnp.array([1.0, -0.1])), -jnp.eye(2), jnp.nan * jnp.eye(2)]
)
@pytest.mark.parametrize("good", [jnp.eye(2), jnp.zeros((2, 2))])
def test_distances_to_a_matrix_that_is_not_a_covariance_are_nan(bad, good):
    mean = jnp.zeros(2)
    assert jnp.isnan(gaussians.wasserstein2(mean, good, mean, bad))
    assert jnp.isnan(gaussians.wasserstein2(mean, bad, mean, good))
    assert jnp.isnan(gaussians.bures_squared(bad, good))
    assert jnp.isnan(gaussians.transport_map(mean, bad, mean, good).matrix).all()
    assert jnp.isnan(gaussians.transport_map(mean, good, mean, bad).matrix).all()


@pytest.mark.parametrize("dim", [1, 4])
def test_geodesic_has_constant_speed(dim):
    law = ends(dim)
    length = gaussians.wasserstein2(*law)
    points = jax.vmap(lambda t: gaussians.geodesic(t, *law))(jnp.array([0.0, 0.2, 0.7, 1.0]))
    for (s, i), (t, j) in [((0.2, 1), (0.7, 2)), ((0.0, 0), (0.7, 2)), ((0.2, 1), (1.0, 3))]:
        here, there = (tuple(part[k] for part in points) for k in (i, j))
        np.testing.assert_allclose(
            gaussians.wasserstein2(*here, *there), (t - s) * length, rtol=1e-10
        )
    np.testing.assert_allclose(points[0][jnp.array([0, 3])], jnp.stack(law[::2]), atol=1e-13)
    np.testing.assert_allclose(points[1][jnp.array([0, 3])], jnp.stack(law[1::2]), atol=1e-11)


def test_distances_agree_between_loop_vmap_and_jit():
    laws = [ends(3, seed) for seed in range(3)]
    loop = jnp.stack([gaussians.wasserstein2(*law) for law in laws])
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *laws)
    np.testing.assert_allclose(jax.jit(jax.vmap(gaussians.wasserstein2))(*batch), loop, rtol=1e-12)


def test_float32_agrees_with_float64():
    law = ends(4)
    single = tuple(part.astype(jnp.float32) for part in law)
    square = gaussians.wasserstein2_squared(*single)
    matrix = gaussians.transport_map(*single).matrix
    assert square.dtype == matrix.dtype == jnp.float32
    # A few dozen roundings of 6e-8, and condition numbers of about ten.
    np.testing.assert_allclose(square, gaussians.wasserstein2_squared(*law), rtol=2e-5)
    np.testing.assert_allclose(matrix, gaussians.transport_map(*law).matrix, rtol=2e-4, atol=2e-5)


# Flow matching


def joint(dim, seed=0):
    """Ends and a cross-covariance that make a joint covariance positive definite."""
    m0, _, m1, _ = ends(dim, seed)
    whole = covariance(jr.key(50 + seed), 2 * dim)
    return m0, whole[:dim, :dim], m1, whole[dim:, dim:], whole[:dim, dim:]


def block_diagonal(*blocks) -> Any:
    return scipy.linalg.block_diag(*blocks)


def curve(t):
    """Coefficients of an interpolant with all three terms, at one time."""
    return jnp.cos(t), jnp.sin(t) + 0.1 * t, 0.7 * t * (1 - t)


def field_at(t, coefficients, *law):
    one = jnp.ones_like(t)
    values, rates = jax.jvp(coefficients, (t,), (one,))
    return gaussians.flow_matching_field(values, rates, *law)


def law_at(t, coefficients, *law):
    """Mean and covariance of alpha x0 + beta x1 + gamma z, from the joint law."""
    alpha, beta, gamma = map(float, coefficients(t))
    m0, S0, m1, S1, cross = as_numpy(*law)
    dim = m0.size
    blend = np.hstack([alpha * np.eye(dim), beta * np.eye(dim), gamma * np.eye(dim)])
    whole = block_diagonal(np.block([[S0, cross], [cross.T, S1]]), np.eye(dim))
    return alpha * m0 + beta * m1, blend @ whole @ blend.T


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("correlated", [False, True])
def test_flow_matching_field_solves_the_continuity_equation(dim, correlated):
    *law, cross = joint(dim)
    t, step = jnp.array(0.4), 1e-5
    field = field_at(t, curve, *law, *([cross] if correlated else []))
    law = *law, cross if correlated else jnp.zeros_like(cross)
    (mean, matrix), later, earlier = (law_at(t + h, curve, *law) for h in (0, step, -step))
    np.testing.assert_allclose(field.centre, mean, atol=1e-14)
    # Central differences of step 1e-5 err by 1e-10 at most.
    np.testing.assert_allclose(field.offset, (later[0] - earlier[0]) / (2 * step), atol=1e-9)
    np.testing.assert_allclose(
        field.matrix @ matrix + matrix @ field.matrix.T,
        (later[1] - earlier[1]) / (2 * step),
        atol=1e-9,
    )


def test_flow_matching_field_is_the_conditional_mean_of_the_velocity():
    # E[v | x_t] = E[v] + Cov(v, x_t) Cov(x_t)^-1 (x - E[x_t]), of the joint law of both.
    law = joint(2)
    m0, S0, m1, S1, cross = as_numpy(*law)
    t, x = jnp.array(0.3), jnp.array([0.4, -1.0])
    values, rates = jax.jvp(curve, (t,), (jnp.ones_like(t),))
    rows = np.kron(np.array([rates, values]), np.eye(2))
    whole = block_diagonal(np.block([[S0, cross], [cross.T, S1]]), np.eye(2))
    covariances = np.asarray(rows @ whole @ rows.T)
    means = rows @ np.concatenate([m0, m1, np.zeros(2)])
    gain = scipy.linalg.solve(covariances[2:, 2:], np.asarray(x) - means[2:])
    field = gaussians.flow_matching_field(values, rates, *law)
    np.testing.assert_allclose(field(x), means[:2] + covariances[:2, 2:] @ gain, atol=1e-12)


def test_linear_path_between_independent_ends_flows_to_the_root_of_the_ratio():
    # d/dt M = A_t M from the identity ends at the principal root of S1 S0^-1.
    law = ends(2)

    def rate(t, flat):
        linear = lambda t: (1 - t, t, jnp.zeros_like(t))  # noqa: E731
        return (field_at(t, linear, *law).matrix @ flat.reshape(2, 2)).ravel()

    rate = jax.jit(rate)
    answer = scipy.integrate.solve_ivp(
        lambda t, flat: np.asarray(rate(jnp.array(t), jnp.asarray(flat))),
        (0.0, 1.0),
        np.eye(2).ravel(),
        rtol=1e-10,
        atol=1e-12,
    )
    S0, S1 = as_numpy(law[1], law[3])
    expected = scipy.linalg.sqrtm(S1 @ np.linalg.inv(S0))
    np.testing.assert_allclose(answer.y[:, -1].reshape(2, 2), expected, atol=1e-8)
    # It is not the optimal map, as these covariances do not commute.
    optimal = gaussians.transport_map(*law).matrix
    assert np.abs(answer.y[:, -1].reshape(2, 2) - optimal).max() > 1e-2


def test_flow_matching_field_of_optimally_coupled_ends_is_a_gradient():
    # Under the optimal coupling x1 = T x0 paths are McCann's, whose velocity is a gradient.
    m0, S0, m1, S1 = ends(3)
    matrix = gaussians.transport_map(m0, S0, m1, S1).matrix
    linear = lambda t: (1 - t, t, jnp.zeros_like(t))  # noqa: E731
    field = field_at(jnp.array(0.3), linear, m0, S0, m1, S1, S0 @ matrix)
    np.testing.assert_allclose(field.matrix, field.matrix.T, atol=1e-11)
    x = jnp.array([0.3, -0.5, 1.0])
    moved = 0.7 * x + 0.3 * (m1 + matrix @ (x - m0))
    np.testing.assert_allclose(field(moved), m1 + matrix @ (x - m0) - x, atol=1e-11)


def test_flow_matching_field_of_a_matrix_that_is_not_a_covariance_is_nan():
    mean, zero, one = jnp.zeros(2), jnp.array(0.0), jnp.array(1.0)
    bad = jnp.diag(jnp.array([1.0, -1.0]))
    field = gaussians.flow_matching_field(
        (one, zero, zero), (-one, one, zero), mean, bad, mean, jnp.eye(2)
    )
    assert jnp.isnan(field.matrix).all()


def test_flow_matching_field_differentiates():
    *law, cross = joint(2)

    def matrix(t, m0, S0, m1, S1, cross):
        law = m0, (S0 + S0.T) / 2, m1, (S1 + S1.T) / 2
        return field_at(t, curve, *law, cross).matrix

    check_derivatives(matrix, jnp.array(0.4), *law, cross)


# Measures


def test_log_density_is_that_of_scipy():
    m0, S0, x, _ = ends(3)
    expected = scipy.stats.multivariate_normal(*as_numpy(m0, S0)).logpdf(x)
    np.testing.assert_allclose(gaussians.log_density(x, m0, S0), expected, rtol=1e-12)
    assert jnp.isnan(gaussians.log_density(x, m0, -S0))


def test_mixture_density_of_the_line_integrates_to_one():
    law = mixture(jr.key(0), [0.2, 0.5, 0.3], 1)
    grid = jnp.linspace(-25, 25, 4001)
    density = jnp.exp(jax.jit(jax.vmap(law.log_density))(grid[:, None]))
    # The trapezoid rule is exact to rounding for densities that vanish at the ends.
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, atol=1e-12)


def test_mixture_density_is_that_of_scipy():
    law = mixture(jr.key(0), [0.2, 0.8], 3)
    points = jr.normal(jr.key(1), (5, 3))
    parts = [
        scipy.stats.multivariate_normal(*as_numpy(mean, matrix)).pdf(points)
        for mean, matrix in zip(law.means, law.covariances, strict=True)
    ]
    expected = np.log(0.2 * parts[0] + 0.8 * parts[1])
    np.testing.assert_allclose(jax.vmap(law.log_density)(points), expected, rtol=1e-12)


def test_mixture_log_density_is_finite_far_away_and_its_score_differentiates():
    law = mixture(jr.key(0), [0.2, 0.8], 2)
    far = jnp.array([1e3, -1e3])
    assert jnp.isfinite(law.log_density(far))
    assert jnp.isfinite(jax.grad(law.log_density)(far)).all()
    x = jnp.array([0.3, 0.6])

    def log_density(weights, means, covariances, x):
        covariances = (covariances + covariances.swapaxes(1, 2)) / 2
        return gaussians.Mixture(weights, means, covariances).log_density(x)

    check_derivatives(log_density, law.weights, law.means, law.covariances, x)
    check_derivatives(law.log_density, x, order=2)


def test_component_of_weight_zero_changes_nothing():
    law = mixture(jr.key(0), [0.0, 0.4, 0.6], 2)
    rest = gaussians.Mixture(law.weights[1:], law.means[1:], law.covariances[1:])
    density, score = jax.jit(jax.value_and_grad(law.log_density))(law.means[0])
    expected = jax.jit(jax.value_and_grad(rest.log_density))(law.means[0])
    np.testing.assert_allclose(density, expected[0], rtol=1e-13)
    np.testing.assert_allclose(score, expected[1], rtol=1e-11)
    drawn = law.sample(key=jr.key(1), num=500)
    # All draws lie nearer, in density, to the components that count.
    nearest = jax.vmap(
        lambda x: jax.vmap(gaussians.log_density, (None, 0, 0))(x, law.means, law.covariances)
    )(drawn)
    assert jnp.mean(jnp.argmax(nearest, axis=1) == 0) < 0.05


def test_samples_of_a_mixture_have_its_moments():
    law = mixture(jr.key(0), [0.3, 0.7], 2)
    num = 40_000
    drawn = np.asarray(jax.jit(lambda key: law.sample(key=key, num=num))(jr.key(1)))
    mean = np.einsum("k,kd->d", law.weights, law.means)
    apart = np.asarray(law.means) - mean
    second = np.asarray(law.covariances) + np.einsum("ki,kj->kij", apart, apart)
    matrix = np.einsum("k,kij->ij", law.weights, second)
    # Five standard errors; those of a covariance are at most sqrt(3) variances over sqrt(n).
    scale = np.diag(matrix).max()
    np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * np.sqrt(scale / num))
    np.testing.assert_allclose(np.cov(drawn.T), matrix, atol=5 * np.sqrt(3 / num) * scale)


def test_samples_of_a_mixture_follow_its_distribution_function():
    law = mixture(jr.key(3), [0.3, 0.7], 1)
    drawn = law.sample(key=jr.key(4), num=5000)[:, 0]
    means, deviations = np.asarray(law.means[:, 0]), np.sqrt(law.covariances[:, 0, 0])

    def distribution(x):
        return scipy.stats.norm.cdf(x[:, None], means, deviations) @ np.asarray(law.weights)

    # With a fixed key this is one draw: it fails for one key in a thousand.
    assert scipy.stats.kstest(np.asarray(drawn), distribution).pvalue > 1e-3


# Refusals

M, S = jnp.zeros(2), jnp.eye(2)
T = jnp.array(0.5)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaussians.wasserstein2(M, S, jnp.zeros(3), S),
            r"`m1` has shape .*; give shape \(d,\)",
        ),
        (
            lambda: gaussians.wasserstein2(M, jnp.eye(3), M, S),
            r"`S0` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.wasserstein2_squared(M, S, M, jnp.ones(2)),
            r"`S1` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.transport_map(M, jnp.ones((2, 3)), M, S),
            r"`S0` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.geodesic(0.5, M, S, M, jnp.eye(3)),
            r"`S1` has shape .*; give shape \(d, d\)",
        ),
        (lambda: gaussians.transport_map(jnp.zeros(0), S, M, S), "`m0`.*at least one"),
        (
            lambda: gaussians.transport_map(jnp.zeros(2, jnp.int32), S, M, S),
            "`m0` has dtype int32.*convert",
        ),
        (lambda: gaussians.bures_squared(S, jnp.eye(3)), r"`S1` has shape .*; give shape \(d, d\)"),
        (
            lambda: gaussians.flow_matching_field((T, T, T), (T, T, T), M, S, M, jnp.eye(3)),
            r"`S1` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.flow_matching_field((T, T, T), (T, T, T), M, S, M, S, jnp.eye(3)),
            r"`cross` has shape .*; give shape \(d, d\)",
        ),
        (
            lambda: gaussians.Mixture(jnp.ones(2), jnp.zeros((3, 2)), jnp.stack([S] * 3)),
            "`(means|weights)` has shape .*; give shape",
        ),
        (
            lambda: gaussians.Mixture(jnp.ones((3, 1)), jnp.zeros((3, 2)), jnp.stack([S] * 3)),
            "`(means|weights)` has shape .*; give shape",
        ),
        (
            lambda: gaussians.Mixture(jnp.ones(3), jnp.zeros((3, 2)), S),
            r"`covariances` has shape .*; give shape \(k, d, d\)",
        ),
        (
            lambda: gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 2), jnp.int32), S[None]),
            "`means` has dtype int32.*convert",
        ),
        (
            lambda: mixture(jr.key(0), [1.0], 2).sample(key=jr.key(0), num=0),
            "`num` is 0.*at least 1",
        ),
    ],
)
def test_bad_input_is_refused_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Bad input that is known at run time only


def test_no_map_from_a_line_to_what_is_not_on_it_and_the_map_along_it_where_there_is_one():
    u, v = jnp.array([3.0, 4.0]) / 5, jnp.array([1.0, -1.0])
    line, mean = 4 * jnp.outer(u, u), jnp.zeros(2)
    along = gaussians.transport_map(mean, line, mean, 9 * jnp.outer(u, u))
    # Deviation 2 to deviation 3, and nothing across.
    np.testing.assert_allclose(along.matrix, 1.5 * jnp.outer(u, u), atol=1e-12)
    for target in (jnp.eye(2), jnp.outer(v, v), line + 1e-3 * jnp.outer(v, v)):
        assert jnp.isnan(gaussians.transport_map(mean, line, mean, target).matrix).all()
        assert jnp.isnan(gaussians.geodesic(0.5, mean, line, mean, target)[1]).all()
    # From a point there is a map to a point alone.
    nowhere = jnp.zeros((2, 2))
    assert jnp.all(gaussians.transport_map(mean, nowhere, v, nowhere).matrix == 0)
    assert jnp.isnan(gaussians.transport_map(mean, nowhere, v, line).matrix).all()


def test_gradient_in_a_weight_of_zero_is_the_ratio_of_densities():
    law = mixture(jr.key(0), [0.0, 0.4, 0.6], 2)
    x = jnp.array([0.3, -0.4])

    def log_density(weights):
        return gaussians.Mixture(weights, law.means, law.covariances).log_density(x)

    slopes = jax.jit(jax.grad(log_density))(law.weights)
    parts = np.array(
        [
            scipy.stats.multivariate_normal(*as_numpy(law.means[k], law.covariances[k])).pdf(x)
            for k in range(3)
        ]
    )
    np.testing.assert_allclose(slopes, parts / (parts @ np.asarray(law.weights)), rtol=1e-11)


def test_mixtures_with_a_negative_weight_have_no_density_and_no_samples():
    law = mixture(jr.key(0), [-0.1, 0.5, 0.6], 2)
    assert jnp.isnan(law.log_density(jnp.zeros(2)))
    assert jnp.isnan(law.sample(key=jr.key(1), num=3)).all()


SKEW = jnp.array([[1.0, 0.5], [0.0, 1.0]])


@pytest.mark.parametrize("bad", [SKEW, jnp.diag(jnp.array([1.0, -0.1]))], ids=["skew", "saddle"])
def test_what_is_no_covariance_gives_nan_everywhere(bad):
    mean, good, one = jnp.zeros(2), jnp.eye(2), jnp.array(1.0)
    law = mean, bad, mean, good
    wide = (one, one, 9 * one), (-one, one, one)
    answers = (
        gaussians.sqrtm(bad),
        gaussians.log_density(mean, mean, bad),
        gaussians.wasserstein2(*law),
        gaussians.transport_map(*law).matrix,
        gaussians.geodesic(0.5, *law)[1],
        gaussians.entropic_plan(*law, epsilon=1.0).value,
        gaussians.debiased_divergence(*law, epsilon=1.0),
        gaussians.bridge(0.5, *law, sigma=1.0)[1],
        gaussians.bridge_drift(0.5, *law, sigma=1.0).matrix,
        gaussians.unbalanced(1.0, *law[:2], 1.0, *law[2:], rho_a=1.0, rho_b=1.0).value,
        gaussians.flow_matching_field(*wide, *law).matrix,
    )
    for answer in answers:
        assert jnp.isnan(answer).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan])
def test_numbers_that_do_not_fit_are_refused_and_give_nan_where_they_are_traced(bad):
    mean, eye = jnp.zeros(2), jnp.eye(2)
    law = mean, eye, mean + 1, 2 * eye
    masses = 1.0, mean, eye, 1.0, mean, 2 * eye
    time = bad if bad != 0 else 1.5
    calls = {
        "epsilon": (bad, lambda s: gaussians.entropic_plan(*law, epsilon=s).value),
        "sigma": (bad, lambda s: gaussians.bridge(0.5, *law, sigma=s)[1]),
        "rho_b": (bad, lambda s: gaussians.unbalanced(*masses, rho_a=1.0, rho_b=s).value),
        "mass0": (
            bad,
            lambda s: gaussians.unbalanced(s, *masses[1:], rho_a=1.0, rho_b=1.0).value,
        ),
        "t": (time, lambda t: gaussians.geodesic(t, *law)[1]),
    }
    for name, (number, call) in calls.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            call(number)
        assert jnp.isnan(call(jnp.array(number))).all(), name


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_halves_are_computed_in_single(dtype):
    m0, S0, m1, S1 = (part.astype(dtype) for part in ends(2))
    law = tuple(part.astype(jnp.float32) for part in (m0, S0, m1, S1))
    half = gaussians.wasserstein2(m0, S0, m1, S1)
    assert half.dtype == dtype
    # One rounding of the answer.
    slack = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(half, gaussians.wasserstein2(*law), rtol=slack)
    value = gaussians.entropic_plan(m0, S0, m1, S1, epsilon=0.5).value
    expected = gaussians.entropic_plan(*law, epsilon=0.5).value
    np.testing.assert_allclose(value, expected, rtol=slack)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: gaussians.entropic_plan(M2, E2, M2, E2, epsilon=jnp.array([0.1, 2.0])), "epsilon"),
        (lambda: gaussians.geodesic(jnp.array([0.1, 0.5]), M2, E2, M2, E2), "t"),
        (lambda: gaussians.bridge(jnp.array([0.1, 0.5]), M2, E2, M2, E2, sigma=1.0), "t"),
        (lambda: gaussians.log_density(jnp.zeros(1), M2, E2), "mean"),
        (lambda: gaussians.wasserstein2(M2, E2.astype(int), M2, E2), "S0"),
        (lambda: gaussians.bures_squared(E2, E2.astype(int)), "S1"),
        (lambda: gaussians.sqrtm(E2.astype(int)), "matrix"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_shapes_that_would_broadcast_and_integers_are_refused_by_name(call, named):
    with pytest.raises(ValueError, match=f"`{named}`"):
        call()


M2, E2 = jnp.zeros(2), jnp.eye(2)
