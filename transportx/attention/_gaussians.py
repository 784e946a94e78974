"""Gaussian tokens stay Gaussian: moments in depth, and when they blow up."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status
from transportx.attention._attention import Attention
from transportx.attention._mixing import AbstractClosedMixing, AbstractMixing
from transportx.evolution import (
    AdaptiveSteps,
    Steps,
    as_steps,
    check_times,
    integrate,
    time_dtype,
)
from transportx.gaussians import AffineMap

Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]


@_checks.gate
def gaussian_field(attention: Attention, mean: Point, covariance: Matrix) -> AffineMap:
    r"""Attention field of the Gaussian N(mean, covariance), an affine map: exact, in O(h d^3).

    With M = K^T Q and S the covariance, a head at temperature tau gives

    - `Softmax`: $V m + V S M x / \tau$;
    - `L2`: $V (I + 2 S K^\top K/\tau)^{-1} (m + 2 S M x/\tau)$;
    - `SinkhornAttention`: $V m + V G M (x - m)$, with G the slope of the entropic plan of
      regularisation 2 tau from $N(Mm, M S M^\top)$ to N(m, S);
    - `LinearAttention`: $V (S + m m^\top) M x / \tau$, whatever the law.

    Args:
        attention: Attention with one of these mixings, not causal, and square value matrices.
        mean: Mean of the tokens, shape (d,).
        covariance: Their covariance, shape (d, d); may be singular.

    Raises:
        ValueError: The mixing has no closure or is causal, or shapes do not fit.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> field = tx.attention.gaussian_field(attention, jnp.ones(2), jnp.eye(2))
        >>> field(jnp.ones(2)).tolist()  # m + S x
        [2.0, 2.0]

    References:
        Castin, Ablin, Carrillo and Peyre, A unified perspective on the dynamics of deep
        transformers, 2025.
    """
    _check_moments(attention, mean, covariance)
    mixing = attention.mixing
    if not isinstance(mixing, AbstractClosedMixing):
        problem = f"is {type(mixing).__name__}, whose field on a Gaussian is not affine"
        _checks.reject(
            "attention.mixing", problem, "give Softmax, L2, LinearAttention or SinkhornAttention"
        )
    check_no_order(mixing)

    def head(query, key, value):
        taken = mixing.on_gaussian(query, key, mean, covariance)
        return value @ taken(mean), value @ taken.matrix

    offsets, slopes = jax.vmap(head)(attention.query, attention.key, attention.value)
    return AffineMap(mean, jnp.sum(offsets, axis=0), jnp.sum(slopes, axis=0))


@_checks.gate
def gaussian_rates(
    attention: Attention, mean: Point, covariance: Matrix, *, decay: ScalarLike = 0.0
) -> tuple[Point, Matrix]:
    """Depth derivatives of mean and covariance: m' = Gamma(m) - c m, S' = A S + S A^T.

    A is the matrix of `gaussian_field` less c I.

    Args:
        attention: Attention whose mixing has a closed form on Gaussians, as `gaussian_field` lists.
        mean: Mean of the tokens, shape (d,).
        covariance: Covariance of the tokens, shape (d, d).
        decay: Rate c of a term -c x in the velocity; 1 for mean shift.

    Returns:
        Rates of the mean (d,) and of the covariance (d, d).

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> rates = tx.attention.gaussian_rates(attention, jnp.zeros(2), jnp.eye(2))
        >>> rates[1].tolist()  # A = S, so that S' = 2 S^2
        [[2.0, 0.0], [0.0, 2.0]]
    """
    field = gaussian_field(attention, mean, covariance)
    c = jnp.asarray(decay, mean.dtype)
    moved = field.matrix @ covariance - c * covariance
    return field(mean) - c * mean, moved + moved.T


@_checks.gate
class GaussianTokens(eqx.Module):
    """Gaussian law of tokens in depth, with the status of the integration.

    Attributes:
        mean: Mean at the last depth, shape (d,); or at the recorded ones, shape (k, d). NaN from
            where the flow failed, as at a blow-up.
        covariance: Covariance, shape (d, d), or (k, d, d).
        num_steps: Number of steps, rejected ones included.
        status: `COMPLETED`, `MAX_STEPS` or `NON_FINITE`.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> law = tx.attention.evolve_gaussian(attention, jnp.zeros(2), jnp.eye(2), depth=0.25)
        >>> bool(law.completed), law.covariance.shape
        (True, (2, 2))
    """

    mean: Float[Array, "*k d"]
    covariance: Float[Array, "*k d d"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether the last depth was reached with finite moments."""
        return self.status == Status.COMPLETED


@_checks.gate
def evolve_gaussian(
    attention: Attention,
    mean: Point,
    covariance: Matrix,
    *,
    depth: ScalarLike,
    decay: ScalarLike = 0.0,
    steps: Steps = AdaptiveSteps(1e-6, 1e-8),
    depths: Float[Array, " k"] | None = None,
) -> GaussianTokens:
    """Evolve the mean and covariance of Gaussian tokens in depth: the limit of infinitely many.

    Args:
        attention: Attention whose mixing has a closed form on Gaussians, as `gaussian_field` lists.
        mean: Mean at depth 0, shape (d,).
        covariance: Covariance at depth 0, shape (d, d).
        depth: Final depth, positive; may be traced.
        decay: Rate c of a term -c x in the velocity; 1 for mean shift.
        steps: `evolution.AdaptiveSteps`; `evolution.FixedSteps`; or an int, that many equal
            steps of Tsit5.
        depths: Depths to record, shape (k,), rising within 0 and `depth`.

    Raises:
        ValueError: The mixing has no closure or is causal, shapes do not fit, `depth` is a
            Python number that is not positive, or depths are out of order.

    Differentiation:
        With respect to moments, depth, decay and all matrices: the mode that adaptive steps name,
        forward and reverse mode with fixed ones.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> law = tx.attention.evolve_gaussian(attention, jnp.zeros(2), jnp.eye(2), depth=0.25)
        >>> round(float(law.covariance[0, 0]), 2)  # 1 / (1 - 2 / 4)
        2.0
    """
    _check_moments(attention, mean, covariance)
    _checks.positive("depth", depth)
    if depths is not None:
        check_times("depths", depths, 0.0, depth)
    dtype = time_dtype(mean)
    length, rate = _numbers.not_negative(depth, dtype), jnp.asarray(decay, dtype)
    way = as_steps(steps, diffrax.Tsit5())
    return _gaussian_flow(attention, mean, covariance, length, rate, way, depths)


@eqx.filter_jit
def _gaussian_flow(attention, mean, covariance, depth, decay, steps, depths) -> GaussianTokens:
    def rates(t, moments, args):
        return gaussian_rates(attention, *moments, decay=decay)

    made = integrate(rates, (mean, covariance), t1=depth, steps=steps, times=depths)
    mean, covariance = made.states
    return GaussianTokens(mean, covariance, made.num_steps, made.status)


def check_no_order(mixing: AbstractMixing) -> None:
    """Refuse a causal mixing: a measure has no order."""
    if getattr(mixing, "causal", False):
        problem = "is causal, but a measure has no order"
        _checks.reject("attention.mixing", problem, "give one that is not causal")


def _check_moments(attention: Attention, mean: Array, covariance: Array) -> None:
    heads, _, dim = attention.query.shape
    if attention.value.shape[1] != dim:
        problem = f"has values of shape {attention.value.shape}"
        _checks.reject("attention", problem, f"give square ones, ({heads}, {dim}, {dim})")
    if mean.shape != (dim,):
        _checks.reject("mean", f"has shape {mean.shape}", f"give a vector of {dim} coordinates")
    _checks.floating("mean", mean)
    if covariance.shape != (dim, dim):
        problem = f"has shape {covariance.shape}"
        _checks.reject("covariance", problem, f"give a {dim} x {dim} matrix")
