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
    """The grid of equal steps: `num` + 1 nodes from 0 to 1.

    Args:
        num: Number of steps, positive.
        dtype: Dtype of the nodes.

    Example:
        >>> tx.evolution.uniform_grid(2, jnp.float32).tolist()
        [0.0, 0.5, 1.0]
    """
    return jnp.linspace(0, 1, num + 1, dtype=dtype)


@_checks.gate
class FixedSteps(eqx.Module):
    """A fixed number of steps on a grid, differentiable in forward and in reverse mode.

    Attributes:
        num: Number of steps, positive.
        solver: Any diffrax solver; Euler's method by default.
        grid: Where steps begin and end, as fractions of the time: a function `grid(num, dtype)`
            whose num + 1 nodes rise from 0 to 1.
        checkpoint: Whether reverse mode recomputes steps. By default it stores about twice the
            root of `num` states and computes every step three times. Without, it stores
            everything that the derivative of every step needs, and is faster.

    Raises:
        ValueError: `num` is not a positive integer, or the solver is implicit without tolerances.

    Example:
        >>> steps = tx.evolution.FixedSteps(20, tx.sampling.RK4())
        >>> x1 = tx.sampling.flow(lambda t, x, args: -x, jnp.ones((2, 1)), steps=steps)
        >>> round(float(x1[0, 0]), 4)
        0.3679
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
        """The times at which steps begin and end, from exactly `t0` to exactly `t1`.

        Args:
            t0: First time.
            t1: Last time.

        Raises:
            ValueError: The grid returns another number of nodes than `num` + 1.
        """
        fractions = self.grid(self.num, t0.dtype)
        if fractions.shape != (self.num + 1,):
            problem = f"returns shape {fractions.shape} for {self.num} steps"
            _checks.reject("grid", problem, f"return {self.num + 1} nodes that rise from 0 to 1")
        inner = t0 + (t1 - t0) * fractions[1:-1].astype(t0.dtype)
        return jnp.concatenate([t0[None], inner, t1[None]])


@_checks.gate
class AdaptiveSteps(eqx.Module):
    """Steps as long as tolerances allow, by the error estimate of a solver.

    Attributes:
        rtol: Relative tolerance of the error of a step, positive.
        atol: Absolute tolerance of the error of a step, positive, in units of the state.
        solver: Any diffrax solver with an error estimate; Tsit5 by default.
        max_steps: Largest number of steps, rejected ones included; a state that needs more is NaN
            and its status is `MAX_STEPS`.
        shared: Whether a whole batch shares its step sizes. Fewer steps in all, but the error of a
            single example may exceed the tolerance, an example depends on its neighbours in the
            last digits, and one example that fails fails all.
        derivatives: "reverse", by recursive checkpointing, whose memory grows like the square of
            the logarithm of the number of steps; or "forward", in the memory of two states.

    Raises:
        ValueError: A tolerance or `max_steps` is not positive, or the solver has no error estimate.

    Example:
        >>> steps = tx.evolution.AdaptiveSteps(rtol=1e-5, atol=1e-5)
        >>> x1 = tx.sampling.flow(lambda t, x, args: -x, jnp.ones((2, 1)), steps=steps)
        >>> round(float(x1[0, 0]), 4)
        0.3679
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
    """The `FixedSteps` or `AdaptiveSteps` that a `steps=` argument stands for.

    For functions that integrate: an int becomes that many equal steps, the others are returned
    unchanged.

    Args:
        steps: An int, `FixedSteps` or `AdaptiveSteps`.
        solver: Solver of the equal steps that an int stands for.

    Raises:
        ValueError: `steps` is none of these, or not positive.

    Example:
        >>> tx.evolution.as_steps(20).num
        20
    """
    if isinstance(steps, FixedSteps | AdaptiveSteps):
        return steps
    _checks.count("steps", steps)
    return FixedSteps(int(steps), solver)
