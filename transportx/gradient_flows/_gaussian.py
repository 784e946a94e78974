"""Flows of Gaussian measures: the moments descend an energy of mean and covariance."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks
from transportx._status import Status, judge, rose
from transportx.gradient_flows._functional import as_pytree

Mean = Float[Array, " d"]
Covariance = Float[Array, "d d"]
Scalar = Float[Array, ""]

_NUM_RECORDS = 11


@_checks.gate
class GaussianFlow(eqx.Module):
    """A recorded flow of Gaussians, at k times.

    Attributes:
        times: When.
        means: Shape (k, d). NaN from where the flow failed.
        covariances: Shape (k, d, d).
        energy: Of each record.
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
    rtol: float = 1e-8,
    atol: float = 1e-8,
    max_steps: int = 4096,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
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
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the units of the moments.
        max_steps: Steps at most.
        solver: Any diffrax solver with an error estimate.
        times: Times to record, rising, in [0, t1]; eleven evenly spaced by default.

    Raises:
        ValueError: Shapes do not match, or a number is not positive.

    Differentiation:
        Reverse mode, as `flow`.

    References:
        Lambert, Chewi, Bach, Bonnabel and Rigollet, Variational inference via Wasserstein
        gradient flows, 2022.
    """
    _checks.floating("m0", m0)
    if m0.ndim != 1 or S0.shape != (m0.size, m0.size):
        problem = f"has shape {S0.shape} where `m0` has {m0.shape}"
        _checks.reject("S0", problem, "give shapes (d, d) and (d,)")
    for name, number in (("t1", t1), ("rtol", rtol), ("atol", atol)):
        _checks.positive(name, number)
    _checks.count("max_steps", max_steps)
    t1 = jnp.asarray(t1, m0.dtype)
    if times is None:
        times = t1 * jnp.linspace(0, 1, _NUM_RECORDS, dtype=m0.dtype)

    def rates(t, state, energy):
        mean, covariance = state
        slope, bend = _slopes(energy, mean, covariance)
        product = bend @ covariance
        return -slope, -2 * (product + product.T)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        solver,
        jnp.zeros_like(t1),
        t1,
        None,
        (m0, S0),
        as_pytree(energy),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    means, covariances = (jnp.where(jnp.isfinite(y), y, jnp.nan) for y in solution.ys)
    values = jax.vmap(energy)(means, covariances)
    dissipation = jax.vmap(lambda m, S: _dissipation(energy, m, S))(means, covariances)
    reached = solution.result == diffrax.RESULTS.successful
    broken = reached & ~jnp.all(jnp.isfinite(covariances))
    status = judge(
        (broken, Status.NON_FINITE),
        (reached & rose(values), Status.ROSE),
        (reached, Status.COMPLETED),
        otherwise=Status.MAX_STEPS,
    )
    steps = jnp.asarray(solution.stats["num_steps"])
    return GaussianFlow(times, means, covariances, values, dissipation, steps, status)


def _slopes(energy, mean, covariance) -> tuple[Mean, Covariance]:
    slope, bend = jax.grad(energy, argnums=(0, 1))(mean, covariance)
    return slope, (bend + bend.T) / 2


def _dissipation(energy, mean, covariance) -> Scalar:
    slope, bend = _slopes(energy, mean, covariance)
    return jnp.sum(slope**2) + 4 * jnp.sum(bend * (bend @ covariance).T)
