"""What implicit flows share: the length of their steps, and how they end."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks
from transportx._status import Status, judge


def step_and_tolerance(
    t1: ScalarLike, steps: int, tol: float | None, max_steps: int, dtype
) -> tuple[Float[Array, ""], float]:
    """The length of a time step, and the bound on Newton's decrement, checked.

    Newton's steps converge quadratically: the root of the precision, met before the last of
    them, leaves an error of about the precision.
    """
    _checks.positive("tol", tol)
    _checks.count("steps", steps)
    _checks.count("max_steps", max_steps)
    root = float(jnp.finfo(dtype).eps) ** 0.5
    return _checks.positive_value("t1", t1, dtype) / steps, root if tol is None else tol


def settled(
    records: Float[Array, "..."],
    decrement: Float[Array, " steps"],
    steps: Int[Array, " steps"],
    tol: float,
    max_steps: int,
) -> Status:
    """Whether every time step met the tolerance, and all that is recorded is finite."""
    missed = decrement > tol
    return judge(
        (~jnp.all(jnp.isfinite(records)), Status.NON_FINITE),
        (jnp.any(missed & (steps < max_steps)), Status.STALLED),
        (jnp.any(missed | jnp.isnan(decrement)), Status.MAX_STEPS),
        otherwise=Status.COMPLETED,
    )
