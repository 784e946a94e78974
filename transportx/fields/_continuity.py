r"""Velocity fields of a given curve of densities, on a grid: there are many, and each has a reason.

A curve of densities fixes only $\nabla\cdot(\rho v) = -\partial_t\rho$. The grid is staggered:
densities in the cells of a box, velocities on the faces between them, none through the walls;
so the continuity equation holds to rounding, and no field depends on how one averages.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers
from transportx.fields._box import Box, Cells, Faces, after, before, check_faces


@_checks.gate
def dacorogna_moser(box: Box, density: Cells, rate: Cells) -> Faces:
    r"""The field whose flux is a gradient: $v = -\rho^{-1} \nabla \Delta^{-1} \partial_t \rho$.

    Args:
        box: The grid.
        density: Density in the cells, positive.
        rate: Its time derivative; what it lacks to a total of zero cannot flow, and is left out.

    Returns:
        Normal velocities on the faces, one array an axis.

    References:
        Dacorogna and Moser, On a partial differential equation involving the Jacobian
        determinant, 1990.
    """
    _check(box, density, rate)
    flux = box.gradient(box.solve_poisson(rate))
    return tuple(-j / r for j, r in zip(flux, box.on_faces(density), strict=True))


@_checks.gate
def least_squares(
    box: Box, density: Cells, rate: Cells, *, rtol: float = 1e-6, max_steps: int = 2000
) -> Faces:
    r"""The field of least energy $\int \rho |v|^2$: a gradient, $v = \nabla\psi$.

    Solves $-\nabla\cdot(\rho\nabla\psi) = \partial_t\rho$ by conjugate gradients, scaled by
    the diagonal, so that a density may fall over many decades. Steps grow like the cells
    along a side. NaN if they do not converge.

    Args:
        box: The grid.
        density: Density in the cells, positive.
        rate: Its time derivative.
        rtol: Residual at most, over the largest rate, both over the root of the diagonal.
            float32 reaches about 1e-3 on a grid of a hundred cells a side.
        max_steps: Steps at most.

    References:
        Otto, The geometry of dissipative evolution equations, 2001; Benamou and Brenier, A
        computational fluid mechanics solution to the Monge-Kantorovich problem, 2000.
    """
    _check(box, density, rate)
    _checks.scale("rtol", rtol)
    _checks.count("max_steps", max_steps)
    weights = box.on_faces(density)
    root = jnp.sqrt(_diagonal(box, weights))

    def operator(scaled):
        slopes = box.gradient(scaled / root)
        flux = tuple(w * s for w, s in zip(weights, slopes, strict=True))
        # A constant potential is free; this pins it.
        pin = root * (jnp.sum(root * scaled) / jnp.sum(root * root))
        return pin - box.divergence(flux) / root

    right = (rate - jnp.mean(rate)) / root
    # The solver's tolerances are for each entry: the largest sets the unit.
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(right)))
    size = jnp.where(size > 0, size, 1)
    shape = jax.ShapeDtypeStruct(box.shape, density.dtype)
    answer = lx.linear_solve(
        lx.FunctionLinearOperator(operator, shape, lx.positive_semidefinite_tag),
        right / size,
        lx.CG(rtol=rtol, atol=rtol, max_steps=max_steps),
        throw=False,
    )
    solved = answer.result == lx.RESULTS.successful
    return box.gradient(jnp.where(solved, size * answer.value / root, jnp.nan))


def _diagonal(box: Box, weights: Faces) -> Cells:
    """The diagonal of minus the weighted Laplacian: weights of a cell's faces over width^2."""
    total = jnp.zeros(box.shape, weights[0].dtype)
    for axis, (weight, width) in enumerate(zip(weights, box.spacing, strict=True)):
        below, above = ([(0, 0)] * len(box.shape) for _ in range(2))
        below[axis], above[axis] = (1, 0), (0, 1)
        total = total + (jnp.pad(weight, below) + jnp.pad(weight, above)) / width**2
    return total


@_checks.gate
def flux_null(box: Box, density: Cells, stream: Float[Array, "k l"]) -> Faces:
    r"""A field that moves mass in circles and changes no density: $\rho v = \nabla^\perp s$.

    Args:
        box: The grid, of two dimensions.
        density: Density in the cells, positive.
        stream: Stream function on the inner corners, one fewer than cells along each axis;
            zero on the walls.

    Returns:
        Normal velocities on the faces; add them to any field of the same density.
    """
    _check(box, density, density)
    inner = tuple(size - 1 for size in box.shape)
    if len(inner) != 2 or stream.shape != inner:
        cure = f"give a number an inner corner, {inner}"
        _checks.reject("stream", f"has shape {stream.shape}", cure)
    corners = jnp.pad(stream, 1)
    width, height = box.spacing
    along = jnp.diff(corners, axis=1)[1:-1] / height
    across = -jnp.diff(corners, axis=0)[:, 1:-1] / width
    first, second = box.on_faces(density)
    return along / first, across / second


@_checks.gate
def project_onto_gradients(box: Box, density: Cells, velocity: Faces, **options) -> Faces:
    """The gradient field that moves the density as `velocity` does: its part of least energy.

    `options` are those of `least_squares`.
    """
    _check(box, density, density)
    check_faces(box, "velocity", velocity)
    weights = box.on_faces(density)
    flux = tuple(w * v for w, v in zip(weights, velocity, strict=True))
    return least_squares(box, density, -box.divergence(flux), **options)


class FieldDiagnostics(NamedTuple):
    r"""What distinguishes fields of the same curve.

    Attributes:
        energy: $\int \rho |v|^2$.
        curl: Root mean square of the velocity's curl on the inner corners, weighed by the
            density there; zero in one dimension.
        flux_curl: Root mean square of the curl of the flux $\rho v$, all corners alike.
        residual: L1 norm of $\partial_t\rho + \nabla\cdot(\rho v)$.
    """

    energy: Float[Array, ""]
    curl: Float[Array, ""]
    flux_curl: Float[Array, ""]
    residual: Float[Array, ""]


@_checks.gate
def diagnose_field(box: Box, density: Cells, rate: Cells, velocity: Faces) -> FieldDiagnostics:
    """Energy, curl and continuity residual of a field on a grid."""
    _check(box, density, rate)
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
    r"""Carry a density along a field for a while, each face fed from the cell upstream.

    Mass is kept exactly. No cell becomes negative if in `duration` no cell loses more than
    it has: $\mathrm{duration} \cdot \sum_k (v_k^+ + v_k^-)/h_k \le 1$ over its faces. First
    order: it smears by about $|v| h / 2$.

    References:
        LeVeque, Finite volume methods for hyperbolic problems, 2002, section 4.8.
    """
    _check(box, density, density)
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


def _check(box: Box, density: Cells, rate: Cells) -> None:
    for name, array in (("density", density), ("rate", rate)):
        if array.shape != box.shape:
            cure = f"give one number a cell, {box.shape}"
            _checks.reject(name, f"has shape {array.shape}", cure)
        _checks.floating(name, array)
        if _numbers.is_half(array):
            cure = "convert it to float32: halves do not hold a curve of densities"
            _checks.reject(name, f"has dtype {array.dtype}", cure)
