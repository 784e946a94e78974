"""`flow`: particles that descend a functional, with energy and dissipation recorded."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge, rose
from transportx.evolution import (
    AdaptiveSteps,
    Evolution,
    Noise,
    Steps,
    as_steps,
    integrate,
    record_times,
    time_dtype,
)
from transportx.gradient_flows._cells import lives_on_cells
from transportx.gradient_flows._dynamics import AbstractDynamics, Langevin, Wasserstein
from transportx.gradient_flows._functional import AbstractFunctional, Cloud, Weights, as_weights
from transportx.gradient_flows._reaction import WassersteinFisherRao


@_checks.gate
class ParticleFlow(eqx.Module):
    """A recorded flow of n particles, at k times.

    Attributes:
        times: When; the first and the last are those of the flow.
        x: Positions, shape (k, n, d). NaN from where the flow failed.
        weights: Shape (k, n).
        energy: Of the record itself, as the dynamics define it.
        dissipation: Minus the derivative of `energy` along the flow.
        num_steps: Steps taken, rejected ones included.
        status: How it ended.
    """

    times: Float[Array, " k"]
    x: Float[Array, "k n d"]
    weights: Float[Array, "k n"]
    energy: Float[Array, " k"]
    dissipation: Float[Array, " k"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last time was reached with finite points and an energy that fell."""
        return self.status == Status.COMPLETED


@_checks.gate
def flow(
    functional: AbstractFunctional,
    x0: Cloud,
    weights: Weights | None = None,
    *,
    t1: ScalarLike,
    dynamics: AbstractDynamics = Wasserstein(),
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
    key: PRNGKeyArray | None = None,
) -> ParticleFlow:
    r"""Let a cloud descend a functional from time 0 to `t1`.

    By default $\dot x_i = -\nabla\frac{\delta F}{\delta\alpha}(x_i)$, which for n particles of
    one weight is $-n\nabla_{x_i}F$, and $dF/dt = -\sum_i w_i|\dot x_i|^2$.

    Example:
        ```python
        F = tx.gradient_flows.energy_distance(y) + 0.1 * tx.gradient_flows.Potential(V)
        path = tx.gradient_flows.flow(F, x0, t1=2.0, steps=tx.evolution.AdaptiveSteps(1e-4, 1e-6))
        path.x[-1], path.energy, path.completed
        ```

    Args:
        functional: What falls.
        x0: Points at time 0.
        weights: Uniform of total one by default; a point of weight zero counts for nothing.
        t1: Last time, positive; may be traced.
        dynamics: `Wasserstein`, `Langevin`, `Stein`, `Kinetic`, `WassersteinFisherRao`.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps` for another solver; or
            `evolution.AdaptiveSteps`, of all particles together.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced
            by default. Between steps the solver interpolates.
        key: Randomness, for `Langevin` alone, which takes fixed steps.

    Returns:
        The record. Its `status` tells a step limit, a blow-up and an energy that rose, the
        sign of steps that are too large.

    Raises:
        ValueError: A cloud, weights, count, time or tolerance does not fit; `key` is
            missing or of no use; `functional` has an entropy of cells and points would move.

    Differentiation:
        In `x0`, `weights`, `t1` and the parameters of `functional` and `dynamics`, through the
        steps taken: forward and reverse mode with fixed steps, the mode that they name with
        adaptive ones.
    """
    weights, steps = as_weights(x0, weights, "x0"), as_steps(steps)
    _check(functional, dynamics, steps, key)
    _checks.positive("t1", t1)
    t1 = _numbers.not_negative(t1, time_dtype(x0))
    return _flow(functional, x0, weights, t1, dynamics, steps, record_times(times, t1), key)


@eqx.filter_jit
def _flow(functional, x0, weights, t1, dynamics, steps, times, key) -> ParticleFlow:
    def rates(t, state, args):
        functional, dynamics, weights = args
        return dynamics.rates(functional, state, weights)

    def level(t, args):
        _, dynamics, _ = args
        return jnp.sqrt(2 * jnp.asarray(dynamics.temperature, t.dtype))

    noise = None if key is None else Noise(level, key)
    args = functional, dynamics, weights
    start = dynamics.start(x0)
    made = integrate(rates, start, args, t1=t1, steps=steps, times=times, noise=noise)
    return _record(functional, dynamics, weights, times, made)


def _record(functional, dynamics, weights, times, made: Evolution) -> ParticleFlow:
    """Energies of the very states that are returned, one record at a time."""

    def describe(state):
        x, now = dynamics.measure(state, weights)
        return x, now, *dynamics.energy_and_dissipation(functional, state, weights)

    x, now, energy, dissipation = jax.lax.map(describe, made.states)
    broken = ~(jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(now)))
    status = judge(
        (made.completed & broken, Status.NON_FINITE),
        (made.completed & rose(energy) & dynamics.lowers_energy, Status.ROSE),
        otherwise=made.status,
    )
    return ParticleFlow(times, x, now, energy, dissipation, made.num_steps, status)


def _check(functional, dynamics, steps, key) -> None:
    noisy = isinstance(dynamics, Langevin)
    if noisy and isinstance(steps, AdaptiveSteps):
        _checks.reject("steps", "is adaptive with `Langevin`", "give an int or `FixedSteps`")
    if noisy and key is None:
        _checks.reject("key", "is None", "give a key: `Langevin` draws noise")
    if key is not None and not noisy:
        _checks.reject("key", "is given", "leave it out: these dynamics draw no noise")
    held = isinstance(dynamics, WassersteinFisherRao) and dynamics.holds_points
    if lives_on_cells(functional) and not held:
        cure = "use `grid_flow`, `WassersteinFisherRao(transport=0.0)` or `SmoothedEntropy`"
        _checks.reject("functional", "has an entropy of cells, which do not move", cure)
