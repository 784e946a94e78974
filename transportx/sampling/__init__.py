"""From a field to samples, trajectories and likelihoods; diffrax does the stepping.

`flow` carries a batch through a field; `log_prob` and `hutchinson_log_prob` integrate the
divergence along the way back; `trajectories`, `likelihood` and `hutchinson_likelihood` also say
how each example ended. All take `steps`: an int, `evolution.FixedSteps` or, where there is no
noise, `evolution.AdaptiveSteps`. `diffuse` and `predictor_corrector` add noise at
equal marginals; `exponential_flow` needs the fewest evaluations from a Gaussian source.
`push_forward` takes log-densities along with the particles. A batch that lies over the
devices of a mesh stays there: each carries its own examples, and draws their noise.

A new sampler is a function `sampler(field, x0, args, ...)` of a batch.
"""

from transportx.evolution import uniform_grid as uniform_grid
from transportx.sampling._diffuse import diffuse as diffuse
from transportx.sampling._diffuse import diffusion_trajectories as diffusion_trajectories
from transportx.sampling._exponential import exponential_flow as exponential_flow
from transportx.sampling._exponential import exponential_trajectories as exponential_trajectories
from transportx.sampling._flow import Trajectories as Trajectories
from transportx.sampling._flow import flow as flow
from transportx.sampling._flow import trajectories as trajectories
from transportx.sampling._grids import KarrasGrid as KarrasGrid
from transportx.sampling._grids import PowerGrid as PowerGrid
from transportx.sampling._likelihood import Likelihood as Likelihood
from transportx.sampling._likelihood import bits_per_dimension as bits_per_dimension
from transportx.sampling._likelihood import hutchinson_likelihood as hutchinson_likelihood
from transportx.sampling._likelihood import hutchinson_log_prob as hutchinson_log_prob
from transportx.sampling._likelihood import likelihood as likelihood
from transportx.sampling._likelihood import log_prob as log_prob
from transportx.sampling._predictor_corrector import predictor_corrector as predictor_corrector
from transportx.sampling._predictor_corrector import (
    predictor_corrector_trajectories as predictor_corrector_trajectories,
)
from transportx.sampling._push_forward import push_forward as push_forward
from transportx.sampling._runge_kutta import RK4 as RK4
