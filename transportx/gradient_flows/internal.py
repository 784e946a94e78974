"""Helpers for the rooms above this one; not for users."""

from transportx.gradient_flows._functional import Cloud as Cloud
from transportx.gradient_flows._functional import Scalar as Scalar
from transportx.gradient_flows._functional import Weights as Weights
from transportx.gradient_flows._functional import as_measure as as_measure
from transportx.gradient_flows._functional import as_pytree as as_pytree
from transportx.gradient_flows._slopes import slopes_and_laplacians as slopes_and_laplacians
