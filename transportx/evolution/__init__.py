"""The one clock: how a state moves in time, for every room that moves one.

`integrate` carries a state, any pytree, from one time to another; `integrate_batch` carries a
batch of states, each on its own; `integrate_until` stops at an event. How to step is one
argument, `steps`: an int (that many equal steps), `FixedSteps` (a solver on a grid) or
`AdaptiveSteps` (tolerances). diffrax's solvers do the stepping. `Noise` adds Brownian motion.
An `Evolution` holds the states, at the last time or at recorded ones, the number of steps taken
and a `tx.Status`.

A *grid* says where fixed steps begin and end: any `grid(num, dtype)` that rises from 0 at the
first time to 1 at the last, such as `uniform_grid`. A new way to step is a solver of diffrax.

Example:
    ```python
    decay = lambda t, y, args: -y
    path = tx.evolution.integrate(decay, jnp.ones(3), steps=1000, times=jnp.linspace(0, 1, 5))
    path.states                                                     # (5, 3)
    tight = tx.evolution.AdaptiveSteps(rtol=1e-6, atol=1e-6)
    tx.evolution.integrate(decay, jnp.ones(3), steps=tight).completed
    ```
"""

from transportx.evolution._integrate import Evolution as Evolution
from transportx.evolution._integrate import integrate as integrate
from transportx.evolution._integrate import integrate_batch as integrate_batch
from transportx.evolution._integrate import integrate_until as integrate_until
from transportx.evolution._noise import Noise as Noise
from transportx.evolution._steps import AdaptiveSteps as AdaptiveSteps
from transportx.evolution._steps import FixedSteps as FixedSteps
from transportx.evolution._steps import Grid as Grid
from transportx.evolution._steps import Steps as Steps
from transportx.evolution._steps import as_steps as as_steps
from transportx.evolution._steps import uniform_grid as uniform_grid
from transportx.evolution._times import check_times as check_times
from transportx.evolution._times import record_times as record_times
from transportx.evolution._times import time_dtype as time_dtype
