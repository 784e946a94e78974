"""Diffusions that have the marginals of a flow, at any level of noise."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks, evolution
from transportx.evolution import FixedSteps, as_steps, integrate
from transportx.sampling._batch import as_span, at_each, check_batch, check_span
from transportx.sampling._flow import Trajectories, finished

Noise = Callable[[Float[Array, ""]], Float[Array, ""]]


@_checks.gate
def diffuse(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    score: Callable[..., Array],
    noise: Noise,
    key: PRNGKeyArray,
    steps: int | FixedSteps = 100,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Float[Array, "b ..."]:
    r"""Sample by the stochastic differential equation that has the marginals of a flow.

    $dX = (v + \tfrac12 s^2 \nabla\log\rho_t)\,dt + s\,dW$. Whatever the level of noise
    s(t) >= 0, the law of X at every time is that of `flow`; at s = 0 the equation is the flow
    itself. Noise corrects errors of earlier steps and adds errors of its own. From t = 1 to
    t = 0 the sign of the score's term changes with that of dt.

    Args:
        field: Velocity field of the flow, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        score: `score(t, x, args)` of one example, the gradient of the log-density at time t:
            `fields.ScoreOf(field, path)` where the source is Gaussian. Where it is infinite, as
            at the end of a pinned path, let `noise` fall to zero before, or stop before; the
            default solver does not evaluate it at `t1`.
        noise: `noise(t)`, the level s >= 0, in units of x over the root of time.
        key: Randomness, independent for each example.
        steps: An int, that many equal Euler-Maruyama steps, of weak order one; or
            `evolution.FixedSteps` with another grid or any diffrax solver for additive noise:
            `diffrax.Heun()` is of weak order two, `diffrax.ShARK()` of strong order 1.5.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back from data to noise.

    Returns:
        Examples at time `t1`, shaped like `x0`. NaN where an example failed:
        `diffusion_trajectories` says why.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], steps are adaptive, or `field`
            or `score` returns another shape than that of its point.

    Differentiation:
        Forward and reverse mode, at fixed `key`.

    Example:
        >>> field, path = lambda t, x, args: -x, tx.interpolants.Linear()
        >>> score = lambda t, x, args: -x
        >>> x0 = jr.normal(jr.key(0), (4, 2))
        >>> x1 = tx.sampling.diffuse(
        ...     field, x0, score=score, noise=lambda t: 1 - t, key=jr.key(1), steps=5
        ... )
        >>> x1.shape, bool(jnp.isfinite(x1).all())
        ((4, 2), True)

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, theorem 2.17; Song
        et al., 2021, appendix D.
    """
    options = {"score": score, "noise": noise, "key": key, "steps": steps, "t0": t0, "t1": t1}
    return diffusion_trajectories(field, x0, args, **options).x


@_checks.gate
def diffusion_trajectories(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    score: Callable[..., Array],
    noise: Noise,
    key: PRNGKeyArray,
    steps: int | FixedSteps = 100,
    t0: ScalarLike = 0.0,
    t1: ScalarLike = 1.0,
) -> Trajectories:
    """Sample like `diffuse`, and say how each example ended.

    Args:
        field: Velocity field of the flow, `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`, shape (b, ...).
        args: Conditions, a pytree of arrays with leading axis b, or None.
        score: `score(t, x, args)` of one example, the gradient of the log-density at time t.
        noise: `noise(t)`, the level of noise s >= 0, in units of x over the root of time.
        key: Randomness, independent for each example.
        steps: An int, that many equal Euler-Maruyama steps; or `evolution.FixedSteps` with
            another grid or any diffrax solver for additive noise.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back from data to noise.

    Returns:
        Examples at time `t1`, with the number of steps and the status of each.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], steps are adaptive, or `field`
            or `score` returns another shape than that of its point.

    Example:
        >>> field = score = lambda t, x, args: -x
        >>> x0 = jnp.array([[0.0], [jnp.nan]])
        >>> made = tx.sampling.diffusion_trajectories(
        ...     field, x0, score=score, noise=lambda t: 1 - t, key=jr.key(1), steps=5
        ... )
        >>> made.completed.tolist()
        [True, False]
    """
    check_batch("x0", x0, args)
    check_span(x0, args, t0, t1)
    span, way = as_span(x0, t0, t1), as_steps(steps)
    return _diffuse(field, x0, args, score, noise, key, way, *span)


@eqx.filter_jit
def _diffuse(field, x0, args, score, noise, key, steps, t0, t1) -> Trajectories:
    """In the fraction u of the time from t0 to t1, in which noise runs forward."""

    def time(u):
        return t0 + (t1 - t0) * u, t1 - t0

    def drift(u, x, args):
        t, length = time(u)
        pull = jnp.abs(length) * noise(t) ** 2 / 2
        return length * at_each(field, t, x, args) + pull * at_each(score, t, x, args)

    def level(u, args):
        t, length = time(u)
        return jnp.sqrt(jnp.abs(length)) * noise(t)

    made = integrate(drift, x0, args, steps=steps, noise=evolution.Noise(level, key))
    return finished(x0, made.states, steps.num)
