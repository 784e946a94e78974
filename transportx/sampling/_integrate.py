"""Integration of batches of examples: one fixed grid for all, or adaptive one by one."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from transportx import _checks


class Steps(eqx.Module):
    """How to step: a count on a uniform grid, or tolerances and an adaptive solver."""

    num_steps: int
    rtol: float | None
    atol: float | None
    solver: diffrax.AbstractSolver
    max_steps: int

    def __check_init__(self):
        _checks.count("num_steps", self.num_steps)
        _checks.count("max_steps", self.max_steps)
        if (self.rtol is None) != (self.atol is None):
            missing = "rtol" if self.rtol is None else "atol"
            _checks.reject(missing, "is None", "give both tolerances, or neither")
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            _checks.positive(name, tolerance)

    @property
    def controller(self) -> diffrax.PIDController | None:
        """The adaptive step size controller, or None for equal steps."""
        if self.rtol is None or self.atol is None:
            return None
        return diffrax.PIDController(rtol=self.rtol, atol=self.atol)


def integrate(
    field: Callable[..., PyTree[Array]],
    y0: PyTree[Array],
    args: PyTree[Array],
    *,
    span: tuple[float, float],
    steps: Steps,
    times: Float[Array, " k"] | None = None,
) -> PyTree[Array]:
    """Carry a batch over `span`; states have leading axis b, or (k, b) at given times.

    Examples whose adaptive solve fails are NaN; the others are not affected.
    """
    dtype = jax.tree.leaves(y0)[0].dtype
    start, end = (jnp.asarray(time, dtype) for time in span)

    def velocity(t, y, args):
        rates = field(t, y, args)
        for rate, part in zip(jax.tree.leaves(rates), jax.tree.leaves(y), strict=True):
            _checks.velocity(rate, part)
        return rates

    def solve(field, y0, args, controller, max_steps):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            steps.solver,
            start,
            end,
            None,
            y0,
            args,
            saveat=diffrax.SaveAt(t1=True) if times is None else diffrax.SaveAt(ts=times),
            stepsize_controller=controller,
            max_steps=max_steps,
            throw=False,
        )
        succeeded = solution.result == diffrax.RESULTS.successful
        states = jax.tree.map(lambda y: jnp.where(succeeded, y, jnp.nan), solution.ys)
        return jax.tree.map(lambda y: y[0], states) if times is None else states

    controller = steps.controller
    if controller is not None:

        def solve_one(y0, args):
            return solve(velocity, y0, args, controller, int(steps.max_steps))

        return jax.vmap(solve_one, out_axes=0 if times is None else 1)(y0, args)

    def batched(t, y, args):
        return jax.vmap(lambda yi, argi: velocity(t, yi, argi))(y, args)

    grid = diffrax.StepTo(ts=jnp.linspace(*span, steps.num_steps + 1, dtype=dtype))
    return solve(batched, y0, args, grid, int(steps.num_steps))
