"""What rooms above this one need of it, and users need not see."""

from transportx.gradient_flows._functional import Cloud as Cloud
from transportx.gradient_flows._functional import Scalar as Scalar
from transportx.gradient_flows._functional import Weights as Weights
from transportx.gradient_flows._functional import as_pytree as as_pytree
from transportx.gradient_flows._slopes import slopes_and_laplacians as slopes_and_laplacians
