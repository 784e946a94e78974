"""`flow`: particles that descend a functional, with energy and dissipation recorded."""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge, rose
from transportx.evolution import (
    AdaptiveSteps,
    Noise,
    Steps,
    as_steps,
    integrate,
    record_times,
    time_dtype,
)
from transportx.gradient_flows._cells import lives_on_cells
from transportx.gradient_flows._dynamics import AbstractDynamics, Langevin, Wasserstein
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    AbstractStochasticFunctional,
    Measure,
    Particles,
    Scalar,
    Weights,
    as_measure,
)
from transportx.gradient_flows._reaction import WassersteinFisherRao

if TYPE_CHECKING:
    Records = Any
else:
    Records = Float[Array, "k n d"] | PyTree[Float[Array, "k n ..."]]
_RANDOM = AbstractStochasticFunctional, Langevin


@_checks.gate
class ParticleFlow(eqx.Module):
    """A recorded flow of n particles, at k times.

    Attributes:
        times: When; the first and the last are those of the flow.
        x: Positions, shape (k, n, d), or a pytree like the particles whose arrays have a further
            leading axis of length k. NaN from where the flow failed.
        weights: Shape (k, n).
        energy: Energy of each record, as the dynamics define it, shape (k,).
        dissipation: Minus the derivative of `energy` along the flow.
        num_steps: Steps taken, rejected ones included.
        status: How it ended.
    """

    times: Float[Array, " k"]
    x: Records
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
    x0: Particles,
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

    Args:
        functional: Functional that falls along the flow.
        x0: Particles at time 0: points, shape (n, d), or any pytree of arrays with leading axis n
            that the functional takes.
        weights: Masses of the particles, shape (n,); uniform of total one by default. A particle
            of weight zero counts for nothing. It moves as a probe where the functional has its
            own `derivatives`, and stays where it is otherwise.
        t1: Last time, positive; may be traced.
        dynamics: `Wasserstein`, `Langevin`, `Stein`, `Kinetic`, `WassersteinFisherRao`.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps` for another solver; or
            `evolution.AdaptiveSteps`, of all particles together.
        times: Times to record, rising from 0 to `t1`, both included; eleven evenly spaced
            by default. Between steps the solver interpolates.
        key: Randomness, for `Langevin` and for functionals that are drawn, both of which take
            fixed steps.

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

    Example:
        >>> bowl = tx.gradient_flows.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> x0 = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> path = tx.gradient_flows.flow(bowl, x0, t1=1.0, steps=20)
        >>> path.x.shape, round(float(path.x[-1, 1, 1]), 1), bool(path.completed)  # 2 exp(-1)
        ((11, 2, 2), 0.7, True)
    """
    (x0, weights), steps = as_measure(x0, weights, "x0"), as_steps(steps)
    _check(functional, dynamics, steps, key)
    _checks.positive("t1", t1)
    t1 = _numbers.not_negative(t1, time_dtype(x0))
    return _flow(functional, x0, weights, t1, dynamics, steps, record_times(times, t1), key)


@eqx.filter_jit
def _flow(functional, x0, weights, t1, dynamics, steps, times, key) -> ParticleFlow:
    draw_key, noise_key = _keys(functional, dynamics, key)

    def rates(t, state, args):
        functional, dynamics, weights = args
        if draw_key is not None:
            nodes = steps.nodes(jnp.zeros_like(t1), t1)
            step = jnp.searchsorted((nodes[1:] + nodes[:-1]) / 2, t.astype(nodes.dtype))
            functional = functional.draw(jr.fold_in(draw_key, step))
        return dynamics.rates(functional, state, weights)

    def level(t, args):
        _, dynamics, _ = args
        return jnp.sqrt(2 * jnp.asarray(dynamics.temperature, t.dtype))

    noise = None if noise_key is None else Noise(level, noise_key)
    args = functional, dynamics, weights
    start = dynamics.start(x0)
    made = integrate(rates, start, args, t1=t1, steps=steps, times=times, noise=noise)
    found = jax.lax.map(lambda state: describe(functional, dynamics, state, weights), made.states)
    falls = dynamics.lowers_energy and functional.conservative and draw_key is None
    status = judge(
        (made.completed & ~jnp.all(found.finite), Status.NON_FINITE),
        (made.completed & rose(found.energy) & falls, Status.ROSE),
        otherwise=made.status,
    )
    x, weights = found.measure
    energies = found.energy, found.dissipation
    return ParticleFlow(times, x, weights, *energies, made.num_steps, status)


class Description(NamedTuple):
    """A measure on its way: NaN throughout where it is not finite."""

    measure: Measure
    energy: Scalar
    dissipation: Scalar
    finite: Bool[Array, ""]


def describe(
    functional: AbstractFunctional,
    dynamics: AbstractDynamics,
    state: PyTree[Array],
    weights: Weights,
) -> Description:
    """The measure of a state that is returned, with its own energy and dissipation."""

    # A derivative keeps the state alone, not what its energy is made of.
    @functools.partial(eqx.filter_checkpoint, prevent_cse=False)
    def found(functional, dynamics, state, weights):
        measure = dynamics.measure(state, weights)
        return measure, *dynamics.energy_and_dissipation(functional, state, weights)

    measure, energy, dissipation = found(functional, dynamics, state, weights)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(measure)]))
    honest = jax.tree.map(
        lambda leaf: jnp.where(finite, leaf, jnp.nan), (measure, energy, dissipation)
    )
    return Description(honest[0], honest[1], honest[2], finite)


def _keys(functional, dynamics, key):
    """Keys of what is drawn and of noise; None where there is none."""
    drawn = isinstance(functional, AbstractStochasticFunctional)
    noisy = isinstance(dynamics, Langevin)
    if drawn and noisy:
        return jr.split(key)
    return key if drawn else None, key if noisy else None


def _check(functional, dynamics, steps, key) -> None:
    draws = [part for part in (functional, dynamics) if isinstance(part, _RANDOM)]
    if draws and isinstance(steps, AdaptiveSteps):
        problem = f"is adaptive with `{type(draws[0]).__name__}`"
        _checks.reject("steps", problem, "give an int or `FixedSteps`")
    if draws and key is None:
        _checks.reject("key", "is None", f"give a key: `{type(draws[0]).__name__}` is random")
    if key is not None and not draws:
        _checks.reject("key", "is given", "leave it out: this flow draws nothing")
    held = isinstance(dynamics, WassersteinFisherRao) and dynamics.holds_points
    if lives_on_cells(functional) and not held:
        cure = "use `grid_flow`, `WassersteinFisherRao(transport=0.0)` or `SmoothedEntropy`"
        _checks.reject("functional", "has an entropy of cells, which do not move", cure)
