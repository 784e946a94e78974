"""Exact assignment: against all permutations, SciPy on float64 costs, and marks that forbid."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize

import transportx as tx
from tests.helpers import check_derivatives
from transportx.ot._assignment import _on_device, _with_near_marks

on_host = jax.jit(jax.vmap(tx.ot.assignment))
on_device = jax.jit(jax.vmap(lambda cost: _on_device(_with_near_marks(cost))))


def as_numpy(*arrays):
    return tuple(np.asarray(array) for array in arrays)


def least_total(cost):
    """The least cost over all permutations, one by one."""
    n = len(cost)
    return min(cost[range(n), p].sum() for p in itertools.permutations(range(n)))


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_assignment_is_the_best_of_all_permutations(n):
    cost = jr.normal(jr.key(n), (n, n))
    columns = tx.ot.assignment(cost)
    assert sorted(columns.tolist()) == list(range(n))
    np.testing.assert_allclose(
        cost[jnp.arange(n), columns].sum(), least_total(np.asarray(cost)), atol=1e-13
    )


@pytest.mark.parametrize("n", [1, 6, 17])
def test_algorithm_of_devices_finds_the_optimum_of_scipy(n):
    costs = jr.normal(jr.key(n), (3, n, n))
    columns = jax.jit(jax.vmap(_on_device))(costs)
    for cost, found in zip(*as_numpy(costs, columns), strict=True):
        rows, best = scipy.optimize.linear_sum_assignment(cost)
        assert sorted(found) == list(rows)
        np.testing.assert_allclose(cost[rows, found].sum(), cost[rows, best].sum(), atol=1e-12)


def test_assignment_with_ties_and_with_float32_is_a_permutation():
    tied = jnp.zeros((5, 5), jnp.float32)
    for columns in (tx.ot.assignment(tied), jax.jit(_on_device)(tied)):
        assert sorted(columns.tolist()) == list(range(5))


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
def test_assignment_of_one_bad_matrix_of_a_batch_is_out_of_range_alone(bad):
    costs = jr.normal(jr.key(0), (3, 5, 5))
    columns = jax.jit(jax.vmap(tx.ot.assignment))(costs.at[1, 2, 3].set(bad))
    np.testing.assert_array_equal(columns[1], 5)
    for k in (0, 2):
        np.testing.assert_array_equal(columns[k], tx.ot.assignment(costs[k]))
    values = jnp.arange(5.0).at[columns[1]].get(mode="fill")
    assert jnp.isnan(values).all()


def test_gradient_of_the_assigned_cost_is_the_permutation_matrix():
    cost = jr.normal(jr.key(0), (5, 5))

    def total(cost):
        return jnp.sum(cost[jnp.arange(5), tx.ot.assignment(cost)])

    expected = np.zeros((5, 5))
    expected[scipy.optimize.linear_sum_assignment(cost)] = 1
    np.testing.assert_array_equal(jax.jit(jax.grad(total))(cost), expected)
    check_derivatives(total, cost)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("batched", [False, True])
def test_assignment_on_accelerators_never_calls_the_host(platform, batched):
    function = jax.vmap(tx.ot.assignment) if batched else tx.ot.assignment
    cost = jnp.zeros((2, 4, 4) if batched else (4, 4))

    def lowered(platform):
        return jax.jit(function).trace(cost).lower(lowering_platforms=(platform,)).as_text()

    assert "callback" in lowered("cpu")
    assert "callback" not in lowered(platform)


def marked(num, scale, mark, share):
    """Matrices of six by six costs in float32, a share of whose pairs costs `mark`."""
    draws = np.random.default_rng(0)
    costs = draws.uniform(0, scale, (num, 6, 6)).astype(np.float32)
    return np.where(draws.uniform(size=costs.shape) < share, np.float32(mark), costs)


def total(cost, columns):
    return np.sum(cost[np.arange(len(cost)), columns], dtype=np.float64)


@pytest.mark.parametrize("mark", [1e4, 1e16, 3e38])
@pytest.mark.parametrize(("scale", "share"), [(1.0, 0.3), (100.0, 0.6)])
def test_costs_that_mark_pairs_to_avoid_leave_the_rest_exact(mark, scale, share):
    costs = marked(60, scale, mark, share)
    for cost, columns in zip(costs, np.asarray(on_host(costs)), strict=True):
        _, best = scipy.optimize.linear_sum_assignment(cost)
        assert sorted(columns) == list(range(6))
        assert total(cost, columns) <= total(cost, best) * (1 + 1e-15)


@pytest.mark.parametrize("mark", [1e4, 1e7, 1e10, 1e16])
@pytest.mark.parametrize("search", [on_host, on_device])
def test_marks_that_no_matching_avoids_leave_the_rest_exact(search, mark):
    costs = marked(60, 1.0, mark, 0.6)
    costs[:, 0] = mark
    # One mark is as dear as 64 spreads: few enough for float64 to tell the other costs.
    exact = np.where(costs == np.float32(mark), 64, costs.astype(np.float64))
    for cost, columns in zip(exact, np.asarray(search(costs)), strict=True):
        _, best = scipy.optimize.linear_sum_assignment(cost)
        assert sorted(columns) == list(range(6))
        assert total(cost, columns) <= total(cost, best) + 1e-6


@pytest.mark.parametrize("search", [on_host, on_device])
def test_infinite_costs_forbid_and_no_permutation_left_is_out_of_range(search):
    costs = marked(60, 10.0, np.inf, 0.6)
    num_impossible = 0
    for cost, columns in zip(costs, np.asarray(search(costs)), strict=True):
        try:
            _, best = scipy.optimize.linear_sum_assignment(cost)
        except ValueError:
            num_impossible += 1
            np.testing.assert_array_equal(columns, 6)
        else:
            np.testing.assert_array_equal(columns, best)
    # Both kinds were seen.
    assert 10 < num_impossible < 50


@pytest.mark.parametrize("search", [on_host, on_device])
def test_costs_as_large_as_the_dtype_holds_are_assigned(search):
    relative = jr.uniform(jr.key(0), (4, 7, 7), minval=0.5)
    for dtype in (jnp.float32, jnp.float64):
        costs = (relative.astype(dtype) * jnp.finfo(dtype).max).at[3].mul(-1)
        _, best = zip(
            *map(scipy.optimize.linear_sum_assignment, relative.at[3].mul(-1)), strict=True
        )
        np.testing.assert_array_equal(search(costs), np.stack(best))


def test_costs_in_half_precision_are_assigned_as_in_float32():
    cost = jr.normal(jr.key(0), (9, 9)).astype(jnp.bfloat16)
    _, best = scipy.optimize.linear_sum_assignment(np.asarray(cost, np.float64))
    found = total(np.asarray(cost, np.float64), np.asarray(tx.ot.assignment(cost)))
    np.testing.assert_allclose(found, total(np.asarray(cost, np.float64), best), rtol=1e-12)


def test_problems_in_flight_on_one_core_do_not_wait_for_each_other():
    # A callback that reads arrays of JAX waits for the thread that it occupies: in two of three
    # runs of this program.
    program = """if True:
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import jax, jax.random as jr
        import transportx as tx
        search = jax.jit(tx.ot.assignment)
        exact = jax.jit(lambda cost: tx.ot.exact(tx.geometry.CostMatrix(cost[:40])))
        for seed in range(20):
            costs = [jr.uniform(jr.key(seed + k), (200, 200)) for k in range(2)]
            for columns in [search(cost) + 0 for cost in costs]:
                assert sorted(columns.tolist()) == list(range(200))
            for plan in [exact(cost) for cost in costs]:
                assert bool(plan.converged)
    """
    one_thread = {name: value for name, value in os.environ.items() if name != "NPROC"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, env=one_thread)
