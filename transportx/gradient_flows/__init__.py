r"""Functionals of measures, and the flows in which they fall fastest.

A *functional* gives a number to points and weights; variation and Wasserstein gradient
follow from that one definition, and functionals add and scale. *Dynamics* say what descends:
points in W2, with noise, by a kernel, with momentum, or their weights. `flow` carries
particles, `grid_flow` masses on the cells of a box, `gaussian_flow` the moments of a
Gaussian; `jko_flow`, `line_flow`, `entropic_jko_step` and, by maps that are networks,
`convex_flow` take JKO steps. Each flow records its energy, and ends in a `tx.Status`.
Energies and kernels with a `mesh` share their pairs among its devices, over which the
particles lie all along.

`descent_loss` trains a generator to follow the flow of a functional to a batch: one evaluation
then makes a sample.

Particles follow $\dot x_i = -\nabla\frac{\delta F}{\delta\alpha}(x_i) = -n\nabla_{x_i}F$.

A new functional is an `AbstractFunctional` with one method, `value`; new dynamics are an
`AbstractDynamics`, or, of points alone, an `AbstractVelocity` with one, `velocities`.
"""

from transportx.gradient_flows._birth_death import birth_death as birth_death
from transportx.gradient_flows._birth_death import resample as resample
from transportx.gradient_flows._cells import AbstractCellEnergy as AbstractCellEnergy
from transportx.gradient_flows._cells import AbstractInternalEnergy as AbstractInternalEnergy
from transportx.gradient_flows._cells import CellBox as CellBox
from transportx.gradient_flows._cells import Entropy as Entropy
from transportx.gradient_flows._cells import PorousMedium as PorousMedium
from transportx.gradient_flows._congestion import DensityCap as DensityCap
from transportx.gradient_flows._convex_flow import ConvexFlow as ConvexFlow
from transportx.gradient_flows._convex_flow import Pushed as Pushed
from transportx.gradient_flows._convex_flow import convex_flow as convex_flow
from transportx.gradient_flows._convex_potential import ConvexPotential as ConvexPotential
from transportx.gradient_flows._descent import DescentParts as DescentParts
from transportx.gradient_flows._descent import descent_loss as descent_loss
from transportx.gradient_flows._descent import descent_parts as descent_parts
from transportx.gradient_flows._discrepancies import MMD as MMD
from transportx.gradient_flows._discrepancies import SinkhornDivergenceTo as SinkhornDivergenceTo
from transportx.gradient_flows._discrepancies import SlicedWasserstein as SlicedWasserstein
from transportx.gradient_flows._discrepancies import (
    energy_distance_squared as energy_distance_squared,
)
from transportx.gradient_flows._discrepancies import random_directions as random_directions
from transportx.gradient_flows._drifting import Drifting as Drifting
from transportx.gradient_flows._dynamics import AbstractDynamics as AbstractDynamics
from transportx.gradient_flows._dynamics import AbstractVelocity as AbstractVelocity
from transportx.gradient_flows._dynamics import Kinetic as Kinetic
from transportx.gradient_flows._dynamics import Langevin as Langevin
from transportx.gradient_flows._dynamics import Wasserstein as Wasserstein
from transportx.gradient_flows._energies import Interaction as Interaction
from transportx.gradient_flows._energies import Potential as Potential
from transportx.gradient_flows._energies import SmoothedEntropy as SmoothedEntropy
from transportx.gradient_flows._energies import kl_divergence as kl_divergence
from transportx.gradient_flows._energies import potential_from_score as potential_from_score
from transportx.gradient_flows._entropic import entropic_jko_step as entropic_jko_step
from transportx.gradient_flows._fisher import HalfFisher as HalfFisher
from transportx.gradient_flows._flow import ParticleFlow as ParticleFlow
from transportx.gradient_flows._flow import flow as flow
from transportx.gradient_flows._functional import AbstractFunctional as AbstractFunctional
from transportx.gradient_flows._functional import (
    AbstractStochasticFunctional as AbstractStochasticFunctional,
)
from transportx.gradient_flows._functional import Derivatives as Derivatives
from transportx.gradient_flows._functional import FunctionalSum as FunctionalSum
from transportx.gradient_flows._functional import Measure as Measure
from transportx.gradient_flows._functional import Scaled as Scaled
from transportx.gradient_flows._gaussian import GaussianFlow as GaussianFlow
from transportx.gradient_flows._gaussian import gaussian_flow as gaussian_flow
from transportx.gradient_flows._gaussian_energies import GaussianFisher as GaussianFisher
from transportx.gradient_flows._gaussian_energies import GaussianInteraction as GaussianInteraction
from transportx.gradient_flows._gaussian_energies import (
    GaussianRelativeEntropy as GaussianRelativeEntropy,
)
from transportx.gradient_flows._gaussian_energies import gaussian_entropy as gaussian_entropy
from transportx.gradient_flows._grid import GridFlow as GridFlow
from transportx.gradient_flows._grid import grid_flow as grid_flow
from transportx.gradient_flows._jko import jko_flow as jko_flow
from transportx.gradient_flows._kernels import AbstractRadialKernel as AbstractRadialKernel
from transportx.gradient_flows._kernels import Gaussian as Gaussian
from transportx.gradient_flows._kernels import InverseMultiquadric as InverseMultiquadric
from transportx.gradient_flows._kernels import Laplace as Laplace
from transportx.gradient_flows._kernels import NegativeDistance as NegativeDistance
from transportx.gradient_flows._line import LineFlow as LineFlow
from transportx.gradient_flows._line import line_flow as line_flow
from transportx.gradient_flows._reaction import WassersteinFisherRao as WassersteinFisherRao
from transportx.gradient_flows._score import FittedScore as FittedScore
from transportx.gradient_flows._stein import Stein as Stein
