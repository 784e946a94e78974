"""Closed forms of Gaussian softmax attention, and the depth at which moments blow up."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status
from transportx.attention._attention import Attention
from transportx.attention._gaussians import gaussian_field, gaussian_rates
from transportx.evolution import AdaptiveSteps, integrate_until
from transportx.gaussians import AffineMap, sqrtm

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
def softmax_gaussian_map(
    t: ScalarLike,
    mean: Point,
    covariance: Matrix,
    matrix: Matrix | None = None,
    *,
    temperature: ScalarLike = 1.0,
) -> AffineMap:
    r"""Closed-form flow map of Gaussian tokens under softmax attention with V = I.

    With S the covariance, M = K^T Q / tau symmetric and $D = (I - 2 t S M)^{-1/2}$, a token
    goes to $e^t D m + D (x - m)$, so that the law of the tokens is
    $N(e^t D m,\ (S^{-1} - 2 t M)^{-1})$. NaN from `softmax_blow_up` on, and where `matrix`
    is not symmetric.

    Args:
        t: Depth, not negative.
        mean: Mean at depth 0, shape (d,).
        covariance: Covariance at depth 0, shape (d, d), positive definite.
        matrix: K^T Q, shape (d, d), of any signature; the identity by default.
        temperature: tau, positive.

    Example:
        >>> move = tx.attention.softmax_gaussian_map(0.25, jnp.zeros(1), jnp.eye(1))
        >>> round(float(move(jnp.array([1.0]))[0]), 3)  # (1 - 2 / 4)^(-1/2)
        1.414
    """
    t = _numbers.not_negative(t, mean.dtype)
    root, scores = _whitened(covariance, matrix, temperature)
    identity = jnp.eye(mean.size, dtype=mean.dtype)
    # Its square root is NaN where the covariance has blown up, or was no covariance.
    left = jnp.linalg.solve(sqrtm(identity - 2 * t * scores), root)
    move = jnp.linalg.solve(root, left).T
    return AffineMap(mean, jnp.exp(t) * move @ mean, move)


@_checks.gate
def softmax_blow_up(
    covariance: Matrix, matrix: Matrix | None = None, *, temperature: ScalarLike = 1.0
) -> Scalar:
    r"""Blow-up depth $1 / 2\lambda_{\max}(S^{1/2} M S^{1/2})$ of `softmax_gaussian_map`.

    Infinite where no eigenvalue is positive; then every Gaussian exists at all depths.

    Args:
        covariance: S at depth 0, shape (d, d), positive definite.
        matrix: K^T Q, symmetric, shape (d, d); the identity by default. M is this over tau.
        temperature: tau, positive.

    Example:
        >>> round(float(tx.attention.softmax_blow_up(2 * jnp.eye(2))), 3)
        0.25
    """
    most = jnp.max(jnp.linalg.eigvalsh(_whitened(covariance, matrix, temperature)[1]))
    lives = most <= 0
    return jnp.where(lives, jnp.inf, 1 / (2 * jnp.where(lives, 1, most)))


def _whitened(covariance, matrix, temperature) -> tuple[Matrix, Matrix]:
    """S^1/2, and S^1/2 M S^1/2; NaN where M is not symmetric."""
    root = sqrtm(covariance)
    M = jnp.eye(root.shape[0], dtype=root.dtype) if matrix is None else matrix
    _checks.same_shape("matrix", M, "covariance", covariance)
    slack = 100 * jnp.finfo(M.dtype).eps * jnp.max(jnp.abs(M))
    M = jnp.where(jnp.max(jnp.abs(M - M.T)) <= slack, (M + M.T) / 2, jnp.nan)
    scores = root @ M @ root / _numbers.positive(temperature, M.dtype)
    return root, (scores + scores.T) / 2


@_checks.gate
class BlowUp(eqx.Module):
    """Depth at which Gaussian tokens blow up, with the status of the search.

    Attributes:
        depth: Infinite if the tokens exist beyond the horizon; NaN if the search failed.
        num_steps: Number of steps, rejected ones included.
        status: `COMPLETED` if a blow-up or the horizon was reached; `MAX_STEPS` if the steps did
            not suffice, or the mean overflowed before; `NON_FINITE`.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> found = tx.attention.blow_up_depth(attention, jnp.zeros(2), jnp.eye(2), horizon=1.0)
        >>> bool(found.completed)
        True
    """

    depth: Scalar
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether a blow-up or the horizon was reached."""
        return self.status == Status.COMPLETED


@_checks.gate
def blow_up_depth(
    attention: Attention,
    mean: Point,
    covariance: Matrix,
    *,
    horizon: ScalarLike,
    decay: ScalarLike = 0.0,
    steps: AdaptiveSteps = AdaptiveSteps(1e-8, 1e-8),
) -> BlowUp:
    """Find the depth at which Gaussian tokens blow up.

    Depth runs slower where the field is steeper, so that the singularity takes a few dozen
    steps and not a vanishing step size. Moments that merely grow do not count: where the
    slope of the field stays bounded, as for `L2` with invertible K, the answer is infinite.

    Args:
        attention: Attention whose mixing has a closed form on Gaussians, as `gaussian_field` lists.
        mean: Mean at depth 0, shape (d,).
        covariance: Covariance at depth 0, shape (d, d).
        horizon: Depth at which to give up, positive; may be traced.
        decay: Rate c of a term -c x in the velocity; 1 for mean shift.
        steps: Adaptive steps; their absolute tolerance is in units of the tokens' deviation
            where that is below 1.

    Raises:
        ValueError: The mixing has no closure or is causal, shapes do not fit, or `horizon` is a
            Python number that is not positive.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> found = tx.attention.blow_up_depth(attention, jnp.zeros(2), jnp.eye(2), horizon=1.0)
        >>> round(float(found.depth), 2)
        0.5
    """
    _checks.positive("horizon", horizon)
    mean, covariance = _numbers.matched(mean, covariance)
    end, rate = (jnp.asarray(number, mean.dtype) for number in (horizon, decay))
    end = jnp.where(end >= 0, end, jnp.nan)
    return _blow_up(attention, mean, covariance, end, rate, steps)


@eqx.filter_jit
def _blow_up(attention, mean, covariance, end, decay, steps) -> BlowUp:
    # A slope this steep leaves a depth below rounding, relative to the horizon.
    steepest = 0.01 / (jnp.finfo(mean.dtype).eps * end)
    scale = jnp.sqrt(jnp.trace(covariance) / mean.size)
    steps = dataclasses.replace(steps, atol=steps.atol * jnp.minimum(scale, 1))

    def steepness(mean, covariance):
        return jnp.linalg.norm(gaussian_field(attention, mean, covariance).matrix)

    def rates(s, state, args):
        _, *moments = state
        pace = 1 / (1 / end + steepness(*moments))
        moved = gaussian_rates(attention, *moments, decay=decay)
        return pace, *(pace * rate for rate in moved)

    def ended(state):
        depth, *moments = state
        return (depth >= end) | (steepness(*moments) > steepest)

    start = jnp.zeros_like(end), mean, covariance
    made = integrate_until(rates, start, ended, steps=steps)
    depth = made.states[0]
    return BlowUp(jnp.where(depth >= end, jnp.inf, depth), made.num_steps, made.status)
