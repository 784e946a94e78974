"""Carry a batch through a field."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.evolution import Evolution, Steps, as_steps, integrate_batch
from transportx.sampling._batch import as_records, as_span, check_batch, check_span, still


@_checks.gate
class Trajectories(eqx.Module):
    """Examples of a batch at the times that a sampler recorded, and how each example ended.

    Attributes:
        x: Examples at the last time, shape (b, ...), or at recorded times, shape (k, b, ...). NaN
            from where an example failed.
        num_steps: Number of steps of each example, rejected ones included, shape (b,).
        status: How each example ended: `COMPLETED`, `MAX_STEPS` or `NON_FINITE`.
    """

    x: PyTree[Array]
    num_steps: Int[Array, " b"]
    status: Status

    @property
    def completed(self) -> Bool[Array, " b"]:
        """Whether each example reached the last time, finite."""
        return self.status == Status.COMPLETED


@_checks.gate
def flow(
    field: Callable[..., PyTree[Array]],
    x0: PyTree[Array],
    args: PyTree[Array] = None,
    *,
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Any:
    r"""Sample by the flow of a velocity field: integrate $\dot x = v(t, x, \mathrm{args})$.

    With fixed steps all examples share the times of their steps. With adaptive steps each example
    has its own, and the batch takes as many as its slowest member, unless they are shared.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`: an array of shape (b, ...), or a pytree of such arrays.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps` for another solver or
            grid; or `evolution.AdaptiveSteps`.
        times: Times to record, shape (k,), monotone from `t0` towards `t1`; between steps they are
            interpolated by the solver.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back from data to noise.

    Returns:
        Examples at time `t1`, shaped like `x0`; or, given `times`, of shape (k, b, ...). NaN where
        an example failed: `trajectories` says why.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1] or out of order, or `field` returns
            another shape than that of its point.

    Differentiation:
        In `x0`, `args`, `t0`, `t1` and the parameters of `field`: forward and reverse mode with
        fixed steps, the mode that they name with adaptive ones.

    Example:
        >>> def field(t, x, args):
        ...     return -x
        >>> x0 = jnp.ones((2, 1))
        >>> tx.sampling.flow(field, x0, times=jnp.linspace(0, 1, 5)).shape
        (5, 2, 1)
        >>> x1 = tx.sampling.flow(field, x0)
        >>> round(float(x1[0, 0]), 2)
        0.37

    References:
        Chen et al., Neural Ordinary Differential Equations, 2018.
    """
    return trajectories(field, x0, args, steps=steps, times=times, t0=t0, t1=t1).x


@_checks.gate
def trajectories(
    field: Callable[..., PyTree[Array]],
    x0: PyTree[Array],
    args: PyTree[Array] = None,
    *,
    steps: Steps = 100,
    times: Float[Array, " k"] | None = None,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Trajectories:
    """Sample by the flow of a velocity field like `flow`, and say how each example ended.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`: an array of shape (b, ...), or a pytree of such arrays.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.
        times: Times to record, shape (k,), monotone from `t0` towards `t1`.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back from data to noise.

    Returns:
        Examples at time `t1`, or at `times`, with the number of steps and the status of each.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1] or out of order, or `field` returns
            another shape than that of its point.

    Differentiation:
        The examples, like those of `flow`.

    Example:
        >>> def blows_up(t, x, args):
        ...     return 2 * x**2
        >>> steps = tx.evolution.AdaptiveSteps(rtol=1e-3, atol=1e-3, max_steps=100)
        >>> made = tx.sampling.trajectories(blows_up, jnp.array([[0.1], [1.0]]), steps=steps)
        >>> made.completed.tolist(), bool(jnp.isnan(made.x[1, 0]))
        ([True, False], True)
    """
    check_batch("x0", x0, args)
    check_span(x0, args, t0, t1)
    times, steps = as_records(times, t0, t1), as_steps(steps)
    if still(t0, t1):
        made = unmoved(x0, times)
    else:
        made = _carry(field, x0, args, *as_span(x0, t0, t1), steps, times)
    return Trajectories(made.states, made.num_steps, made.status)


@eqx.filter_jit
def _carry(field, x0, args, t0, t1, steps, times) -> Evolution:
    return integrate_batch(field, x0, args, t0=t0, t1=t1, steps=steps, times=times)


def unmoved(x0, times) -> Evolution:
    """A flow over no time."""
    size = jax.tree.leaves(x0)[0].shape[0]
    if times is not None:
        x0 = jax.tree.map(lambda x: jnp.broadcast_to(x, (times.size, *x.shape)), x0)
    status = jax.tree.map(lambda one: jnp.broadcast_to(one, size), Status.COMPLETED)
    return Evolution(x0, jnp.zeros(size, int), status)


def finished(x0: Array, x1: Array, num_steps: int) -> Trajectories:
    """The answer of equal steps: an example with an entry that is not finite is NaN."""
    rest = tuple(range(1, x1.ndim))
    finite = jnp.all(jnp.isfinite(x0) & jnp.isfinite(x1), axis=rest)
    x = jnp.where(jnp.expand_dims(finite, rest), x1, jnp.nan)
    status = judge((finite, Status.COMPLETED), otherwise=Status.NON_FINITE)
    return Trajectories(x, jnp.full(x1.shape[0], num_steps), status)
