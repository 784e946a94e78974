"""Log-likelihood of a flow: the base density plus the volume change on the way back."""

import math
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.evolution import Evolution, FixedSteps, Steps, as_steps, integrate_batch
from transportx.fields import divergence, hutchinson_divergence
from transportx.sampling._batch import check_batch

TSIT5_STEPS = FixedSteps(100, diffrax.Tsit5())


@_checks.gate
class Likelihood(eqx.Module):
    """Log-densities of examples, where each ended, and how.

    Attributes:
        log_prob: Log-densities in nats, shape (b,), or (k, b) at recorded times. NaN where an
            example failed.
        x: The points at the other end of the paths: of `likelihood` those at t = 0, of
            `push_forward` those carried, shaped like `log_prob` with the shape of a point.
        num_steps: Steps of each example, rejected ones included.
        status: How each example ended: `COMPLETED`, `MAX_STEPS` or `NON_FINITE`.
    """

    log_prob: Float[Array, "*k b"]
    x: Float[Array, "..."]
    num_steps: Int[Array, " b"]
    status: Status

    @property
    def completed(self) -> Bool[Array, " b"]:
        """Whether each example reached the last time with a density."""
        return self.status == Status.COMPLETED


@_checks.gate
def log_prob(
    field: Callable[..., Array],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    base_log_prob: Callable[[Array], Array],
    steps: Steps = TSIT5_STEPS,
) -> Float[Array, " b"]:
    r"""Exact log-density of the flow's law at the given points, up to integration error.

    $\log p_1(x_1) = \log p_0(x_0) - \int_0^1 \nabla\cdot v(t, x_t)\,dt$, integrated from
    t = 1 back to 0. d forward derivatives of the field a step; see `hutchinson_log_prob`
    for large d.

    Example:
        ```python
        tx.sampling.log_prob(field, x1, base_log_prob=lambda x: -jnp.sum(x**2) / 2, steps=20)
        ```

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at t = 0.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`, of point and log-density together.

    Returns:
        Log-densities in nats; `bits_per_dimension` for data of whole numbers. NaN where an
        example failed: `likelihood` says why.

    Raises:
        ValueError: The batch is empty, or `field` returns another shape than its point's.

    Differentiation:
        In `x1`, `args` and the parameters of `field`: forward and reverse mode with fixed
        steps, the mode that they name with adaptive ones.

    References:
        Chen et al., Neural Ordinary Differential Equations, 2018, theorem 1.
    """
    return likelihood(field, x1, args, base_log_prob=base_log_prob, steps=steps).log_prob


@_checks.gate
def likelihood(
    field: Callable[..., Array],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    base_log_prob: Callable[[Array], Array],
    steps: Steps = TSIT5_STEPS,
) -> Likelihood:
    """`log_prob`, with the points at t = 0, a status and the number of steps of every example.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at t = 0.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Raises:
        ValueError: The batch is empty, or `field` returns another shape than its point's.
    """
    check_batch("x1", x1, args)
    steps = as_steps(steps, diffrax.Tsit5())
    return _likelihood(field, x1, args, None, base_log_prob, steps, 0)


@_checks.gate
def hutchinson_log_prob(
    field: Callable[..., Array],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    num_probes: int = 1,
    base_log_prob: Callable[[Array], Array],
    steps: Steps = TSIT5_STEPS,
) -> Float[Array, " b"]:
    """Unbiased estimate of `log_prob`: `num_probes` derivatives a step, whatever d is.

    Each example keeps its own probes along the whole path, so that the integrand is smooth.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Draws the probes, independent for each example.
        num_probes: Probes per example.
        base_log_prob: Log-density of one point at t = 0.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Returns:
        Estimates in nats. NaN where an example failed: `hutchinson_likelihood` says why.

    Raises:
        ValueError: The batch is empty, `num_probes` is not positive, or `field` returns another
            shape than its point's.

    Differentiation:
        At fixed probes; modes as the steps have them.

    References:
        Grathwohl et al., FFJORD, 2019, section 3.1.
    """
    options = {"base_log_prob": base_log_prob, "num_probes": num_probes, "steps": steps}
    return hutchinson_likelihood(field, x1, args, key=key, **options).log_prob


@_checks.gate
def hutchinson_likelihood(
    field: Callable[..., Array],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    num_probes: int = 1,
    base_log_prob: Callable[[Array], Array],
    steps: Steps = TSIT5_STEPS,
) -> Likelihood:
    """`hutchinson_log_prob`, with the points at t = 0, a status and the number of steps.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Draws the probes, independent for each example.
        num_probes: Probes per example.
        base_log_prob: Log-density of one point at t = 0.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Raises:
        ValueError: The batch is empty, `num_probes` is not positive, or `field` returns another
            shape than its point's.
    """
    check_batch("x1", x1, args)
    _checks.count("num_probes", num_probes)
    steps = as_steps(steps, diffrax.Tsit5())
    return _likelihood(field, x1, args, key, base_log_prob, steps, num_probes)


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
    width = _checks.positive_value("bin_width", bin_width, log_prob.dtype)
    return -(log_prob / num_dims + jnp.log(width)) / math.log(2)


@eqx.filter_jit
def _likelihood(field, x1, args, key, base_log_prob, steps, num_probes: int) -> Likelihood:
    """Exact where there are no probes."""
    keys = None if key is None else jr.split(key, x1.shape[0])

    def rates(t, state, conditions):
        (x, _), (args, key) = state, conditions
        velocity = field(t, x, args)
        if key is None:
            return velocity, divergence(field, t, x, args)
        estimate = hutchinson_divergence(field, t, x, args, key=key, num_probes=num_probes)
        return velocity, estimate

    state = x1, jnp.zeros(x1.shape[0], x1.dtype)
    made = integrate_batch(rates, state, (args, keys), t0=1.0, t1=0.0, steps=steps)
    x0, change = made.states

    def base(x):
        value = base_log_prob(x)
        _checks.number("base_log_prob", value)
        return value

    return with_density(made, x0, jax.vmap(base)(x0) + change)


def with_density(made: Evolution, x: Array, log_prob: Array) -> Likelihood:
    """The answer of an evolution: a NaN density is no answer either; an infinite one is."""
    lost = jnp.any(jnp.isnan(log_prob.reshape(-1, log_prob.shape[-1])), axis=0)
    status = judge(
        (lost & (made.status == Status.COMPLETED), Status.NON_FINITE), otherwise=made.status
    )
    return Likelihood(log_prob, x, made.num_steps, status)
