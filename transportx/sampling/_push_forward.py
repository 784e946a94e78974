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
    r"""Carry a batch and its log-densities through a field.

    $\dot x = v(t, x, \mathrm{args})$ and $\frac{d}{dt}\log\rho_t(x_t) = -\nabla\cdot v(t, x_t)$.
    Where `log_prob` asks for the density at given points and goes back for it, this goes with
    the particles, and knows all densities on the way. d forward derivatives of the field a
    stage.

    Example:
        ```python
        made = tx.sampling.push_forward(field, x0, jax.vmap(base_log_prob)(x0))
        made.x, made.log_prob, made.completed
        ```

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`.
        log_prob0: Their log-densities there.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        steps: An int, that many equal steps of Tsit5; `evolution.FixedSteps`; or
            `evolution.AdaptiveSteps`, of point and log-density together.
        times: Times to record, monotone from `t0` towards `t1`.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1].

    Returns:
        Examples at time `t1`, shaped like `x0`, and their log-densities, (b,); or, given
        `times`, of shapes (k, b, ...) and (k, b).

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1] or out of order, `field`
            returns another shape than its point's, or `log_prob0` is not one number per example.

    Differentiation:
        In the arrays given and the parameters of `field`: forward and reverse mode with fixed
        steps, the mode that they name with adaptive ones.

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
