"""Conjugate gradients, preconditioned and truncated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx._varying import alike

Vector = Float[Array, " n"]


def conjugate_gradient(
    matvec: Callable[[Vector], Vector],
    right: Vector,
    preconditioner: Vector,
    *,
    tol: Float[Array, ""],
    max_steps: Int[Array, ""] | int,
) -> tuple[Vector, Vector, Int[Array, ""]]:
    """Solve a symmetric positive semidefinite system from zero, until the residual is small.

    Stops when the L1 norm of the residual is at most `tol`, which in transport is a bound on
    misplaced mass, or after `max_steps` products; or, with the solution as it is, once
    rounding shows no more curvature.

    Returns:
        The solution, its residual, and the number of products.
    """

    def unfinished(carry):
        _, residual, _, _, step, regular = carry
        return (jnp.sum(jnp.abs(residual)) > tol) & (step < max_steps) & regular

    def body(carry):
        solution, residual, direction, slope, step, _ = carry
        image = matvec(direction)
        curvature = direction @ image
        regular = (curvature > 0) & jnp.isfinite(curvature)
        length = jnp.where(regular, slope / jnp.where(regular, curvature, 1), 0)
        solution = solution + length * direction
        residual = residual - length * image
        scaled = preconditioner * residual
        new_slope = residual @ scaled
        direction = scaled + new_slope / slope * direction
        return solution, residual, direction, new_slope, step + 1, regular

    scaled = preconditioner * right
    slope = right @ scaled
    start = jnp.zeros_like(right), right, scaled, slope, jnp.array(0), slope > 0
    start = alike(start, max_steps, tol)
    solution, residual, _, _, steps, _ = jax.lax.while_loop(unfinished, body, start)
    return solution, residual, steps
