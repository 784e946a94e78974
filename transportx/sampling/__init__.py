"""From a field to samples, trajectories and likelihoods; diffrax does the stepping.

`flow` carries a batch through a field; `log_prob` and `hutchinson_log_prob` integrate the
divergence along the way back. All take a fixed number of steps, or `rtol` and `atol` for
adaptive steps, one step size an example.

A new sampler is a function `sampler(field, x0, args, ...)` of a batch.
"""

from transportx.sampling._flow import flow as flow
from transportx.sampling._likelihood import hutchinson_log_prob as hutchinson_log_prob
from transportx.sampling._likelihood import log_prob as log_prob
