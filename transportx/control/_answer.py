"""The answer of a steering problem: a policy, the measures it makes, and whether to believe it."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx._status import Status
from transportx.control._problem import Means, SteeringProblem, optimal_mass
from transportx.gaussians import log_density, sqrtm

Scalar = Float[Array, ""]

# Noise of the controls' own below this fraction of their energy is none.
_NO_NOISE = 1e-6


@_checks.gate
class AffinePolicy(eqx.Module):
    r"""Affine Gaussian policy $u_k = v_k + K_k (x_k - m_k) + e_k$, $e_k \sim N(0, Q_k)$.

    Attributes:
        states: m, the mean state at each step, shape (k, d).
        controls: v, the mean control of each step, shape (k, m).
        gains: K, the feedback of each step, shape (k, m, d).
        noise: Q, the covariance of the controls' own noise, shape (k, m, m); zeros where a
            deterministic policy is enough.

    Example:
        >>> policy = tx.control.AffinePolicy(
        ...     jnp.zeros((3, 2)), jnp.ones((3, 1)), jnp.zeros((3, 1, 2)), jnp.zeros((3, 1, 1))
        ... )
        >>> policy(jnp.array(0), jnp.ones(2), key=jr.key(0))
        Array([1.], dtype=float32)
    """

    states: Float[Array, "k d"]
    controls: Float[Array, "k m"]
    gains: Float[Array, "k m d"]
    noise: Float[Array, "k m m"]

    @_checks.gate
    def __call__(
        self, step: Int[Array, ""], x: Float[Array, " d"], *, key: PRNGKeyArray
    ) -> Float[Array, " m"]:
        """Draw the control at one step for one state; NaN at a step that the policy lacks.

        Args:
            step: Which step, from 0.
            x: State, shape (d,).
            key: Randomness of the controls' own noise.
        """
        _checks.shaped("x", x, self.states.shape[1:], "one state")
        step = jnp.where(step < 0, self.states.shape[0], step)
        held = (self.states, self.controls, self.gains, self.noise)
        state, control, gain, noise = (each.at[step].get(mode="fill") for each in held)
        own = sqrtm(noise) @ jr.normal(key, control.shape, control.dtype)
        return control + gain @ (x - state) + own


@_checks.gate
class Steering(eqx.Module):
    """Optimal steering between two Gaussian measures, and its status.

    A vmapped `steer` returns a batch: use its properties and methods under `vmap` too.

    Attributes:
        problem: What is steered.
        policy: The optimal policy.
        mass: Mass that is steered; the rest of the source is given up, or created.
        means: Mean state at each time, shape (k + 1, d).
        covariances: Covariance of the state at each time, shape (k + 1, d, d).
        value: The optimum of `steer`: a lower bound, which misses it by at most `gap`.
        gap: What the policy costs more than `value`, at most. Where the target is enforced, the
            price of the last covariance's error, to first order, counts too.
        residual: Largest relative difference between the last covariance and the one that
            optimality, or an enforced target, asks for.
        num_steps: Number of steps of the solver.
        status: CONVERGED, MAX_STEPS, STALLED, NON_FINITE, INFEASIBLE or UNCONTROLLABLE. All
            numbers are NaN after the last three.

    Example:
        >>> system = tx.control.constant_system(
        ...     jnp.eye(1), jnp.eye(1), jnp.zeros((1, 1)), steps=4
        ... )
        >>> start = tx.control.GaussianMeasure(1.0, jnp.zeros(1), jnp.eye(1))
        >>> end = tx.control.GaussianMeasure(1.0, jnp.full(1, 2.0), jnp.eye(1))
        >>> steering = tx.control.steer(system, jnp.eye(1), start, end)
        >>> bool(steering.converged), round(float(steering.value), 3)  # 2^2 / 4
        (True, 1.0)
    """

    problem: SteeringProblem
    policy: AffinePolicy
    mass: Scalar
    means: Float[Array, "times d"]
    covariances: Float[Array, "times d d"]
    value: Scalar
    gap: Scalar
    residual: Scalar
    num_steps: Int[Array, ""]
    status: Status

    @property
    def converged(self) -> Bool[Array, "..."]:
        """Whether the policy itself meets the tolerance."""
        return self.status == Status.CONVERGED

    @property
    @eqx.filter_jit
    def control_cost(self) -> Scalar:
        """Mass times the sum of E u^T R u, without penalties."""
        return self.mass * sum(self._energies())

    @property
    @eqx.filter_jit
    def deterministic(self) -> Bool[Array, ""]:
        """Whether a deterministic policy is enough: noise of its own costs less than 1e-6 of all.

        So it is wherever every A and the source covariance are invertible.
        """
        own, fed = self._energies()
        return own <= _NO_NOISE * (own + fed)

    @property
    @eqx.filter_jit
    def dynamics_residual(self) -> Scalar:
        """Largest difference between a moment and what the policy makes of the moment before it.

        Relative to the largest entry of any moment of that order.
        """
        system, policy = self.problem.system, self.policy

        def one(A, B, W, gain, own, covariance):
            closed = A + B @ gain
            return closed @ covariance @ closed.T + B @ own @ B.T + W

        before = policy.gains, policy.noise, self.covariances[:-1]
        spread = jax.vmap(one)(system.A, system.B, system.noise, *before)
        moved = jax.vmap(jnp.matmul)(system.A, self.means[:-1])
        moved = moved + jax.vmap(jnp.matmul)(system.B, policy.controls)
        pairs = (spread, self.covariances), (moved, self.means)
        sizes = [jnp.max(jnp.abs(kept)) for _, kept in pairs]
        missed = [jnp.max(jnp.abs(made - kept[1:])) for made, kept in pairs]
        return jnp.max(jnp.stack(missed) / jnp.where(jnp.stack(sizes) > 0, jnp.stack(sizes), 1))

    def _energies(self) -> tuple[Scalar, Scalar]:
        """Energy of the controls' own noise, and of all else, for a unit of mass."""
        policy, R = self.policy, self.problem.R
        own = jnp.sum(policy.noise * R[None])
        before, gains = self.covariances[:-1], policy.gains
        fed = jnp.einsum("kmd,kde,kne,mn->", gains, before, gains, R)
        return own, fed + jnp.einsum("km,mn,kn->", policy.controls, R, policy.controls)

    @_checks.gate
    def source_ratio(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Density of the optimal first measure over the source reference, at points.

        Particles of the source, their weights times this ratio, are a swarm to simulate: below
        one, mass is given up; above, it is created. One where the source is enforced.

        Args:
            x: Points, shape (n, d).
        """
        _checks.shaped("x", x, (x.shape[0], self.means.shape[-1]), "states")
        a = self.problem.source

        def log_ratio(point):
            now = log_density(point, self.means[0], self.covariances[0])
            return now - log_density(point, a.mean, a.covariance)

        return self.mass / a.mass * jnp.exp(jax.vmap(log_ratio)(x))


class Solved(NamedTuple):
    """The covariances as a solver leaves them, for a unit of mass.

    Attributes:
        gains: Feedback of each step, shape (k, m, d).
        noise: Covariance of the controls' own noise, shape (k, m, m).
        covariances: Covariances of the states, shape (k + 1, d, d).
        cost: What they cost, penalties included.
        gap: Bound on its error.
        residual: Error of the last covariance.
    """

    gains: Float[Array, "k m d"]
    noise: Float[Array, "k m m"]
    covariances: Float[Array, "times d d"]
    cost: Scalar
    gap: Scalar
    residual: Scalar


def assemble(
    problem: SteeringProblem,
    means: Means,
    solved: Solved,
    num_steps: Int[Array, ""],
    status: Status,
) -> Steering:
    """The answer of any solver: mass and value follow in closed form."""
    mass, value = optimal_mass(problem, means.cost + solved.cost)
    return Steering(
        problem=problem,
        policy=AffinePolicy(means.states[:-1], means.controls, solved.gains, solved.noise),
        mass=mass,
        means=means.states,
        covariances=solved.covariances,
        value=value,
        gap=jax.lax.stop_gradient(mass * solved.gap),
        residual=solved.residual,
        num_steps=num_steps,
        status=status,
    )
