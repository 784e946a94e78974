"""Adaptive steps: diffrax's own loop, with what went wrong as a status."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from transportx import _numbers
from transportx.evolution._steps import AdaptiveSteps


def adaptive_steps(
    terms: PyTree[diffrax.AbstractTerm],
    y0: PyTree[Array],
    args: PyTree[Any],
    span: tuple[Float[Array, ""], Float[Array, ""]],
    steps: AdaptiveSteps,
    *,
    times: Float[Array, " k"] | None = None,
    ended: Callable[[PyTree[Array]], Bool[Array, ""]] | None = None,
) -> diffrax.Solution:
    """Diffrax's solution at the end of the span, at `times`, or where `ended` first holds."""
    reverse = steps.derivatives == "reverse"
    dtype = span[0].dtype
    return diffrax.diffeqsolve(
        terms,
        steps.solver,
        *span,
        None,
        y0,
        args,
        saveat=diffrax.SaveAt(t1=True) if times is None else diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(
            rtol=_numbers.positive(steps.rtol, dtype), atol=_numbers.positive(steps.atol, dtype)
        ),
        adjoint=diffrax.RecursiveCheckpointAdjoint() if reverse else diffrax.ForwardMode(),
        event=None if ended is None else diffrax.Event(lambda t, y, args, **_: ended(y)),
        max_steps=steps.max_steps,
        throw=False,
    )


def from_first(solution: diffrax.Solution, *, recorded: bool) -> PyTree[Array]:
    """States of a solution: NaN wherever it was not reached."""
    reached = solution.result == diffrax.RESULTS.successful
    if not recorded:
        return jax.tree.map(lambda y: jnp.where(reached, y[0], jnp.nan), solution.ys)
    # What diffrax did not reach is infinite.
    return jax.tree.map(lambda y: jnp.where(jnp.isfinite(y), y, jnp.nan), solution.ys)
