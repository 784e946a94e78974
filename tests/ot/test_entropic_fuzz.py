"""Random entropic problems, audited in float64 outside the solver: converged means converged."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transportx as tx

pytestmark = pytest.mark.slow

BATCH = 50
SHAPES = [(5, 7, 1), (20, 33, 3), (64, 50, 12)]
# Batches of problems of each shape (n, m, d).
JOBS = [pytest.param(1, SHAPES[1], id=f"short-{SHAPES[1]}")] + [
    pytest.param(rounds, shape, id=f"long-{shape}", marks=pytest.mark.long)
    for rounds, shape in [*((40, s) for s in SHAPES), (40, (1, 6, 2)), (10, (200, 170, 2))]
]


def random_weights(rng, points):
    """Even ones, thin tails, powers, or softmax weights over 20 decades."""
    n, kind = len(points), rng.integers(4)
    if kind == 0:
        return rng.random(n) + 1e-3
    if kind == 1:
        width = rng.uniform(0.05, 1) * points.std()
        return np.exp(-np.sum((points - points.mean(0)) ** 2, 1) / (2 * width**2)) + 1e-300
    if kind == 2:
        return (1.0 + rng.permutation(n)) ** rng.uniform(-3, 0)
    return np.exp(rng.uniform(-46, 0, n))


def random_problem(rng, n, m, d):
    """Scales, offsets, duplicates, zero weights, epsilon and penalties over many decades."""
    scale, offset = 10 ** rng.uniform(-6, 6), rng.choice([0, 1, 100, 1e4])
    x = rng.normal(size=(n, d))
    y = rng.normal(size=(m, d)) * rng.choice([0.1, 1, 3]) + rng.choice([0, 1, 5])
    if rng.random() < 0.2:
        x[: n // 2] = x[0]
    if rng.random() < 0.2:
        y[: min(n, m)] = x[: min(n, m)]
    a, b = random_weights(rng, x), random_weights(rng, y)
    if n > 2 and rng.random() < 0.15:
        x[0] += 10 ** rng.uniform(1, 2)
    for weights in (a, b):
        if rng.random() < 0.3:
            weights[np.flatnonzero(rng.random(weights.size) < 0.4)] = 0
            weights[rng.integers(weights.size)] = 1
        weights /= weights.sum()
    mean = a @ np.sum((x[:, None] - y[None]) ** 2, axis=-1) @ b * scale**2
    epsilon = 10 ** rng.uniform(-4, 1) * mean
    rho = [np.inf, np.inf] if rng.random() < 0.5 else 10 ** rng.uniform(-1, 2, size=2) * mean
    return (x + offset) * scale, (y + offset) * scale, a, b, epsilon, *rho


def exponents_of(x, y, a, b, epsilon, f, g):
    """Logarithms of the plan that the potentials stand for, beside a_i b_j."""
    costs = np.sum((x[:, None] - y[None]) ** 2, axis=-1)
    carries = (a[:, None] > 0) & (b[None] > 0)
    exponents = np.where(carries, (f[:, None] + g[None] - costs) / epsilon, -np.inf)
    return np.minimum(exponents, 600)


def audit(x, y, a, b, epsilon, rho_a, rho_b, f, g):
    """L1 error of both marginals over the mass, in numpy's float64."""
    plan = a[:, None] * b[None] * np.exp(exponents_of(x, y, a, b, epsilon, f, g))
    required_a, required_b = a * np.exp(-f / rho_a), b * np.exp(-g / rho_b)
    error = np.abs(plan.sum(1) - required_a).sum() + np.abs(plan.sum(0) - required_b).sum()
    return error / min(required_a.sum(), required_b.sum())


def dual(x, y, a, b, epsilon, rho_a, rho_b, f, g):
    """Dual objective: for any potentials at most the optimum. Also the size of its terms."""
    of_a = a * (f if np.isinf(rho_a) else -rho_a * np.expm1(-f / rho_a))
    of_b = b * (g if np.isinf(rho_b) else -rho_b * np.expm1(-g / rho_b))
    # The mass of the plan beyond |a| |b|: sums of what differs little would round it off.
    excess = a[:, None] * b[None] * np.expm1(exponents_of(x, y, a, b, epsilon, f, g))
    size = np.abs(of_a).sum() + np.abs(of_b).sum() + epsilon * np.abs(excess).sum()
    return of_a.sum() + of_b.sum() - epsilon * excess.sum(), size


@eqx.filter_jit
@functools.partial(jax.vmap, in_axes=(None,) + 7 * (0,))
def solve(solver, x, y, a, b, epsilon, rho_a, rho_b):
    geometry = tx.geometry.PointCloud(x, y)
    plan = tx.ot.solve(geometry, a, b, epsilon=epsilon, rho_a=rho_a, rho_b=rho_b, solver=solver)
    return plan.f, plan.g, plan.converged, plan.value, plan.gap, plan.num_steps


@pytest.mark.parametrize("kind", [tx.ot.Newton, tx.ot.Sinkhorn])
@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-3), (np.float64, 1e-6)])
@pytest.mark.parametrize(("rounds", "shape"), JOBS)
def test_no_answer_says_converged_while_the_audit_disagrees(rounds, kind, dtype, tol, shape):
    # Closer to the optimum than what is tested; its dual objective, in numpy, bounds it.
    reference = tx.ot.Newton(tol=1e-9, max_steps=1000)
    rounding = 100 * np.finfo(dtype).eps
    rng = np.random.default_rng(0)
    num_converged = 0
    for _ in range(rounds):
        problems = [random_problem(rng, *shape) for _ in range(BATCH)]
        arrays = [np.stack(parts).astype(dtype) for parts in zip(*problems, strict=True)]
        answer = solve(kind(tol=tol, max_steps=2000), *map(jnp.asarray, arrays))
        f, g, converged, value, gap, steps = map(np.asarray, answer)
        exact = [np.asarray(part, np.float64) for part in arrays]
        # Rounded masses differ, which only tolerates what is no closer than the rounding.
        balance = exact[2].sum(1, keepdims=True) / exact[3].sum(1, keepdims=True)
        exact[3] = np.where(np.isinf(exact[5])[:, None], balance * exact[3], exact[3])
        closer = [np.asarray(part) for part in solve(reference, *map(jnp.asarray, exact))[:2]]
        assert steps.max() <= 2000
        for k in np.flatnonzero(converged):
            case = [np.asarray(part[k], np.float64) for part in (*arrays, f, g)]
            # Factor two: costs are rounded to float32 in the solver, not in the audit.
            assert audit(*case) <= (2 if dtype == np.float32 else 1 + 1e-6) * tol
            own, size = dual(*case)
            assert abs(value[k] - own) <= rounding * size
            best, _ = dual(*(part[k] for part in (*exact, *closer)))
            assert gap[k] >= 0
            assert value[k] + gap[k] >= best - rounding * size
        num_converged += converged.sum()
    assert num_converged > 0.5 * rounds * BATCH
