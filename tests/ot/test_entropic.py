"""Entropic transport: plans, statuses and certificates against POT, ott and closed forms."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest

import transportx as tx
from tests.tables import COSTS

Status = tx.Status


def as_numpy(*arrays) -> Any:
    return tuple(np.asarray(array) for array in arrays)


# Entropic transport


def problem(n=7, m=5, dim=2, seed=0):
    """Clouds with unequal weights of total one."""
    keys = jr.split(jr.key(seed), 4)
    a, b = jr.uniform(keys[2], (n,), minval=0.5), jr.uniform(keys[3], (m,), minval=0.5)
    x, y = jr.normal(keys[0], (n, dim)), 0.5 + jr.normal(keys[1], (m, dim))
    return x, y, a / jnp.sum(a), b / jnp.sum(b)


def solve(x, y, a=None, b=None, *, epsilon=0.5, tol=1e-10, max_steps=5000, **cloud):
    geometry = tx.geometry.PointCloud(x, y, **cloud)
    solver = tx.ot.Sinkhorn(tol=tol, max_steps=max_steps)
    return tx.ot.solve(geometry, a, b, epsilon=epsilon, solver=solver)


solve_jit = jax.jit(solve, static_argnames=("tol", "max_steps", "cost", "tile"))


def marginal_error(plan):
    """The L1 distance of both marginals of the matrix from the weights."""
    matrix = np.asarray(plan.matrix())
    rows, columns = matrix.sum(1) - plan.a, matrix.sum(0) - plan.b
    return (np.abs(rows).sum() + np.abs(columns).sum()) / np.sum(np.asarray(plan.a))


def primal(plan):
    """<P, C> + epsilon KL(P | a b^T), from matrices."""
    matrix, costs, a, b = as_numpy(plan.matrix(), plan.geometry.matrix(), plan.a, plan.b)
    product = np.outer(a, b)
    ratio = np.where(matrix > 0, matrix / np.where(product > 0, product, 1), 1)
    divergence = np.sum(matrix * np.log(ratio) - matrix + product)
    return np.sum(matrix * costs) + float(plan.epsilon) * divergence


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_plan_is_that_of_pot(epsilon, weighted):
    x, y, a, b = problem()
    if not weighted:
        a, b = jnp.full(7, 1 / 7), jnp.full(5, 1 / 5)
    plan = solve_jit(x, y, *((a, b) if weighted else ()), epsilon=epsilon)
    assert plan.converged
    source, target, costs = as_numpy(a, b, plan.geometry.matrix())
    expected: Any = ot.sinkhorn(
        source,
        target,
        costs,
        epsilon,
        method="sinkhorn_log",
        stopThr=1e-12,
        numItermax=20_000,
    )
    # Both plans have marginals within 1e-10.
    np.testing.assert_allclose(plan.matrix(), expected, atol=1e-9)


def test_potentials_and_value_are_those_of_ott():
    with warnings.catch_warnings():
        # ott imports jaxopt, which announces that it is no longer maintained.
        warnings.simplefilter("ignore", DeprecationWarning)
        from ott.geometry import pointcloud
        from ott.solvers import linear
    x, y, a, b = problem()
    plan = solve_jit(x, y, a, b, epsilon=0.3)
    # ott works under standard promotion: the strict one is for our own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs: Any = linear.solve(
            pointcloud.PointCloud(x, y, epsilon=0.3), a, b, threshold=1e-10, max_iterations=5000
        )
        matrix, cost = theirs.matrix, theirs.primal_cost
    np.testing.assert_allclose(plan.matrix(), matrix, atol=1e-9)
    np.testing.assert_allclose(np.sum(plan.matrix() * plan.geometry.matrix()), cost, rtol=1e-8)
    # Potentials are those of the density with respect to a b^T, up to a constant;
    # ott's are those with respect to the counting measure.
    shifted = theirs.f - 0.3 * jnp.log(a)
    np.testing.assert_allclose(plan.f - plan.f[0], shifted - shifted[0], atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_every_cost_is_solved_dense_and_streamed(name):
    x, y, a, b = problem(dim=3)
    x, y = (points / jnp.linalg.norm(points, axis=1, keepdims=True) for points in (x, y))
    dense, tiled = (solve_jit(x, y, a, b, cost=COSTS[name], tile=tile) for tile in (None, 3))
    assert dense.converged
    assert tiled.converged
    for field in ("f", "g", "value", "marginal_error"):
        one, other = getattr(tiled, field), getattr(dense, field)
        # They start apart and end within 1e-10 of the marginals, at some condition number.
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(tiled.matrix(), dense.matrix(), atol=1e-9)
    assert marginal_error(dense) <= 1.01e-10


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-8])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_converged_means_that_the_returned_plan_meets_the_tolerance(tol, epsilon):
    plan = solve_jit(*problem(), tol=tol, epsilon=epsilon)
    assert plan.status == Status.CONVERGED
    assert plan.converged
    assert marginal_error(plan) <= tol + 1e-14
    np.testing.assert_allclose(plan.marginal_error, marginal_error(plan), atol=1e-13)


def test_step_limit_is_kept_and_told():
    plan = solve_jit(*problem(), epsilon=0.01, max_steps=5)
    assert plan.status == Status.MAX_STEPS
    assert not plan.converged
    assert plan.num_steps == 5
    np.testing.assert_allclose(plan.marginal_error, marginal_error(plan), rtol=1e-8)
    assert plan.marginal_error > 1e-10


def test_value_is_a_lower_bound_that_meets_the_primal():
    final = solve_jit(*problem())
    for steps in (1, 3, 5000):
        plan = solve_jit(*problem(), max_steps=steps)
        # Its own marginal error of 1e-10 shifts the primal by that much times the potentials.
        assert plan.value <= primal(final) + 1e-9
    # At a marginal error of 1e-10 the gap is of that order times the potentials.
    np.testing.assert_allclose(final.value, primal(final), atol=1e-9)


def test_value_tends_to_the_linear_program_as_epsilon_falls():
    x, y, a, b = problem()
    plan = solve_jit(x, y, a, b, epsilon=0.02, tol=1e-8)
    exact: Any = ot.emd2(*as_numpy(a, b, plan.geometry.matrix()))
    # 0 <= value - exact <= epsilon log(min(n, m)) for entropy relative to a b^T.
    assert exact < plan.value < exact + 0.02 * np.log(5) + 1e-8


def test_masses_other_than_one_scale_the_plan():
    x, y, a, b = problem()
    one, three = solve_jit(x, y, a, b), solve_jit(x, y, 3 * a, 3 * b)
    assert three.converged
    np.testing.assert_allclose(three.matrix(), 3 * one.matrix(), atol=1e-9)
    np.testing.assert_allclose(three.marginal_error, marginal_error(three), atol=1e-13)
    # KL(3P | 9 a b^T) is 3 log(1/3) + 3 KL(P | a b^T) - 3 + 9 with unit masses.
    np.testing.assert_allclose(three.value, primal(three), rtol=1e-8)


def one_bad(where):
    x, y, a, b = problem()
    return {
        "nan in x": (x.at[2, 1].set(jnp.nan), y, a, b, 0.5),
        "nan in y": (x, y.at[0, 0].set(jnp.nan), a, b, 0.5),
        "infinity": (x.at[2, 1].set(jnp.inf), y, a, b, 0.5),
        "nan weight": (x, y, a.at[0].set(jnp.nan), b, 0.5),
        "nan epsilon": (x, y, a, b, jnp.nan),
        "epsilon zero": (x, y, a, b, 0.0),
        "negative epsilon": (x, y, a, b, -1.0),
        "negative weight": (x, y, a.at[0].add(-2 * a[0]).at[1].add(2 * a[0]), b, 0.5),
        "negative target": (x, y, a, b.at[0].add(-2 * b[0]).at[1].add(2 * b[0]), 0.5),
        "unequal masses": (x, y, a, 1.01 * b, 0.5),
        "no mass": (x, y, 0 * a, 0 * b, 0.5),
    }[where]


NON_FINITE = [
    "nan in x",
    "nan in y",
    "infinity",
    "nan weight",
    "nan epsilon",
    "epsilon zero",
    "negative epsilon",
]
INFEASIBLE = ["negative weight", "negative target", "unequal masses", "no mass"]


def traced_solve(x, y, a, b, epsilon):
    return solve(x, y, a, b, epsilon=epsilon)


@pytest.mark.parametrize("where", NON_FINITE + INFEASIBLE)
def test_failures_have_their_status_and_no_numbers(where):
    *arrays, epsilon = one_bad(where)
    plan = jax.jit(traced_solve)(*arrays, jnp.array(epsilon))
    assert plan.status == (Status.NON_FINITE if where in NON_FINITE else Status.INFEASIBLE)
    assert not plan.converged
    for numbers in (plan.f, plan.g, plan.value, plan.marginal_error):
        assert jnp.isnan(numbers).all()


def test_a_failed_problem_of_a_batch_leaves_the_others_as_they_were():
    good = *problem(), 0.5
    cases = [good, one_bad("nan in x"), (*problem(seed=1), 0.1), one_bad("unequal masses")]
    batch = [jnp.stack([jnp.asarray(part) for part in parts]) for parts in zip(*cases, strict=True)]
    plans = jax.jit(jax.vmap(traced_solve))(*batch)
    status = [Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED, Status.INFEASIBLE]
    assert [bool((plans.status == s)[k]) for k, s in enumerate(status)] == [True] * 4
    for k in (0, 2):
        alone = jax.jit(traced_solve)(*(part[k] for part in batch))
        assert plans.num_steps[k] == alone.num_steps
        for field in ("f", "g", "marginal_error"):
            np.testing.assert_allclose(
                getattr(plans, field)[k], getattr(alone, field), rtol=1e-10, atol=1e-13
            )


@pytest.mark.parametrize("name", ["squared_euclidean", "dot"])
def test_weights_of_zero_are_rows_and_columns_of_zeros(name):
    x, y, a, b = problem()
    # Two far points near each other, alone and without weight: their potentials are huge.
    x, y = x.at[2].set(100.0), y.at[1].set(101.0)
    a, b = (weights.at[k].set(0) for weights, k in ((a, 2), (b, 1)))
    a, b = a / jnp.sum(a), b / jnp.sum(b)
    plan = solve_jit(x, y, a, b, cost=COSTS[name])
    assert plan.converged
    np.testing.assert_array_equal(plan.matrix()[2], 0)
    np.testing.assert_array_equal(plan.matrix()[:, 1], 0)
    rows, columns = np.delete(np.arange(7), 2), np.delete(np.arange(5), 1)
    rest = solve_jit(x[rows], y[columns], a[rows], b[columns], cost=COSTS[name])
    # Both plans are within 1e-10 of the marginals.
    np.testing.assert_allclose(plan.matrix()[np.ix_(rows, columns)], rest.matrix(), atol=1e-9)
    np.testing.assert_allclose(plan.value, rest.value, rtol=1e-9)
    assert jnp.isfinite(plan.f).all()
    assert jnp.isfinite(plan.g).all()


def directional(function, *arguments, direction, step=1e-5):
    """jvp and central difference of a function along one direction."""
    moved = [
        function(*(x + sign * step * v for x, v in zip(arguments, direction, strict=True)))
        for sign in (1, -1)
    ]
    return jax.jvp(function, arguments, direction)[1], (moved[0] - moved[1]) / (2 * step)


@pytest.mark.parametrize("zeros", [False, True])
def test_forward_derivative_of_the_value_is_the_finite_difference(zeros):
    x, y, a, b = problem()
    if zeros:
        a = jnp.append(a[:-2] + (a[-1] + a[-2]) / 5, jnp.zeros(2))
    keys = jr.split(jr.key(9), 4)
    # Weights keep their totals, and their zeros, so that the problems stay feasible.
    da, db = (w * jr.normal(k, w.shape) for w, k in ((a, keys[2]), (b, keys[3])))
    da, db = da - a * jnp.sum(da), db - b * jnp.sum(db)
    direction = (jr.normal(keys[0], x.shape), jr.normal(keys[1], y.shape), da, db, jnp.array(1.0))

    @jax.jit
    def value(x, y, a, b, epsilon):
        return solve(x, y, a, b, epsilon=epsilon, tol=1e-12).value

    along, difference = directional(value, x, y, a, b, jnp.array(0.5), direction=direction)
    # The plan errs by 1e-12, and its square in the value; the difference by 1e-10.
    np.testing.assert_allclose(along, difference, rtol=1e-7, atol=1e-7)


def test_float32_agrees_with_float64():
    arrays = problem()
    single = solve_jit(*(part.astype(jnp.float32) for part in arrays), tol=1e-5)
    assert single.converged
    assert single.f.dtype == single.value.dtype == jnp.float32
    # The tolerance, and 6e-8 of costs near ten divided by epsilon.
    np.testing.assert_allclose(single.matrix(), solve_jit(*arrays).matrix(), atol=2e-6)
    np.testing.assert_allclose(single.value, solve_jit(*arrays).value, rtol=1e-5)


def test_matrix_of_costs_and_clouds_are_one_problem():
    x, y, a, b = problem()
    cloud = solve_jit(x, y, a, b)
    matrix = tx.ot.solve(
        tx.geometry.CostMatrix(cloud.geometry.matrix()),
        a,
        b,
        epsilon=0.5,
        solver=tx.ot.Sinkhorn(tol=1e-10),
    )
    np.testing.assert_allclose(matrix.f, cloud.f, atol=1e-12)


def test_one_point_against_many_is_the_only_plan():
    x, y, _, b = problem(n=1)
    plan = solve_jit(x, y, jnp.ones(1), b)
    assert plan.converged
    np.testing.assert_allclose(plan.matrix()[0], b, atol=1e-14)


@pytest.mark.parametrize("tile", [None, 3])
def test_sources_drawn_given_a_target_follow_its_column(tile):
    x, y, a, b = problem()
    plan = solve_jit(x, y, a.at[3].set(0) / (1 - a[3]), b, tile=tile)
    num = 4000
    drawn = jax.jit(jax.vmap(lambda key: plan.sample_sources(key=key)))(jr.split(jr.key(0), num))
    counts = np.stack([np.bincount(column, minlength=7) for column in np.asarray(drawn).T], 1)
    expected = np.asarray(plan.matrix() / jnp.sum(plan.matrix(), axis=0, keepdims=True))
    # Five binomial standard deviations; impossible sources are never drawn.
    deviation = np.sqrt(expected * (1 - expected) / num)
    assert (np.abs(counts / num - expected) <= 5 * deviation).all()


# Refusals


def cloud():
    return tx.geometry.PointCloud(jnp.zeros((3, 2)), jnp.zeros((4, 2)))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.ot.solve(cloud(), epsilon=0.0), "`epsilon` is 0.0.*positive"),
        (lambda: tx.ot.solve(cloud(), epsilon=-1), "`epsilon` is -1.*positive"),
        (
            lambda: tx.ot.solve(cloud(), epsilon=float("nan")),
            "`epsilon` is nan; give a number",
        ),
        (lambda: tx.ot.solve(cloud(), jnp.ones(4), epsilon=1.0), r"`a`.*shape \(3,\)"),
        (
            lambda: tx.ot.solve(cloud(), None, jnp.ones((4, 1)), epsilon=1.0),
            r"`b` has shape .*; give shape \(m,\)",
        ),
        (lambda: tx.ot.solve(cloud(), jnp.arange(3), epsilon=1.0), "`a` has dtype.*convert"),
        (lambda: tx.ot.Sinkhorn(tol=0.0), "`tol` is 0.0.*positive"),
        (lambda: tx.ot.Sinkhorn(max_steps=0), "`max_steps` is 0.*at least 1"),
        (lambda: tx.ot.Sinkhorn(max_steps=True), "`max_steps` is True.*integer"),
    ],
)
def test_bad_input_is_refused_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_newton_is_not_held_back_by_points_of_tiny_weight():
    """A loose marginal whose far points weigh 1e-12: scaled steps once took 10,000 and failed."""
    x = jnp.linspace(-5.0, 5.0, 200)[:, None]
    a, b = jnp.exp(-((x[:, 0] - 1) ** 2) / 0.72), jnp.exp(-(x[:, 0] ** 2) / 2)
    a, b = a / jnp.sum(a) + 1e-12, b / jnp.sum(b) + 1e-12
    solver = tx.ot.Newton(tol=1e-8, max_steps=1000)
    geometry = tx.geometry.PointCloud(x, x)
    assert tx.ot.solve(geometry, a, b, epsilon=0.02, rho_b=0.48, solver=solver).converged
