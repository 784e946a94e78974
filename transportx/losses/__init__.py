"""Scalars to minimise: field, interpolant, batch and key in, one number out.

A loss averages over a batch what it does for one example. To add one, write a function of
that form; `transportx.training.make_step` takes any `loss(field, batch, *, key)`.
"""

from transportx.losses._conditions import drop_labels as drop_labels
from transportx.losses._flow_matching import flow_matching as flow_matching
from transportx.losses._flow_matching import uniform_times as uniform_times
