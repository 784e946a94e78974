"""The predictor-corrector sampler: steps of the flow, each followed by Langevin steps."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks
from transportx.evolution import FixedSteps
from transportx.sampling._batch import as_own_steps, as_span, at_each, check_batch, check_span
from transportx.sampling._flow import Trajectories, finished


@_checks.gate
def predictor_corrector(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    score: Callable[..., Array],
    key: PRNGKeyArray,
    steps: int | FixedSteps = 100,
    num_corrections: int = 1,
    signal_to_noise: float = 0.16,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Float[Array, "b ..."]:
    r"""Sample by Euler steps of the flow, each followed by Langevin steps at its time.

    A Langevin step $x + \delta s + \sqrt{2\delta}\,z$ leaves the marginal at its time alone up
    to $O(\delta)$, and pulls points back onto it that earlier steps moved off. Its size is
    $\delta = 2 (r |z| / |s|)^2$, with r the `signal_to_noise` and norms over the whole batch.
    After the last step, where the score may be infinite, there is no Langevin step.

    Args:
        field: Velocity field of the flow, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        score: `score(t, x, args)` of one example, the gradient of the log-density at time t,
            finite at every step but the last: `fields.ScoreOf(field, path)` where the source is
            Gaussian.
        key: Randomness of the Langevin steps.
        steps: An int, that many equal Euler steps of the flow; or `evolution.FixedSteps` with
            another grid.
        num_corrections: Number of Langevin steps after each Euler step, at least 1.
        signal_to_noise: r, positive; 0.16 suits images.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1].

    Returns:
        Examples at time `t1`, shaped like `x0`. NaN where an example failed:
        `predictor_corrector_trajectories` says why.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], steps are adaptive or have a
            solver, or a count or `signal_to_noise` is not positive.

    Differentiation:
        Forward and reverse mode, at fixed `key`.

    Example:
        >>> field = score = lambda t, x, args: -x
        >>> x0 = jr.normal(jr.key(0), (4, 2))
        >>> x1 = tx.sampling.predictor_corrector(field, x0, score=score, key=jr.key(1), steps=5)
        >>> x1.shape, bool(jnp.isfinite(x1).all())
        ((4, 2), True)

    References:
        Song et al., Score-based generative modeling through stochastic differential
        equations, 2021, algorithms 1 and 4.
    """
    options = {"num_corrections": num_corrections, "signal_to_noise": signal_to_noise}
    options |= {"score": score, "key": key, "steps": steps, "t0": t0, "t1": t1}
    return predictor_corrector_trajectories(field, x0, args, **options).x


@_checks.gate
def predictor_corrector_trajectories(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    score: Callable[..., Array],
    key: PRNGKeyArray,
    steps: int | FixedSteps = 100,
    num_corrections: int = 1,
    signal_to_noise: float = 0.16,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Trajectories:
    """Sample like `predictor_corrector`, and say how each example ended.

    Args:
        field: Velocity field of the flow, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        score: `score(t, x, args)` of one example, the gradient of the log-density at time t,
            finite at every step but the last.
        key: Randomness of the Langevin steps.
        steps: An int, that many equal Euler steps of the flow; or `evolution.FixedSteps` with
            another grid.
        num_corrections: Number of Langevin steps after each Euler step, at least 1.
        signal_to_noise: Ratio r that sets the size of a Langevin step, positive.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1].

    Returns:
        Examples at time `t1`, with the number of Euler steps and the status of each. The size
        of a Langevin step is common to the batch, so one example that is NaN fails all.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], steps are adaptive or have a
            solver, or a count or `signal_to_noise` is not positive.

    Example:
        >>> field = score = lambda t, x, args: -x
        >>> x0 = jr.normal(jr.key(0), (4, 2))
        >>> made = tx.sampling.predictor_corrector_trajectories(
        ...     field, x0, score=score, key=jr.key(1), steps=5
        ... )
        >>> bool(made.completed.all()), made.num_steps.tolist()
        (True, [5, 5, 5, 5])
    """
    check_batch("x0", x0, args)
    _checks.count("num_corrections", num_corrections)
    _checks.positive("signal_to_noise", signal_to_noise)
    check_span(x0, args, t0, t1)
    way, span = as_own_steps(steps), as_span(x0, t0, t1)
    ratio = jnp.asarray(signal_to_noise, span[0].dtype)
    return _predict_and_correct(field, x0, args, score, key, way, num_corrections, ratio, span)


@eqx.filter_jit
def _predict_and_correct(
    field, x0, args, score, key, steps, num_corrections, ratio, span
) -> Trajectories:
    x, times = x0.astype(ratio.dtype), steps.nodes(*span)

    def predict(x, now, then):
        return x + (then - now) * at_each(field, now, x, args).astype(x.dtype)

    def correct(x, t, key):
        pull = at_each(score, t, x, args).astype(x.dtype)
        z = jr.normal(key, x.shape, x.dtype)
        size = 2 * ratio**2 * jnp.sum(z * z) / jnp.sum(pull * pull)
        return x + size * pull + jnp.sqrt(2 * size) * z

    def step(x, inputs):
        now, then, key = inputs
        x = predict(x, now, then)
        keys = jr.split(key, num_corrections)
        return jax.lax.scan(lambda x, key: (correct(x, then, key), None), x, keys)

    keys = jr.split(key, steps.num)
    x, _ = jax.lax.scan(step, x, (times[:-2], times[1:-1], keys[:-1]))
    return finished(x0, predict(x, times[-2], times[-1]).astype(x0.dtype), steps.num)
