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
    """Log-densities of examples, the other end of each path, and how each ended.

    Attributes:
        log_prob: Log-densities in nats, shape (b,), or (k, b) at recorded times. NaN where an
            example failed.
        x: The points at the other end of the paths: those at t = 0 of `likelihood`, those carried
            of `push_forward`. Shaped like `log_prob` with the shape of a point appended.
        num_steps: Number of steps of each example, rejected ones included, shape (b,).
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
    r"""Log-density of the law of a flow at given points, exact up to the error of the steps.

    $\log p_1(x_1) = \log p_0(x_0) - \int_0^1 \nabla\cdot v(t, x_t)\,dt$, integrated from t = 1 back
    to 0. Each evaluation costs d forward derivatives of the field; `hutchinson_log_prob` is cheaper
    for large d.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at t = 0, in nats; a function of the point.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Returns:
        Log-densities in nats, shape (b,). NaN where an example failed: `likelihood` says why.

    Raises:
        ValueError: The batch is empty, `field` returns another shape than that of its point, or
            `base_log_prob` does not return one number.

    Differentiation:
        In `x1`, `args` and the parameters of `field`: forward and reverse mode with fixed steps,
        the mode that they name with adaptive ones.

    Example:
        >>> def field(t, x, args):  # the flow doubles every point
        ...     return jnp.log(2.0) * x
        >>> def base_log_prob(x):
        ...     return -jnp.sum(x**2) / 2 - jnp.log(2 * jnp.pi) / 2
        >>> x1 = jnp.array([[0.0], [2.0]])
        >>> found = tx.sampling.log_prob(field, x1, base_log_prob=base_log_prob, steps=10)
        >>> exact = jax.scipy.stats.norm.logpdf(x1[:, 0], scale=2.0)
        >>> bool(jnp.allclose(found, exact, atol=1e-4))
        True

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
    """Log-density like `log_prob`, with the points at t = 0 and how each example ended.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        base_log_prob: Log-density of one point at t = 0, in nats; a function of the point.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Returns:
        Log-densities, the points at t = 0, and the number of steps and the status of each example.

    Raises:
        ValueError: The batch is empty, `field` returns another shape than that of its point, or
            `base_log_prob` does not return one number.

    Example:
        >>> def field(t, x, args):
        ...     return x
        >>> made = tx.sampling.likelihood(
        ...     field, jnp.ones((2, 1)), base_log_prob=lambda x: -jnp.sum(x**2) / 2, steps=10
        ... )
        >>> round(float(made.x[0, 0]), 3), made.completed.tolist()
        (0.368, [True, True])
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
    """Unbiased estimate of `log_prob` by Hutchinson's trace estimator, for large d.

    An evaluation costs `num_probes` forward derivatives of the field, whatever d is. Each example
    keeps its probes along the whole path, so that the integrand is smooth.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the probes, independent for each example.
        num_probes: Number of probes per example, positive.
        base_log_prob: Log-density of one point at t = 0, in nats; a function of the point.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Returns:
        Estimates in nats, shape (b,). NaN where an example failed: `hutchinson_likelihood` says
        why.

    Raises:
        ValueError: The batch is empty, `num_probes` is not positive, `field` returns another shape
            than that of its point, or `base_log_prob` does not return one number.

    Differentiation:
        At fixed probes, in `x1`, `args` and the parameters of `field`: forward and reverse mode
        with fixed steps, the mode that they name with adaptive ones.

    Example:
        >>> def field(t, x, args):
        ...     return x
        >>> found = tx.sampling.hutchinson_log_prob(
        ...     field, jnp.zeros((2, 3)), key=jr.key(0), base_log_prob=lambda x: 0.0, steps=5
        ... )
        >>> [round(float(value), 2) for value in found]  # exact where the Jacobian is diagonal
        [-3.0, -3.0]

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
    """Estimate like `hutchinson_log_prob`, with the points at t = 0 and how each example ended.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x1: Points at t = 1, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the probes, independent for each example.
        num_probes: Number of probes per example, positive.
        base_log_prob: Log-density of one point at t = 0, in nats; a function of the point.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`.

    Returns:
        Estimates, the points at t = 0, and the number of steps and the status of each example.

    Raises:
        ValueError: The batch is empty, `num_probes` is not positive, `field` returns another shape
            than that of its point, or `base_log_prob` does not return one number.

    Example:
        >>> def field(t, x, args):
        ...     return x
        >>> made = tx.sampling.hutchinson_likelihood(
        ...     field, jnp.zeros((2, 3)), key=jr.key(0), base_log_prob=lambda x: 0.0, steps=5
        ... )
        >>> made.completed.tolist()
        [True, True]
    """
    check_batch("x1", x1, args)
    _checks.count("num_probes", num_probes)
    steps = as_steps(steps, diffrax.Tsit5())
    return _likelihood(field, x1, args, key, base_log_prob, steps, num_probes)


@_checks.gate
def bits_per_dimension(
    log_prob: Float[Array, "..."], num_dims: int, bin_width: ScalarLike
) -> Float[Array, "..."]:
    r"""Bits per dimension of a density of dequantised data on a grid.

    $-(\log p(x) + d\log\mathrm{width}) / (d \log 2)$. With x uniform in the bin of its datum, its
    mean is at least the bits per coordinate of the discrete model $\int_{bin} p$, by Jensen's
    inequality, and no less than the entropy of the data.

    Args:
        log_prob: Log-densities in nats, of any shape, such as those of `log_prob`, at points to
            which noise uniform in a bin was added.
        num_dims: Number d of coordinates of a point.
        bin_width: Width of a bin in the units of the points, positive: 2 / 256 for bytes that were
            mapped onto [-1, 1].

    Returns:
        Bits per dimension, shaped like `log_prob`.

    Raises:
        ValueError: `num_dims` is not a positive integer, or `bin_width` is a Python number that is
            not positive.

    Example:
        >>> nats = jnp.array([0.0])  # the uniform law on [0, 1]^4
        >>> float(tx.sampling.bits_per_dimension(nats, 4, bin_width=1 / 256)[0])
        8.0

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
