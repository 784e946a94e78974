"""`flow`: particles that descend a functional, with energy and dissipation recorded."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx._status import Status, judge, rose
from transportx.gradient_flows._cells import lives_on_cells
from transportx.gradient_flows._dynamics import AbstractDynamics, Langevin, Wasserstein
from transportx.gradient_flows._functional import AbstractFunctional, Cloud, Weights, as_weights
from transportx.gradient_flows._reaction import WassersteinFisherRao

_NUM_RECORDS = 11


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
    num_steps: int = 100,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    times: Float[Array, " k"] | None = None,
    key: PRNGKeyArray | None = None,
) -> ParticleFlow:
    r"""Let a cloud descend a functional from time 0 to `t1`.

    By default $\dot x_i = -\nabla\frac{\delta F}{\delta\alpha}(x_i)$, which for n particles of
    one weight is $-n\nabla_{x_i}F$, and $dF/dt = -\sum_i w_i|\dot x_i|^2$.

    Example:
        ```python
        F = tx.gradient_flows.energy_distance(y) + 0.1 * tx.gradient_flows.Potential(V)
        path = tx.gradient_flows.flow(F, x0, t1=2.0, rtol=1e-4, atol=1e-6)
        path.x[-1], path.energy, path.completed
        ```

    Args:
        functional: What falls.
        x0: Points at time 0.
        weights: Uniform of total one by default; a point of weight zero counts for nothing.
        t1: Last time, positive; may be traced.
        dynamics: `Wasserstein`, `Langevin`, `Stein`, `Kinetic`, `WassersteinFisherRao`.
        num_steps: Equal steps; not used when tolerances are given.
        solver: Any diffrax solver; by default Euler at equal steps, Tsit5 when adaptive.
        rtol: Relative tolerance of adaptive steps, of all particles together.
        atol: Absolute tolerance, in units of x.
        max_steps: Adaptive steps at most.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced
            by default. Between steps the solver interpolates.
        key: Randomness, for `Langevin` alone, which takes equal steps.

    Returns:
        The record. Its `status` tells a step limit, a blow-up and an energy that rose, the
        sign of steps that are too large.

    Raises:
        ValueError: A cloud, weights, count, time or tolerance does not fit; `key` is
            missing or of no use; `functional` has an entropy of cells and points would move.

    Differentiation:
        Reverse mode, in `x0`, `weights`, `t1` and the parameters of `functional` and
        `dynamics`, through the steps taken, by recursive checkpointing.
    """
    weights = as_weights(x0, weights, "x0")
    _check(functional, dynamics, num_steps, max_steps, rtol, atol, key)
    _checks.positive("t1", t1)
    t1 = jnp.asarray(t1, x0.dtype)
    if times is None:
        times = t1 * jnp.linspace(0, 1, _NUM_RECORDS, dtype=x0.dtype)
    else:
        _check_times(times, t1)
        times = jnp.asarray(times, x0.dtype)
    if solver is None:
        solver = diffrax.Euler() if rtol is None else diffrax.Tsit5()
    if rtol is None or atol is None:
        steps = jnp.linspace(0, 1, num_steps + 1, dtype=x0.dtype)
        controller, max_steps = diffrax.StepTo(ts=t1 * steps), num_steps
    else:
        controller = diffrax.PIDController(rtol=rtol, atol=atol)
    solution = diffrax.diffeqsolve(
        _terms(dynamics, x0, t1, num_steps, key),
        solver,
        jnp.zeros_like(t1),
        t1,
        None,
        dynamics.start(x0),
        (functional, dynamics, weights),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
    )
    return _record(functional, dynamics, weights, times, solution)


def _terms(dynamics, x0, t1, num_steps, key) -> Any:
    def drift(t, state, args):
        functional, dynamics, weights = args
        return dynamics.rates(functional, state, weights)

    if key is None:
        return diffrax.ODETerm(drift)

    def spread(t, x, args):
        _, dynamics, _ = args
        level = jnp.sqrt(2 * jnp.asarray(dynamics.temperature, x.dtype))
        return lx.DiagonalLinearOperator(jnp.full_like(x, level))

    shape = jax.ShapeDtypeStruct(x0.shape, x0.dtype)
    finest = t1 / (2 * num_steps)
    noise = diffrax.VirtualBrownianTree(jnp.zeros_like(t1), t1, finest, shape, key)
    return diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, noise))


def _record(functional, dynamics, weights, times, solution) -> ParticleFlow:
    """Energies of the very states that are returned, one record at a time."""
    assert solution.ys is not None
    # What was not reached is infinite.
    states = jax.tree.map(lambda y: jnp.where(jnp.isfinite(y), y, jnp.nan), solution.ys)

    def describe(state):
        x, now = dynamics.measure(state, weights)
        return x, now, *dynamics.energy_and_dissipation(functional, state, weights)

    x, now, energy, dissipation = jax.lax.map(describe, states)
    reached = solution.result == diffrax.RESULTS.successful
    broken = reached & ~(jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(now)))
    status = judge(
        (broken, Status.NON_FINITE),
        (reached & rose(energy) & dynamics.lowers_energy, Status.ROSE),
        (reached, Status.COMPLETED),
        otherwise=Status.MAX_STEPS,
    )
    steps = jnp.asarray(solution.stats["num_steps"])
    return ParticleFlow(times, x, now, energy, dissipation, steps, status)


def _check(functional, dynamics, num_steps, max_steps, rtol, atol, key) -> None:
    _checks.count("num_steps", num_steps)
    _checks.count("max_steps", max_steps)
    if (rtol is None) != (atol is None):
        missing = "rtol" if rtol is None else "atol"
        _checks.reject(missing, "is None", "give both tolerances, or neither")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        _checks.positive(name, tolerance)
    noisy = isinstance(dynamics, Langevin)
    if noisy and rtol is not None:
        _checks.reject("rtol", "is given to `Langevin`", "give `num_steps` alone: steps are equal")
    if noisy and key is None:
        _checks.reject("key", "is None", "give a key: `Langevin` draws noise")
    if key is not None and not noisy:
        _checks.reject("key", "is given", "leave it out: these dynamics draw no noise")
    held = isinstance(dynamics, WassersteinFisherRao) and dynamics.holds_points
    if lives_on_cells(functional) and not held:
        cure = "use `grid_flow`, `WassersteinFisherRao(transport=0.0)` or `SmoothedEntropy`"
        _checks.reject("functional", "has an entropy of cells, which do not move", cure)


def _check_times(times, t1) -> None:
    if len(np.shape(times)) != 1 or np.size(times) < 2:
        problem = f"has shape {np.shape(times)}"
        _checks.reject("times", problem, "give at least the first and the last time, shape (k,)")
    if isinstance(times, Tracer) or isinstance(t1, Tracer):
        return
    recorded = np.asarray(times, t1.dtype)
    ends = recorded[0] == 0 and recorded[-1] == t1
    if not (ends and np.all(np.diff(recorded) > 0)):
        _checks.reject("times", f"is {recorded}", f"give times that rise from 0 to {float(t1)}")
