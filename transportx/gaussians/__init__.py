"""Closed forms for Gaussian measures and mixtures: exact answers to compare with.

Means have shape (d,), covariances (d, d), symmetric and positive (semi)definite.
Everything differentiates to any order, also at repeated eigenvalues; a matrix that is
not positive semidefinite gives NaN, never a plausible number.

A new closed form is a function of means and covariances, tested against sampling or a
numerical solve.

Example:
    >>> distance = tx.gaussians.wasserstein2(jnp.zeros(1), jnp.eye(1), jnp.ones(1), jnp.eye(1))
    >>> round(float(distance), 3)
    1.0
"""

from transportx.gaussians._bridge import bridge as bridge
from transportx.gaussians._bridge import bridge_drift as bridge_drift
from transportx.gaussians._entropic import EntropicGaussianPlan as EntropicGaussianPlan
from transportx.gaussians._entropic import Quadratic as Quadratic
from transportx.gaussians._entropic import debiased_divergence as debiased_divergence
from transportx.gaussians._entropic import entropic_plan as entropic_plan
from transportx.gaussians._matrices import sqrtm as sqrtm
from transportx.gaussians._measures import AffineMap as AffineMap
from transportx.gaussians._measures import Mixture as Mixture
from transportx.gaussians._measures import log_density as log_density
from transportx.gaussians._transport import bures_squared as bures_squared
from transportx.gaussians._transport import flow_matching_field as flow_matching_field
from transportx.gaussians._transport import geodesic as geodesic
from transportx.gaussians._transport import transport_map as transport_map
from transportx.gaussians._transport import wasserstein2 as wasserstein2
from transportx.gaussians._transport import wasserstein2_squared as wasserstein2_squared
from transportx.gaussians._unbalanced import UnbalancedGaussianPlan as UnbalancedGaussianPlan
from transportx.gaussians._unbalanced import entropic_unbalanced as entropic_unbalanced
from transportx.gaussians._unbalanced import unbalanced as unbalanced
