"""Linear equations in units of their noise, by least squares that drops what they do not show."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks

Scalar = Float[Array, ""]
Matrix = Float[Array, "r u"]
Values = Float[Array, " r"]
Kept = Bool[Array, " u"]


class Solution(NamedTuple):
    """Coefficients, and how well the equations hold and determine them."""

    coefficients: Float[Array, " u"]
    deviations: Float[Array, " u"]
    kept: Kept
    misfit: Scalar
    rank: Int[Array, ""]
    condition: Scalar


def least_squares(
    matrix: Matrix,
    values: Values,
    *,
    lost: int = 0,
    last_positive: bool = False,
    ridge: ScalarLike,
    threshold: ScalarLike,
    covariance: Float[Array, "r r"] | None = None,
) -> Solution:
    """Solve by QR, columns brought to unit length and shrunk by `ridge`, a positive number.

    While the weakest coefficient is below `threshold` of its deviations it is dropped, and the
    rest solved for again; so is the last one, if it must be positive and is not. Of the
    equations, `lost` follow from the others. Errors of the equations are independent and of the
    size of the misfit, or of the covariance given, and larger if the misfit is above one.
    """
    freedom, size = values.size - lost, matrix.shape[1]
    if freedom < size:
        cure = "give more tests or times, or fewer features"
        _checks.reject("snapshots", f"make {freedom} equations for {size} unknowns", cure)
    signed = (jnp.arange(size) == size - 1) & last_positive
    held = jax.lax.stop_gradient((matrix, values, covariance))

    def drop(_, kept):
        found, deviations, _ = _solve(*held, kept, freedom, ridge)
        strength = jnp.where(signed, found, jnp.abs(found)) / deviations
        ratio = jnp.where(kept, strength, jnp.inf)
        weakest = jnp.arange(size) == jnp.argmin(ratio)
        return kept & ~(weakest & (ratio < threshold))

    kept = jax.lax.fori_loop(0, size, drop, jnp.ones(size, bool))
    equations = matrix, values, covariance
    coefficients, deviations, misfit = _solve(*equations, kept, freedom, ridge)
    scaled, _ = _unit_columns(held[0], kept)
    sizes = jnp.linalg.svd(scaled, compute_uv=False)
    cutoff = max(matrix.shape) * jnp.finfo(sizes.dtype).eps * sizes[0]
    least = sizes[jnp.maximum(jnp.sum(kept) - 1, 0)]
    rank = jnp.sum(sizes > cutoff)
    return Solution(coefficients, deviations, kept, misfit, rank, sizes[0] / least)


def all_coefficients(matrix: Matrix, values: Values, ridge: ScalarLike) -> Float[Array, " u"]:
    """What `least_squares` finds if nothing is dropped."""
    kept = jnp.ones(matrix.shape[1], bool)
    return _solve(matrix, values, None, kept, values.size, ridge)[0]


def _solve(
    matrix: Matrix,
    values: Values,
    covariance: Float[Array, "r r"] | None,
    kept: Kept,
    freedom: int,
    ridge: ScalarLike,
):
    """Coefficients, their deviations, and the size of the misfit."""
    scaled, lengths = _unit_columns(matrix, kept)
    identity = jnp.eye(kept.size, dtype=matrix.dtype)
    shrink = jnp.sqrt(jnp.asarray(ridge, matrix.dtype)) * identity
    q, r = jnp.linalg.qr(jnp.concatenate([scaled, shrink]))
    found = jax.scipy.linalg.solve_triangular(r, q[: values.size].T @ values)
    spread = jax.scipy.linalg.solve_triangular(r, identity)
    left = jnp.sum((scaled @ found - values) ** 2)
    if covariance is None:
        expected = jnp.maximum(freedom - jnp.sum(kept), 1).astype(matrix.dtype)
        misfit = jnp.sqrt(left / expected)
        deviations = misfit * jnp.linalg.norm(spread, axis=1) / lengths
    else:
        response = spread @ q[: values.size].T
        moved = response @ covariance
        fitted = 2 * jnp.sum(moved * scaled.T) - jnp.sum((moved @ response.T) * (scaled.T @ scaled))
        misfit = jnp.sqrt(left / (jnp.trace(covariance) - fitted))
        variances = jnp.sum(moved * response, axis=1)
        # A column that is zero responds to nothing.
        live = variances > 0
        root = jnp.where(live, jnp.sqrt(jnp.where(live, variances, 1)), variances)
        deviations = jnp.maximum(misfit, 1) * root / lengths
    return found / lengths, jnp.where(kept, deviations, 0), misfit


def _unit_columns(matrix: Matrix, kept: Kept) -> tuple[Matrix, Float[Array, " u"]]:
    """Columns over their lengths; zero where dropped, or where they are zero."""
    squares = jnp.sum(matrix**2, axis=0)
    lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return jnp.where(kept[None, :], matrix / lengths[None, :], 0), lengths
