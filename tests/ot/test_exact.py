"""Exact transport: against POT and linear programs, its certificate, derivatives, hard input."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
import scipy.optimize

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

N, M = 12, 9
Status = tx.Status
KINDS = ("generic", "zero weights", "uniform", "integers", "duplicates")


def problem(kind, cost, draws):
    """Costs and weights of one random problem."""
    x, y = draws.normal(size=(N, 3)), draws.normal(size=(M, 3))
    a, b = draws.uniform(size=N), draws.uniform(size=M)
    if kind == "zero weights":
        a[draws.integers(N, size=4)], b[0] = 0, 0
    if kind == "uniform":
        a[:], b[:] = 1, 1
    if kind == "integers":
        x, y = np.round(x), np.round(y)
        a, b = draws.integers(0, 3, N) + 1e-9, draws.integers(1, 3, M) * 1.0
    if kind == "duplicates":
        x[3:], y[4:] = x[0], y[1]
    if isinstance(cost, tx.geometry.Geodesic):
        x, y = (p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-9) for p in (x, y))
    costs = cost.matrix(jnp.array(x), jnp.array(y))
    return np.asarray(costs), a / a.sum(), b / b.sum()


@jax.jit
@jax.vmap
def solved(costs, a, b):
    plan = tx.ot.exact(tx.geometry.CostMatrix(costs), a, b)
    return plan, plan.value, plan.matrix()


def by_program(costs, a, b):
    """The least cost of a plan, by a linear program over the finite costs; None without one."""
    i, j = np.nonzero(np.isfinite(costs))
    rows = np.concatenate([i == k for k in range(N)] + [j == k for k in range(M)])
    found = scipy.optimize.linprog(
        costs[i, j], A_eq=rows.reshape(N + M, -1), b_eq=np.concatenate([a, b]), method="highs"
    )
    return found.fun


def assert_optimal(num_each, seed):
    draws = np.random.default_rng(seed)
    cases = [(cost, kind) for cost in tables.COSTS.values() for kind in KINDS] * num_each
    given = [problem(kind, cost, draws) for cost, kind in cases]
    costs, a, b = map(np.stack, zip(*given, strict=True))
    plans, values, matrices = solved(costs, a, b)
    assert jnp.all(plans.status == Status.CONVERGED)
    exact = [ot.emd2(source, target, cost) for cost, source, target in given]
    np.testing.assert_allclose(values, exact, rtol=1e-9, atol=1e-9)
    assert np.max(plans.gap) <= 1e-12
    assert np.min(matrices) >= 0
    np.testing.assert_allclose(np.sum(matrices, axis=2), a, atol=1e-14)
    np.testing.assert_allclose(np.sum(matrices, axis=1), b, atol=1e-14)
    # The potentials certify the plan: they lie below every cost, and are worth as much.
    slack = costs - plans.f[:, :, None] - plans.g[:, None, :]
    weighty = (a[:, :, None] > 0) & (b[:, None, :] > 0)
    assert np.min(slack, where=weighty, initial=0) >= -1e-12
    np.testing.assert_allclose(np.sum(a * plans.f, 1) + np.sum(b * plans.g, 1), exact, atol=1e-11)
    assert np.all(np.sum(matrices > 0, axis=(1, 2)) <= N + M - 1)


def test_plans_are_optimal_with_any_cost_weights_and_ties():
    assert_optimal(1, 0)


@pytest.mark.long
def test_two_hundred_more_plans_are_optimal():
    assert_optimal(5, 1)


def test_infinite_costs_forbid_and_without_a_plan_the_problem_is_infeasible():
    draws = np.random.default_rng(2)
    given = [problem("generic", tables.COSTS["euclidean"], draws) for _ in range(40)]
    costs, a, b = map(np.stack, zip(*given, strict=True))
    costs = np.where(draws.uniform(size=costs.shape) < 0.55, np.inf, costs)
    plans, values, matrices = solved(costs, a, b)
    expected = [by_program(*each) for each in zip(costs, a, b, strict=True)]
    impossible = np.array([value is None for value in expected])
    assert 5 < np.sum(impossible) < 35
    np.testing.assert_array_equal(plans.status == Status.INFEASIBLE, impossible)
    np.testing.assert_array_equal(plans.status == Status.CONVERGED, ~impossible)
    np.testing.assert_allclose(values, np.array(expected, float), rtol=1e-9)
    assert np.all(matrices[~impossible][costs[~impossible] == np.inf] == 0)


def test_one_bad_problem_of_a_batch_says_so_alone():
    draws = np.random.default_rng(3)
    given = [problem("generic", tables.COSTS["dot"], draws) for _ in range(40)]
    costs, a, b = map(np.stack, zip(*given, strict=True))
    costs[1, 2, 3], costs[2, 0, 0], a[3, 0], a[4, 0], b[5] = np.nan, -np.inf, np.nan, -0.1, 2 * b[5]
    a[6], b[6], costs[7, 4] = 0, 0, np.inf
    # A point without weight may be forbidden everything.
    a[8, 1], costs[8, 1] = 0, np.inf
    b[8] *= np.sum(a[8])
    plans, values, _ = solved(costs, a, b)
    words = [Status.NON_FINITE] * 3 + [Status.INFEASIBLE] * 4
    for k, word in enumerate(words, 1):
        assert (plans.status == word)[k], k
    numbers = np.column_stack([plans.f, plans.g, plans.gap, values])
    assert np.all(np.isnan(numbers[1:8]))
    assert np.all(plans.pairs.sources[1:8] == N)
    assert np.all(plans.pairs.targets[1:8] == M)
    rest = np.array([0, *range(8, 40)])
    assert np.all((plans.status == Status.CONVERGED)[rest])
    costs[8, 1] = 0
    exact = [ot.emd2(a[k] / np.sum(a[k]), b[k] / np.sum(b[k]), costs[k]) for k in rest]
    np.testing.assert_allclose(values[rest], exact * np.sum(a, axis=1)[rest], atol=1e-12)


X, Y = jr.normal(jr.key(4), (N, 2)), jr.normal(jr.key(5), (M, 2))
A, B = jr.uniform(jr.key(6), (N,)), jr.uniform(jr.key(7), (M,))
A, B = A / jnp.sum(A), B / jnp.sum(B)


def between(x, y, a, b, **options):
    return tx.ot.exact(tx.geometry.PointCloud(x, y, **options), a, b)


def test_value_differentiates_in_points_and_weights():
    def value(x, y, a, b):
        # Weights of one total, whatever moves.
        return between(x, y, a / jnp.sum(a), b / jnp.sum(b)).value

    check_derivatives(value, X, Y, A, B, step=1e-6)


def test_gradients_are_the_plan_and_the_potentials():
    def value(costs, a, b):
        return tx.ot.exact(tx.geometry.CostMatrix(costs), a, b).value

    costs = tx.geometry.PointCloud(X, Y).matrix()
    by_costs, by_a, by_b = jax.grad(value, argnums=(0, 1, 2))(costs, A, B)
    _, matrix = scipy_plan(costs, A, B)
    np.testing.assert_allclose(by_costs, matrix, atol=1e-12)
    # The dual optimum is unique up to a constant between both sides.
    duals = ot.emd(np.asarray(A), np.asarray(B), np.asarray(costs), log=True)[1]
    for found, dual, weights in ((by_a, duals["u"], A), (by_b, duals["v"], B)):
        found, dual = np.asarray(found), np.asarray(dual)
        np.testing.assert_allclose(found - weights @ found, dual - weights @ dual, atol=1e-10)


def scipy_plan(costs, a, b):
    rows = np.concatenate(
        [np.kron(np.eye(N), np.ones(M)), np.kron(np.ones(N), np.eye(M))], dtype=float
    )
    found = scipy.optimize.linprog(
        np.ravel(costs), A_eq=rows, b_eq=np.concatenate([a, b]), method="highs"
    )
    return found.fun, found.x.reshape(N, M)


def test_everything_that_a_plan_answers_agrees_with_its_matrix():
    a = A.at[2].set(0)
    plan = between(X, Y, a / jnp.sum(a), B, tile=5)
    matrix = plan.matrix()
    columns = jr.normal(jr.key(8), (M, 3))
    np.testing.assert_allclose(plan @ columns, matrix @ columns, atol=1e-14)
    np.testing.assert_allclose(plan.T @ X[:, 0], matrix.T @ X[:, 0], atol=1e-14)
    np.testing.assert_allclose(plan.T.matrix(), matrix.T)
    images = plan.barycentric_map()
    weighty = np.arange(N) != 2
    means = (matrix @ Y) / jnp.sum(matrix, axis=1)[:, None]
    np.testing.assert_allclose(images[weighty], means[weighty], atol=1e-13)
    # The image of a point without weight is where a little weight would go.
    reduced = jnp.sum((X[2][None] - Y) ** 2, axis=1) - plan.g
    np.testing.assert_allclose(images[2], Y[jnp.argmin(reduced)])
    i, j = plan.sample(key=jr.key(9), num=20_000)
    shares = np.zeros((N, M))
    np.add.at(shares, (np.asarray(i), np.asarray(j)), 1 / 20_000)
    np.testing.assert_allclose(shares, matrix, atol=4 * np.sqrt(0.1 / 20_000))
    of_targets = jax.vmap(lambda key: plan.sample_sources(key=key))(jr.split(jr.key(10), 2000))
    shares = np.stack([np.bincount(column, minlength=N) / 2000 for column in of_targets.T], axis=1)
    np.testing.assert_allclose(shares * B[None, :], matrix, atol=4 * np.sqrt(0.05 / 2000))


def test_streamed_costs_give_the_plan_of_a_matrix_after_rounds_of_pricing():
    x, y = jr.normal(jr.key(11), (150, 2)), jr.normal(jr.key(12), (90, 2))
    streamed = between(x, y, None, None, tile=40)
    costs = np.asarray(tx.geometry.PointCloud(x, y).matrix())
    np.testing.assert_allclose(streamed.value, ot.emd2([], [], costs), rtol=1e-12)
    assert streamed.converged
    assert int(streamed.num_rounds) >= 2


OF_Y = jnp.arange(N) % M
HARD = {
    "equal measures": (Y[OF_Y], Y, A, jax.ops.segment_sum(A, OF_Y, M)),
    "far offset": (X + 1e6, Y + 1e6, A, B),
    "tiny": (1e-10 * X, 1e-10 * Y, A, B),
    "huge": (1e10 * X, 1e10 * Y, A, B),
    "outlier": (X.at[0].set(1e6), Y, A, B),
    "far without weight": (X.at[0].set(1e9), Y, A.at[0].set(0) / (1 - A[0]), B),
    "large masses": (X, Y, 1e8 * A, 1e8 * B),
}


def by_pot(*given):
    x, y, a, b = map(np.asarray, given)
    costs = np.sum((x[:, None] - y[None]) ** 2, axis=2)
    size, mass = np.median(costs), np.sum(a)  # Of POT's own tolerances some are absolute.
    value = ot.emd2(a / mass, b / np.sum(b), costs / size)
    return value * size * mass, 1e-9 * size * mass


@pytest.mark.parametrize("name", HARD)
def test_hard_clouds_are_solved_in_double_and_in_single(name):
    exact, rounding = by_pot(*HARD[name])
    plan = between(*HARD[name])
    assert plan.converged
    np.testing.assert_allclose(plan.value, exact, rtol=1e-9, atol=rounding)
    if name == "far offset":  # Single precision holds such points to 0.06.
        return
    plan = between(*(part.astype(jnp.float32) for part in HARD[name]))
    assert plan.converged
    assert plan.f.dtype == jnp.float32
    np.testing.assert_allclose(plan.value, exact, rtol=2e-5, atol=1000 * rounding)


@pytest.mark.parametrize(
    ("n", "d"), [(1, 2), pytest.param(N, 1, marks=pytest.mark.slow)], ids=["one source", "line"]
)
def test_few_points_and_coordinates_are_enough(n, d):
    given = X[:n, :d], Y[:, :d], A[:n] / jnp.sum(A[:n]), B
    np.testing.assert_allclose(between(*given).value, by_pot(*given)[0], rtol=1e-9)
    if d == 1:
        line = tx.ot.wasserstein_1d(X[:, 0], Y[:, 0], A, B)
        np.testing.assert_allclose(between(*given).value, line**2, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: between(X, Y, A[:3], B), r"`a` has shape \(3,\); give one weight per point"),
        (
            lambda: tx.ot.exact(tx.geometry.PointCloud(X, Y), tol=0.0),
            "`tol` is 0.0; give a positive",
        ),
        (
            lambda: tx.ot.exact(tx.geometry.PointCloud(X, Y), max_rounds=0),
            "`max_rounds` is 0; give an integer",
        ),
        (lambda: between(X, Y, A, B) @ A, r"`v` has shape \(12,\); give shape \(9,\)"),
        (
            lambda: tx.ot.exact(tx.geometry.CostMatrix(jnp.eye(3))).barycentric_map(),
            "`geometry` is a matrix",
        ),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
