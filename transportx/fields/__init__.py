"""Vector fields `field(t, x, args) -> dx/dt` of one example: learnt, exact, and calculus.

Any callable of that form is a field; batch with `vmap`. `MLP` and `DiT` are learnt;
`GaussianField`, `MixtureField` and `EmpiricalField` are the exact minimisers of the
flow-matching loss for known ends; `divergence` is the calculus.

To add a field, write a callable; an `equinox.Module` if it carries parameters.
"""

from transportx.fields._divergence import divergence as divergence
from transportx.fields._divergence import hutchinson_divergence as hutchinson_divergence
from transportx.fields._exact import EmpiricalField as EmpiricalField
from transportx.fields._exact import GaussianField as GaussianField
from transportx.fields._exact import MixtureField as MixtureField
from transportx.fields._guided import Guided as Guided
from transportx.fields._mlp import MLP as MLP
from transportx.fields._time import fourier_features as fourier_features
from transportx.fields._transformer import DiT as DiT
