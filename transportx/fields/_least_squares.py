"""The field of least energy among those that move a curve of densities: a gradient, on a grid."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Int

from transportx import _checks
from transportx._status import Status, judge
from transportx.fields._box import Box, Cells, Faces, check_density, check_faces


@_checks.gate
class LeastSquaresField(eqx.Module):
    """The gradient field that moves a density at a given rate, and how its solve ended.

    Attributes:
        velocity: Normal velocities on the faces, one array per axis. NaN unless `converged`.
        num_steps: Steps of conjugate gradients.
        status: How the solve ended: `CONVERGED`, `MAX_STEPS`, `STALLED`, `NON_FINITE`, or
            `INFEASIBLE` where a density is negative.
    """

    velocity: Faces
    num_steps: Int[Array, ""]
    status: Status

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the residual met the tolerance."""
        return self.status == Status.CONVERGED


@_checks.gate
def least_squares(
    box: Box, density: Cells, rate: Cells, *, rtol: float = 1e-6, max_steps: int = 2000
) -> Faces:
    r"""Find the field of least energy $\int \rho |v|^2$ that moves a density at a given rate.

    It is a gradient, $v = \nabla\psi$ with $-\nabla\cdot(\rho\nabla\psi) = \partial_t\rho$, and
    is found by conjugate gradients, scaled by the diagonal, so that a density may fall over
    many decades. Steps grow like the number of cells along a side.

    Args:
        box: Grid of one or two dimensions.
        density: Density in the cells, positive, of the shape of the box.
        rate: Time derivative of the density in the cells. Its mean, which cannot flow, is left
            out.
        rtol: Largest residual over the largest rate, both divided by the root of the diagonal;
            positive. float32 reaches about 1e-3 on a grid of a hundred cells a side.
        max_steps: Largest number of steps.

    Returns:
        Normal velocities on the faces, one array per axis. NaN if the solve failed:
        `solve_least_squares` says why.

    Raises:
        ValueError: An array has another shape than the box or is in half precision, or `rtol` or
            `max_steps` is not positive.

    Differentiation:
        In `density` and `rate`, by one more solve; forward and reverse mode.

    Example:
        >>> box = tx.fields.Box((4,), (4.0,))
        >>> rate = jnp.array([-1.0, 0.0, 0.0, 1.0])
        >>> (velocity,) = tx.fields.least_squares(box, jnp.ones(4), rate)
        >>> velocity.round(3).tolist()
        [1.0, 1.0, 1.0]

    References:
        Otto, The geometry of dissipative evolution equations, 2001; Benamou and Brenier, A
        computational fluid mechanics solution to the Monge-Kantorovich problem, 2000.
    """
    return solve_least_squares(box, density, rate, rtol=rtol, max_steps=max_steps).velocity


@_checks.gate
def solve_least_squares(
    box: Box, density: Cells, rate: Cells, *, rtol: float = 1e-6, max_steps: int = 2000
) -> LeastSquaresField:
    """Find the field of `least_squares`, and say how the solve ended.

    Args:
        box: Grid of one or two dimensions.
        density: Density in the cells, positive, of the shape of the box.
        rate: Time derivative of the density in the cells.
        rtol: Largest residual over the largest rate, both divided by the root of the diagonal;
            positive.
        max_steps: Largest number of steps.

    Returns:
        The field, with the number of steps and a status.

    Raises:
        ValueError: An array has another shape than the box or is in half precision, or `rtol` or
            `max_steps` is not positive.

    Example:
        >>> box = tx.fields.Box((4,), (4.0,))
        >>> rate = jnp.array([-1.0, 0.0, 0.0, 1.0])
        >>> made = tx.fields.solve_least_squares(box, jnp.ones(4), rate, max_steps=1)
        >>> bool(made.converged), bool(made.status == tx.Status.MAX_STEPS)
        (False, True)
    """
    check_density(box, density, rate)
    _checks.scale("rtol", rtol)
    _checks.count("max_steps", max_steps)
    return _solve(box, density, rate, rtol, max_steps)


@eqx.filter_jit
def _solve(box: Box, density: Cells, rate: Cells, rtol: float, max_steps: int) -> LeastSquaresField:
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
    status = judge(
        (jnp.any(density < 0), Status.INFEASIBLE),
        (~jnp.all(jnp.isfinite(density) & jnp.isfinite(right)), Status.NON_FINITE),
        (answer.result == lx.RESULTS.successful, Status.CONVERGED),
        (answer.result == lx.RESULTS.max_steps_reached, Status.MAX_STEPS),
        otherwise=Status.STALLED,
    )
    solved = status == Status.CONVERGED
    velocity = box.gradient(jnp.where(solved, size * answer.value / root, jnp.nan))
    return LeastSquaresField(velocity, jnp.asarray(answer.stats["num_steps"]), status)


@_checks.gate
def project_onto_gradients(
    box: Box, density: Cells, velocity: Faces, *, rtol: float = 1e-6, max_steps: int = 2000
) -> Faces:
    r"""Find the gradient field that moves a density as a given field does, with least energy.

    The projection in $L^2(\rho)$: what is left over changes no density. It is `least_squares` for
    the rate $-\nabla\cdot(\rho v)$.

    Args:
        box: Grid of one or two dimensions.
        density: Density in the cells, positive, of the shape of the box.
        velocity: Normal velocities on the inner faces, one array per axis.
        rtol: Largest residual over the largest rate, both divided by the root of the diagonal;
            positive.
        max_steps: Largest number of steps of conjugate gradients.

    Returns:
        Normal velocities on the faces, one array per axis. NaN if the solve failed:
        `solve_least_squares` of that rate says why.

    Raises:
        ValueError: An array has another shape than the box or its faces, or is in half
            precision, or `rtol` or `max_steps` is not positive.

    Example:
        >>> box, density = tx.fields.Box((4, 4), (1.0, 1.0)), jnp.ones((4, 4))
        >>> circles = tx.fields.flux_null(box, density, jnp.ones((3, 3)))
        >>> along, across = tx.fields.project_onto_gradients(box, density, circles)
        >>> bool(jnp.abs(along).max() < 1e-3)  # it changes no density
        True
    """
    check_density(box, density, density)
    check_faces(box, "velocity", velocity)
    weights = box.on_faces(density)
    flux = tuple(w * v for w, v in zip(weights, velocity, strict=True))
    rate = -box.divergence(flux)
    return least_squares(box, density, rate, rtol=rtol, max_steps=max_steps)


def _diagonal(box: Box, weights: Faces) -> Cells:
    """The diagonal of minus the weighted Laplacian: weights of a cell's faces over width^2."""
    total = jnp.zeros(box.shape, weights[0].dtype)
    for axis, (weight, width) in enumerate(zip(weights, box.spacing, strict=True)):
        below, above = ([(0, 0)] * len(box.shape) for _ in range(2))
        below[axis], above[axis] = (1, 0), (0, 1)
        total = total + (jnp.pad(weight, below) + jnp.pad(weight, above)) / width**2
    return total
