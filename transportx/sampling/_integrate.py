"""Integration of batches: one fixed grid for all, or adaptive steps, one by one or shared."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from transportx import _checks
from transportx.sampling._grids import Grid, uniform_grid


def at_each(
    field: Callable[..., PyTree[Array]], t: Float[Array, ""], x: PyTree[Array], args: PyTree[Array]
) -> PyTree[Array]:
    """A field's values at every example of a batch, checked for their shape."""
    return jax.vmap(lambda x, args: check_rates(field(t, x, args), x))(x, args)


def check_rates(rates: PyTree[Array], x: PyTree[Array]) -> PyTree[Array]:
    """The rates, refused if their shapes are not those of the point."""
    for rate, part in zip(jax.tree.leaves(rates), jax.tree.leaves(x), strict=True):
        _checks.velocity(rate, part)
    return rates


def check_span(x0: Array, args: PyTree[Array], t0: float, t1: float) -> None:
    """Refuse conditions that do not match the batch, and times outside [0, 1]."""
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, "x0", x0)
    for name, time in (("t0", t0), ("t1", t1)):
        if not 0 <= time <= 1:
            _checks.reject(name, f"is {time}", "give a time in [0, 1]")


def check_recorded(times: Float[Array, " k"], t0: float, t1: float) -> None:
    """Refuse times to record that are out of order or outside of the span."""
    if len(np.shape(times)) != 1 or 0 in np.shape(times):
        problem = f"has shape {np.shape(times)}"
        _checks.reject("times", problem, "give at least one time, shape (k,)")
    if isinstance(times, Tracer):
        return
    recorded = np.asarray(times)
    inside = (recorded >= min(t0, t1)) & (recorded <= max(t0, t1))
    ordered = np.diff(recorded) * np.sign(t1 - t0) >= 0
    if not (np.all(inside) and np.all(ordered)):
        cure = f"give times between {t0} and {t1}, in that order"
        _checks.reject("times", f"is {recorded}", cure)


class Steps(eqx.Module):
    """How to step: a count on a grid, or tolerances, met by each example or by the batch."""

    num_steps: int
    rtol: float | None
    atol: float | None
    solver: diffrax.AbstractSolver
    max_steps: int
    grid: Grid = uniform_grid
    shared: bool = False

    def __check_init__(self):
        _checks.count("num_steps", self.num_steps)
        _checks.count("max_steps", self.max_steps)
        if (self.rtol is None) != (self.atol is None):
            missing = "rtol" if self.rtol is None else "atol"
            _checks.reject(missing, "is None", "give both tolerances, or neither")
        if self.shared and self.rtol is None:
            cure = "give tolerances; steps of a fixed number are shared already"
            _checks.reject("shared_steps", "is True without them", cure)
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

    Examples whose adaptive solve fails are NaN; the others are not affected, unless they
    share their steps.
    """
    dtype = jax.tree.leaves(y0)[0].dtype
    start, end = (jnp.asarray(time, dtype) for time in span)

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
    if controller is not None and not steps.shared:

        def checked(t, y, args):
            return check_rates(field(t, y, args), y)

        def solve_one(y0, args):
            return solve(checked, y0, args, controller, int(steps.max_steps))

        return jax.vmap(solve_one, out_axes=0 if times is None else 1)(y0, args)

    def batched(t, y, args):
        return at_each(field, t, y, args)

    if controller is not None:
        return solve(batched, y0, args, controller, int(steps.max_steps))
    ts = start + (end - start) * steps.grid(steps.num_steps, dtype)
    grid = diffrax.StepTo(ts=ts.at[jnp.array([0, -1])].set(jnp.stack([start, end])))
    return solve(batched, y0, args, grid, int(steps.num_steps))
