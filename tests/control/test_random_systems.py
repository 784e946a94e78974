"""Density control on many random systems: the semidefinite program, direct search, and speed."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

from tests.control.systems import control, policy_error, random_problem, unit_cost

INF = np.inf
SHAPES = [(1, 1, 5), (2, 1, 10), (3, 2, 20), (4, 2, 12), (6, 3, 8)]

pytestmark = pytest.mark.slow


def one_of_many(seed):
    """Stable, unstable or singular; with or without noise; any ends held tightly or loosely."""
    radius, singular = [(0.8, False), (1.15, False), (0.9, True)][seed % 3]
    rhos = [(INF, INF), (1.0, 3.0), (INF, 2.0), (5.0, INF)][seed // 5 % 4]
    d, m, steps = SHAPES[seed % 5]
    noise = 0.02 * (seed // 2 % 2)
    return random_problem(
        100 + seed, d, m, steps, radius=radius, singular=singular, noise=noise, rhos=rhos
    )


@pytest.mark.parametrize("seed", range(50))
def test_newton_agrees_with_the_semidefinite_program(seed):
    problem = one_of_many(seed)
    answer, reference = problem.by(), problem.by(control.Conic())
    assert answer.converged
    np.testing.assert_allclose(answer.value, reference.value, rtol=1e-6)
    if answer.deterministic:
        assert float(policy_error(answer, reference)) < 1e-4


def _divergence(mean, covariance, law):
    ratio, apart = jnp.linalg.solve(law.covariance, covariance), mean - law.mean
    distance = apart @ jnp.linalg.solve(law.covariance, apart)
    return (jnp.trace(ratio) - mean.size - jnp.linalg.slogdet(ratio)[1] + distance) / 2


@functools.partial(jax.jit, static_argnames="unravel")
@functools.partial(jax.value_and_grad)
def _cost_of_a_policy(numbers, problem, unravel):
    """What a unit of mass costs that starts anywhere and follows any deterministic policy."""
    gains, controls, mean, root = unravel(numbers)
    covariance, system = root @ root.T, problem.system
    cost = problem.rho_a * _divergence(mean, covariance, problem.source)
    for k in range(gains.shape[0]):
        second = gains[k] @ covariance @ gains[k].T + jnp.outer(controls[k], controls[k])
        cost = cost + jnp.sum(problem.R * second)
        closed = system.A[k] + system.B[k] @ gains[k]
        mean = system.A[k] @ mean + system.B[k] @ controls[k]
        covariance = closed @ covariance @ closed.T + system.noise[k]
    return cost + problem.rho_b * _divergence(mean, covariance, problem.target)


@pytest.mark.parametrize("seed", range(10))
def test_direct_optimisation_of_the_policy_finds_the_same(seed):
    radius, noise = [(0.9, 0.0), (1.2, 0.05)][seed % 2]
    problem = random_problem(200 + seed, 2, 2, 4, radius=radius, noise=noise, rhos=(1.0, 3.0))
    start = jnp.zeros((4, 2, 2)), jnp.zeros((4, 2)), problem.source.mean, jnp.eye(2)
    flat, unravel = ravel_pytree(start)

    def objective(numbers):
        cost, slope = _cost_of_a_policy(jnp.asarray(numbers), problem, unravel)
        return float(cost), np.asarray(slope)

    options = {"gtol": 1e-9, "maxiter": 5000}
    found: Any = scipy.optimize.minimize(
        objective, np.asarray(flat), jac=True, method="BFGS", options=options
    )
    answer = problem.by()
    assert answer.converged
    np.testing.assert_allclose(found.fun, unit_cost(problem, answer), rtol=1e-8)
    gains, controls, *_ = unravel(jnp.asarray(found.x))
    np.testing.assert_allclose(answer.policy.gains, gains, atol=1e-4)
    np.testing.assert_allclose(answer.policy.controls, controls, atol=1e-4)


def test_one_takes_a_second_and_a_hundred_take_ten():
    problems = [
        random_problem(seed, 4, 2, 20, radius=0.95, noise=0.01, rhos=(2.0, 3.0))
        for seed in range(100)
    ]

    def quickest(function, argument):
        jax.block_until_ready(function(argument))
        start = time.perf_counter()
        answer = jax.block_until_ready(function(argument))
        return answer, time.perf_counter() - start

    one, seconds = quickest(jax.jit(lambda problem: problem.by()), problems[0])
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(_as_arrays, problems))
    many, all_seconds = quickest(jax.jit(jax.vmap(lambda problem: problem.by())), batch)
    assert one.converged
    assert jnp.all(many.converged)
    assert seconds < 1
    assert all_seconds < 10


def _as_arrays(problem):
    return jax.tree.map(jnp.asarray, problem)
