"""Linear neurons: their second moments obey an equation of their own."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.mean_field._losses import square_loss
from transportx.mean_field._network import Network
from transportx.mean_field._risk import Risk
from transportx.mean_field._train import record_times

Scalar = Float[Array, ""]
Moments = Float[Array, "p p"]


@_checks.gate
class LinearTraining(eqx.Module):
    """The second moments of linear neurons in training, at k times.

    Attributes:
        times: When.
        moments: Shape (k, d + e, d + e). NaN from where it failed.
        risk: Of each record.
        num_steps: Steps taken, rejected ones included.
        status: How it ended.
    """

    times: Float[Array, " k"]
    moments: Float[Array, "k p p"]
    risk: Float[Array, " k"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last time was reached with finite moments."""
        return self.status == Status.COMPLETED


@_checks.gate
def second_moments(network: Network) -> Moments:
    r"""$\int\theta\theta^\top d\mu$, raw, with $\theta = (w, u)$: shape (d + e, d + e)."""
    theta = jnp.concatenate(network.neurons, axis=1)
    return (network.masses[:, None] * theta).T @ theta


@_checks.gate
def linear_training(
    risk: Risk,
    moments: Moments,
    *,
    t1: ScalarLike,
    temperature: ScalarLike = 0.0,
    rtol: float = 1e-10,
    atol: float = 1e-10,
    solver: diffrax.AbstractSolver = diffrax.Dopri8(),
    max_steps: int = 4096,
    times: Float[Array, " k"] | None = None,
) -> LinearTraining:
    r"""Train infinitely many linear neurons, of any law with these second moments.

    With $\Sigma = E xx^\top$, $B = E yx^\top$, $Q = E_\mu uw^\top$ and $H = Q\Sigma - B$, a
    neuron moves by $\dot\theta = A\theta$, $A = -\begin{pmatrix}\lambda I & H^\top\\ H & \lambda
    I\end{pmatrix}$, so that $\dot M = AM + MA + 2TI$. With T = 0 it is exact for any number of
    neurons, of `train` with `Linear`; with T > 0 for infinitely many, of `Langevin`.
    O((d + e)^3) a step.

    Args:
        risk: Of the square loss.
        moments: M at time 0, as `second_moments` orders it.
        t1: Last time, positive; may be traced.
        temperature: T of `Langevin`, not negative; may be traced.
        rtol: Relative tolerance of the adaptive steps.
        atol: Absolute tolerance, of moments.
        solver: Any diffrax solver.
        max_steps: Steps at most.
        times: Times to record, as in `train`. Between steps the solver interpolates.

    Raises:
        ValueError: The loss is another, or shapes, a time or a tolerance do not fit.

    Differentiation:
        Reverse mode, in everything that may be traced, by recursive checkpointing.
    """
    size = risk.x.shape[1] + risk.y.shape[1]
    if risk.loss is not square_loss:
        _checks.reject("risk.loss", f"is {risk.loss}", "use `square_loss`: no other closes")
    if moments.shape != (size, size):
        _checks.reject("moments", f"has shape {moments.shape}", f"give shape {(size, size)}")
    for name, number in (("t1", t1), ("rtol", rtol), ("atol", atol)):
        _checks.positive(name, number)
    _checks.not_negative("temperature", temperature)
    _checks.count("max_steps", max_steps)
    t1 = jnp.asarray(t1, moments.dtype)
    times = record_times(times, t1)

    def rates(t, M, risk):
        slope = _slope(risk, M)
        heat = 2 * jnp.asarray(temperature, M.dtype)
        return slope @ M + M @ slope + heat * jnp.eye(size, dtype=M.dtype)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        solver,
        jnp.zeros_like(t1),
        t1,
        None,
        moments,
        risk,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    # What was not reached is infinite.
    found = jnp.where(jnp.isfinite(solution.ys), solution.ys, jnp.nan)
    reached = solution.result == diffrax.RESULTS.successful
    broken = reached & ~jnp.all(jnp.isfinite(found))
    status = judge(
        (broken, Status.NON_FINITE), (reached, Status.COMPLETED), otherwise=Status.MAX_STEPS
    )
    steps = jnp.asarray(solution.stats["num_steps"])
    return LinearTraining(times, found, jax.vmap(lambda M: _risk(risk, M))(found), steps, status)


def _slope(risk: Risk, M: Moments) -> Moments:
    """A, symmetric."""
    d = risk.x.shape[1]
    m = risk.x.shape[0]
    force = (risk.x @ M[d:, :d].T - risk.y).T @ risk.x / m
    upper = jnp.zeros_like(M).at[d:, :d].set(force)
    ridge = jnp.asarray(risk.ridge, M.dtype)
    return -(upper + upper.T + ridge * jnp.eye(M.shape[0], dtype=M.dtype))


def _risk(risk: Risk, M: Moments) -> Scalar:
    d = risk.x.shape[1]
    missed = risk.x @ M[d:, :d].T - risk.y
    ridge = jnp.asarray(risk.ridge, M.dtype)
    return (jnp.mean(jnp.sum(missed**2, axis=1)) + ridge * jnp.trace(M)) / 2
