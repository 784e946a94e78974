"""Samples, and their densities, by a few steps of a flow map."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from transportx import _checks, _numbers, _varying
from transportx._status import Status, judge
from transportx.evolution import time_dtype, uniform_grid
from transportx.sampling._batch import check_batch
from transportx.sampling._flow import Trajectories, finished
from transportx.sampling._likelihood import Likelihood

MapTimes = int | Float[Array, " nodes"]


@_checks.gate
def few_step(
    u: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    grid: MapTimes = 1,
) -> Float[Array, "b ..."]:
    r"""Sample by a few steps of a flow map: $x \leftarrow x + (t - s)\,u(s, t, x, \mathrm{args})$.

    One evaluation per step. With the exact flow map of a field every grid gives the samples of its
    flow; with a trained one more steps correct its errors.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example over the times from s to
            t, as `fields.MLPFlowMap`.
        x0: Examples at the first time, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        grid: An int, that many steps of equal length from 0 to 1; or the times of the examples
            before, between and after the steps, shape (k + 1,), rising in [0, 1].

    Returns:
        Examples at the last time, shaped like `x0`. NaN where an example failed, and everywhere for
        traced times that do not rise in [0, 1]: `few_step_trajectories` says why.

    Raises:
        ValueError: The batch is empty, `grid` does not rise in [0, 1], `u` takes one time only, or
            it returns another shape than that of its point.

    Differentiation:
        In `x0`, `args`, `grid` and the parameters of `u`: forward and reverse mode.

    Example:
        >>> S = jnp.eye(2)
        >>> u = tx.fields.GaussianFlowMap(jnp.zeros(2), S, jnp.ones(2), 4 * S)
        >>> x0 = jnp.zeros((3, 2))
        >>> x1 = tx.sampling.few_step(u, x0, grid=2)
        >>> bool(jnp.allclose(x1, 1.0, atol=1e-5))
        True

    References:
        Boffi, Albergo and Vanden-Eijnden, Flow map matching, 2024; Geng et al., Mean flows for
        one-step generative modeling, 2025.
    """
    return few_step_trajectories(u, x0, args, grid=grid).x


@_checks.gate
def few_step_trajectories(
    u: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    grid: MapTimes = 1,
) -> Trajectories:
    """Sample like `few_step`, and say how each example ended.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        x0: Examples at the first time, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        grid: An int, that many steps of equal length from 0 to 1; or times that rise in [0, 1],
            one more than steps.

    Returns:
        Examples at the last time, with the number of steps and the status of each.

    Raises:
        ValueError: The batch is empty, `grid` does not rise in [0, 1], `u` takes one time only, or
            it returns another shape than that of its point.

    Differentiation:
        The examples, like those of `few_step`.

    Example:
        >>> def u(s, t, x, args):
        ...     return 1 / x
        >>> made = tx.sampling.few_step_trajectories(u, jnp.array([[1.0], [0.0]]))
        >>> made.x[0].tolist(), made.completed.tolist()
        ([2.0], [True, False])
    """
    times = _checked(u, x0, args, grid)
    return _carry(u, x0, args, times)


@_checks.gate
def few_step_log_prob(
    u: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    base_log_prob: Callable[[Array], Array],
    grid: MapTimes = 1,
) -> Float[Array, " b"]:
    r"""Log-density of the law of `few_step` at the samples that it makes from `x0`.

    $\log p(x_1) = \log p_0(x_0) - \sum_k \log|\det(I + (t_{k+1} - t_k)\,Du)|$ over the steps, where
    they are one-to-one, as exact flow maps are; a trained map may fold, and the density is then
    that of one of its branches. A step costs d forward derivatives of u and a determinant, O(d^3).

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        x0: Examples at the first time, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at the first time, in nats; a function of the point.
        grid: An int, that many steps of equal length from 0 to 1; or times that rise in [0, 1],
            one more than steps.

    Returns:
        Log-densities in nats, shape (b,). NaN where an example failed: `few_step_likelihood` says
        why, and has the samples.

    Raises:
        ValueError: The batch is empty, `grid` does not rise in [0, 1], `u` takes one time only or
            returns another shape than that of its point, or `base_log_prob` does not return one
            number.

    Differentiation:
        In `x0`, `args`, `grid` and the parameters of `u`: forward and reverse mode.

    Example:
        >>> def u(s, t, x, args):  # one step doubles every point
        ...     return x
        >>> def base_log_prob(x):
        ...     return -jnp.sum(x**2) / 2
        >>> x0 = jnp.zeros((1, 3))
        >>> found = tx.sampling.few_step_log_prob(u, x0, base_log_prob=base_log_prob)
        >>> round(float(found[0]), 3)  # -3 log 2
        -2.079

    References:
        Boffi, Albergo and Vanden-Eijnden, Flow map matching, 2024.
    """
    return few_step_likelihood(u, x0, args, base_log_prob=base_log_prob, grid=grid).log_prob


@_checks.gate
def few_step_likelihood(
    u: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    base_log_prob: Callable[[Array], Array],
    grid: MapTimes = 1,
) -> Likelihood:
    """Log-density like `few_step_log_prob`, with the samples and how each example ended.

    Args:
        u: Flow map, `u(s, t, x, args) -> average velocity` of one example.
        x0: Examples at the first time, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at the first time, in nats; a function of the point.
        grid: An int, that many steps of equal length from 0 to 1; or times that rise in [0, 1],
            one more than steps.

    Returns:
        Log-densities, the samples, and the number of steps and the status of each example.

    Raises:
        ValueError: The batch is empty, `grid` does not rise in [0, 1], `u` takes one time only or
            returns another shape than that of its point, or `base_log_prob` does not return one
            number.

    Example:
        >>> made = tx.sampling.few_step_likelihood(
        ...     lambda s, t, x, args: x, jnp.ones((2, 1)), base_log_prob=lambda x: 0.0 * x[0]
        ... )
        >>> made.x.tolist(), made.completed.tolist()
        ([[2.0], [2.0]], [True, True])
    """
    times = _checked(u, x0, args, grid)
    return _carry_density(u, x0, args, times, base_log_prob)


def _checked(u, x0, args, grid: MapTimes) -> Float[Array, " nodes"]:
    """The times of the steps, in the dtype of times of the batch."""
    _checks.two_times("u", u)
    check_batch("x0", x0, args)
    if not isinstance(grid, jax.Array):
        _checks.count("grid", grid)
        return uniform_grid(grid, time_dtype(x0))
    if grid.size < 2:
        problem = f"has shape {grid.shape}"
        _checks.reject("grid", problem, "give at least two times, one more than steps")
    times = grid.astype(time_dtype(x0))
    rising = (times[0] >= 0) & jnp.all(jnp.diff(times) > 0) & (times[-1] <= 1)
    if not isinstance(rising, Tracer) and not rising:
        _checks.reject("grid", f"is {np.asarray(grid)}", "give times that rise in [0, 1]")
    return jnp.where(rising, times, jnp.nan)


def _step(u, s, t, x, args) -> Array:
    average = u(s, t, x, args)
    _checks.velocity(average, x, "u")
    return x + (t - s).astype(x.dtype) * average.astype(x.dtype)


@eqx.filter_jit
def _carry(u, x0, args, times) -> Trajectories:
    def step(x, span):
        s, t = span
        return jax.vmap(lambda x, args: _step(u, s, t, x, args))(x, args), None

    start = _varying.alike(_numbers.widened(x0), args, times)
    x1, _ = jax.lax.scan(step, start, (times[:-1], times[1:]))
    return finished(x0, _numbers.as_given(x1, x0), times.size - 1)


@eqx.filter_jit
def _carry_density(u, x0, args, times, base_log_prob) -> Likelihood:
    def log_stretch(s, t, x, args):
        """The point after a step, and the logarithm of the volume of its Jacobian."""

        def arrive(flat):
            y = _step(u, s, t, flat.reshape(x.shape), args).reshape(-1)
            return y, y

        jacobian, y = jax.jacfwd(arrive, has_aux=True)(x.reshape(-1))
        return y.reshape(x.shape), jnp.linalg.slogdet(jacobian)[1]

    def step(state, span):
        (x, log_prob), (s, t) = state, span
        x, stretch = jax.vmap(lambda x, args: log_stretch(s, t, x, args))(x, args)
        return (x, log_prob - stretch), None

    def base(x):
        value = base_log_prob(x)
        _checks.number("base_log_prob", value)
        return jnp.asarray(value, x.dtype)

    start = _numbers.widened(x0)
    state = _varying.alike((start, jax.vmap(base)(start)), args, times)
    (x1, log_prob), _ = jax.lax.scan(step, state, (times[:-1], times[1:]))
    x1, log_prob = _numbers.as_given((x1, log_prob), x0)
    made = finished(x0, x1, times.size - 1)
    log_prob = jnp.where(made.completed, log_prob, jnp.nan)
    status = judge((jnp.isnan(log_prob), Status.NON_FINITE), otherwise=made.status)
    return Likelihood(log_prob, made.x, made.num_steps, status)
