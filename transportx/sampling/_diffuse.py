"""Samplers with noise: the marginals of a flow, at any level of noise on the way."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks, evolution
from transportx.evolution import FixedSteps, as_steps, integrate
from transportx.sampling._integrate import as_span, at_each, check_batch, check_span

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
    r"""Integrate $dX = (v + \tfrac12 s^2 \nabla\log\rho_t)\,dt + s\,dW$: the marginals of the flow.

    Whatever the noise level s(t) >= 0, the law of X at every time is that of `flow`; at zero
    it is the flow itself. Noise corrects errors of earlier steps and adds those of its own.
    Back in time the sign of the score's term changes with that of dt.

    Example:
        ```python
        score = tx.fields.ScoreOf(field, path)
        x1 = tx.sampling.diffuse(field, x0, score=score, noise=lambda t: 1 - t, key=key)
        ```

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        score: `score(t, x, args)` of one example: `fields.ScoreOf(field, path)` where the
            source is Gaussian. Where it is infinite, as at the end of a pinned path, let
            `noise` fall to zero before, or stop before; the default solver does not
            evaluate it at `t1`.
        noise: `noise(t)`, s, in units of x over the root of time.
        key: Randomness, independent for each example.
        steps: An int, that many equal Euler-Maruyama steps, of weak order one; or
            `evolution.FixedSteps` with another grid or any diffrax solver for additive noise:
            `diffrax.Heun()` is of weak order two, `diffrax.ShARK()` of strong order 1.5.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back.

    Returns:
        Examples at time `t1`, shaped like `x0`.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], steps are adaptive, or `field`
            or `score` returns another shape than its point's.

    Differentiation:
        Forward and reverse mode, at fixed `key`.

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, theorem 2.17; Song
        et al., 2021, appendix D.
    """
    check_batch("x0", x0, args)
    check_span(x0, args, t0, t1)
    span = as_span(x0, t0, t1)
    return _diffuse(field, x0, args, score, noise, key, as_steps(steps), *span)


@eqx.filter_jit
def _diffuse(field, x0, args, score, noise, key, steps, t0, t1) -> Array:
    """In the share u of the way from t0 to t1, along which noise goes forward."""

    def time(u):
        return t0 + (t1 - t0) * u, t1 - t0

    def drift(u, x, args):
        t, length = time(u)
        pull = jnp.abs(length) * noise(t) ** 2 / 2
        return length * at_each(field, t, x, args) + pull * at_each(score, t, x, args)

    def level(u, args):
        t, length = time(u)
        return jnp.sqrt(jnp.abs(length)) * noise(t)

    return integrate(drift, x0, args, steps=steps, noise=evolution.Noise(level, key)).states


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
    r"""Euler steps of the flow, each followed by Langevin steps at its time.

    A Langevin step $x + \delta s + \sqrt{2\delta}\,z$ leaves the marginal at its time alone up
    to $O(\delta)$, and pulls back onto it what the steps before left off. Its size is
    $\delta = 2 (r |z| / |s|)^2$, with r the `signal_to_noise` and norms over the batch. After
    the last step, where the score may be infinite, there is none.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        x0: Examples at time `t0`.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        score: `score(t, x, args)` of one example, finite at every step but the last.
        key: Randomness.
        steps: An int, that many equal Euler steps of the flow; or `evolution.FixedSteps` with
            another grid.
        num_corrections: Langevin steps after each.
        signal_to_noise: r, positive.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1].

    Returns:
        Examples at time `t1`, shaped like `x0`.

    Raises:
        ValueError: The batch is empty, a time is outside [0, 1], a solver is not
            `diffrax.Euler`, or a count or `signal_to_noise` is not positive.

    References:
        Song et al., Score-based generative modeling through stochastic differential
        equations, 2021, algorithms 1 and 4.
    """
    check_batch("x0", x0, args)
    _checks.count("num_corrections", num_corrections)
    _checks.positive("signal_to_noise", signal_to_noise)
    check_span(x0, args, t0, t1)
    way = as_steps(steps)
    if not isinstance(way, FixedSteps) or not isinstance(way.solver, diffrax.Euler):
        _checks.reject("steps", f"is {steps}", "give an int, or `FixedSteps` of Euler's method")
    span = as_span(x0, t0, t1)
    ratio = jnp.asarray(signal_to_noise, span[0].dtype)
    return _predict_and_correct(field, x0, args, score, key, way, num_corrections, ratio, span)


@eqx.filter_jit
def _predict_and_correct(field, x0, args, score, key, steps, num_corrections, ratio, span) -> Array:
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
    return predict(x, times[-2], times[-1]).astype(x0.dtype)
