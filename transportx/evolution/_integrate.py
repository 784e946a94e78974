"""Carry a state, or a batch of them, from one time to another."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, ScalarLike

from transportx import _checks, _precision
from transportx._status import Status, judge
from transportx.evolution._adaptive import adaptive_steps, from_first
from transportx.evolution._fixed import fixed_steps
from transportx.evolution._noise import Noise
from transportx.evolution._steps import AdaptiveSteps, FixedSteps, Steps, as_steps

Rates = Callable[..., PyTree[Array]]


@_checks.gate
class Evolution(eqx.Module):
    """The states that a differential equation led to, and how it ended.

    Attributes:
        states: Shaped like the initial state, or with a leading axis of k recorded times. NaN from
            where the evolution failed.
        num_steps: Number of steps, rejected ones included; one number per state of a batch.
        status: How it ended: `COMPLETED`, `MAX_STEPS`, `NON_FINITE`, or `STALLED` where an implicit
            step was not solved; one status per state of a batch.
    """

    states: PyTree[Array]
    num_steps: Int[Array, "*b"]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last time was reached with finite states."""
        return self.status == Status.COMPLETED


@_checks.gate
def integrate(
    rates: Rates,
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
    noise: Noise | None = None,
) -> Evolution:
    r"""Integrate the differential equation $\dot y = \mathrm{rates}(t, y, \mathrm{args})$ in time.

    Times, sums and noise of states in half precision are kept in float32, in which `rates` is
    called; states are returned in their own dtype.

    Args:
        rates: Right-hand side `rates(t, y, args) -> dy/dt`, a pytree like `y`.
        y0: State at `t0`, a pytree of floating-point arrays.
        args: Any pytree, handed on to `rates`.
        t0: First time, a number of any sign; may be traced.
        t1: Last time, before `t0` to go back; may be traced.
        steps: An int, that many equal Euler steps; or `FixedSteps` or `AdaptiveSteps`.
        times: Times to record, shape (k,), monotone from `t0` towards `t1`; within a step the
            solver interpolates. Records are NaN where a traced time lies outside.
        noise: Additive noise, for fixed steps forward in time.

    Returns:
        States at `t1`, or at `times` along a leading axis of size k; the number of steps; and one
        status.

    Raises:
        ValueError: A leaf of the state is no floating-point array, rates have another shape, noise
            meets adaptive steps, or `steps` is not one of the three.

    Differentiation:
        Fixed steps: forward and reverse mode, in `y0`, `args`, `t0`, `t1` and the arrays that
        `rates` closes over, to any order. Adaptive steps: the one mode that they name.

    Example:
        >>> def decay(t, y, args):
        ...     return -args * y
        >>> made = tx.evolution.integrate(decay, jnp.ones(3), jnp.array(2.0), steps=1000)
        >>> made.states.shape, round(float(made.states[0]), 3), bool(made.completed)
        ((3,), 0.135, True)
    """
    steps = as_steps(steps)
    if noise is not None and isinstance(steps, AdaptiveSteps):
        _checks.reject("steps", "is adaptive where there is noise", "give fixed steps")
    for leaf in jax.tree.leaves(y0):
        _checks.floating("y0", jnp.asarray(leaf))
    single = jax.tree.map(_at_least_single, y0)
    # The solvers keep all of a state in one dtype; rates see each part in its own.
    clock = jax.tree.leaves(single)[0].dtype
    dtype = _precision.common(*(leaf.dtype for leaf in jax.tree.leaves(single)))
    start = jax.tree.map(lambda leaf: leaf.astype(dtype), single)
    span = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    times = None if times is None else jnp.asarray(times, dtype)

    def checked(t, y, args):
        own = jax.tree.map(lambda part, like: part.astype(like.dtype), y, single)
        return _like(rates(jnp.asarray(t, clock), own, args), y)

    terms = diffrax.ODETerm(checked)
    if noise is not None:
        terms = diffrax.MultiTerm(terms, noise.term(start))
    if isinstance(steps, FixedSteps):
        nodes = steps.nodes(*span)
        states, solved = fixed_steps(terms, start, args, nodes, steps, times)
        taken = jnp.asarray(steps.num, int)
        failed = Status.STALLED
    else:
        solution = adaptive_steps(terms, start, args, span, steps, times=times)
        states, solved = from_first(solution, recorded=times is not None), _succeeded(solution)
        taken, failed = jnp.asarray(solution.stats["num_steps"]), Status.MAX_STEPS
    known = _finite(start) & (_finite(states) | ~solved)
    status = judge((~known, Status.NON_FINITE), (solved, Status.COMPLETED), otherwise=failed)
    states = jax.tree.map(lambda y, like: y.astype(jnp.asarray(like).dtype), states, y0)
    return Evolution(states, taken, status)


@_checks.gate
def integrate_batch(
    rates: Rates,
    y0: PyTree[Array],
    args: PyTree[Any] = None,
    *,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
) -> Evolution:
    """Integrate every state of a batch: all arrays of `y0` and `args` have a leading axis b.

    Fixed steps and shared adaptive steps carry the batch as a whole; otherwise each state has its
    own adaptive steps, and one that fails does not affect the others.

    Args:
        rates: Right-hand side `rates(t, y, args) -> dy/dt` of one state.
        y0: States at `t0`, a pytree of floating-point arrays of shape (b, ...).
        args: A pytree of arrays of shape (b, ...), of which `rates` gets the entry of its state.
        t0: First time, a number of any sign; may be traced.
        t1: Last time, before `t0` to go back; may be traced.
        steps: An int, that many equal Euler steps; or `FixedSteps` or `AdaptiveSteps`.
        times: Times to record, shape (k,), monotone from `t0` towards `t1`; within a step the
            solver interpolates. Records are NaN where a traced time lies outside.

    Returns:
        States at `t1`, or records of shape (k, b, ...); the number of steps and the status of each
        state, shape (b,).

    Raises:
        ValueError: A leaf of the state is no floating-point array, rates have another shape, or
            `steps` is not one of the three.

    Differentiation:
        Fixed steps: forward and reverse mode, to any order. Adaptive steps: the one mode that they
        name.

    Example:
        >>> def decay(t, y, rate):
        ...     return -rate * y
        >>> rates = jnp.array([1.0, jnp.nan])
        >>> made = tx.evolution.integrate_batch(decay, jnp.ones(2), rates, steps=1000)
        >>> round(float(made.states[0]), 2), made.completed.tolist()
        (0.37, [True, False])
    """
    steps = as_steps(steps)
    options: dict[str, Any] = {"t0": t0, "t1": t1, "steps": steps, "times": times}
    if isinstance(steps, AdaptiveSteps) and not steps.shared:

        def alone(y, args):
            made = integrate(rates, y, args, **options)
            return made.states, (made.num_steps, made.status)

        axes = 0 if times is None else 1, 0
        states, rest = jax.vmap(alone, out_axes=axes)(y0, args)
        return Evolution(states, *rest)

    def together(t, y, args):
        return jax.vmap(lambda y, args: _like(rates(t, y, args), y))(y, args)

    made = integrate(together, y0, args, **options)
    size = jax.tree.leaves(y0)[0].shape[0]
    finite = jax.vmap(_finite)(y0) & jax.vmap(_finite, in_axes=0 if times is None else 1)(
        made.states
    )
    met = made.completed | (made.status == Status.NON_FINITE)
    each = judge((~finite & met, Status.NON_FINITE), (met, Status.COMPLETED), otherwise=made.status)
    return Evolution(made.states, jnp.broadcast_to(made.num_steps, size), each)


@_checks.gate
def integrate_until(
    rates: Rates,
    y0: PyTree[Array],
    ended: Callable[[PyTree[Array]], Bool[Array, ""]],
    *,
    steps: AdaptiveSteps,
) -> Evolution:
    """Integrate a differential equation from time 0 until a condition holds.

    It stops at the end of the step that first meets the condition.

    Args:
        rates: Right-hand side `rates(t, y, args) -> dy/dt`, whose `args` is None.
        y0: State at time 0, a pytree of floating-point arrays.
        ended: `ended(y) -> bool`, whether to stop.
        steps: Adaptive steps; their `max_steps` bounds the search.

    Returns:
        The state there; NaN and `MAX_STEPS` if the condition was not met.

    Raises:
        ValueError: Rates have another shape than the state.

    Example:
        >>> def grow(t, y, args):
        ...     return y
        >>> steps = tx.evolution.AdaptiveSteps(rtol=1e-3, atol=1e-3)
        >>> made = tx.evolution.integrate_until(grow, jnp.ones(()), lambda y: y > 5.0, steps=steps)
        >>> bool(made.states > 5.0), bool(made.completed)
        (True, True)
    """
    dtype = jax.tree.leaves(y0)[0].dtype
    span = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    terms = diffrax.ODETerm(lambda t, y, args: _like(rates(t, y, args), y))
    solution = adaptive_steps(terms, y0, None, span, steps, ended=ended)
    found = solution.result == diffrax.RESULTS.event_occurred
    states = jax.tree.map(lambda y: jnp.where(found, y[0], jnp.nan), solution.ys)
    status = judge(
        (~_finite(y0), Status.NON_FINITE), (found, Status.COMPLETED), otherwise=Status.MAX_STEPS
    )
    return Evolution(states, jnp.asarray(solution.stats["num_steps"]), status)


def _at_least_single(leaf: Any) -> Array:
    """Halves as float32; everything else as it is."""
    array = jnp.asarray(leaf)
    return array.astype(_precision.working(array.dtype))


def _like(rates: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    """The rates in the dtypes of the state, refused where their shapes differ."""
    if jax.tree.structure(rates) != jax.tree.structure(y):
        problem = f"returns {jax.tree.structure(rates)} at {jax.tree.structure(y)}"
        _checks.reject("field", problem, "return the derivative of every part of the state")

    def part(rate, at):
        _checks.velocity(rate, at)
        rate = jnp.asarray(rate)
        _checks.floating("field(t, x, args)", rate)
        return rate.astype(at.dtype)

    return jax.tree.map(part, rates, y)


def _succeeded(solution: diffrax.Solution) -> Bool[Array, ""]:
    return solution.result == diffrax.RESULTS.successful


def _finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
