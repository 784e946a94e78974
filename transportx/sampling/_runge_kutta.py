"""The classical Runge-Kutta method, which diffrax leaves to its users."""

from typing import ClassVar

import diffrax
import numpy as np

from transportx import _checks


@_checks.gate
class RK4(diffrax.AbstractERK):
    """The classical Runge-Kutta method of fourth order: four evaluations per step.

    A solver for fixed steps. Its error estimate, the difference from the midpoint rule, is far too
    cautious for adaptive steps: `diffrax.Tsit5` is better there.

    Example:
        >>> steps = tx.evolution.FixedSteps(4, tx.sampling.RK4())
        >>> x1 = tx.sampling.flow(lambda t, x, args: -x, jnp.ones((1, 1)), steps=steps)
        >>> round(float(x1[0, 0]), 3)
        0.368

    References:
        Hairer, Norsett and Wanner, Solving ordinary differential equations I, 1993, table II.1.2.
    """

    tableau: ClassVar[diffrax.ButcherTableau] = diffrax.ButcherTableau(
        c=np.array([1 / 2, 1 / 2, 1.0]),
        a_lower=(np.array([1 / 2]), np.array([0.0, 1 / 2]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.array([1 / 6, 1 / 3 - 1, 1 / 3, 1 / 6]),
    )
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        """Order of the error at the end of many steps."""
        return 4
