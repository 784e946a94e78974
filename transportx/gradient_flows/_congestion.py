"""A cap on densities: crowds that cannot be packed more tightly than that."""

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.gradient_flows._cells import AbstractInternalEnergy
from transportx.gradient_flows._functional import Weights


@_checks.gate
class DensityCap(AbstractInternalEnergy):
    r"""A barrier $-\delta\,c\int\log(1 - \rho/c)$ that holds densities below a cap c.

    In the limit of $\delta$ to zero it is hard congestion: nothing below the cap, infinite above
    it, the crowd motion of Maury and others. At any $\delta$ densities stay below the cap,
    strictly and at every step of `grid_flow`; a pressure of the size of $\delta$ acts also where
    it is not met. Masses at the cap or above are INFEASIBLE.

    Attributes:
        volume: Volume of one cell, or of each, shape (n,).
        cap: c, positive: the greatest density, not mass.
        stiffness: delta, positive, an energy a mass: small beside the drops of other energies.

    References:
        Maury, Roudneff-Chupin and Santambrogio, A macroscopic crowd motion model of gradient
        flow type, 2010.
    """

    volume: ScalarLike | Float[Array, " n"]
    cap: ScalarLike
    stiffness: ScalarLike = 1e-2

    def __check_init__(self):
        for name in ("volume", "cap", "stiffness"):
            _checks.positive(name, getattr(self, name))

    @_checks.gate
    def energy_density(self, density: Weights) -> Weights:
        cap = _checks.positive_value("cap", self.cap, density.dtype)
        stiffness = _checks.positive_value("stiffness", self.stiffness, density.dtype)
        filled = density / cap
        below = ~(filled >= 1)
        energy = -stiffness * cap * jnp.log1p(-jnp.where(below, filled, 0))
        return jnp.where(below, energy, jnp.inf)
