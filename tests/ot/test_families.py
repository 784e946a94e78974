"""The default solver on families of problems: it converges, honestly, with few products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transportx as tx
from experiments.racing import families

pytestmark = pytest.mark.slow

# One shape each, so that each solver is compiled once a family and dtype.
FAMILIES = ["Gaussian histograms", "digits"]


def rounded(problem, relative, dtype):
    """What a solver is given: arrays of a dtype, epsilon and penalties in units of the cost."""
    return problem.rounded(dtype), dtype(relative * problem.mean_cost)


def compiled(kind, tol, started=False):
    @jax.jit
    def solve(x, y, a, b, epsilon, init):
        geometry = tx.geometry.PointCloud(x, y)
        plan = tx.ot.solve(
            geometry,
            a,
            b,
            epsilon=epsilon,
            init=init if started else None,
            solver=kind(tol=tol, max_steps=3000),
        )
        return plan.f, plan.g, plan.num_steps, plan.converged, plan.value, plan.gap

    return solve


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_solver_is_the_fastest_on_histograms_and_right(family):
    newton, sinkhorn = (compiled(kind, 1e-3) for kind in (tx.ot.Newton, tx.ot.Sinkhorn))
    for problem in families.problems(family):
        for relative in (1.0, 0.1, 1e-2, 1e-3):
            seen, epsilon = rounded(problem, relative, np.float32)
            f, g, steps, converged, value, gap = newton(*seen[:4], epsilon, None)
            *_, others, other_converged, other_value, other_gap = sinkhorn(*seen[:4], epsilon, None)
            assert converged
            assert families.audit(seen, float(epsilon), f, g) <= 2e-3
            if other_converged:
                assert steps <= 1.5 * others + 2
                # Both values are lower bounds that their gaps reach past.
                assert value <= other_value + other_gap + 1e-5 * abs(value)
                assert other_value <= value + gap + 1e-5 * abs(value)


def test_thin_tails_at_a_small_epsilon_in_float64():
    newton = compiled(tx.ot.Newton, 1e-6)
    for problem in families.problems("Gaussian histograms"):
        seen, epsilon = rounded(problem, 1e-3, np.float64)
        f, g, steps, converged, *_ = newton(*seen[:4], epsilon, None)
        assert converged
        assert families.audit(seen, float(epsilon), f, g) <= 1.001e-6
        assert steps <= 1000


@pytest.mark.parametrize("every", [4, 8])
def test_potentials_of_fewer_points_are_a_start_not_a_trap(every):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(512, 2)), 1 + 0.5 * rng.normal(size=(512, 2))
    uniform = np.full(512, 1 / 512)
    seen, epsilon = rounded(families.Problem(x, y, uniform, uniform), 0.005, np.float32)
    few = tx.geometry.PointCloud(jnp.asarray(seen.x[::every]), jnp.asarray(seen.y[::every]))
    coarse = tx.ot.solve(few, epsilon=epsilon, solver=tx.ot.Newton(tol=3e-2))
    start = [
        -epsilon * jax.nn.logsumexp((potential[None] - costs) / epsilon, axis=1)
        for potential, costs in (
            (coarse.g, families.squared_distances(seen.x, seen.y[::every])),
            (coarse.f, families.squared_distances(seen.y, seen.x[::every])),
        )
    ]
    start = [jnp.asarray(part, jnp.float32) for part in start]
    rng = np.random.default_rng(1)
    garbage = [jnp.asarray(rng.normal(size=512) * 3, jnp.float32) for _ in range(2)]
    warm = compiled(tx.ot.Newton, 1e-3, started=True)
    for init in (start, garbage, [part * 1e6 for part in garbage]):
        f, g, steps, converged, *_ = warm(*seen[:4], epsilon, tuple(init))
        assert converged
        assert families.audit(seen, float(epsilon), f, g) <= 2e-3
        assert steps <= 300


@pytest.mark.parametrize("max_steps", [1, 2, 5, 20])
def test_a_spent_budget_leaves_the_best_seen_and_a_value_within_its_bounds(max_steps):
    problem = families.problems("Gaussian histograms")[0]
    seen, epsilon = rounded(problem, 1e-3, np.float32)
    x, y, a, b = (jnp.asarray(part) for part in seen[:4])
    geometry = tx.geometry.PointCloud(x, y)
    exact = tx.ot.solve(geometry, a, b, epsilon=epsilon).value
    solver = tx.ot.Newton(max_steps=max_steps)
    plan = tx.ot.solve(geometry, a, b, epsilon=epsilon, solver=solver)
    assert plan.status == tx.Status.MAX_STEPS
    assert plan.num_steps <= max_steps
    # One potential is the best for the other: no mass is made, half of it at most misplaced.
    assert plan.marginal_error <= 2
    assert -0.5 <= plan.value <= exact + 1e-4
    assert exact <= plan.value + plan.gap + 1e-4
