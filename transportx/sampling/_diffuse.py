"""Samplers with noise: the marginals of a flow, at any level of noise on the way."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks
from transportx.sampling._grids import Grid, uniform_grid
from transportx.sampling._integrate import at_each, check_span

Noise = Callable[[Float[Array, ""]], Float[Array, ""]]


class _Kicks(diffrax.AbstractPath):
    """Brownian increments of steps on a fixed grid, the same whenever a step is taken again."""

    key: PRNGKeyArray
    shape: tuple[int, ...] = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    @property
    def t0(self):
        return 0.0

    @property
    def t1(self):
        return 1.0

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        assert t1 is not None
        step = jax.lax.bitcast_convert_type(t0.astype(jnp.float32), jnp.uint32)
        kick = jr.normal(jr.fold_in(self.key, step), self.shape, self.dtype)
        return jnp.sqrt(t1 - t0) * kick


@_checks.gate
def diffuse(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    score: Callable[..., Array],
    noise: Noise,
    key: PRNGKeyArray,
    num_steps: int = 100,
    grid: Grid = uniform_grid,
    solver: diffrax.AbstractSolver | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
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
        num_steps: Fixed steps.
        grid: Where they begin and end, as in `flow`.
        solver: Any diffrax solver for additive noise; Euler-Maruyama by default, of weak
            order one. `diffrax.Heun()` is of weak order two.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1]; smaller than `t0` to go back.

    Returns:
        Examples at time `t1`, shaped like `x0`.

    Raises:
        ValueError: As `flow`.

    Differentiation:
        Reverse mode, as `flow`, at fixed `key`.

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, theorem 2.17; Song
        et al., 2021, appendix D.
    """
    _checks.batch("x0", x0)
    _checks.count("num_steps", num_steps)
    check_span(x0, args, t0, t1)
    start, length = jnp.asarray(t0, x0.dtype), jnp.asarray(t1 - t0, x0.dtype)

    def drift(u, x, args):
        t = start + length * u
        pull = jnp.abs(length) * noise(t) ** 2 / 2
        return length * at_each(field, t, x, args) + pull * at_each(score, t, x, args)

    def spread(u, x, args):
        level = jnp.sqrt(jnp.abs(length)) * noise(start + length * u)
        return lx.DiagonalLinearOperator(jnp.full_like(x, level))

    kicks = _Kicks(key, x0.shape, x0.dtype)
    terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, kicks))
    solution = diffrax.diffeqsolve(
        terms,
        diffrax.Euler() if solver is None else solver,
        jnp.zeros_like(start),
        jnp.ones_like(start),
        None,
        x0,
        args,
        stepsize_controller=diffrax.StepTo(ts=grid(num_steps, x0.dtype)),
        max_steps=num_steps,
        throw=False,
    )
    assert solution.ys is not None
    return solution.ys[0]


@_checks.gate
def predictor_corrector(
    field: Callable[..., Array],
    x0: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    score: Callable[..., Array],
    key: PRNGKeyArray,
    num_steps: int = 100,
    num_corrections: int = 1,
    signal_to_noise: float = 0.16,
    grid: Grid = uniform_grid,
    t0: float = 0.0,
    t1: float = 1.0,
) -> Float[Array, "b ..."]:
    r"""Euler steps of the flow, each followed by Langevin steps at its time.

    A Langevin step $x + \delta s + \sqrt{2\delta}\,z$ leaves the marginal at its time alone up
    to $O(\delta)$, and pulls back onto it what the steps before left off. Its size is
    $\delta = 2 (r |z| / |s|)^2$, with r the `signal_to_noise` and norms over the batch. After
    the last step, where the score may be infinite, there is none.

    Args:
        field: As in `flow`.
        x0: Examples at time `t0`.
        args: As in `flow`.
        score: As in `diffuse`.
        key: Randomness.
        num_steps: Steps of the flow.
        num_corrections: Langevin steps after each.
        signal_to_noise: r, positive.
        grid: Where steps begin and end, as in `flow`.
        t0: First time, in [0, 1].
        t1: Last time, in [0, 1].

    Returns:
        Examples at time `t1`, shaped like `x0`.

    Raises:
        ValueError: As `flow`, or a count or `signal_to_noise` is not positive.

    References:
        Song et al., Score-based generative modeling through stochastic differential
        equations, 2021, algorithms 1 and 4.
    """
    _checks.batch("x0", x0)
    _checks.count("num_steps", num_steps)
    _checks.count("num_corrections", num_corrections)
    _checks.positive("signal_to_noise", signal_to_noise)
    check_span(x0, args, t0, t1)
    times = t0 + (t1 - t0) * grid(num_steps, x0.dtype)

    def predict(x, now, then):
        return x + (then - now) * at_each(field, now, x, args)

    def correct(x, t, key):
        pull = at_each(score, t, x, args)
        z = jr.normal(key, x.shape, x.dtype)
        size = 2 * signal_to_noise**2 * jnp.sum(z * z) / jnp.sum(pull * pull)
        return x + size * pull + jnp.sqrt(2 * size) * z

    def step(x, inputs):
        now, then, key = inputs
        x = predict(x, now, then)
        keys = jr.split(key, num_corrections)
        return jax.lax.scan(lambda x, key: (correct(x, then, key), None), x, keys)

    keys = jr.split(key, num_steps)
    x, _ = jax.lax.scan(step, x0, (times[:-2], times[1:-1], keys[:-1]))
    return predict(x, times[-2], times[-1])
