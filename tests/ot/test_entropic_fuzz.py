"""Random entropic problems, audited in float64 outside the solver: converged means converged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transportx as tx

BATCH = 50
SHAPES = [(5, 7, 1), (20, 33, 3), (64, 50, 12)]
# Batches of problems of each shape (n, m, d).
JOBS = [pytest.param(1, shape, id=f"short-{shape}") for shape in SHAPES] + [
    pytest.param(rounds, shape, id=f"long-{shape}", marks=pytest.mark.slow)
    for rounds, shape in [*((40, s) for s in SHAPES), (40, (1, 6, 2)), (10, (200, 170, 2))]
]


def random_problem(rng, n, m, d):
    """Scales, offsets, duplicates, zero weights, epsilon and penalties over many decades."""
    scale, offset = 10 ** rng.uniform(-6, 6), rng.choice([0, 1, 100, 1e4])
    x = rng.normal(size=(n, d))
    y = rng.normal(size=(m, d)) * rng.choice([0.1, 1, 3]) + rng.choice([0, 1, 5])
    if rng.random() < 0.2:
        x[: n // 2] = x[0]
    if rng.random() < 0.2:
        y[: min(n, m)] = x[: min(n, m)]
    a, b = rng.random(n) + 1e-3, rng.random(m) + 1e-3
    for weights in (a, b):
        if rng.random() < 0.3:
            weights[1:][rng.random(weights.size - 1) < 0.4] = 0
        weights /= weights.sum()
    mean = a @ np.sum((x[:, None] - y[None]) ** 2, axis=-1) @ b * scale**2
    epsilon = 10 ** rng.uniform(-4, 1) * mean
    rho = [np.inf, np.inf] if rng.random() < 0.5 else 10 ** rng.uniform(-1, 2, size=2) * mean
    return (x + offset) * scale, (y + offset) * scale, a, b, epsilon, *rho


def audit(x, y, a, b, epsilon, rho_a, rho_b, f, g):
    """L1 error of both marginals over the mass, in numpy's float64."""
    costs = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
    ratios = np.exp(np.minimum((f[:, None] + g[None] - costs) / epsilon, 600))
    plan = a[:, None] * b[None] * ratios
    asked_a, asked_b = a * np.exp(-f / rho_a), b * np.exp(-g / rho_b)
    error = np.abs(plan.sum(1) - asked_a).sum() + np.abs(plan.sum(0) - asked_b).sum()
    return error / min(asked_a.sum(), asked_b.sum())


@pytest.mark.parametrize("kind", [tx.ot.Newton, tx.ot.Sinkhorn])
@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-3), (np.float64, 1e-6)])
@pytest.mark.parametrize(("rounds", "shape"), JOBS)
def test_no_answer_says_converged_while_the_audit_disagrees(rounds, kind, dtype, tol, shape):
    @jax.jit
    @jax.vmap
    def solve(x, y, a, b, epsilon, rho_a, rho_b):
        geometry = tx.geometry.PointCloud(x, y)
        solver = kind(tol=tol, max_steps=2000)
        plan = tx.ot.solve(geometry, a, b, epsilon=epsilon, rho_a=rho_a, rho_b=rho_b, solver=solver)
        return plan.f, plan.g, plan.converged, plan.gap, plan.num_steps

    rng = np.random.default_rng(0)
    num_converged = 0
    for _ in range(rounds):
        problems = [random_problem(rng, *shape) for _ in range(BATCH)]
        arrays = [np.stack(parts).astype(dtype) for parts in zip(*problems, strict=True)]
        f, g, converged, gap, steps = map(np.asarray, solve(*map(jnp.asarray, arrays)))
        assert steps.max() <= 2000
        for k in np.flatnonzero(converged):
            case = [np.asarray(part[k], np.float64) for part in (*arrays, f, g)]
            # Factor two: costs are rounded to float32 in the solver, not in the audit.
            assert audit(*case) <= (2 if dtype == np.float32 else 1 + 1e-6) * tol
            assert gap[k] >= -1e-5 * case[4]
        num_converged += converged.sum()
    assert num_converged > 0.5 * rounds * BATCH
