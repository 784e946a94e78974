"""How to step: a number of equal steps, a solver on a grid, or tolerances."""

from collections.abc import Callable
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks

Grid = Callable[[int, Any], Float[Array, " nodes"]]


@_checks.gate
def uniform_grid(num: int, dtype: Any) -> Float[Array, " nodes"]:
    """Where equal steps begin and end: `num` + 1 nodes from 0 to 1.

    Args:
        num: Number of steps.
        dtype: Of the nodes.
    """
    return jnp.linspace(0, 1, num + 1, dtype=dtype)


@_checks.gate
class FixedSteps(eqx.Module):
    """A fixed number of steps on a grid, differentiable in forward and in reverse mode.

    Example:
        ```python
        x1 = tx.sampling.flow(field, x0, steps=tx.evolution.FixedSteps(20, diffrax.Heun()))
        ```

    Attributes:
        num: How many steps.
        solver: Any diffrax solver.
        grid: Where steps begin and end: any `grid(num, dtype)` that rises from 0 to 1.
        checkpoint: Whether reverse mode recomputes. By default it holds about twice the root
            of `num` states and works steps out again, twice. Without, it holds everything that
            the derivative of every step needs, and is faster.
    """

    num: int = eqx.field(static=True)
    solver: diffrax.AbstractSolver = diffrax.Euler()
    grid: Grid = uniform_grid
    checkpoint: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self):
        _checks.count("steps", self.num)
        finder = getattr(self.solver, "root_finder", None)
        if finder is not None and not eqx.is_inexact_array_like(getattr(finder, "rtol", 0.0)):
            cure = "give it tolerances: `root_finder=diffrax.VeryChord(rtol=1e-3, atol=1e-6)`"
            _checks.reject("solver", "is implicit, and fixed steps have no tolerance", cure)

    @_checks.gate
    def nodes(self, t0: Float[Array, ""], t1: Float[Array, ""]) -> Float[Array, " nodes"]:
        """The times at which steps begin and end, from exactly `t0` to exactly `t1`."""
        fractions = self.grid(self.num, t0.dtype)
        if fractions.shape != (self.num + 1,):
            problem = f"returns shape {fractions.shape} for {self.num} steps"
            _checks.reject("grid", problem, f"return {self.num + 1} nodes that rise from 0 to 1")
        inner = t0 + (t1 - t0) * fractions[1:-1].astype(t0.dtype)
        return jnp.concatenate([t0[None], inner, t1[None]])


@_checks.gate
class AdaptiveSteps(eqx.Module):
    """Steps as long as tolerances allow, by the error estimate of a solver.

    Example:
        ```python
        tight = tx.evolution.AdaptiveSteps(rtol=1e-6, atol=1e-6)
        x1 = tx.sampling.flow(field, x0, steps=tight)
        ```

    Attributes:
        rtol: Relative tolerance of a step's error.
        atol: Absolute tolerance, in units of the state.
        solver: Any diffrax solver with an error estimate.
        max_steps: Steps at most, rejected ones included; a state that needs more is NaN and
            its status is `MAX_STEPS`.
        shared: One step size for a whole batch. Fewer steps, but the error of a single example
            may exceed the tolerance, an example depends on its neighbours in the last digits,
            and one that fails fails all.
        derivatives: "reverse", by recursive checkpointing, with memory like the logarithm of
            the steps' number squared; or "forward", in the memory of two states.
    """

    rtol: ScalarLike
    atol: ScalarLike
    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    max_steps: int = eqx.field(static=True, default=4096)
    shared: bool = eqx.field(static=True, default=False, kw_only=True)
    derivatives: Literal["reverse", "forward"] = eqx.field(
        static=True, default="reverse", kw_only=True
    )

    def __check_init__(self):
        _checks.positive("rtol", self.rtol)
        _checks.positive("atol", self.atol)
        _checks.count("max_steps", self.max_steps)
        if not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            cure = "give one with an error estimate, such as `diffrax.Tsit5()`"
            _checks.reject("solver", f"is {self.solver}", cure)
        if self.derivatives not in ("reverse", "forward"):
            _checks.reject("derivatives", f"is {self.derivatives!r}", 'give "reverse" or "forward"')


Steps = int | FixedSteps | AdaptiveSteps


@_checks.gate
def as_steps(
    steps: Steps, solver: diffrax.AbstractSolver = diffrax.Euler()
) -> FixedSteps | AdaptiveSteps:
    """How to step, from what a user may give.

    Args:
        steps: An int, that many equal steps; or what is returned as it is.
        solver: Of equal steps given as an int.

    Raises:
        ValueError: `steps` is something else, or not positive.
    """
    if isinstance(steps, FixedSteps | AdaptiveSteps):
        return steps
    _checks.count("steps", steps)
    return FixedSteps(int(steps), solver)
