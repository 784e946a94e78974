"""Vector fields `field(t, x, args) -> dx/dt` of one example: learnt, exact, and calculus.

Any callable of that form is a field; batch with `vmap`. `MLP` and `DiT` are learnt;
`GaussianField`, `MixtureField` and `EmpiricalField` are the exact minimisers of the
flow-matching loss for known ends; `VelocityFrom`, `Rescheduled` and `ScoreOf` make a field of
one that predicts something else; `divergence` is the calculus. `Guided`, `EnergyGuided`,
`ClassifierGuided` and `ObservationGuided` push a field towards a condition.

Densities on a grid have many fields that move them: `dacorogna_moser`, `least_squares` and
`flux_null` make them, `diagnose_field` tells them apart.

To add a field, write a callable; an `equinox.Module` if it carries parameters.
"""

from transportx.fields._asymmetry import asymmetry as asymmetry
from transportx.fields._box import Box as Box
from transportx.fields._classifier_free import Guided as Guided
from transportx.fields._continuity import FieldDiagnostics as FieldDiagnostics
from transportx.fields._continuity import dacorogna_moser as dacorogna_moser
from transportx.fields._continuity import diagnose_field as diagnose_field
from transportx.fields._continuity import flux_null as flux_null
from transportx.fields._continuity import upwind_step as upwind_step
from transportx.fields._divergence import divergence as divergence
from transportx.fields._divergence import hutchinson_divergence as hutchinson_divergence
from transportx.fields._empirical import EmpiricalField as EmpiricalField
from transportx.fields._empirical import SourcedEmpiricalField as SourcedEmpiricalField
from transportx.fields._fourier_features import fourier_features as fourier_features
from transportx.fields._gaussian_mixtures import GaussianField as GaussianField
from transportx.fields._gaussian_mixtures import MixtureField as MixtureField
from transportx.fields._h_transform import ClassifierGuided as ClassifierGuided
from transportx.fields._h_transform import EnergyGuided as EnergyGuided
from transportx.fields._inverse_problems import ObservationGuided as ObservationGuided
from transportx.fields._least_squares import LeastSquaresField as LeastSquaresField
from transportx.fields._least_squares import least_squares as least_squares
from transportx.fields._least_squares import project_onto_gradients as project_onto_gradients
from transportx.fields._least_squares import solve_least_squares as solve_least_squares
from transportx.fields._mlp import MLP as MLP
from transportx.fields._predictions import Rescheduled as Rescheduled
from transportx.fields._predictions import ScoreOf as ScoreOf
from transportx.fields._predictions import VelocityFrom as VelocityFrom
from transportx.fields._transformer import DiT as DiT
