"""Training of a field: a state, a step and a compiled loop; Python runs between chunks of steps.

`init` makes a state, `make_step` turns any `loss(field, batch, *, key)` and any optax
optimiser into a step, `fit` runs steps. A chunk is a run of steps in one `lax.scan`; a
microbatch is a block of consecutive examples of a batch. The randomness of a step comes
from the key of the run and the number of the step alone, so a run continued from a saved
state gives the same bits as one that was never stopped.

Example:
    >>> def loss(field, batch, *, key):
    ...     return jnp.mean((jax.vmap(field)(batch) - batch) ** 2)
    >>> def draw_batch(*, key):
    ...     return jr.normal(key, (4, 2))
    >>> optimizer = optax.sgd(0.1)
    >>> state = tx.training.init(eqx.nn.Linear(2, 2, key=jr.key(0)), optimizer)
    >>> step = tx.training.make_step(loss, optimizer)
    >>> state, losses = tx.training.fit(state, step, draw_batch, num_steps=2, key=jr.key(1))
    >>> losses.shape, int(state.num_steps)
    ((2,), 2)
"""

from transportx.training._fit import NonFiniteLossError as NonFiniteLossError
from transportx.training._fit import fit as fit
from transportx.training._state import Step as Step
from transportx.training._state import TrainState as TrainState
from transportx.training._state import init as init
from transportx.training._state import make_step as make_step
