"""From a field to samples, trajectories and likelihoods.

`flow` carries a batch of examples through a velocity field. `diffuse` and `predictor_corrector`
add noise at equal marginals; `exponential_flow` needs the fewest evaluations from a Gaussian
source. `few_step` takes a few steps of a flow map, a function of two times. `log_prob` and
`hutchinson_log_prob` integrate the divergence from the data back to the noise, `push_forward`
carries log-densities along with the particles, and `few_step_log_prob` through a flow map.

Each of them returns arrays with NaN where an example failed; a sibling returns an answer with a
`tx.Status` for each example: `trajectories`, `diffusion_trajectories`,
`predictor_corrector_trajectories`, `exponential_trajectories`, `few_step_trajectories`,
`likelihood`, `hutchinson_likelihood` and `few_step_likelihood`. All but those of flow maps, which
have a `grid`, take `steps`: an int (that many equal steps), `evolution.FixedSteps` or, where there
is no noise, `evolution.AdaptiveSteps`. `PowerGrid` and `KarrasGrid` are grids for fixed steps. A
batch that is sharded over the devices of a mesh stays so: each device carries its own examples and
draws their noise.

`Reflow` draws the pairs of a second training, sources and where the flow of a trained field ends.

In this room an *example* is one point of any shape, with a leading batch axis b in every call;
a *condition* is one entry of `args`, handed to the field with its example.

A new sampler is a function `sampler(field, x0, args, ...)` of a batch, and a sibling that
returns `Trajectories`.

Example:
    >>> def field(t, x, args):
    ...     return -x
    >>> x1 = tx.sampling.flow(field, jnp.ones((2, 3)), steps=1000)
    >>> x1.shape, round(float(x1[0, 0]), 2)
    ((2, 3), 0.37)
"""

from transportx.evolution import uniform_grid as uniform_grid
from transportx.sampling._diffuse import diffuse as diffuse
from transportx.sampling._diffuse import diffusion_trajectories as diffusion_trajectories
from transportx.sampling._exponential import exponential_flow as exponential_flow
from transportx.sampling._exponential import exponential_trajectories as exponential_trajectories
from transportx.sampling._few_step import few_step as few_step
from transportx.sampling._few_step import few_step_likelihood as few_step_likelihood
from transportx.sampling._few_step import few_step_log_prob as few_step_log_prob
from transportx.sampling._few_step import few_step_trajectories as few_step_trajectories
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
from transportx.sampling._reflow import Reflow as Reflow
from transportx.sampling._reflow import ReflowBatch as ReflowBatch
from transportx.sampling._runge_kutta import RK4 as RK4
