"""Transport between weighted sets: against scipy, POT, brute force and differences."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.stats

import transportx as tx
from tests.helpers import check_derivatives
from transportx.ot._assignment import _on_device

Status = tx.Status


def as_numpy(*arrays) -> Any:
    return tuple(np.asarray(array) for array in arrays)


# Assignment


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


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
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


# The line


def distance_of_pot(x, y, a=None, b=None, p=2):
    """W_p by a linear program on the cost matrix."""
    x, y = as_numpy(x, y)
    a = np.full(len(x), 1 / len(x)) if a is None else np.asarray(a) / np.sum(np.asarray(a))
    b = np.full(len(y), 1 / len(y)) if b is None else np.asarray(b) / np.sum(np.asarray(b))
    value: Any = ot.emd2(a, b, np.abs(x[:, None] - y[None, :]) ** p)
    return value ** (1 / p)


def line(n=6, m=9, seed=0):
    keys = jr.split(jr.key(seed), 4)
    return (
        jr.normal(keys[0], (n,)),
        1 + jr.normal(keys[1], (m,)),
        jr.uniform(keys[2], (n,)),
        jr.uniform(keys[3], (m,)),
    )


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [(6, 9), (6, 6), (1, 5)])
def test_wasserstein_of_the_line_is_the_linear_program(p, weighted, sizes):
    arguments = line(*sizes)[: 4 if weighted else 2]
    np.testing.assert_allclose(
        tx.ot.wasserstein_1d(*arguments, p=p), distance_of_pot(*arguments, p=p), rtol=1e-10
    )


@pytest.mark.parametrize("where", [0, 4, 8])
def test_points_of_weight_zero_change_nothing_however_far(where):
    x, y, a, b = line()
    y = jnp.sort(y)
    with_zero = tx.ot.wasserstein_1d(x, y.at[where].set(1e12), a, b.at[where].set(0))
    rest = np.delete(np.arange(9), where)
    np.testing.assert_allclose(with_zero, distance_of_pot(x, y[rest], a, b[rest]), rtol=1e-10)


def test_rounding_gives_no_mass_to_a_last_point_of_weight_zero():
    # Sums of these weights miss one by rounding in many of the draws.
    weights = jr.uniform(jr.key(0), (200, 5)).at[:, -1].set(0)
    x = jnp.array([0.0, 1.0, 2.0, 3.0, 1e12])
    distances = jax.jit(jax.vmap(lambda w: tx.ot.wasserstein_1d(x, x[:4], w, w[:4])))(weights)
    # The two sums may differ by one rounding, 1e-16, of points a distance 1 apart.
    assert jnp.max(distances) < 1e-7


@pytest.mark.parametrize("p", [1, 2, 3.0])
def test_wasserstein_of_the_line_differentiates_in_points_and_weights(p):
    # Weights move in any direction: totals vary, and are normalised.
    arguments = line()
    check_derivatives(lambda *args: tx.ot.wasserstein_1d(*args, p=p), *arguments, step=1e-6)


def test_derivative_in_a_weight_of_zero_is_that_of_growing_it():
    x, y, a, b = line()
    a = a.at[2].set(0)
    grown = jnp.zeros(6).at[2].set(1e-7)
    difference = tx.ot.wasserstein_1d(x, y, a + grown, b) - tx.ot.wasserstein_1d(x, y, a, b)
    gradient = jax.grad(tx.ot.wasserstein_1d, argnums=2)(x, y, a, b)
    # A one-sided difference errs by its step; rounding over the step is 1e-9.
    np.testing.assert_allclose(gradient[2], difference / 1e-7, rtol=1e-5)


def test_gradient_of_wasserstein_of_the_line_is_zero_at_distance_zero():
    x, _, a, _ = line()
    for weights in ((), (a, a)):
        gradient = jax.grad(tx.ot.wasserstein_1d)(x, x, *weights)
        np.testing.assert_array_equal(gradient, 0)


def test_wasserstein_of_the_line_batches_and_keeps_float32():
    x, y, a, b = (jnp.stack(parts) for parts in zip(line(), line(seed=1), strict=True))
    loop = [tx.ot.wasserstein_1d(*case) for case in zip(x, y, a, b, strict=True)]
    batch = jax.jit(jax.vmap(tx.ot.wasserstein_1d))
    np.testing.assert_allclose(batch(x, y, a, b), jnp.stack(loop), rtol=1e-13)
    single = batch(*(part.astype(jnp.float32) for part in (x, y, a, b)))
    assert single.dtype == jnp.float32
    # Ten roundings of 6e-8 in the cumulative weights.
    np.testing.assert_allclose(single, jnp.stack(loop), rtol=1e-5)


def test_weights_that_are_no_measure_give_nan():
    x, y, a, b = line()
    for bad in (a.at[2].set(-0.1), jnp.zeros_like(a), a.at[0].set(jnp.nan)):
        assert jnp.isnan(tx.ot.wasserstein_1d(x, y, bad, b))
        assert jnp.isnan(tx.ot.wasserstein_1d(y, x, b, bad))
    assert jnp.isnan(tx.ot.wasserstein_1d(x.at[1].set(jnp.nan), y))


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_of_the_line_is_that_of_the_line(p):
    x, y, *_ = line()
    sliced = tx.ot.sliced_wasserstein(x[:, None], y[:, None], key=jr.key(0), num_projections=4, p=p)
    np.testing.assert_allclose(sliced, distance_of_pot(x, y, p=p), rtol=1e-10)


def test_sliced_wasserstein_of_a_translation_is_its_length_over_the_root_of_the_dimension():
    x = jr.normal(jr.key(0), (30, 3))
    shift = jnp.array([[1.0, -2.0, 2.0]])
    sliced = tx.ot.sliced_wasserstein(x, x + shift, key=jr.key(1), num_projections=4000)
    # <theta, shift>^2 has mean 9/3 and deviation 9 sqrt(4/45): five standard errors.
    np.testing.assert_allclose(sliced**2, 3, atol=5 * 9 * np.sqrt(4 / 45 / 4000))


def test_sliced_wasserstein_agrees_with_pot_up_to_projections():
    x, y = jr.normal(jr.key(0), (40, 3)), 2 * jr.normal(jr.key(1), (25, 3)) + 0.5
    ours = tx.ot.sliced_wasserstein(x, y, key=jr.key(2), num_projections=2000)
    theirs: Any = ot.sliced_wasserstein_distance(*as_numpy(x, y), n_projections=2000, seed=0)
    # Each average of squares has a relative error of about 1/sqrt(2000), 2%.
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


def test_sliced_wasserstein_differentiates_also_at_distance_zero():
    x, y = jr.normal(jr.key(0), (5, 2)), jr.normal(jr.key(1), (6, 2))

    def sliced(x, y):
        return tx.ot.sliced_wasserstein(x, y, key=jr.key(2), num_projections=5)

    check_derivatives(sliced, x, y, step=1e-6)
    np.testing.assert_array_equal(jax.grad(sliced)(x, x), 0)


# Refusals


V = jnp.ones(3)
KEY = jr.key(0)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.ot.assignment(jnp.zeros((3, 4))), "`cost` .*; give"),
        (lambda: tx.ot.assignment(jnp.zeros(3)), "`cost` .*; give"),
        (lambda: tx.ot.assignment(jnp.zeros((0, 0))), "`cost` .*; give"),
        (lambda: tx.ot.assignment(jnp.zeros((3, 3), jnp.int32)), "`cost` has dtype.*convert"),
        (lambda: tx.ot.wasserstein_1d(V, V, p=0.5), "`p` is 0.5.*at least 1"),
        (
            lambda: tx.ot.wasserstein_1d(V, V, p=float("nan")),
            "`p` is nan; give an integer or a Python number",
        ),
        (lambda: tx.ot.wasserstein_1d(V[:, None], V), r"`x` has shape .*; give shape \(n,\)"),
        (
            lambda: tx.ot.wasserstein_1d(V, V[:0]),
            r"`y` has shape .*; give at least one example, shape \(m,\)",
        ),
        (lambda: tx.ot.wasserstein_1d(jnp.arange(3), V), "`x` has dtype.*convert"),
        (lambda: tx.ot.wasserstein_1d(V, V, jnp.ones(2)), r"`a` has shape .*; give shape \(n,\)"),
        (
            lambda: tx.ot.wasserstein_1d(V, V, None, jnp.ones(2)),
            r"`b` has shape .*; give shape \(m,\)",
        ),
        (lambda: tx.ot.wasserstein_1d(V, V, jnp.arange(3)), "`a` has dtype.*convert"),
        (
            lambda: tx.ot.sliced_wasserstein(V[:, None], jnp.ones((3, 2)), key=KEY),
            r"`y` has shape .*; give shape \(m, d\)",
        ),
        (lambda: tx.ot.sliced_wasserstein(V, V, key=KEY), r"`x`.*shape \(n, d\)"),
        (
            lambda: tx.ot.sliced_wasserstein(V[:, None], V[:, None], key=KEY, num_projections=0),
            "`num_projections` is 0.*at least 1",
        ),
        (
            lambda: tx.ot.sliced_wasserstein(V[:, None], V[:, None], key=KEY, p=0.9),
            "`p` is 0.9.*at least 1",
        ),
    ],
)
def test_bad_input_is_refused_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
