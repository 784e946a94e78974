"""Reflow: the flow of a trained field couples the sources of a second training."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks
from transportx.evolution import Steps
from transportx.sampling._flow import flow


class ReflowBatch(NamedTuple):
    """Sources, where the flow carries them, and their conditions: what losses are given.

    Attributes:
        x0: Sources, shape (b, ...).
        x1: Ends of their trajectories, of the same shape; NaN where one failed.
        args: Conditions, a pytree of arrays with leading axis b, or None.
    """

    x0: Float[Array, "b ..."]
    x1: Float[Array, "b ..."]
    args: PyTree[Array]


@_checks.gate
class Reflow(eqx.Module):
    r"""Reflow coupling: fresh sources, each paired with where the flow of a trained field ends.

    The `draw_batch` of a second training, ``training.fit(state, step, Reflow(...), ...)``, whose
    loss takes the batch apart: ``losses.flow_matching(field, path, *batch, key=key)``. The map from
    sources to ends is that of the first field, as exact as its steps are; trajectories of the
    second field are straighter, so that few steps sample it. Straight they are after one training
    between Gaussians; otherwise the transport cost falls with every further one.

    Attributes:
        field: Trained velocity field, `field(t, x, args) -> dx/dt` of one example; the average of a
            state of training.
        draw_sources: `draw_sources(key=key) -> (x0, args)`, a batch of sources with their
            conditions, None where the field has none. Give it arrays as an `equinox.Partial`.
        steps: An int, that many equal Euler steps; `evolution.FixedSteps` or
            `evolution.AdaptiveSteps`. Each batch costs as much as sampling it.

    Example:
        >>> def field(t, x, args):
        ...     return -x
        >>> def draw_sources(*, key):
        ...     return jr.normal(key, (4, 2)), None
        >>> batch = tx.sampling.Reflow(field, draw_sources, steps=1000)(key=jr.key(0))
        >>> bool(jnp.allclose(batch.x1, jnp.exp(-1) * batch.x0, rtol=1e-2))
        True
        >>> loss = tx.losses.flow_matching(field, tx.interpolants.Linear(), *batch, key=jr.key(1))
        >>> loss.shape
        ()

    References:
        Liu, Gong and Liu, Flow straight and fast: learning to generate and transfer data with
        rectified flow, 2023.
    """

    field: Callable[..., Array]
    draw_sources: Callable[..., tuple[Array, PyTree[Array]]]
    steps: Steps = 100

    @_checks.gate
    def __call__(self, *, key: PRNGKeyArray) -> ReflowBatch:
        """Draw a batch of sources and carry them to the end.

        Args:
            key: Randomness of the sources.
        """
        drawn = self.draw_sources(key=key)
        if not (isinstance(drawn, tuple) and len(drawn) == 2):
            cure = "return a pair (x0, args), args being None without conditions"
            _checks.reject("draw_sources", f"returns {type(drawn).__name__}", cure)
        x0, args = drawn
        x1 = flow(self.field, x0, args, steps=self.steps)
        return ReflowBatch(x0, jax.lax.stop_gradient(x1), args)
