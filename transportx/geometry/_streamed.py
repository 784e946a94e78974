"""Streamed sums with Gibbs kernels: fused where platform and geometry allow, else in tiles."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx._varying import axes_of
from transportx.geometry import _fused
from transportx.geometry._costs import AbstractCost, SquaredEuclidean, Swapped
from transportx.geometry._forbidden import exponents
from transportx.geometry._geometries import AbstractGeometry, PointCloud
from transportx.geometry._merges import SumExp

Scalar = Float[Array, ""]


@_checks.gate
def fused_log_totals(
    geometry: AbstractGeometry,
    b: Float[Array, " m"],
    g: Float[Array, " m"],
    epsilon: Scalar,
    *,
    otherwise: Callable[..., Float[Array, " n"]],
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp((g_j - C_ij) / epsilon): the soft c-transform, over -epsilon.

    Streamed squared distances in float32 are summed by one kernel on a TPU or an NVIDIA GPU,
    which writes no costs; its derivatives are such kernels too. Everything else is left to
    `otherwise`. Costs O(n m d), memory O((n + m) d).

    Args:
        geometry: The costs.
        b: Weights; terms of weight zero count for nothing.
        g: Potential of the targets.
        epsilon: Regularisation.
        otherwise: The same sums, of (geometry, b, g, epsilon), in tiles.
    """
    return _choose(_log_totals, otherwise, geometry, b, g, epsilon)


def log_totals(
    geometry: AbstractGeometry, b: Float[Array, " m"], g: Float[Array, " m"], epsilon: Scalar
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp((g_j - C_ij) / epsilon), fused where that is possible.

    Minus infinity for a source that nothing of any weight is at a finite cost of.

    Args:
        geometry: The costs.
        b: Weights; terms of weight zero count for nothing.
        g: Potential of the targets.
        epsilon: Regularisation.
    """
    return fused_log_totals(geometry, b, g, epsilon, otherwise=_log_totals_in_tiles)


def _log_totals_in_tiles(geometry, b, g, epsilon):
    peaks, sums = geometry.fold_tiles(SumExp(), eqx.Partial(_totals, epsilon), (b, g))
    return peaks + jnp.log(sums)


def _totals(epsilon, columns, costs):
    b, g = columns
    return SumExp.part(b, exponents(costs, jnp.broadcast_to(g[None, :], costs.shape), epsilon))


def fused_product(
    geometry: AbstractGeometry,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    epsilon: Scalar,
    v: Float[Array, "m *k"],
    *,
    otherwise: Callable[..., Float[Array, "n *k"]],
) -> Float[Array, "n *k"]:
    """Sums over j of exp((f_i + g_j - C_ij) / epsilon) v_j, as `fused_log_totals` takes sums."""
    return _choose(_product, otherwise, geometry, f, g, epsilon, v)


def _choose(
    kernel: Callable[..., Array],
    otherwise: Callable[..., Array],
    geometry: AbstractGeometry,
    *operands: Array,
) -> Array:
    """What a program runs is known when it is lowered: the platform may be no device of ours."""
    if not _fusible(geometry, *operands):
        return otherwise(geometry, *operands)
    return jax.lax.platform_dependent(
        geometry, *operands, tpu=kernel, cuda=kernel, default=otherwise
    )


def _fusible(geometry: AbstractGeometry, *operands: Array) -> bool:
    if not (isinstance(geometry, PointCloud) and geometry.streams):
        return False
    arrays = geometry.x, geometry.y, *operands
    return isinstance(_unswapped(geometry.cost), SquaredEuclidean) and all(map(_plain, arrays))


def _unswapped(cost: AbstractCost) -> AbstractCost:
    return _unswapped(cost.cost) if isinstance(cost, Swapped) else cost


def _plain(array: Array) -> bool:
    """In float32, and of one device as far as its type says."""
    kind: Any = jax.typeof(array)
    placed = axes_of(array) or any(axis is not None for axis in kind.sharding.spec)
    return kind.dtype == jnp.float32 and not placed


def _log_totals(geometry, b, g, epsilon):
    (x, nothing), (y, t) = _scaled(geometry, epsilon, jnp.zeros(geometry.shape[0], g.dtype), g)
    return nothing + _fused.log_totals(x, y, t, b)


def _product(geometry, f, g, epsilon, v):
    (x, s), (y, t) = _scaled(geometry, epsilon, f, g)
    columns = v if v.ndim == 2 else v[:, None]
    return _fused.product(x, y, s, t, columns).reshape(-1, *v.shape[1:])


def _scaled(geometry, epsilon, *potentials):
    """Both clouds, of which squared distances are costs over epsilon, and exponents of each.

    Points at infinity lie at the centre, with exponents by which nothing reaches them.
    """
    root = jnp.sqrt(epsilon)
    for points, potential in zip(geometry.centred(), potentials, strict=True):
        far = jnp.any(jnp.isinf(points), axis=1)
        near = jnp.where(far[:, None], 0, points) / root
        yield near, jnp.where(far, -jnp.inf, potential / epsilon)
