"""Swarms under a policy: their moments are those of the answer, and their mass is its mass."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.control.systems import control, random_problem

PROBLEM = random_problem(21, 2, 2, 4, radius=1.0, noise=0.05, rhos=(1.0, 2.0))
ANSWER = PROBLEM.by()
NUM = 20_000


def swarm(key):
    """Draws of the source reference, reweighted and carried to the end."""
    start_key, key = jr.split(key)
    source = PROBLEM.source
    x0 = jr.multivariate_normal(start_key, source.mean, source.covariance, (NUM,))
    weights = source.mass / NUM * ANSWER.source_ratio(x0)
    return control.simulate(PROBLEM.system, ANSWER.policy, x0, weights, key=key)


def test_a_weighted_swarm_has_the_mass_and_the_moments_of_the_answer():
    made = swarm(jr.key(0))
    mass = jnp.sum(made.weights)
    # Four standard errors of weighted means, at a relative size of the weights below three.
    slack = 4 * 3 / np.sqrt(NUM)
    np.testing.assert_allclose(mass, ANSWER.mass, rtol=slack)
    for k in (0, 2, 4):
        mean = made.weights @ made.states[k] / mass
        spread = jnp.trace(ANSWER.covariances[k])
        np.testing.assert_allclose(mean, ANSWER.means[k], atol=slack * float(jnp.sqrt(spread)))
        apart = made.states[k] - mean[None]
        covariance = apart.T @ (made.weights[:, None] * apart) / mass
        np.testing.assert_allclose(covariance, ANSWER.covariances[k], atol=2 * slack * spread)
    cost = jnp.einsum("n,kni,ij,knj->", made.weights, made.controls, PROBLEM.R, made.controls)
    np.testing.assert_allclose(cost, ANSWER.control_cost, rtol=2 * slack)


def test_paths_obey_the_system():
    system = PROBLEM.system
    still = control.LinearSystem(system.A, system.B, jnp.zeros_like(system.noise))
    x0 = jnp.array([[0.3, -1.0], [2.0, 0.5]])
    made = control.simulate(still, ANSWER.policy, x0, jnp.ones(2), key=jr.key(1))
    for k in range(4):
        after = made.states[k] @ system.A[k].T + made.controls[k] @ system.B[k].T
        np.testing.assert_allclose(made.states[k + 1], after, atol=1e-12)
        drawn = jax.vmap(lambda x, k=k: ANSWER.policy(jnp.array(k), x, key=jr.key(2)))
        np.testing.assert_allclose(made.controls[k], drawn(made.states[k]), atol=1e-12)


def test_a_policy_draws_its_own_noise_and_has_no_step_outside():
    noise = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    zeros = jnp.zeros((1, 2))
    policy = control.AffinePolicy(zeros, zeros + 3, jnp.zeros((1, 2, 2)), noise[None])

    def draw(key):
        return policy(jnp.array(0), jnp.zeros(2), key=key)

    drawn = jax.vmap(draw)(jr.split(jr.key(3), 20_000))
    np.testing.assert_allclose(jnp.mean(drawn, axis=0), 3, atol=0.05)
    np.testing.assert_allclose(jnp.cov(drawn.T), noise, atol=0.1)
    for step in (1, -1):
        assert jnp.isnan(policy(jnp.array(step), jnp.zeros(2), key=jr.key(4))).all()


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="^`x0`"):
        control.simulate(
            PROBLEM.system, ANSWER.policy, jnp.zeros((3, 1)), jnp.ones(3), key=jr.key(0)
        )
    with pytest.raises(ValueError, match="^`weights`"):
        control.simulate(
            PROBLEM.system, ANSWER.policy, jnp.zeros((3, 2)), jnp.ones(2), key=jr.key(0)
        )
    short = control.AffinePolicy(*(leaf[:2] for leaf in jax.tree.leaves(ANSWER.policy)))
    with pytest.raises(ValueError, match=r"^`policy\.gains`"):
        control.simulate(PROBLEM.system, short, jnp.zeros((3, 2)), jnp.ones(3), key=jr.key(0))
