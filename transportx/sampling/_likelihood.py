"""Log-likelihood of a flow: the base density plus the volume change on the way back."""

import math
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks
from transportx.fields import divergence, hutchinson_divergence
from transportx.sampling._integrate import Steps, integrate


@_checks.gate
def log_prob(
    field: Callable[..., Array],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    base_log_prob: Callable[[Array], Array],
    num_steps: int = 100,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    shared_steps: bool = False,
) -> Float[Array, " b"]:
    r"""Exact log-density of the flow's law at the given points, up to integration error.

    $\log p_1(x_1) = \log p_0(x_0) - \int_0^1 \nabla\cdot v(t, x_t)\,dt$, integrated from
    t = 1 back to 0. d forward derivatives of the field a step; see `hutchinson_log_prob`
    for large d.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at t = 0.
        num_steps: Equal steps; not used when tolerances are given.
        solver: Any diffrax solver.
        rtol: Relative tolerance of adaptive steps.
        atol: Absolute tolerance, of the point and of the log-density.
        max_steps: Adaptive steps at most; an example that needs more is NaN.
        shared_steps: One adaptive step size for all, as in `flow`.

    Returns:
        Log-densities in nats; `bits_per_dimension` for data of whole numbers.

    Raises:
        ValueError: As `flow`.

    Differentiation:
        Reverse mode, as `flow`.

    References:
        Chen et al., Neural Ordinary Differential Equations, 2018, theorem 1.
    """
    steps = Steps(num_steps, rtol, atol, solver, max_steps, shared=shared_steps)

    def rate(t, x, conditions):
        return divergence(field, t, x, conditions[0])

    return _log_prob(field, rate, x1, (args,), base_log_prob, steps)


@_checks.gate
def hutchinson_log_prob(
    field: Callable[..., Array],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    num_probes: int = 1,
    base_log_prob: Callable[[Array], Array],
    num_steps: int = 100,
    solver: diffrax.AbstractSolver = diffrax.Tsit5(),
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    shared_steps: bool = False,
) -> Float[Array, " b"]:
    """Unbiased estimate of `log_prob`: `num_probes` derivatives a step, whatever d is.

    Each example keeps its own probes along the whole path, so that the integrand is
    smooth. Arguments as `log_prob`.

    References:
        Grathwohl et al., FFJORD, 2019, section 3.1.
    """
    _checks.batch("x1", x1)
    _checks.count("num_probes", num_probes)
    steps = Steps(num_steps, rtol, atol, solver, max_steps, shared=shared_steps)

    def rate(t, x, conditions):
        args, key = conditions
        return hutchinson_divergence(field, t, x, args, key=key, num_probes=num_probes)

    keys = jr.split(key, x1.shape[0])
    return _log_prob(field, rate, x1, (args, keys), base_log_prob, steps)


@_checks.gate
def bits_per_dimension(
    log_prob: Float[Array, "..."], num_dims: int, bin_width: ScalarLike
) -> Float[Array, "..."]:
    r"""Bits that a density needs for each coordinate of data on a grid, dequantised.

    $-(\log p(x) + d\log\mathrm{width}) / (d \log 2)$. With x uniform in the bin of its datum, its
    mean is at least the bits a coordinate of the discrete model $\int_{bin} p$, by Jensen's
    inequality, and no less than the entropy of the data.

    Args:
        log_prob: Log-densities in nats, as of `log_prob`, of points with the noise added.
        num_dims: d, the coordinates of a point.
        bin_width: Width of a bin in the units of the points: 2 / 256 for bytes put onto
            [-1, 1].

    Raises:
        ValueError: `num_dims` is not a positive integer, or `bin_width` is a Python number
            that is not positive.

    References:
        Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016,
        section 3.1.
    """
    _checks.count("num_dims", num_dims)
    _checks.positive("bin_width", bin_width)
    width = jnp.asarray(bin_width, log_prob.dtype)
    return -(log_prob / num_dims + jnp.log(width)) / math.log(2)


def _log_prob(field, rate, x1, conditions, base_log_prob, steps) -> Float[Array, " b"]:
    _checks.batch("x1", x1)
    for leaf in jax.tree.leaves(conditions[0]):
        _checks.same_size("args", leaf, "x1", x1)

    def augmented(t, state, conditions):
        x, _ = state
        return field(t, x, conditions[0]), rate(t, x, conditions)

    state = x1, jnp.zeros(x1.shape[0], x1.dtype)
    x0, change = integrate(augmented, state, conditions, span=(1.0, 0.0), steps=steps)
    return jax.vmap(base_log_prob)(x0) + change
