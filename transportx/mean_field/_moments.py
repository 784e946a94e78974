"""Linear neurons: their second moments obey an equation of their own."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status
from transportx.evolution import (
    AdaptiveSteps,
    Steps,
    as_steps,
    integrate,
    record_times,
    time_dtype,
)
from transportx.mean_field._losses import square_loss
from transportx.mean_field._network import Network
from transportx.mean_field._risk import Risk

Scalar = Float[Array, ""]
Moments = Float[Array, "p p"]


@_checks.gate
class LinearTraining(eqx.Module):
    """The second moments of linear neurons in training, at k times.

    Attributes:
        times: When.
        moments: Shape (k, d + e, d + e). NaN from where it failed.
        risk: Risk of each record, shape (k,).
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
    theta = jnp.concatenate([network.inner, network.outer], axis=1)
    return (network.masses[:, None] * theta).T @ theta


@_checks.gate
def linear_training(
    risk: Risk,
    moments: Moments,
    *,
    t1: ScalarLike,
    temperature: ScalarLike = 0.0,
    steps: Steps = AdaptiveSteps(1e-10, 1e-10, diffrax.Dopri8()),
    times: Float[Array, " k"] | None = None,
) -> LinearTraining:
    r"""Train infinitely many linear neurons, of any law with these second moments.

    With $\Sigma = E xx^\top$, $B = E yx^\top$, $Q = E_\mu uw^\top$ and $H = Q\Sigma - B$, a
    neuron moves by $\dot\theta = A\theta$, $A = -\begin{pmatrix}\lambda I & H^\top\\ H & \lambda
    I\end{pmatrix}$, so that $\dot M = AM + MA + 2TI$. With T = 0 it is exact for any number of
    neurons, of `train` with `Identity`; with T > 0 for infinitely many, of `Langevin`.
    O((d + e)^3) a step.

    Args:
        risk: Risk of the square loss.
        moments: M at time 0, as `second_moments` orders it.
        t1: Last time, positive; may be traced.
        temperature: T of `Langevin`, not negative; may be traced.
        steps: `evolution.AdaptiveSteps`; `evolution.FixedSteps`; or an int, that many equal
            steps of Dopri8.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced by
            default. Between steps the solver interpolates.

    Raises:
        ValueError: The loss is another, or shapes, a time or a tolerance do not fit.

    Differentiation:
        In everything that may be traced: the mode that adaptive steps name, forward and reverse
        mode with fixed ones.
    """
    size = risk.x.shape[1] + risk.y.shape[1]
    if risk.loss is not square_loss:
        _checks.reject("risk.loss", f"is {risk.loss}", "use `square_loss`: no other closes")
    if moments.shape != (size, size):
        _checks.reject("moments", f"has shape {moments.shape}", f"give shape {(size, size)}")
    _checks.positive("t1", t1)
    _checks.not_negative("temperature", temperature)
    t1, heat = (_numbers.not_negative(n, time_dtype(moments)) for n in (t1, temperature))
    way = as_steps(steps, diffrax.Dopri8())
    return _linear_training(risk, moments, t1, heat, way, record_times(times, t1))


@eqx.filter_jit
def _linear_training(risk, moments, t1, temperature, steps, times) -> LinearTraining:
    def rates(t, M, risk):
        slope = _slope(risk, M)
        heat = 2 * temperature.astype(M.dtype)
        return slope @ M + M @ slope + heat * jnp.eye(M.shape[0], dtype=M.dtype)

    made = integrate(rates, moments, risk, t1=t1, steps=steps, times=times)
    risks = jax.vmap(lambda M: _risk(risk, M))(made.states)
    return LinearTraining(times, made.states, risks, made.num_steps, made.status)


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
