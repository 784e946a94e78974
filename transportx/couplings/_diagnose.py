"""Diagnostics of the pairs drawn from a plan."""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx._status import Status
from transportx.geometry import AbstractCloud
from transportx.ot import EntropicPlan, ExactPlan


class Diagnostics(NamedTuple):
    """Mutual information and conditional spread of the pairs drawn from a plan.

    Attributes:
        information: Mutual information of source and target, in nats: 0 where they are
            independent, log(number of points) where each has one partner.
        normalized_information: The information over its greatest value, log min(n, m): 0 to 1.
        spread: Standard deviation of the targets given their source, root mean square, in
            units of the points: how far the pairs are from a map, and about the width over
            which a flow trained on them is blurred. 0 for a map; sqrt(epsilon d / 2) between
            Gaussians far wider than that.
        status: How the solve of the plan ended; where it failed, the numbers are NaN.

    Example:
        >>> x = jnp.array([[0.0], [10.0]])
        >>> plan = tx.couplings.Entropic(0.01).plan(x, x)
        >>> found = tx.couplings.diagnose(plan)
        >>> round(float(found.information), 2), round(float(found.spread), 2)  # log 2: a map
        (0.69, 0.0)
    """

    information: Float[Array, ""]
    normalized_information: Float[Array, ""]
    spread: Float[Array, ""]
    status: Status

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the plan met its tolerance."""
        return self.status == Status.CONVERGED


@_checks.gate
@eqx.filter_jit
def diagnose(plan: EntropicPlan) -> Diagnostics:
    """Measure how far the pairs of a plan are from independent and from a map. O(n m).

    Args:
        plan: Plan between two clouds, on one device or over a mesh.

    Raises:
        ValueError: The plan is between costs without points.

    Example:
        >>> x = jnp.array([[0.0], [10.0]])
        >>> plan = tx.couplings.Entropic(1e3).plan(x, x)
        >>> found = tx.couplings.diagnose(plan)
        >>> abs(round(float(found.information), 2)), round(float(found.spread), 1)  # independent
        (0.0, 5.0)
    """
    _, y = points_of(plan)
    rows, columns = plan.marginals
    mass = jnp.sum(rows)
    gains = rows @ plan.f + columns @ plan.g - plan.transport_cost
    information = gains / (plan.epsilon * mass) - jnp.log(
        mass / (jnp.sum(plan.a) * jnp.sum(plan.b))
    )
    few = min(plan.geometry.shape)
    normalized_information = information / math.log(few) if few > 1 else information
    from_centre = y - ((columns @ y) / mass)[None, :]
    squares = jnp.sum(from_centre**2, axis=1)
    images = plan @ from_centre / jnp.where(rows > 0, rows, 1)[:, None]
    spread = jnp.maximum(columns @ squares - rows @ jnp.sum(images**2, axis=1), 0) / mass
    return Diagnostics(information, normalized_information, jnp.sqrt(spread), plan.status)


def points_of(plan: EntropicPlan | ExactPlan) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Sources and targets of a plan between clouds."""
    cloud = plan.geometry
    if not isinstance(cloud, AbstractCloud):
        _checks.reject("plan", "is between costs without points", "solve it on a PointCloud")
    return cloud.x, cloud.y
