"""What pairs drawn from a plan are like."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx.geometry import PointCloud
from transportx.ot import EntropicPlan


class Diagnostics(NamedTuple):
    """What a plan does to the pairs drawn from it.

    Attributes:
        information: Mutual information of source and target, in nats: 0 where they are
            independent, log(number of points) where each has one partner.
        share: The same over its greatest value, the least log of both numbers of points.
        spread: Standard deviation of the targets given their source, root mean square: how
            far the pairs are from a map, and about the width over which a flow trained on
            them is blurred. 0 for a map; sqrt(epsilon d / 2) between Gaussians far wider
            than that.
    """

    information: Float[Array, ""]
    share: Float[Array, ""]
    spread: Float[Array, ""]


@_checks.gate
def diagnose(plan: EntropicPlan) -> Diagnostics:
    """Where between independent pairs and a map a plan of point clouds lies. O(n m)."""
    rows, columns = plan.marginals
    mass = jnp.sum(rows)
    gains = rows @ plan.f + columns @ plan.g - plan.transport_cost
    information = gains / (plan.epsilon * mass) - jnp.log(
        mass / (jnp.sum(plan.a) * jnp.sum(plan.b))
    )
    most = jnp.log(jnp.asarray(min(plan.geometry.shape), mass.dtype))
    cloud = plan.geometry
    if not isinstance(cloud, PointCloud):
        _checks.reject("plan", "is between costs without points", "solve it on a PointCloud")
    centre = jnp.mean(cloud.y, axis=0)[None, :]
    squares = jnp.sum((cloud.y - centre) ** 2, axis=1)
    of_images = jnp.sum((plan.barycentric_map() - centre) ** 2, axis=1)
    spread = jnp.maximum(columns @ squares - rows @ of_images, 0) / mass
    return Diagnostics(information, information / most, jnp.sqrt(spread))
