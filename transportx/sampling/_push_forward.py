"""Particles together with their log-density, along their trajectories."""

from collections.abc import Callable

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from transportx import _checks
from transportx.fields import divergence
from transportx.sampling._grids import Grid, uniform_grid
from transportx.sampling._integrate import Steps, check_recorded, check_span, integrate


@_checks.gate
def push_forward(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    log_prob0: Float[Array, " b"],
    args: PyTree[Array] = None,
    *,
    num_steps: int = 100,
    grid: Grid = uniform_grid,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    shared_steps: bool = False,
    times: Float[Array, " k"] | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Carry a batch and its log-densities through a field.

    $\dot x = v(t, x, \mathrm{args})$ and $\frac{d}{dt}\log\rho_t(x_t) = -\nabla\cdot v(t, x_t)$.
    Where `log_prob` asks for the density at given points and goes back for it, this goes with
    the particles, and knows all densities on the way. d forward derivatives of the field a
    stage.

    Example:
        ```python
        x1, log_prob1 = tx.sampling.push_forward(field, x0, jax.vmap(base_log_prob)(x0))
        ```

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`.
        log_prob0: Their log-densities there.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        num_steps: Fixed steps; not used when tolerances are given.
        grid: Where those begin and end, as in `flow`.
        solver: Any diffrax solver.
        rtol: Relative tolerance of adaptive steps.
        atol: Absolute tolerance, of the point and of the log-density.
        max_steps: Adaptive steps at most; an example that needs more is NaN.
        shared_steps: One adaptive step size for all, as in `flow`.
        times: Times to record, as in `flow`.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1].

    Returns:
        Examples at time `t1`, shaped like `x0`, and their log-densities, (b,); or, given
        `times`, of shapes (k, b, ...) and (k, b).

    Raises:
        ValueError: As `flow`, or `log_prob0` is not one number an example.

    Differentiation:
        Reverse mode, as `flow`.

    References:
        Chen et al., Neural Ordinary Differential Equations, 2018, theorem 1.
    """
    _checks.batch("x0", x0)
    if log_prob0.shape != x0.shape[:1]:
        cure = f"give one number an example, shape {x0.shape[:1]}"
        _checks.reject("log_prob0", f"has shape {log_prob0.shape}", cure)
    check_span(x0, args, t0, t1)
    if times is not None:
        check_recorded(times, t0, t1)
        times = jnp.asarray(times, x0.dtype)
    steps = Steps(num_steps, rtol, atol, solver, max_steps, grid, shared_steps)
    state = x0, log_prob0
    if t0 == t1:
        return state if times is None else _repeated(state, times.size)

    def rates(t, state, args):
        x, _ = state
        return field(t, x, args), -divergence(field, t, x, args)

    x, log_prob = integrate(rates, state, args, span=(t0, t1), steps=steps, times=times)
    # A field may be undefined where its derivative is not.
    defined = jnp.all(jnp.isfinite(x.reshape(*log_prob.shape, -1)), axis=-1)
    return x, jnp.where(defined, log_prob, jnp.nan)


def _repeated(state: tuple[Array, Array], count: int) -> tuple[Array, Array]:
    x, log_prob = (jnp.broadcast_to(part, (count, *part.shape)) for part in state)
    return x, log_prob
