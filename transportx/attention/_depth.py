"""Integration in depth: equal steps, as layers are, or adaptive ones, and their derivatives."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from transportx import _checks

Scalar = Float[Array, ""]

REVERSE = diffrax.RecursiveCheckpointAdjoint()


class Stepping(eqx.Module):
    """How to step, and how to differentiate what was stepped.

    Attributes:
        num_steps: Equal steps; not used when tolerances are given.
        rtol: Relative tolerance of adaptive steps, or None.
        atol: Absolute tolerance of those.
        solver: By default Euler at equal steps, Tsit5 when adaptive.
        max_steps: Adaptive steps at most.
        adjoint: Which derivatives, and at which cost.
    """

    num_steps: int
    rtol: float | None
    atol: float | None
    solver: diffrax.AbstractSolver | None
    max_steps: int
    adjoint: diffrax.AbstractAdjoint

    def __check_init__(self):
        _checks.count("num_steps", self.num_steps)
        _checks.count("max_steps", self.max_steps)
        if (self.rtol is None) != (self.atol is None):
            missing = "rtol" if self.rtol is None else "atol"
            _checks.reject(missing, "is None", "give both tolerances, or neither")
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            _checks.positive(name, tolerance)

    def integrate(
        self,
        rates: Callable[[Scalar, PyTree[Array]], PyTree[Array]],
        start: PyTree[Array],
        depth: Scalar,
        depths: Float[Array, " k"] | None,
    ) -> PyTree[Array]:
        """The state at `depth`, or at each of `depths`; NaN where the solve fails."""

        def scaled(s, state, args):
            return jax.tree.map(lambda rate: depth * rate, rates(depth * s, state))

        save = diffrax.SaveAt(t1=True) if depths is None else diffrax.SaveAt(ts=depths / depth)
        controller, solver, most = self._steps(depth.dtype)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(scaled),
            solver,
            jnp.zeros_like(depth),
            jnp.ones_like(depth),
            None,
            start,
            saveat=save,
            stepsize_controller=controller,
            adjoint=self.adjoint,
            max_steps=most,
            throw=False,
        )
        succeeded = solution.result == diffrax.RESULTS.successful
        states = jax.tree.map(lambda part: jnp.where(succeeded, part, jnp.nan), solution.ys)
        return jax.tree.map(lambda part: part[0], states) if depths is None else states

    def _steps(self, dtype):
        if self.rtol is None or self.atol is None:
            grid = diffrax.StepTo(ts=jnp.linspace(0, 1, self.num_steps + 1, dtype=dtype))
            return grid, self.solver or diffrax.Euler(), self.num_steps
        adaptive = diffrax.PIDController(rtol=self.rtol, atol=self.atol)
        return adaptive, self.solver or diffrax.Tsit5(), self.max_steps


def check_depths(depths: Float[Array, " k"] | None, length: Scalar) -> Float[Array, " k"] | None:
    """Depths to record in the dtype of `length`, refused if empty or out of order."""
    if depths is None:
        return None
    if len(np.shape(depths)) != 1 or 0 in np.shape(depths):
        problem = f"has shape {np.shape(depths)}"
        _checks.reject("depths", problem, "give at least one depth, shape (k,)")
    if not isinstance(depths, Tracer) and np.any(np.diff(np.asarray(depths), prepend=0) < 0):
        _checks.reject("depths", f"is {depths}", "give depths that rise from 0")
    return jnp.asarray(depths, length.dtype)
