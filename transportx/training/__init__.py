"""State, step and loop. The loop is compiled: Python runs between chunks, not steps.

`init` makes a state, `make_step` turns any `loss(field, batch, *, key)` and any optax
optimiser into a step, `fit` runs steps. Each step's randomness comes from the run's key
and the number of the step alone, so a run continued from a saved state gives the same
bits as one that was never stopped.
"""

from transportx.training._fit import NonFiniteLossError as NonFiniteLossError
from transportx.training._fit import fit as fit
from transportx.training._state import Step as Step
from transportx.training._state import TrainState as TrainState
from transportx.training._state import init as init
from transportx.training._state import make_step as make_step
