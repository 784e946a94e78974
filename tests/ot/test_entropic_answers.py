"""Answers of entropic solves: against loops in numpy, closed forms and their own matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import logsumexp

import transportx as tx
from tests.helpers import check_derivatives

TIGHT = tx.ot.Newton(tol=1e-10)
INF = float("inf")
PENALTIES = [(1.3, 0.7), (0.5, INF)]
SOLVERS = [TIGHT, tx.ot.Sinkhorn(tol=1e-10)]


def problem(seed=0, mass_a=1.0, mass_b=1.0):
    """Clouds of 7 and 5 points in the plane with unequal weights."""
    keys = jr.split(jr.key(seed), 4)
    a, b = jr.uniform(keys[2], (7,), minval=0.5), jr.uniform(keys[3], (5,), minval=0.5)
    x, y = jr.normal(keys[0], (7, 2)), 0.5 + jr.normal(keys[1], (5, 2))
    return x, y, mass_a * a / jnp.sum(a), mass_b * b / jnp.sum(b)


def solve(x, y, a, b, epsilon, rho_a=INF, rho_b=INF, solver=TIGHT, init=None, tile=None):
    geometry = tx.geometry.PointCloud(x, y, tile=tile)
    penalties = {"rho_a": rho_a, "rho_b": rho_b}
    return tx.ot.solve(geometry, a, b, epsilon=epsilon, init=init, solver=solver, **penalties)


jit_solve = jax.jit(solve, static_argnames="tile")


def solve_symmetric(x, a, epsilon, rho, solver):
    geometry = tx.geometry.PointCloud(x, x)
    return tx.ot.solve_symmetric(geometry, a, epsilon=epsilon, rho=rho, solver=solver)


jit_symmetric = jax.jit(solve_symmetric)


def divergence(x, y, a, b, epsilon, rho=INF, solver=TIGHT):
    return tx.ot.sinkhorn_divergence(x, y, a, b, epsilon=epsilon, rho=rho, solver=solver)


jit_divergence = jax.jit(divergence)


def numpy_plan(x, y, a, b, epsilon, rho_a, rho_b, iterations=5000):
    """The plan by alternate updates in the log domain."""
    x, y, a, b = (np.asarray(part) for part in (x, y, a, b))
    costs = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
    damp_a, damp_b = (1 / (1 + epsilon / rho) for rho in (rho_a, rho_b))
    f, g = np.zeros(a.size), np.zeros(b.size)
    for _ in range(iterations):
        f = -damp_a * epsilon * logsumexp((g[None] - costs) / epsilon, b=b[None], axis=1)
        g = -damp_b * epsilon * logsumexp((f[:, None] - costs) / epsilon, b=a[:, None], axis=0)
    return np.outer(a, b) * np.exp((f[:, None] + g[None] - costs) / epsilon)


def marginal_error(plan, rho_a, rho_b):
    """L1 distance of the matrix's marginals from those that its potentials ask for."""
    matrix = np.asarray(plan.matrix())
    asked_a, asked_b = plan.a * np.exp(-plan.f / rho_a), plan.b * np.exp(-plan.g / rho_b)
    distance = np.abs(matrix.sum(1) - asked_a).sum() + np.abs(matrix.sum(0) - asked_b).sum()
    return distance / min(asked_a.sum(), asked_b.sum())


def primal(plan, rho_a, rho_b):
    """The regularised objective of the matrix."""
    matrix, costs, a, b = (
        np.asarray(part) for part in (plan.matrix(), plan.geometry.matrix(), plan.a, plan.b)
    )

    def kl(p, q):
        return np.sum(p * np.log(p / q) - p + q)

    value = np.sum(matrix * costs) + float(plan.epsilon) * kl(matrix, np.outer(a, b))
    for rho, has, weights in ((rho_a, matrix.sum(1), a), (rho_b, matrix.sum(0), b)):
        value += rho * kl(has, weights) if np.isfinite(rho) else 0
    return value


# Unbalanced


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=["newton", "sinkhorn"])
@pytest.mark.parametrize(("rho_a", "rho_b"), PENALTIES)
@pytest.mark.parametrize("masses", [(1.0, 1.0), (2.0, 0.5)])
def test_loose_marginals_give_the_plan_of_a_loop_in_numpy(solver, rho_a, rho_b, masses):
    arrays = problem(0, *masses)
    plan = jit_solve(*arrays, 0.3, rho_a, rho_b, solver)
    assert plan.converged
    assert plan.marginal_error <= 1e-10
    np.testing.assert_allclose(plan.marginal_error, marginal_error(plan, rho_a, rho_b), atol=1e-13)
    expected = numpy_plan(*arrays, 0.3, rho_a, rho_b)
    np.testing.assert_allclose(plan.matrix(), expected, atol=1e-8)
    np.testing.assert_allclose(plan.value, primal(plan, rho_a, rho_b), rtol=1e-8)


def test_value_and_mass_of_loose_marginals_determine_each_other():
    plan = jit_solve(*problem(0, 2.0, 0.5), 0.3, 1.3, 0.7)
    mass = jnp.sum(plan.matrix())
    expected = 1.3 * 2 + 0.7 * 0.5 + 0.3 * 2 * 0.5 - (1.3 + 0.7 + 0.3) * mass
    np.testing.assert_allclose(plan.value, expected, rtol=1e-9)


def test_high_penalties_enforce_the_marginals():
    loose, held = jit_solve(*problem(), 0.3, 1e8, 1e8), jit_solve(*problem(), 0.3)
    assert loose.converged
    np.testing.assert_allclose(loose.matrix(), held.matrix(), atol=1e-5)
    np.testing.assert_allclose(loose.value, held.value, atol=1e-5)


# Closed forms


def gaussian_grid(mean, deviation, n, mass=1.0):
    points = jnp.linspace(mean - 8 * deviation, mean + 8 * deviation, n)
    weights = jnp.exp(-(((points - mean) / deviation) ** 2) / 2)
    return points[:, None], mass * weights / jnp.sum(weights)


def grids(mass_a=1.0, mass_b=1.0):
    (x, a), (y, b) = gaussian_grid(-0.3, 0.8, 220, mass_a), gaussian_grid(0.7, 1.3, 220, mass_b)
    return x, y, a, b


MOMENTS = tuple(jnp.array(part) for part in ([-0.3], [[0.8**2]], [0.7], [[1.3**2]]))


def test_plan_between_grids_of_gaussians_is_the_closed_form():
    x, y, a, b = grids()
    plan = jit_solve(x, y, a, b, 0.5)
    expected = tx.gaussians.entropic_plan(*MOMENTS, epsilon=0.5)
    assert plan.converged
    np.testing.assert_allclose(plan.value, expected.value, rtol=1e-8)
    cross = x[:, 0] @ (plan @ y[:, 0]) - (a @ x[:, 0]) * (b @ y[:, 0])
    np.testing.assert_allclose(cross, expected.cross[0, 0], atol=1e-8)


def test_divergence_of_grids_of_gaussians_is_the_closed_form():
    found = jit_divergence(*grids(), 0.5)
    assert found.converged
    expected = tx.gaussians.debiased_divergence(*MOMENTS, epsilon=0.5)
    np.testing.assert_allclose(found.value, expected, atol=1e-8)


def test_unbalanced_plan_between_grids_of_gaussians_is_the_closed_form():
    plan = jit_solve(*grids(1.5, 0.6), 0.5, 1.3, 0.7)
    m0, S0, m1, S1 = MOMENTS
    expected = tx.gaussians.entropic_unbalanced(
        1.5, m0, S0, 0.6, m1, S1, epsilon=0.5, rho_a=1.3, rho_b=0.7
    )
    assert plan.converged
    np.testing.assert_allclose(jnp.sum(plan.matrix()), expected.mass, atol=1e-8)
    np.testing.assert_allclose(plan.value, expected.value, atol=1e-8)


# Certificates


@pytest.mark.parametrize(("rho_a", "rho_b"), [(INF, INF), *PENALTIES])
def test_gap_bounds_how_much_the_value_misses_the_optimum(rho_a, rho_b):
    optimum = jit_solve(*problem(), 0.1, rho_a, rho_b, tx.ot.Newton(tol=1e-12)).value
    gaps = []
    for tol in (1e-1, 1e-3, 1e-6):
        plan = jit_solve(*problem(), 0.1, rho_a, rho_b, tx.ot.Newton(tol=tol))
        missing = optimum - plan.value
        # Rounding of values near one.
        assert -1e-14 <= missing <= plan.gap + 1e-14
        gaps.append(float(plan.gap))
    # That much mass moved by the range of the costs.
    costs = tx.geometry.PointCloud(*problem()[:2]).matrix()
    assert 0 <= gaps[2] < 1e-6 * jnp.ptp(costs)
    assert gaps[2] <= gaps[1] <= gaps[0]


@pytest.mark.parametrize(("rho_a", "rho_b"), [(INF, INF), *PENALTIES])
def test_gap_holds_where_the_step_limit_came_first(rho_a, rho_b):
    optimum = jit_solve(*problem(), 0.1, rho_a, rho_b, tx.ot.Newton(tol=1e-12)).value
    plan = jit_solve(*problem(), 0.1, rho_a, rho_b, tx.ot.Sinkhorn(tol=1e-12, max_steps=4))
    assert not plan.converged
    assert 0 < optimum - plan.value <= plan.gap


# What a plan answers


@pytest.fixture(params=[None, 3], ids=["dense", "streamed"], scope="module")
def plan(request):
    return jit_solve(*problem(0, 2.0, 0.5), 0.3, 1.3, 0.7, tile=request.param)


def test_products_are_those_with_the_matrix(plan):
    matrix = np.asarray(plan.matrix())
    for shape in ((5,), (5, 3)):
        v = jr.normal(jr.key(1), shape)
        np.testing.assert_allclose(plan @ v, matrix @ np.asarray(v), atol=1e-13)
    v = jr.normal(jr.key(2), (7,))
    np.testing.assert_allclose(plan.T @ v, matrix.T @ np.asarray(v), atol=1e-13)
    np.testing.assert_allclose(plan.T.matrix(), matrix.T, atol=1e-13)
    rows, columns = plan.marginals
    np.testing.assert_allclose(rows, matrix.sum(1), atol=1e-13)
    np.testing.assert_allclose(columns, matrix.sum(0), atol=1e-13)
    cost = np.sum(matrix * np.asarray(plan.geometry.matrix()))
    np.testing.assert_allclose(plan.transport_cost, cost, rtol=1e-12)


def test_barycentric_map_is_the_mean_of_each_row(plan):
    matrix = np.asarray(plan.matrix())
    expected = matrix @ np.asarray(plan.geometry.y) / matrix.sum(1, keepdims=True)
    np.testing.assert_allclose(plan.barycentric_map(), expected, atol=1e-12)
    np.testing.assert_allclose(plan.map(plan.geometry.x), expected, atol=1e-12)
    assert plan.map(jnp.array([[0.1, -2.0]])).shape == (1, 2)


def test_top_entries_are_the_largest_of_each_row(plan):
    matrix = np.asarray(plan.matrix())
    entries, columns = plan.top(3)
    np.testing.assert_allclose(entries, -np.sort(-matrix, axis=1)[:, :3], rtol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(matrix, np.asarray(columns), 1), entries)


def test_samples_follow_the_plan(plan):
    num = 20_000
    i, j = jax.jit(lambda key: plan.sample(key=key, num=num))(jr.key(0))
    counts = np.zeros((7, 5))
    np.add.at(counts, (np.asarray(i), np.asarray(j)), 1)
    expected = np.asarray(plan.matrix() / jnp.sum(plan.matrix()))
    # Five binomial standard deviations.
    assert (np.abs(counts / num - expected) <= 5 * np.sqrt(expected / num)).all()


# Symmetric problems and the divergence


@pytest.mark.parametrize("rho", [INF, 0.8])
def test_symmetric_solve_is_the_solve_of_the_same_problem(rho):
    x, _, a, _ = problem(0, 1.7)
    one = jit_symmetric(x, a, 0.3, rho, TIGHT)
    both = jit_solve(x, x, a, a, 0.3, rho, rho)
    assert one.converged
    np.testing.assert_array_equal(one.f, one.g)
    np.testing.assert_allclose(one.marginal_error, marginal_error(one, rho, rho), atol=1e-13)
    np.testing.assert_allclose(one.matrix(), both.matrix(), atol=1e-9)
    np.testing.assert_allclose(one.value, both.value, rtol=1e-9)
    np.testing.assert_allclose(one.f, both.f, atol=1e-8)


@jax.jit
def divergence_and_gradient(x, y, a, b, rho, solver):
    def value(x, y):
        return divergence(x, y, a, b, 0.3, rho, solver).value

    return jax.value_and_grad(value, argnums=(0, 1))(x, y)


@pytest.mark.parametrize("rho", [INF, 0.8])
@pytest.mark.parametrize("solver", [tx.ot.Newton(tol=1e-2), TIGHT])
def test_divergence_vanishes_with_its_gradient_between_equal_clouds(rho, solver):
    x, _, a, _ = problem(0, 1.7)
    value, gradients = divergence_and_gradient(x, x, a, a, rho, solver)
    # Rounding of values near one.
    np.testing.assert_allclose(value, 0, atol=1e-14)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-14)
    moved, _ = divergence_and_gradient(x, x + 0.5, a, a, rho, solver)
    assert moved > 0.1


@pytest.mark.parametrize(("rho", "mass_b"), [(INF, 1.7), (0.8, 1.7), (0.8, 0.6)])
def test_divergence_is_that_combination_of_values(rho, mass_b):
    x, y, a, b = problem(0, 1.7, mass_b)
    found = jit_divergence(x, y, a, b, 0.3, rho)
    assert found.converged
    across, of_x, of_y = (
        jit_solve(*pair, 0.3, rho, rho).value for pair in ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    )
    expected = across - (of_x + of_y) / 2 + 0.3 / 2 * (1.7 - mass_b) ** 2
    np.testing.assert_allclose(found.value, expected, atol=1e-9)
    assert found.value > 0.01
    assert 0 <= found.gap < 1e-8


# Doubly stochastic matrices and soft sorting


def birkhoff(logits, temperature=1.0):
    return tx.ot.birkhoff(logits, temperature=temperature, solver=TIGHT).matrix()


LOGITS = jr.normal(jr.key(3), (20, 4, 4))


def test_birkhoff_is_plain_alternate_normalisation():
    matrix = jax.jit(birkhoff)(LOGITS[0], 0.5)
    expected = np.exp(np.asarray(LOGITS[0]) / 0.5)
    for _ in range(2000):
        expected /= expected.sum(1, keepdims=True)
        expected /= expected.sum(0, keepdims=True)
    np.testing.assert_allclose(matrix, expected, atol=1e-9)
    np.testing.assert_allclose(jnp.sum(matrix, axis=0), 1, atol=1e-9)
    np.testing.assert_allclose(jnp.sum(matrix, axis=1), 1, atol=1e-9)


def test_birkhoff_differentiates():
    check_derivatives(birkhoff, LOGITS[0], jnp.array(0.7), tol=1e-6)


def test_batch_of_birkhoff_is_the_loop():
    batch = jax.jit(jax.vmap(birkhoff))(LOGITS)
    one = jax.jit(birkhoff)
    for matrix, logits in zip(batch, LOGITS, strict=True):
        np.testing.assert_allclose(matrix, one(logits), atol=1e-12)


soft_sort, soft_rank = (
    jax.jit(lambda x, epsilon, soft=soft: soft(x, epsilon=epsilon, solver=TIGHT))
    for soft in (tx.ot.soft_sort, tx.ot.soft_rank)
)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e20, 1e38])
def test_soft_sort_and_rank_have_no_scale_of_their_own(unit):
    relative = jnp.array([2.0, -1.0, 0.5], jnp.float32)
    values = jax.jit(tx.ot.soft_sort)(relative * unit)
    # At the default epsilon this is the hard order, to the solver's tolerance.
    np.testing.assert_allclose(np.float64(values) / unit, [-1, 0.5, 2], atol=5e-3)
    np.testing.assert_allclose(jax.jit(tx.ot.soft_rank)(relative * unit), [2, 0, 1], atol=5e-3)


def test_soft_sort_and_rank_harden_as_epsilon_falls():
    x = jnp.array([0.3, -1.2, 2.5, 0.9, -0.4, 1.6])
    np.testing.assert_allclose(soft_sort(x, 0.005), jnp.sort(x), atol=1e-8)
    np.testing.assert_allclose(soft_rank(x, 0.005), jnp.argsort(jnp.argsort(x)), atol=1e-8)
    for epsilon in (0.005, 0.5, 50.0):
        # The tolerance of the marginals, times n and the values.
        np.testing.assert_allclose(jnp.sum(soft_sort(x, epsilon)), jnp.sum(x), atol=1e-8)
        np.testing.assert_allclose(jnp.sum(soft_rank(x, epsilon)), 15, atol=1e-8)
    np.testing.assert_allclose(soft_sort(x, 1e6), jnp.mean(x), atol=1e-4)


def test_constants_and_single_values_sort_softly():
    constant = jnp.full(6, 3.0)
    np.testing.assert_allclose(soft_sort(constant, 0.01), 3, atol=1e-8)
    np.testing.assert_allclose(soft_rank(constant, 0.01), 2.5, atol=1e-8)
    np.testing.assert_allclose(soft_sort(jnp.array([3.0]), 0.01), [3.0])
    np.testing.assert_allclose(soft_rank(jnp.array([3.0]), 0.01), [0.0])


# Starts


def test_gaussian_start_saves_steps_on_gaussians():
    x, y, a, b = grids()
    init = tx.ot.gaussian_potentials(x, y, a, b, epsilon=0.1)
    solver = tx.ot.Sinkhorn(tol=1e-4)
    warm, cold = (jit_solve(x, y, a, b, 0.1, solver=solver, init=start) for start in (init, None))
    assert warm.converged
    assert cold.converged
    assert warm.num_steps <= 1 < cold.num_steps
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-6)


@pytest.mark.parametrize(("rho_a", "rho_b"), [(INF, INF), *PENALTIES])
def test_start_from_the_answer_takes_no_step(rho_a, rho_b):
    first = jit_solve(*problem(), 0.3, rho_a, rho_b)
    again = jit_solve(*problem(), 0.3, rho_a, rho_b, init=first.potentials)
    assert again.converged
    assert first.num_steps > 0
    assert again.num_steps == 0
    np.testing.assert_allclose(again.f, first.f, atol=1e-14)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(("index", "sizes"), [(0, (5, 5)), (1, (7, 7))])
def test_start_of_another_shape_is_refused(index, sizes):
    init: Any = tuple(jnp.zeros(size) for size in sizes)
    with pytest.raises(ValueError, match=rf"`init\[{index}\]` has shape"):
        solve(*problem(), 0.3, init=init)


# Transformations


def test_new_numbers_do_not_retrace():
    traces = []

    @jax.jit
    def traced(x, y, a, b, epsilon, rho):
        traces.append(None)
        return solve(x, y, a, b, epsilon, rho, rho).value

    for seed, (epsilon, rho) in enumerate([(0.3, 1.0), (0.1, 2.0), (5.0, INF)]):
        assert jnp.isfinite(traced(*problem(seed), epsilon, rho))
    assert len(traces) == 1


def test_batch_of_problems_is_the_loop():
    def parts(*case):
        plan = solve(*case)
        return plan.f, plan.g, plan.value, plan.num_steps, plan.converged

    cases = [(*problem(seed), jnp.array(epsilon)) for seed, epsilon in enumerate((0.05, 0.5, 5.0))]
    stacked = (jnp.stack(arrays) for arrays in zip(*cases, strict=True))
    batch, one = jax.jit(jax.vmap(parts))(*stacked), jax.jit(parts)
    for k, case in enumerate(cases):
        *found, steps, converged = (part[k] for part in batch)
        *expected, expected_steps, _ = one(*case)
        assert converged
        assert steps == expected_steps
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-11)


def gradient_memory(n):
    """Bytes that value and gradient of a streamed solve need besides arguments and results."""

    def value(x, y):
        geometry = tx.geometry.PointCloud(x, y, tile=8)
        solver = tx.ot.Sinkhorn(tol=1e-3, max_steps=3)
        return tx.ot.solve(geometry, epsilon=1.0, solver=solver).value

    cloud = jax.ShapeDtypeStruct((n, 3), jnp.float64)
    compiled = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(cloud, cloud).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.slow
def test_streamed_gradients_need_memory_linear_in_the_points():
    small, large = gradient_memory(4096), gradient_memory(16384)
    # Four times the points: linear growth is 4, a matrix would be 16.
    assert large < 5 * small


@pytest.mark.slow
def test_a_divergence_starts_where_a_similar_one_ended():
    x, y = jr.normal(jr.key(300), (12, 2)), jr.normal(jr.key(301), (9, 2)) + 0.5
    options = {"epsilon": 0.1, "solver": tx.ot.Newton(tol=1e-8)}
    before = tx.ot.sinkhorn_divergence(x, y, **options)
    cold = tx.ot.sinkhorn_divergence(x + 0.01, y, **options)
    warm = tx.ot.sinkhorn_divergence(x + 0.01, y, init=before, **options)
    assert warm.converged
    assert jnp.allclose(warm.value, cold.value, atol=1e-8)
    assert warm.plan.num_steps < cold.plan.num_steps
    assert warm.plan_y.num_steps < cold.plan_y.num_steps
    with pytest.raises(ValueError, match=r"`init` has f of shape .*; give"):
        tx.ot.sinkhorn_divergence(x[:5], y, init=before, **options)


def test_mean_cost_is_the_mean_of_the_matrix():
    x, y = jr.normal(jr.key(302), (7, 2)), jr.normal(jr.key(303), (5, 2))
    a, b = jnp.arange(7.0), jnp.arange(5.0) + 1
    dense = tx.geometry.PointCloud(x, y)
    assert jnp.allclose(dense.mean_cost(), jnp.mean(dense.matrix()), rtol=1e-13)
    expected = a @ dense.matrix() @ b / (jnp.sum(a) * jnp.sum(b))
    for geometry in (dense, tx.geometry.PointCloud(x, y, tile=2)):
        assert jnp.allclose(geometry.mean_cost(a, b), expected, rtol=1e-13)


@pytest.mark.parametrize("dim", [2, 16])
def test_float32_meets_a_thousandth_at_an_epsilon_of_a_thousandth_of_the_mean_cost(dim):
    """Audited outside, in float64, on clouds of unlike size, scale and weights."""
    keys = jr.split(jr.key(dim), 3)
    x = jr.normal(keys[0], (200, dim), jnp.float32)
    y = 0.5 + 1.5 * jr.normal(keys[1], (150, dim), jnp.float32)
    a = jr.uniform(keys[2], (200,), jnp.float32)
    a = a / jnp.sum(a)
    mean = jnp.mean(tx.geometry.PointCloud(x, y).matrix())
    geometry = tx.geometry.PointCloud(x, y)
    plan = jax.jit(lambda epsilon: tx.ot.solve(geometry, a, epsilon=epsilon))(1e-3 * mean)
    assert plan.status == tx.Status.CONVERGED
    f, g, wide_x, wide_y, wide_a = (np.asarray(v, np.float64) for v in (plan.f, plan.g, x, y, a))
    costs = np.sum((wide_x[:, None] - wide_y[None]) ** 2, axis=2)
    exponents = (f[:, None] + g[None] - costs) / float(plan.epsilon)
    matrix = wide_a[:, None] / 150 * np.exp(exponents)
    error = np.abs(matrix.sum(1) - wide_a).sum() + np.abs(matrix.sum(0) - 1 / 150).sum()
    # Costs are rounded to float32 in the solver, not here.
    assert error <= 2e-3
