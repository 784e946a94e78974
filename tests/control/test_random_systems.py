"""Density control on many random systems, by Newton and as a semidefinite program."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.control.systems import control, policy_error, random_problem

INF = np.inf
SHAPES = [(1, 1, 5), (2, 1, 10), (3, 2, 20), (4, 2, 12), (6, 3, 8)]

pytestmark = pytest.mark.long


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
    if reference.converged:
        np.testing.assert_allclose(answer.value, reference.value, rtol=1e-6)
    # At its default tolerance the program has policies to 1e-3. Those with noise are not unique.
    finer = problem.by(control.Conic(tol=1e-11))
    if jnp.all(answer.policy.noise == 0) and finer.converged:
        assert float(policy_error(answer, finer)) < 1e-4
