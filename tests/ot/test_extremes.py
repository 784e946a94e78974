"""Entropic answers at the edge: tiny weights, padding, huge epsilon, forbidden pairs, dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from transportx.ot._feasible import kinds_of_costs

COSTS = jnp.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 1.0, 0.5]])
FORBIDDEN = np.array([[True, False, False], [False, False, True], [False, False, False]])


def clouds(dtype: Any = np.float32):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), 1.3 * rng.normal(size=(15, 2)) + 0.7
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def log_domain(costs, a, b, epsilon, rho=np.inf, rounds=3000):
    """The plan of a plain loop in float64, in the log domain."""
    costs, a, b = (np.asarray(part, np.float64) for part in (costs, a, b))
    f, g, damping = (
        np.zeros(a.size),
        np.zeros(b.size),
        1 if np.isinf(rho) else rho / (rho + epsilon),
    )

    def update(weights, potential, costs):
        with np.errstate(divide="ignore"):
            exponents = np.log(weights) + (potential - costs) / epsilon
        peaks = exponents.max(axis=1)
        sums = np.exp(exponents - peaks[:, None]).sum(axis=1)
        return -damping * epsilon * (peaks + np.log(sums))

    for _ in range(rounds):
        f = update(b, g, costs)
        g = update(a, f, costs.T)
    return a[:, None] * b * np.exp((f[:, None] + g - costs) / epsilon)


@pytest.mark.parametrize("padding", [0.0, 1e4, 1e8])
def test_points_of_weight_zero_have_no_say_wherever_they_lie(padding):
    x, y = clouds()
    weights = jnp.full(20, 1 / 20, jnp.float32)
    alone = tx.ot.solve(tx.geometry.PointCloud(x, y), weights, epsilon=jnp.float32(0.1))
    x = jnp.concatenate([x, jnp.full((2, 2), padding, jnp.float32)])
    weights = jnp.concatenate([weights, jnp.zeros(2, jnp.float32)])
    padded = tx.ot.solve(tx.geometry.PointCloud(x, y), weights, epsilon=jnp.float32(0.1))
    assert padded.converged
    np.testing.assert_allclose(padded.value, alone.value, rtol=1e-6)
    np.testing.assert_allclose(padded.matrix()[:20], alone.matrix(), atol=1e-6)


def test_pairs_of_tiny_weight_hide_no_mass():
    x = jnp.array([[0.0], [1.0], [5.0]], jnp.float32)
    weights = jnp.array([1, 1, 1e-16], jnp.float32) / 2
    plan = tx.ot.solve(tx.geometry.PointCloud(x, x), weights, weights, epsilon=0.1)
    assert plan.converged
    f, g, a = (np.asarray(part, np.float64) for part in (plan.f, plan.g, weights))
    costs = (np.asarray(x, np.float64) - np.asarray(x, np.float64).T) ** 2
    entries = a[:, None] * a * np.exp((f[:, None] + g - costs) / 0.1)
    np.testing.assert_allclose(entries.sum(1), a, rtol=1e-3)


@pytest.mark.parametrize("epsilon", [1e3, 1e6, 1e9, 1e12])
def test_values_and_gaps_stay_right_at_any_epsilon(epsilon):
    x, y = clouds()
    wide, tall = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def mean(one, other):
        return np.sum((one[:, None] - other) ** 2, axis=-1).mean()

    # Beyond the mean cost corrections fall like 1 / epsilon: here they are 4 / epsilon.
    expected = mean(wide, tall) - (mean(wide, wide) + mean(tall, tall)) / 2
    answer = tx.ot.sinkhorn_divergence(x, y, epsilon=epsilon)
    assert answer.converged
    np.testing.assert_allclose(answer.value, expected, atol=5 / epsilon + 4e-4)
    np.testing.assert_allclose(answer.plan.value, mean(wide, tall), atol=30 / epsilon + 4e-4)
    assert 0 <= answer.gap <= 1e-3
    assert 0 <= answer.plan.gap


def test_gaps_are_bounds_from_a_small_epsilon_to_a_huge_one():
    x, y = clouds()
    exact = clouds(np.float64)
    for epsilon in (0.05, 1.0, 30.0, 1e3, 1e5):
        rough = tx.ot.solve(
            tx.geometry.PointCloud(x, y),
            epsilon=jnp.float32(epsilon),
            solver=tx.ot.Newton(tol=0.03),
        )
        optimum = tx.ot.solve(
            tx.geometry.PointCloud(*exact), epsilon=epsilon, solver=tx.ot.Newton(tol=1e-9)
        ).value
        optimum = float(optimum)
        slack = 1e-5 * abs(optimum)
        assert rough.value <= optimum + slack
        assert optimum <= rough.value + rough.gap + slack
        assert rough.gap >= 0


@pytest.mark.parametrize("mark", [1e4, 1e12, 1e16, 3e38, np.inf])
def test_forbidden_pairs_carry_nothing_however_they_are_marked(mark):
    costs = jnp.where(FORBIDDEN, mark, COSTS).astype(jnp.float32)
    plan = tx.ot.solve(tx.geometry.CostMatrix(costs), epsilon=jnp.float32(0.05))
    uniform = np.full(3, 1 / 3)
    expected = log_domain(np.where(FORBIDDEN, 1e3, COSTS), uniform, uniform, 0.05)
    assert plan.converged
    assert plan.gap >= 0
    np.testing.assert_allclose(plan.matrix(), expected, atol=1e-3)
    assert np.all(np.asarray(plan.matrix())[FORBIDDEN] == 0)
    np.testing.assert_allclose(plan.transport_cost, np.sum(expected * COSTS), atol=1e-3)


def test_derivatives_beside_forbidden_pairs_are_those_without_them():
    costs = jnp.where(FORBIDDEN, jnp.inf, COSTS)
    solver = tx.ot.Newton(tol=1e-10)

    def value(costs, a, epsilon):
        return tx.ot.solve(tx.geometry.CostMatrix(costs), a, epsilon=epsilon, solver=solver).value

    a = jnp.array([0.3, 0.3, 0.4])
    by_costs, by_epsilon = jax.grad(value, argnums=(0, 2))(costs, a, 0.1)
    finite = jnp.where(FORBIDDEN, 30.0, COSTS)
    expected_costs, expected_epsilon = jax.grad(value, argnums=(0, 2))(finite, a, 0.1)
    np.testing.assert_allclose(by_costs, expected_costs, atol=1e-8)
    np.testing.assert_allclose(by_epsilon, expected_epsilon, atol=1e-8)

    def potential(costs):
        plan = tx.ot.solve(tx.geometry.CostMatrix(costs), a, epsilon=0.1, solver=solver)
        return plan.f[0] - plan.f[1]

    np.testing.assert_allclose(jax.grad(potential)(costs), jax.grad(potential)(finite), atol=1e-6)


def test_a_row_without_a_partner_is_infeasible_where_enforced_and_empty_where_penalised():
    costs = COSTS.at[0].set(jnp.inf)
    held = tx.ot.solve(tx.geometry.CostMatrix(costs), epsilon=0.1)
    assert held.status == tx.Status.INFEASIBLE
    assert jnp.isnan(held.value)
    loose = tx.ot.solve(tx.geometry.CostMatrix(costs), epsilon=0.1, rho_a=1.0, rho_b=1.0)
    # Without that row, whose mass is paid for in full.
    rest = tx.ot.solve(
        tx.geometry.CostMatrix(COSTS[1:]), jnp.full(2, 1 / 3), epsilon=0.1, rho_a=1.0, rho_b=1.0
    )
    assert loose.converged
    np.testing.assert_allclose(loose.matrix()[1:], rest.matrix(), atol=1e-3)
    assert jnp.all(loose.matrix()[0] == 0)
    # The product's mass, which the value refers to, has the missing row in it.
    np.testing.assert_allclose(loose.value, rest.value + 1 / 3 + 0.1 / 3, atol=1e-3)
    gradient = jax.grad(
        lambda c: tx.ot.solve(tx.geometry.CostMatrix(c), epsilon=0.1, rho_a=1.0, rho_b=1.0).f[1]
    )(costs)
    assert jnp.all(jnp.isfinite(gradient))


def test_float32_weights_of_float64_points_are_feasible():
    x, y = clouds(np.float64)
    a = jax.nn.softmax(jnp.linspace(-3, 2, 20, dtype=jnp.float32))
    plan = tx.ot.solve(tx.geometry.PointCloud(x, y), a, epsilon=0.3, solver=tx.ot.Newton(tol=1e-9))
    assert plan.converged
    np.testing.assert_allclose(plan.matrix().sum(1), a, atol=1e-7)


@pytest.mark.parametrize("kind", [tx.ot.Newton, tx.ot.Sinkhorn])
def test_a_tolerance_that_all_plans_meet_is_refused(kind):
    with pytest.raises(ValueError, match="`tol` is infinite"):
        kind(tol=float("inf"))


def test_points_that_reach_no_weight_at_a_finite_cost_are_found():
    inf = jnp.inf
    costs = jnp.array([[1.0, inf, inf, 2.0], [inf, 3.0, inf, 4.0], [inf, inf, inf, 5.0]])
    a, b, one = jnp.array([0.5, 0.0, 0.5]), jnp.array([0.3, 0.3, 0.4, 0.0]), jnp.array(1.0)

    def kinds(costs):
        problem = tx.ot.Problem(tx.geometry.CostMatrix(costs), a, b, one, 0 * one, 0 * one)
        return [np.asarray(found).tolist() for found in kinds_of_costs(problem)]

    assert kinds(costs) == [True, [True, True, False], [True, False, False, True]]
    assert kinds(jnp.where(costs == inf, 1.0, costs)) == [True, [True] * 3, [True] * 4]
    assert kinds(costs.at[0, 0].set(-inf))[0] is False
    assert kinds(costs.at[2, 3].set(jnp.nan))[0] is False


@pytest.mark.parametrize("far", [10.0, 30.0, 1e4])
def test_where_moving_never_pays_the_plan_is_zero_and_the_value_is_the_penalties(far):
    """KL(0 | a) is 1 on either side, and so is KL(0 | a b), times epsilon."""
    x, y = (jr.normal(jr.key(k), (n, 2), jnp.float32) for k, n in ((0, 20), (1, 15)))
    plan = tx.ot.solve(
        tx.geometry.PointCloud(x, y + jnp.float32(far)),
        epsilon=jnp.float32(0.1),
        rho_a=jnp.float32(1),
        rho_b=jnp.float32(2),
    )
    assert plan.status in (tx.Status.CONVERGED, tx.Status.STALLED)
    np.testing.assert_allclose(plan.value, 1 + 2 + 0.1, rtol=1e-6)
    np.testing.assert_allclose(plan.gap, 0, atol=1e-6)
    np.testing.assert_array_less(plan.matrix(), 1e-15)
    assert plan.num_steps < 1000


def test_a_few_points_that_carry_the_mass_do_not_average_rounding_away():
    rng = np.random.default_rng(3)
    num, n, m = 60, 20, 33
    x, y = rng.normal(size=(num, n, 3)), rng.normal(size=(num, m, 3)) + 1
    a, b = (np.exp(rng.uniform(-46, 0, (num, size))) for size in (n, m))
    for weights in (a, b):
        weights[:, :2] = 1, 0.3
        weights /= weights.sum(axis=1, keepdims=True)
    costs = np.sum((x[:, :, None] - y[:, None]) ** 2, axis=-1)
    epsilon = 1e-4 * np.einsum("kn,knm,km->k", a, costs, b)
    arrays = [jnp.asarray(part, jnp.float32) for part in (x, y, a, b, epsilon)]

    @jax.jit
    @jax.vmap
    def solved(x, y, a, b, epsilon):
        plan = tx.ot.solve(tx.geometry.PointCloud(x, y), a, b, epsilon=epsilon)
        return plan.converged, plan.marginal_error, plan.f, plan.g

    converged, said, *potentials = solved(*arrays)
    x, y, a, b, epsilon, f, g = (np.asarray(part, float) for part in (*arrays, *potentials))
    costs = np.sum((x[:, :, None] - y[:, None]) ** 2, axis=-1)
    exponents = (f[:, :, None] + g[:, None] - costs) / epsilon[:, None, None]
    plans = a[:, :, None] * b[:, None] * np.exp(exponents)
    errors = abs(plans.sum(2) - a).sum(1) + abs(plans.sum(1) - b).sum(1)
    assert np.max(errors, where=np.asarray(converged), initial=0) <= 2e-3
    np.testing.assert_allclose(said, errors, atol=4e-3)


@pytest.mark.parametrize("weight", [1e-11, 0.0])
def test_far_points_of_tiny_weight_are_not_certified_beyond_rounding(weight):
    """Costs of 1e11 rounded to float32 are off by many epsilons: no potential fits such a row."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(9, 3)) + 1
    x[0] = 3e5
    a = np.full(12, 1 / 11)
    a[0] = weight
    geometry = tx.geometry.PointCloud(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    plan = tx.ot.solve(geometry, jnp.asarray(a / a.sum(), jnp.float32), epsilon=jnp.float32(0.05))
    assert plan.marginal_error < 1e-3
    assert plan.converged == (weight == 0)
