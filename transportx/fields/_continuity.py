r"""Velocity fields of a given curve of densities, on a grid: the continuity equation has many.

A curve of densities fixes only $\nabla\cdot(\rho v) = -\partial_t\rho$. The grid is staggered:
densities in the cells of a box, velocities on the faces between them, none through the walls; so
the continuity equation holds to rounding, and no field depends on how one averages.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers
from transportx.fields._box import Box, Cells, Faces, after, before, check_density, check_faces


@_checks.gate
def dacorogna_moser(box: Box, density: Cells, rate: Cells) -> Faces:
    r"""The Dacorogna-Moser field, whose flux is a gradient.

    $\rho v = -\nabla\Delta^{-1}\partial_t\rho$.

    Args:
        box: Grid of one or two dimensions.
        density: Density in the cells, positive, of the shape of the box.
        rate: Time derivative of the density in the cells. Its mean, which cannot flow, is left out.

    Returns:
        Normal velocities on the faces, one array per axis.

    Raises:
        ValueError: An array has another shape than the box or is in half precision.

    Example:
        >>> box = tx.fields.Box((4,), (4.0,))
        >>> rate = jnp.array([-1.0, 0.0, 0.0, 1.0])
        >>> (velocity,) = tx.fields.dacorogna_moser(box, jnp.ones(4), rate)
        >>> velocity.round(3).tolist()
        [1.0, 1.0, 1.0]

    References:
        Dacorogna and Moser, On a partial differential equation involving the Jacobian determinant,
        1990.
    """
    check_density(box, density, rate)
    flux = box.gradient(box.solve_poisson(rate))
    return tuple(-j / r for j, r in zip(flux, box.on_faces(density), strict=True))


@_checks.gate
def flux_null(box: Box, density: Cells, stream: Float[Array, "k l"]) -> Faces:
    r"""A field that circulates mass and changes no density: $\rho v = \nabla^\perp s$.

    Args:
        box: Grid of two dimensions.
        density: Density in the cells, positive, of the shape of the box.
        stream: Stream function s on the inner corners, one fewer than cells along each axis; it is
            zero on the walls.

    Returns:
        Normal velocities on the faces, one array per axis; add them to any field of the density.

    Raises:
        ValueError: The box has one dimension, or an array has another shape.

    Example:
        >>> box, density = tx.fields.Box((3, 3), (3.0, 3.0)), jnp.ones((3, 3))
        >>> velocity = tx.fields.flux_null(box, density, jnp.ones((2, 2)))
        >>> float(jnp.abs(box.divergence(velocity)).max())
        0.0
    """
    check_density(box, density, density)
    inner = tuple(size - 1 for size in box.shape)
    if len(inner) != 2 or stream.shape != inner:
        cure = f"give one number per inner corner, {inner}"
        _checks.reject("stream", f"has shape {stream.shape}", cure)
    corners = jnp.pad(stream, 1)
    width, height = box.spacing
    along = jnp.diff(corners, axis=1)[1:-1] / height
    across = -jnp.diff(corners, axis=0)[:, 1:-1] / width
    first, second = box.on_faces(density)
    return along / first, across / second


class FieldDiagnostics(NamedTuple):
    r"""Numbers that distinguish fields of the same curve of densities.

    Attributes:
        energy: Kinetic energy $\int \rho |v|^2$.
        curl: Root mean square of the curl of the velocity on the inner corners, weighted by the
            density there; zero in one dimension.
        flux_curl: Root mean square of the curl of the flux $\rho v$, all corners weighted alike.
        residual: L1 norm of the residual $\partial_t\rho + \nabla\cdot(\rho v)$.
    """

    energy: Float[Array, ""]
    curl: Float[Array, ""]
    flux_curl: Float[Array, ""]
    residual: Float[Array, ""]


@_checks.gate
def diagnose_field(box: Box, density: Cells, rate: Cells, velocity: Faces) -> FieldDiagnostics:
    """Energy, curl and continuity residual of a field on a grid.

    Args:
        box: Grid of one or two dimensions.
        density: Density in the cells, positive, of the shape of the box.
        rate: Time derivative of the density in the cells.
        velocity: Normal velocities on the inner faces, one array per axis.

    Raises:
        ValueError: An array has another shape than the box or its faces, or is in half precision.

    Example:
        >>> box, rate = tx.fields.Box((4,), (4.0,)), jnp.array([-1.0, 0.0, 0.0, 1.0])
        >>> velocity = tx.fields.dacorogna_moser(box, jnp.ones(4), rate)
        >>> made = tx.fields.diagnose_field(box, jnp.ones(4), rate, velocity)
        >>> round(float(made.energy), 3), round(float(made.residual), 3)
        (3.0, 0.0)
    """
    check_density(box, density, rate)
    check_faces(box, "velocity", velocity)
    weights = box.on_faces(density)
    flux = tuple(w * v for w, v in zip(weights, velocity, strict=True))
    squares = jnp.stack([jnp.sum(j * v) for j, v in zip(flux, velocity, strict=True)])
    residual = box.volume * jnp.sum(jnp.abs(rate + box.divergence(flux)))
    energy = box.volume * jnp.sum(squares)
    return FieldDiagnostics(
        energy, _curl(box, velocity, density), _curl(box, flux, jnp.ones_like(density)), residual
    )


@_checks.gate
def upwind_step(box: Box, density: Cells, velocity: Faces, duration: ScalarLike) -> Cells:
    r"""Move a density along a field by one step of the upwind scheme.

    Each face carries the density of the cell upstream, so mass is conserved exactly. No cell
    becomes negative if none loses more than it has: $\mathrm{duration} \cdot \sum_k (v_k^+ +
    v_k^-)/h_k \le 1$ over the faces of each cell. The scheme is of first order: it diffuses by
    about $|v| h / 2$.

    Args:
        box: Grid of one or two dimensions.
        density: Density in the cells, of the shape of the box.
        velocity: Normal velocities on the inner faces, one array per axis.
        duration: Length of the step in time, zero or more.

    Returns:
        The density after the step, of the shape of the box.

    Raises:
        ValueError: An array has another shape than the box or its faces, or `duration` is a Python
            number that is negative or infinite.

    Example:
        >>> box, density = tx.fields.Box((3,), (3.0,)), jnp.array([1.0, 0.0, 0.0])
        >>> tx.fields.upwind_step(box, density, (jnp.ones(2),), 0.5).tolist()
        [0.5, 0.5, 0.0]

    References:
        LeVeque, Finite volume methods for hyperbolic problems, 2002, section 4.8.
    """
    check_density(box, density, density)
    check_faces(box, "velocity", velocity)
    _checks.not_negative("duration", duration)
    _checks.finite("duration", duration)
    duration = _numbers.not_negative(duration, density.dtype)
    flux = tuple(
        jnp.maximum(v, 0) * before(density, axis) + jnp.minimum(v, 0) * after(density, axis)
        for axis, v in enumerate(velocity)
    )
    return density - duration * box.divergence(flux)


def _curl(box: Box, vectors: Faces, density: Cells) -> Float[Array, ""]:
    if len(box.shape) == 1:
        return jnp.zeros((), density.dtype)
    first, second = vectors
    width, height = box.spacing
    circulation = jnp.diff(second, axis=0) / width - jnp.diff(first, axis=1) / height
    across = box.on_faces(density)[0]
    weights = (across[:, 1:] + across[:, :-1]) / 2
    return jnp.sqrt(jnp.sum(weights * circulation**2) / jnp.sum(weights))
