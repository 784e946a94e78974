"""Particles together with their log-density, along their trajectories."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks
from transportx.evolution import Steps, as_steps, integrate_batch
from transportx.fields import divergence
from transportx.sampling._batch import as_records, as_span, check_batch, check_span, still
from transportx.sampling._flow import unmoved
from transportx.sampling._likelihood import TSIT5_STEPS, Likelihood, with_density


@_checks.gate
def push_forward(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    log_prob0: Float[Array, " b"],
    args: PyTree[Array] = None,
    *,
    steps: Steps = TSIT5_STEPS,
    times: Float[Array, " k"] | None = None,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Likelihood:
    r"""Carry a batch and its log-densities through the flow of a field.

    $\dot x = v(t, x, \mathrm{args})$ and $\frac{d}{dt}\log\rho_t(x_t) = -\nabla\cdot v(t, x_t)$.
    `log_prob` computes the density at given points and goes back for it; this function goes forward
    with the particles and knows their densities at every time. An evaluation costs d forward
    derivatives of the field.

    Args:
        field: Velocity field, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        log_prob0: Log-densities of the examples at time `t0`, in nats, shape (b,).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`, whose tolerances hold for point and log-density together.
        times: Times to record, shape (k,), monotone from `t0` towards `t1`.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back.

    Returns:
        Examples at time `t1`, shaped like `x0`, and their log-densities, shape (b,); or, given
        `times`, of shapes (k, b, ...) and (k, b); with the number of steps and the status of each.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1] or out of order, `field` returns
            another shape than that of its point, or `log_prob0` is not one number per example.

    Differentiation:
        In the given arrays and the parameters of `field`: forward and reverse mode with fixed
        steps, the mode that they name with adaptive ones.

    Example:
        >>> def field(t, x, args):
        ...     return x
        >>> made = tx.sampling.push_forward(field, jnp.ones((2, 3)), jnp.zeros(2), steps=5)
        >>> round(float(made.x[0, 0]), 2), round(float(made.log_prob[0]), 2)
        (2.72, -3.0)
        >>> made.completed.tolist()
        [True, True]

    References:
        Chen et al., Neural Ordinary Differential Equations, 2018, theorem 1.
    """
    check_batch("x0", x0, args)
    if log_prob0.shape != x0.shape[:1]:
        cure = f"give one number per example, shape {x0.shape[:1]}"
        _checks.reject("log_prob0", f"has shape {log_prob0.shape}", cure)
    check_span(x0, args, t0, t1)
    times, steps = as_records(times, t0, t1), as_steps(steps, diffrax.Tsit5())
    if still(t0, t1):
        made = unmoved((x0, log_prob0), times)
        return with_density(made, *made.states)
    return _push(field, x0, log_prob0, args, *as_span(x0, t0, t1), steps, times)


@eqx.filter_jit
def _push(field, x0, log_prob0, args, t0, t1, steps, times) -> Likelihood:
    def rates(t, state, args):
        x, _ = state
        return field(t, x, args), -divergence(field, t, x, args)

    state = x0, log_prob0
    made = integrate_batch(rates, state, args, t0=t0, t1=t1, steps=steps, times=times)
    x, log_prob = made.states
    # A field may be undefined where its derivative is not.
    defined = jnp.all(jnp.isfinite(x.reshape(*log_prob.shape, -1)), axis=-1)
    return with_density(made, x, jnp.where(defined, log_prob, jnp.nan))
