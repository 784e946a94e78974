r"""Free energies learned from data: from populations that were seen, or from a network's layers.

A *population* is a cloud of points; nobody knows which point of one became which of the next.
`fit_weak_form` and `fit_first_order` learn from populations at several times the free energy
$F(\rho) = \int V d\rho + \sum_l c_l F_l(\rho) + T \int \rho\log\rho$ that they descend: V and
the $F_l$ are combinations of functions and functionals that the caller names, and an answer
says in its status whether the populations determine every coefficient.
`transport_displacements` moves each population to the next by optimal transport;
`fit_displacements` fits a combination without entropy to the velocities that this gives, and
`fit_network` a potential of any form. `Monomials` and `Bumps` are dictionaries for V; so is any
`features(x) -> (p,)` of one point.

`energy_along`, `update_asymmetry`, `gradient_share`, `update_spectrum` and `linear_cka` test
whether paired states, such as the layers of a network, follow a gradient flow.

A new fit makes linear equations for the coefficients of `_equations.Unknowns`, solves them by
`_least_squares.least_squares` and answers with `_fit.as_fit`.

Example:
    >>> le = tx.learned_energies
    >>> x, times = jnp.array([[-1.0], [0.5], [2.0]]), jnp.array([0.0, 0.1, 0.2])
    >>> snapshots = x * jnp.exp(-times)[:, None, None]  # the flow of V(x) = x^2 / 2
    >>> fit = le.fit_weak_form(snapshots, times, le.Monomials(1, 2), entropy=False)
    >>> round(float(fit.energy.potential.coefficients[1]), 2)
    0.5
"""

from transportx.learned_energies._diagnostics import EnergyAlong as EnergyAlong
from transportx.learned_energies._diagnostics import GradientShare as GradientShare
from transportx.learned_energies._diagnostics import UpdateSpectrum as UpdateSpectrum
from transportx.learned_energies._diagnostics import energy_along as energy_along
from transportx.learned_energies._diagnostics import gradient_share as gradient_share
from transportx.learned_energies._diagnostics import linear_cka as linear_cka
from transportx.learned_energies._diagnostics import update_asymmetry as update_asymmetry
from transportx.learned_energies._diagnostics import update_spectrum as update_spectrum
from transportx.learned_energies._dictionaries import Bumps as Bumps
from transportx.learned_energies._dictionaries import Monomials as Monomials
from transportx.learned_energies._displacements import Displacements as Displacements
from transportx.learned_energies._displacements import fit_displacements as fit_displacements
from transportx.learned_energies._displacements import (
    transport_displacements as transport_displacements,
)
from transportx.learned_energies._first_order import fit_first_order as fit_first_order
from transportx.learned_energies._fit import EnergyFit as EnergyFit
from transportx.learned_energies._fit import LearnedEnergy as LearnedEnergy
from transportx.learned_energies._fit import LinearPotential as LinearPotential
from transportx.learned_energies._network import NetworkFit as NetworkFit
from transportx.learned_energies._network import fit_network as fit_network
from transportx.learned_energies._weak_form import fit_weak_form as fit_weak_form
