"""A steering problem in the units in which it is solved, its means and its mass."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from transportx import _checks, _precision
from transportx.control._systems import GaussianMeasure, LinearSystem
from transportx.gaussians import sqrtm

Scalar = Float[Array, ""]
Matrix = Float[Array, "d d"]
Point = Float[Array, " d"]


@_checks.gate
class SteeringProblem(eqx.Module):
    """Steering problem: a system, its cost, both references and how tightly they are held.

    `steer` makes it of its arguments, in one dtype, for a solver.

    Attributes:
        system: The linear system.
        R: Cost of the controls, shape (m, m).
        source: Source reference.
        target: Target reference.
        loose_a: 1 / rho_a; zero enforces the source.
        loose_b: 1 / rho_b; zero enforces the target.

    Example:
        >>> system = tx.control.constant_system(
        ...     jnp.eye(2), jnp.eye(2), jnp.zeros((2, 2)), steps=4
        ... )
        >>> end = tx.control.GaussianMeasure(jnp.array(1.0), jnp.zeros(2), jnp.eye(2))
        >>> problem = tx.control.SteeringProblem(
        ...     system, jnp.eye(2), end, end, jnp.array(0.0), jnp.array(0.0)
        ... )
        >>> bool(tx.control.DualNewton().answer(problem).converged)
        True
    """

    system: LinearSystem
    R: Float[Array, "m m"]
    source: GaussianMeasure
    target: GaussianMeasure
    loose_a: Scalar
    loose_b: Scalar


class Means(NamedTuple):
    """The optimal means of states (k + 1, d) and controls (k, m), and what they cost."""

    states: Float[Array, "k1 d"]
    controls: Float[Array, "k m"]
    cost: Scalar


def make_problem(
    system: LinearSystem,
    R: Float[Array, "m m"],
    source: GaussianMeasure,
    target: GaussianMeasure,
    rho_a: ScalarLike,
    rho_b: ScalarLike,
) -> SteeringProblem:
    """Check what can be checked while tracing, and bring all numbers to one dtype."""
    d, m = system.B.shape[1:]
    _checks.shaped("R", R, (m, m), f"a cost of {m} controls")
    for name, law in (("source", source), ("target", target)):
        _checks.shaped(f"{name}.mean", law.mean, (d,), f"a state of {d} coordinates")
        _checks.scale(f"{name}.mass", law.mass)
    for name, rho in (("rho_a", rho_a), ("rho_b", rho_b)):
        _checks.positive(name, rho)
    arrays = [
        leaf for leaf in jax.tree.leaves((system, R, source, target)) if hasattr(leaf, "dtype")
    ]
    dtype = _precision.working(*(leaf.dtype for leaf in arrays))
    given = (system, R, source, target, rho_a, rho_b)
    system, R, source, target, rho_a, rho_b = jax.tree.map(lambda x: jnp.asarray(x, dtype), given)
    rho_a, rho_b = jnp.asarray(rho_a), jnp.asarray(rho_b)
    # A traced penalty that is not positive is none: the status says so.
    loose_a, loose_b = (jnp.where(rho <= 0, -1, 1 / rho) for rho in (rho_a, rho_b))
    return SteeringProblem(system, R, source, target, loose_a, loose_b)


def is_finite(problem: SteeringProblem) -> Bool[Array, ""]:
    """Whether all numbers that were given are finite."""
    return _all_finite(*jax.tree.leaves(problem))


def _all_finite(*arrays: Array) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays]))


def reach(problem: SteeringProblem) -> tuple[Matrix, Matrix]:
    r"""The transition $\Phi = A_{N-1} \cdots A_0$ and the spread of ends that means can reach.

    The second is $\Phi (2 \Sigma_a / \rho_a) \Phi^\top + G + 2 \Sigma_b / \rho_b$ with G the
    controllability Gramian; an end is out of reach in the directions of its kernel.
    """

    def step(carry, matrices):
        transition, gramian = carry
        A, B = matrices
        return (A @ transition, A @ gramian @ A.T + B @ jnp.linalg.solve(problem.R, B.T)), None

    system = problem.system
    identity = jnp.eye(system.A.shape[1], dtype=system.A.dtype)
    start = identity, jnp.zeros_like(identity)
    (transition, gramian), _ = jax.lax.scan(step, start, (system.A, system.B))
    free = 2 * problem.loose_a * transition @ problem.source.covariance @ transition.T
    return transition, free + gramian + 2 * problem.loose_b * problem.target.covariance


def is_controllable(spread: Matrix) -> Bool[Array, ""]:
    """Whether the spread of reachable ends is positive definite, in any units of the states."""
    scales = jnp.sqrt(jnp.diagonal(spread))
    values = jnp.linalg.eigvalsh(spread / (scales[:, None] * scales[None, :]))
    return values[0] > spread.shape[0] * 10 * jnp.finfo(spread.dtype).eps * values[-1]


def optimal_means(problem: SteeringProblem) -> Means:
    r"""The quadratic program of the means, by the multiplier of its last constraint.

    With $\lambda = (\Phi (2 \Sigma_a / \rho_a) \Phi^\top + G + 2 \Sigma_b / \rho_b)^{-1}
    (m_b - \Phi m_a)$ the first mean is $m_a + (2 / \rho_a) \Sigma_a \Phi^\top \lambda$, the
    control $u_k = R^{-1} B_k^\top (A_{N-1} \cdots A_{k+1})^\top \lambda$, and the cost
    $\langle m_b - \Phi m_a, \lambda\rangle$.
    """
    transition, spread = reach(problem)
    apart = problem.target.mean - transition @ problem.source.mean
    last = jnp.linalg.solve(spread, apart)

    def back(costate, matrices):
        A, B = matrices
        return A.T @ costate, jnp.linalg.solve(problem.R, B.T @ costate)

    system = problem.system
    first, controls = jax.lax.scan(back, last, (system.A, system.B), reverse=True)
    start = problem.source.mean + 2 * problem.loose_a * problem.source.covariance @ first

    def forth(mean, given):
        A, B, control = given
        after = A @ mean + B @ control
        return after, after

    _, later = jax.lax.scan(forth, start, (system.A, system.B, controls))
    states = jnp.concatenate([start[None], later])
    return Means(states, controls, apart @ last)


def optimal_mass(problem: SteeringProblem, cost: Scalar) -> tuple[Scalar, Scalar]:
    r"""The optimal mass and the value, where one unit of mass costs C.

    $\rho_a + \rho_b$ times the logarithm of the mass is $\rho_a \log |a| + \rho_b \log |b| - C$,
    and the value is $\rho_a (|a| - M) + \rho_b (|b| - M)$. Written in 1 / rho, both are regular
    where a penalty is infinite.
    """
    loose_a, loose_b = problem.loose_a, problem.loose_b
    mass_a, mass_b = jnp.asarray(problem.source.mass), jnp.asarray(problem.target.mass)
    total = loose_a + loose_b
    hard = total == 0
    total = jnp.where(hard, 1, total)
    ratio = jnp.where(hard, 0, (jnp.log(mass_b) - jnp.log(mass_a)) / total)
    slope_a = ratio - jnp.where(hard, 0.5, loose_b / total) * cost
    slope_b = -ratio - jnp.where(hard, 0.5, loose_a / total) * cost
    value = -mass_a * slope_a * _growth(loose_a * slope_a)
    value = value - mass_b * slope_b * _growth(loose_b * slope_b)
    return mass_a * jnp.exp(loose_a * slope_a), value


def _growth(x: Scalar) -> Scalar:
    """(exp(x) - 1) / x, and 1 at zero."""
    small = jnp.abs(x) < 1e-2
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.ones_like(x)
    for k in range(8, 1, -1):
        series = 1 + near / k * series
    return jnp.where(small, series, jnp.expm1(far) / far)


def is_proper(problem: SteeringProblem) -> Bool[Array, ""]:
    """Whether masses, penalties and matrices have the signs they must, enforced masses agree."""
    a, b = problem.source, problem.target
    mass_a, mass_b = jnp.asarray(a.mass), jnp.asarray(b.mass)
    hard = problem.loose_a + problem.loose_b == 0
    rounding = 8 * jnp.finfo(a.covariance.dtype).eps * mass_b
    signs = (mass_a > 0) & (mass_b > 0) & (problem.loose_a >= 0) & (problem.loose_b >= 0)
    masses = signs & (~hard | (jnp.abs(mass_a - mass_b) <= rounding))
    roots = [sqrtm(each) for each in (a.covariance, b.covariance, problem.R)]
    factors = [jnp.linalg.cholesky(each) for each in (b.covariance, problem.R)]
    return masses & _all_finite(*roots, *factors, jax.vmap(sqrtm)(problem.system.noise))
