"""Random steering problems, and what their answers are compared with."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import transportx as tx

control = tx.control


class Steered(NamedTuple):
    """The arguments of `steer`."""

    system: Any
    R: Any
    source: Any
    target: Any
    rho_a: Any
    rho_b: Any

    def by(self, solver: Any = control.DualNewton()) -> Any:  # noqa: B008
        """The answer of a solver."""
        *arguments, rho_a, rho_b = self
        return control.steer(*arguments, rho_a=rho_a, rho_b=rho_b, solver=solver)


def measure(mass, mean, covariance):
    """A Gaussian measure with its numbers in float64."""
    return control.GaussianMeasure(
        jnp.asarray(mass, float), jnp.asarray(mean, float), jnp.asarray(covariance, float)
    )


def random_problem(seed, d, m, steps, *, radius, singular=False, noise=0.0, rhos=(np.inf, np.inf)):
    """A random system, constant in time, and ends that it can reach.

    The drift has this spectral radius; where it is singular its last column is zero.
    """
    draw = np.random.default_rng(seed)
    A = draw.normal(size=(d, d))
    if singular:
        A[:, -1] = 0
    size = np.max(np.abs(np.linalg.eigvals(A)))
    A *= radius / size if size else 1
    B, W = draw.normal(size=(d, m)), draw.normal(size=(d, d))
    W = noise * W @ W.T

    def covariance(size=d):
        root = draw.normal(size=(size, size))
        return root @ root.T / size + 0.3 * np.eye(size)

    R = covariance(m)
    least = np.zeros((d, d))
    for _ in range(steps):
        least = A @ least @ A.T + W
    system = control.constant_system(*map(jnp.asarray, (A, B, W)), steps=steps)
    hard = all(np.isinf(rhos))
    source = measure(1.5, draw.normal(size=d), covariance())
    target = measure(1.5 if hard else 0.8, draw.normal(size=d), covariance() + least)
    return Steered(system, jnp.asarray(R), source, target, *map(float, rhos))


def gaussian_kl(mean, covariance, law):
    """KL from a Gaussian to a Gaussian law, by NumPy."""
    inverse = np.linalg.inv(law.covariance)
    apart = np.asarray(mean - law.mean)
    ratio = inverse @ np.asarray(covariance)
    logs = np.linalg.slogdet(ratio)[1]
    return (np.trace(ratio) - apart.size - logs + apart @ inverse @ apart) / 2


def unit_cost(problem, answer):
    """What a unit of mass costs under the answer's policy, by its moments."""
    policy = answer.policy
    total = 0.0
    for k in range(policy.controls.shape[0]):
        gain, mean = policy.gains[k], policy.controls[k]
        second = gain @ answer.covariances[k] @ gain.T + policy.noise[k] + jnp.outer(mean, mean)
        total += float(jnp.sum(problem.R * second))
    for end, law, rho in ((0, problem.source, problem.rho_a), (-1, problem.target, problem.rho_b)):
        if np.isfinite(rho):
            total += rho * gaussian_kl(answer.means[end], answer.covariances[end], law)
    return total


def policy_error(first, second):
    """Root mean square difference of two policies' controls, relative to their own, at one state.

    Both see the states of the first.
    """

    def size(gains, controls):
        spread = jnp.einsum("kmd,kde,kme->", gains, first.covariances[:-1], gains)
        return jnp.sqrt(spread + jnp.sum(controls**2))

    one, two = first.policy, second.policy
    shifts = jnp.einsum("kmd,kd->km", two.gains, one.states - two.states)
    apart = size(one.gains - two.gains, one.controls - two.controls - shifts)
    return apart / size(one.gains, one.controls)
