r"""Vector fields `field(t, x, args) -> dx/dt`: learnt, exact, guided, and their calculus.

Any callable of that form is a field; batch with `vmap`. `MLP` and `DiT` are networks.
`GaussianField`, `MixtureField`, `EmpiricalField` and `SourcedEmpiricalField` are the exact
minimisers of the flow-matching loss for known ends. `VelocityFrom`, `ScoreOf` and `Rescheduled`
turn a field that predicts something else, or along another path, into the one you need. `Guided`,
`EnergyGuided`, `ClassifierGuided` and `ObservationGuided` push a field towards a condition.
`divergence`, `hutchinson_divergence` and `asymmetry` are calculus at a point.

A *flow map* of a field is a callable `u(s, t, x, args)`, the average velocity between two times of
the particle that is at x at the first: it arrives at $X(s, t, x) = x + (t - s)\,u(s, t, x)$, and
u(t, t, x) is the field. `GaussianFlowMap` and `LineFlowMap` are exact;
`MLPFlowMap` and `DiTFlowMap` are networks of two times.

A curve of densities on a grid, a `Box`, has many fields that move it: `dacorogna_moser`,
`least_squares` and `flux_null` make them, `diagnose_field` tells them apart, `upwind_step` moves a
density along one. In these functions a *density* is one number per cell, its *rate* the time
derivative of that number, and a field on the *faces* one array per axis with its normal
velocities on the inner faces between cells.

In this room the *denoised target* (or denoiser) is $D(t, x) = E[x_1 \mid x_t = x]$, and the
*strength* of a guidance is the factor w of its push.

To add a field, write a callable; an `equinox.Module` if it carries parameters.

Example:
    >>> field = tx.fields.MLP(2, 8, 1, key=jr.key(0))
    >>> x = jnp.ones((5, 2))
    >>> jax.vmap(field, (None, 0))(jnp.array(0.5), x).shape
    (5, 2)
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
from transportx.fields._flow_map_networks import DiTFlowMap as DiTFlowMap
from transportx.fields._flow_map_networks import MLPFlowMap as MLPFlowMap
from transportx.fields._fourier_features import fourier_features as fourier_features
from transportx.fields._gaussian_flow_map import GaussianFlowMap as GaussianFlowMap
from transportx.fields._gaussian_mixtures import GaussianField as GaussianField
from transportx.fields._gaussian_mixtures import MixtureField as MixtureField
from transportx.fields._h_transform import ClassifierGuided as ClassifierGuided
from transportx.fields._h_transform import EnergyGuided as EnergyGuided
from transportx.fields._inverse_problems import ObservationGuided as ObservationGuided
from transportx.fields._least_squares import LeastSquaresField as LeastSquaresField
from transportx.fields._least_squares import least_squares as least_squares
from transportx.fields._least_squares import project_onto_gradients as project_onto_gradients
from transportx.fields._least_squares import solve_least_squares as solve_least_squares
from transportx.fields._line_flow_map import LineFlowMap as LineFlowMap
from transportx.fields._mlp import MLP as MLP
from transportx.fields._predictions import Rescheduled as Rescheduled
from transportx.fields._predictions import ScoreOf as ScoreOf
from transportx.fields._predictions import VelocityFrom as VelocityFrom
from transportx.fields._transformer import DiT as DiT
