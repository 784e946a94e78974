"""Flows of Gaussian measures: the moments descend an energy of mean and covariance."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge, rose
from transportx.evolution import (
    AdaptiveSteps,
    Steps,
    as_steps,
    check_times,
    integrate,
    record_times,
    time_dtype,
)
from transportx.gradient_flows._functional import as_pytree

Mean = Float[Array, " d"]
Covariance = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
class GaussianFlow(eqx.Module):
    """A recorded flow of Gaussians, at k times.

    Attributes:
        times: When.
        means: Shape (k, d). NaN from where the flow failed.
        covariances: Shape (k, d, d).
        energy: Energy of each record, shape (k,).
        dissipation: Minus its derivative.
        num_steps: Steps taken, rejected ones included.
        status: How it ended.
    """

    times: Float[Array, " k"]
    means: Float[Array, "k d"]
    covariances: Float[Array, "k d d"]
    energy: Float[Array, " k"]
    dissipation: Float[Array, " k"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last time was reached, finite, with an energy that fell."""
        return self.status == Status.COMPLETED


@_checks.gate
def gaussian_flow(
    energy: Callable[[Mean, Covariance], Scalar],
    m0: Mean,
    S0: Covariance,
    *,
    t1: ScalarLike,
    steps: Steps = AdaptiveSteps(1e-8, 1e-8),
    times: Float[Array, " k"] | None = None,
) -> GaussianFlow:
    r"""Let a Gaussian descend an energy F(m, S) in the Wasserstein metric.

    $\dot m = -\partial_m F$, $\dot S = -2(\partial_S F\,S + S\,\partial_S F)$: the exact flow
    where the functional keeps Gaussians, as quadratic potentials and interactions, entropy
    and their divergences between Gaussians do, and its projection on them otherwise. The
    energy falls at the rate $|\partial_m F|^2 + 4\,\mathrm{tr}(\partial_S F\,S\,\partial_S F)$.

    Args:
        energy: A module of this room, a sum of them by a lambda, or any function, such as
            `gaussians.wasserstein2_squared` to a target.
        m0: Mean at time 0.
        S0: Covariance at time 0, positive definite.
        t1: Last time, positive; may be traced.
        steps: `evolution.AdaptiveSteps`, with tolerances in the units of the moments;
            `evolution.FixedSteps`; or an int, that many equal steps of Tsit5.
        times: Times to record, rising, in [0, t1]; eleven evenly spaced by default.

    Raises:
        ValueError: Shapes do not match, or a number is not positive.

    Differentiation:
        In moments, `t1` and the parameters of `energy`: the mode that adaptive steps name,
        forward and reverse mode with fixed ones.

    Example:
        >>> gf = tx.gradient_flows
        >>> energy = gf.GaussianRelativeEntropy(jnp.zeros(1), jnp.eye(1))
        >>> path = gf.gaussian_flow(energy, jnp.ones(1), jnp.eye(1), t1=1.0)
        >>> round(float(path.means[-1, 0]), 2)  # exp(-1)
        0.37

    References:
        Lambert, Chewi, Bach, Bonnabel and Rigollet, Variational inference via Wasserstein
        gradient flows, 2022.
    """
    _checks.floating("m0", m0)
    if m0.ndim != 1 or S0.shape != (m0.size, m0.size):
        problem = f"has shape {S0.shape} where `m0` has {m0.shape}"
        _checks.reject("S0", problem, "give shapes (d, d) and (d,)")
    _checks.positive("t1", t1)
    t1 = _numbers.not_negative(t1, time_dtype(m0))
    if times is None:
        times = record_times(None, t1)
    else:
        check_times("times", times, 0.0, t1)
    way = as_steps(steps, diffrax.Tsit5())
    return _gaussian_flow(as_pytree(energy), m0, S0, t1, way, times)


@eqx.filter_jit
def _gaussian_flow(energy, m0, S0, t1, steps, times) -> GaussianFlow:
    def rates(t, state, energy):
        mean, covariance = state
        slope, bend = _slopes(energy, mean, covariance)
        product = bend @ covariance
        return -slope, -2 * (product + product.T)

    made = integrate(rates, (m0, S0), energy, t1=t1, steps=steps, times=times)
    means, covariances = made.states
    values = jax.vmap(energy)(means, covariances)
    dissipation = jax.vmap(lambda m, S: _dissipation(energy, m, S))(means, covariances)
    status = judge((made.completed & rose(values), Status.ROSE), otherwise=made.status)
    steps = made.num_steps
    return GaussianFlow(times, means, covariances, values, dissipation, steps, status)


def _slopes(energy, mean, covariance) -> tuple[Mean, Covariance]:
    slope, bend = jax.grad(energy, argnums=(0, 1))(mean, covariance)
    return slope, (bend + bend.T) / 2


def _dissipation(energy, mean, covariance) -> Scalar:
    slope, bend = _slopes(energy, mean, covariance)
    return jnp.sum(slope**2) + 4 * jnp.sum(bend * (bend @ covariance).T)
