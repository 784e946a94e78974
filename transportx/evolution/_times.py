"""Times to record: their checks and their default."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _precision

_NUM_RECORDS = 11


@_checks.gate
def time_dtype(state: PyTree[Array]) -> Any:
    """The dtype in which times of a state are kept: float32, or that of the state if wider.

    Args:
        state: A pytree of floating-point arrays; its first leaf decides.

    Example:
        >>> tx.evolution.time_dtype(jnp.ones(2, jnp.bfloat16)).name
        'float32'
    """
    return _precision.working(jax.tree.leaves(state)[0].dtype)


@_checks.gate
def check_times(name: str, times: Array, t0: ScalarLike, t1: ScalarLike) -> None:
    """Refuse times to record that are no vector, out of order, or outside of their span.

    Args:
        name: Name of the argument in the caller's signature, for the message.
        times: Times to record, shape (k,); traced values pass.
        t0: First time of the span.
        t1: Last time of the span, before or after `t0`.

    Raises:
        ValueError: There are none, or they do not go monotonically from `t0` towards `t1`.

    Example:
        >>> tx.evolution.check_times("times", jnp.array([0.5, 2.0]), 0.0, 1.0)
        Traceback (most recent call last):
        ValueError: `times` is [0.5 2. ]; give times between 0.0 and 1.0, in that order.
    """
    if len(np.shape(times)) != 1 or 0 in np.shape(times):
        problem = f"has shape {np.shape(times)}"
        _checks.reject(name, problem, "give at least one time, shape (k,)")
    if isinstance(times, Tracer) or isinstance(t0, Tracer) or isinstance(t1, Tracer):
        return
    recorded, start, end = np.asarray(times), np.asarray(t0), np.asarray(t1)
    # An end that is no float32 is rounded in the times, not in the span.
    slack = 4 * float(jnp.finfo(jnp.result_type(times)).eps) * max(abs(start), abs(end))
    first, last = np.minimum(start, end) - slack, np.maximum(start, end) + slack
    inside = (recorded >= first) & (recorded <= last)
    ordered = np.diff(recorded) * np.sign(end - start) >= 0
    if not (np.all(inside) and np.all(ordered)):
        cure = f"give times between {float(start)} and {float(end)}, in that order"
        _checks.reject(name, f"is {recorded}", cure)


@_checks.gate
def record_times(
    times: Float[Array, " k"] | None, t1: Float[Array, ""], name: str = "times"
) -> Float[Array, " k"]:
    """The times of the records of a flow from 0 to `t1`, both ends included.

    Args:
        times: Times that rise from 0 to `t1`, shape (k,); None for eleven evenly spaced ones.
        t1: Last time.
        name: Name of the argument in the caller's signature, for the message.

    Returns:
        The times in the dtype of `t1`.

    Raises:
        ValueError: The times do not rise from 0 to `t1`.

    Example:
        >>> tx.evolution.record_times(None, jnp.array(2.0)).shape
        (11,)
    """
    if times is None:
        return t1 * jnp.linspace(0, 1, _NUM_RECORDS, dtype=t1.dtype)
    if len(np.shape(times)) != 1 or np.size(times) < 2:
        problem = f"has shape {np.shape(times)}"
        _checks.reject(name, problem, "give at least the first and the last time, shape (k,)")
    if not (isinstance(times, Tracer) or isinstance(t1, Tracer)):
        recorded = np.asarray(times, t1.dtype)
        ends = recorded[0] == 0 and recorded[-1] == t1
        if not (ends and np.all(np.diff(recorded) > 0)):
            _checks.reject(name, f"is {recorded}", f"give times that rise from 0 to {float(t1)}")
    return jnp.asarray(times, t1.dtype)
