"""Half the Fisher information of a density on cells, alone or relative to another."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx.gradient_flows._cells import AbstractCellEnergy, CellBox
from transportx.gradient_flows._functional import Cloud, Scalar, Weights


@_checks.gate
class HalfFisher(AbstractCellEnergy):
    r"""$\frac12\int|\nabla\log(\rho/\pi)|^2\,d\rho = 2\int|\nabla\sqrt{\rho/\pi}|^2\,d\pi$.

    On cells $2\sum_f \sqrt{\pi_a\pi_b}\,(\sqrt{\mu_b/\pi_b} - \sqrt{\mu_a/\pi_a})^2 / h_f^2$ over
    the faces between cells a and b: convex, zero at multiples of pi alone, of second order in
    the width of the cells. Its flow is an equation of fourth order, in which densities stay
    positive: quantum drift-diffusion. The points are the cells, which do not move.

    Attributes:
        box: The cells.
        reference: Masses of pi, positive, of any total; by default those of Lebesgue measure,
            where the flow spreads as $t^{1/4}$.

    References:
        Gianazza, Savare and Toscani, The Wasserstein gradient flow of the Fisher information
        and the quantum drift-diffusion equation, 2009.
    """

    box: CellBox = eqx.field(static=True)
    reference: Float[Array, " n"] | None = None

    def __check_init__(self):
        if self.reference is not None:
            _checks.floating("reference", self.reference)
            _check_cells("reference", self.reference, self.box)

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        _check_cells("weights", weights, self.box)
        before, behind, widths = self.box.faces
        reference = jnp.ones_like(weights) if self.reference is None else self.reference
        present = weights > 0
        # The root has no derivative at zero, and masses below zero no root.
        roots = jnp.sqrt(jnp.where(present, weights, 1) / reference)
        roots = jnp.where(present, roots, 0)
        between = jnp.sqrt(reference[before] * reference[behind])
        steps = (roots[behind] - roots[before]) / jnp.asarray(widths, weights.dtype)
        return 2 * jnp.sum(between * steps**2)


def _check_cells(name: str, masses: Array, box: CellBox) -> None:
    count = box.centres.shape[0]
    if masses.shape != (count,):
        _checks.reject(name, f"has shape {masses.shape}", f"give one mass a cell, shape {(count,)}")
