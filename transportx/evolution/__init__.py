"""Evolution of a state in time: the one clock of all rooms that integrate a differential equation.

`integrate` carries a state, any pytree of arrays, from one time to another; `integrate_batch`
carries a batch of states, each on its own; `integrate_until` stops at an event. How to step is
one argument, `steps`: an int (that many equal steps), `FixedSteps` (a solver on a grid) or
`AdaptiveSteps` (tolerances). diffrax's solvers do the stepping. `Noise` adds Brownian motion. The
answer is an `Evolution`: states, number of steps, and a `tx.Status`.

In this room the *rates* are the right-hand side `rates(t, y, args) -> dy/dt`; a *record* is the
state at a time that the caller asks for; a *grid* is any function `grid(num, dtype)` whose
num + 1 nodes rise from 0 at the first time to 1 at the last, such as `uniform_grid`.

A new way to step is a solver of diffrax; a new grid is a function.

Example:
    >>> def decay(t, y, args):
    ...     return -y
    >>> made = tx.evolution.integrate(decay, jnp.ones(3), steps=1000)
    >>> round(float(made.states[0]), 2), bool(made.completed)
    (0.37, True)
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
