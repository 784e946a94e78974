"""Where clouds are centred: what expands |x - y|^2 rounds relative to distances from there."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_REWEIGHTINGS = 3


def centre_between(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
) -> Float[Array, " d"]:
    """The point to shift two clouds by: halfway between a robust centre of each.

    Points of weight zero have no say, and points far from the bulk next to none: a share s of
    the mass at distance D moves the centre of a cloud by about s^15 D. Seen as a constant by
    autodiff. O((n + m) d).

    Args:
        x: Points of one cloud.
        y: Points of the other.
        a: Weights of `x`; uniform by default.
        b: Weights of `y`.
    """
    x, y, a, b = jax.lax.stop_gradient((x, y, a, b))
    return (_robust_centre(x, a) + _robust_centre(y, b)) / 2


def _robust_centre(
    points: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> Float[Array, " d"]:
    """A mean, taken again with weights that fall like the squared distance from the last."""
    shares = jnp.ones_like(points[:, 0]) if weights is None else weights.astype(points.dtype)
    counts = (shares > 0) & jnp.all(jnp.isfinite(points), axis=1)
    points, shares = jnp.where(counts[:, None], points, 0), jnp.where(counts, shares, 0)
    centre = _mean(points, shares)
    for _ in range(_REWEIGHTINGS):
        squares = jnp.sum((points - centre[None, :]) ** 2, axis=1)
        near = jnp.isfinite(squares)
        squares = jnp.where(near, squares, 0)
        scale = _mean(squares[:, None], shares)[0]
        ratios = squares / jnp.where(scale > 0, scale, 1)
        # The floor keeps a point that is the centre from being infinitely heavy.
        floor = jnp.finfo(points.dtype).eps ** 2
        centre = _mean(points, jnp.where(near, shares / (ratios + floor), 0))
    return centre


def _mean(points: Float[Array, "n d"], shares: Float[Array, " n"]) -> Float[Array, " d"]:
    """The weighted mean, each weight divided first: sums of what is large may overflow."""
    total = jnp.sum(shares)
    shares = shares / jnp.where(total > 0, total, 1)
    return jnp.matmul(shares, points, precision=jax.lax.Precision.HIGHEST)
