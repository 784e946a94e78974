"""Sums over targets with entries of a Gibbs kernel: fused where that is possible, else in tiles."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx._meshes import explicit
from transportx._varying import axes_of
from transportx.geometry import _fused
from transportx.geometry._cost import AbstractCost, Swapped
from transportx.geometry._costs import SquaredEuclidean
from transportx.geometry._forbidden import exponents
from transportx.geometry._geometries import AbstractGeometry
from transportx.geometry._merges import Sum, SumExp, capped_exp
from transportx.geometry._point_cloud import PointCloud

Scalar = Float[Array, ""]


@_checks.gate
def log_totals(
    geometry: AbstractGeometry, b: Float[Array, " m"], g: Float[Array, " m"], epsilon: Scalar
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp((g_j - C_ij) / epsilon): the soft c-transform of g over -epsilon.

    Minus infinity for a source that reaches no target of positive weight at a finite cost.
    Streamed squared distances in float32 are summed by one fused kernel on a TPU or an NVIDIA
    GPU, which writes no costs; its derivatives are such kernels too. Everything else is summed
    in tiles. Costs O(n m d), memory O((n + m) d).

    Args:
        geometry: The costs, (n, m).
        b: Weights of the targets; terms of weight zero count for nothing.
        g: Potential of the targets, in units of the cost.
        epsilon: Regularisation, in units of the cost.
    """
    return _choose(_fused_log_totals, _log_totals_in_tiles, geometry, b, g, epsilon)


def product(
    geometry: AbstractGeometry,
    f: Float[Array, " n"],
    g: Float[Array, " m"],
    epsilon: Scalar,
    v: Float[Array, "m *k"],
) -> Float[Array, "n *k"]:
    """Sums over j of exp((f_i + g_j - C_ij) / epsilon) v_j, computed where `log_totals` would be.

    Args:
        geometry: The costs, (n, m).
        f: Potential of the sources, in units of the cost.
        g: Potential of the targets.
        epsilon: Regularisation, in units of the cost.
        v: One number, or one row of k numbers, per target.
    """
    return _choose(_fused_product, _product_in_tiles, geometry, f, g, epsilon, v)


def entries(costs: Array, f: Array, g: Array, epsilon: Scalar) -> Array:
    """Entries exp((f_i + g_j - C_ij) / epsilon) of a Gibbs kernel, some rows of costs given."""
    return capped_exp(exponents(costs, f[:, None] + g[None, :], epsilon))


def may_fuse(geometry: AbstractGeometry, *operands: Array) -> bool:
    """Whether fused kernels serve these sums, on the platforms that have them.

    Args:
        geometry: The costs.
        *operands: All other arrays of the sum.
    """
    if not (isinstance(geometry, PointCloud) and geometry.streams):
        return False
    arrays = geometry.x, geometry.y, *operands
    return isinstance(_unswapped(geometry.cost), SquaredEuclidean) and all(map(_plain, arrays))


def _unswapped(cost: AbstractCost) -> AbstractCost:
    return _unswapped(cost.cost) if isinstance(cost, Swapped) else cost


def _plain(array: Array) -> bool:
    """In float32, and of one device as far as its type says."""
    kind: Any = jax.typeof(array)
    shared = axes_of(array) or (explicit(array) and kind.sharding.mesh.size > 1)
    return kind.dtype == jnp.float32 and not shared


def _choose(
    fused: Callable[..., Array],
    in_tiles: Callable[..., Array],
    geometry: AbstractGeometry,
    *operands: Array,
) -> Array:
    """The one place where a platform is chosen: when a program for it is lowered.

    Not before, for it may be lowered for a platform that no device here has.
    """
    if not may_fuse(geometry, *operands):
        return in_tiles(geometry, *operands)
    kernels = {platform: functools.partial(fused, platform) for platform in ("tpu", "cuda")}
    return jax.lax.platform_dependent(geometry, *operands, **kernels, default=in_tiles)


def _log_totals_in_tiles(geometry, b, g, epsilon):
    peaks, sums = geometry.fold_tiles(SumExp(), eqx.Partial(_totals, epsilon), (b, g))
    return peaks + jnp.log(sums)


def _totals(epsilon, columns, costs):
    b, g = columns
    return SumExp.part(b, _log_ratios(costs, g, epsilon))


@jax.custom_jvp
def _log_ratios(
    costs: Float[Array, "t k"], g: Float[Array, " k"], epsilon: Scalar
) -> Float[Array, "t k"]:
    """(g_j - C_ij) / epsilon, with the derivatives of `exponents`.

    The guards of `exponents` are for derivatives, and take as long as all else of a log-sum-exp.
    """
    return (g[None, :] - costs) * (1 / epsilon)


@_log_ratios.defjvp
def _log_ratios_jvp(primals, tangents):
    def guarded(costs, g, epsilon):
        return exponents(costs, jnp.broadcast_to(g[None, :], costs.shape), epsilon)

    return _log_ratios(*primals), jax.jvp(guarded, primals, tangents)[1]


def _product_in_tiles(geometry, f, g, epsilon, v):
    return geometry.fold_tiles(Sum(), eqx.Partial(_tile_product, epsilon), (g, v), f)


def _tile_product(epsilon, columns, costs, f):
    g, v = columns
    return jnp.matmul(entries(costs, f, g, epsilon), v, precision=jax.lax.Precision.HIGHEST)


def _fused_log_totals(platform, geometry, b, g, epsilon):
    (x, nothing), (y, t) = _scaled(geometry, epsilon, jnp.zeros(geometry.shape[0], g.dtype), g)
    return nothing + _fused.log_totals(x, y, t, b, platform)


def _fused_product(platform, geometry, f, g, epsilon, v):
    (x, s), (y, t) = _scaled(geometry, epsilon, f, g)
    columns = v if v.ndim == 2 else v[:, None]
    products = _fused.product(x, y, s, t, columns, platform=platform)
    return products.reshape(-1, *v.shape[1:])


def _scaled(geometry, epsilon, *potentials):
    """Both clouds, of which squared distances are costs over epsilon, and exponents of each.

    Points at infinity lie at the centre, with exponents by which nothing reaches them.
    """
    root = jnp.sqrt(epsilon)
    for points, potential in zip(geometry.centred(), potentials, strict=True):
        far = jnp.any(jnp.isinf(points), axis=1)
        near = jnp.where(far[:, None], 0, points) / root
        yield near, jnp.where(far, -jnp.inf, potential / epsilon)
