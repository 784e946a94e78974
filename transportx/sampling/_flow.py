"""Carry a batch through a field."""

from collections.abc import Callable

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from transportx import _checks
from transportx.sampling._grids import Grid, uniform_grid
from transportx.sampling._integrate import Steps, check_recorded, check_span, integrate


@_checks.gate
def flow(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    num_steps: int = 100,
    grid: Grid = uniform_grid,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    shared_steps: bool = False,
    times: Float[Array, " k"] | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
) -> Float[Array, "..."]:
    r"""Integrate $\dot x = v(t, x, \mathrm{args})$ from `t0` to `t1` for every example.

    With `num_steps` the whole batch takes that many steps, by default equal. With `rtol` and `atol`
    each example takes its own adaptive steps, and the batch as many as its slowest member; with
    `shared_steps` it takes those that the root mean square error over all examples asks for.

    Example:
        ```python
        x1 = tx.sampling.flow(field, x0)                             # 100 Euler steps
        path = tx.sampling.flow(field, x0, times=jnp.linspace(0, 1, 5))   # (5, b, ...)
        x0_again = tx.sampling.flow(field, x1, t0=1.0, t1=0.0, rtol=1e-6, atol=1e-6)
        ```

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        num_steps: Fixed steps; not used when tolerances are given.
        grid: Where those begin and end: `uniform_grid`, `PowerGrid`, `KarrasGrid` or any
            `grid(num_steps, dtype)` that rises from 0 at `t0` to 1 at `t1`.
        solver: Any diffrax solver; by default Euler at equal steps, Tsit5 when adaptive.
        rtol: Relative tolerance of adaptive steps.
        atol: Absolute tolerance of adaptive steps, in units of x.
        max_steps: Adaptive steps at most; an example that needs more is NaN.
        shared_steps: One adaptive step size for the whole batch. Fewer steps, but the error
            of a single example may exceed the tolerance, an example depends on its
            neighbours in the last digits, and one that fails turns all to NaN.
        times: Times to record, monotone from `t0` towards `t1`; between steps they are
            interpolated by the solver.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back from data to noise.

    Returns:
        Examples at time `t1`, shaped like `x0`; or, given `times`, shape (k, b, ...).

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1] or out of order, only one
            tolerance is given, a count is not positive, or `field` returns another shape
            than its point's.

    Differentiation:
        Reverse mode, in `x0`, `args` and the parameters of `field`, by recursive
        checkpointing: memory grows like the logarithm of the steps' number squared.
    """
    _checks.batch("x0", x0)
    check_span(x0, args, t0, t1)
    if times is not None:
        check_recorded(times, t0, t1)
    if solver is None:
        solver = diffrax.Euler() if rtol is None else diffrax.Tsit5()
    steps = Steps(num_steps, rtol, atol, solver, max_steps, grid, shared_steps)
    times = None if times is None else jnp.asarray(times, x0.dtype)
    if t0 == t1:
        return x0 if times is None else jnp.broadcast_to(x0, (times.size, *x0.shape))
    return integrate(field, x0, args, span=(t0, t1), steps=steps, times=times)
