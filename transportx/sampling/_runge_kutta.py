"""The classical Runge-Kutta method, which diffrax leaves to its users."""

from typing import ClassVar

import diffrax
import numpy as np

from transportx import _checks


@_checks.gate
class RK4(diffrax.AbstractERK):
    """The classical method of fourth order: four evaluations a step.

    For equal steps, as `flow(..., solver=RK4())`. When adaptive it takes its difference from
    the midpoint rule for its error, which is far too cautious: `diffrax.Tsit5` is better.

    References:
        Hairer, Norsett and Wanner, Solving ordinary differential equations I, 1993, table
        II.1.2.
    """

    tableau: ClassVar[diffrax.ButcherTableau] = diffrax.ButcherTableau(
        c=np.array([1 / 2, 1 / 2, 1.0]),
        a_lower=(np.array([1 / 2]), np.array([0.0, 1 / 2]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.array([1 / 6, 1 / 3 - 1, 1 / 3, 1 / 6]),
    )
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        """Of a step's accumulated error."""
        return 4
