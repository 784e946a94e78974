"""Sums of kernels over two clouds, streamed; with derivatives, in one pass where possible."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx._meshes import released
from transportx.geometry import Layout, PointCloud, cloud_between
from transportx.geometry.internal import FEW_COORDINATES, Sum, default_tile
from transportx.gradient_flows._kernels import AbstractRadialKernel, Gaussian, Kernel

Scalar = Float[Array, ""]
Cloud = Float[Array, "n d"]
Weights = Float[Array, " n"]


def within_sum(kernel: Kernel, x: Cloud, a: Weights, layout: Layout = Layout()) -> Scalar:
    """sum_ij a_i a_j k(x_i, x_j), of a symmetric kernel."""
    _checks.divided("x", x, layout.mesh)
    x, a = released(layout.mesh, (x, a))
    if isinstance(kernel, AbstractRadialKernel):
        return _radial_within(kernel, layout, x, a)
    return _double_sum(kernel, layout, x, a, x, a)


def between_sum(
    kernel: Kernel,
    x: Cloud,
    a: Weights,
    y: Float[Array, "m d"],
    b: Float[Array, " m"],
    layout: Layout = Layout(),
) -> Scalar:
    """sum_ij a_i b_j k(x_i, y_j): O(n m) operations, O(n + m) memory where it streams."""
    _checks.divided("x", x, layout.mesh)
    x, a, y, b = released(layout.mesh, (x, a, y, b))
    if isinstance(kernel, AbstractRadialKernel):
        return _radial_between(kernel, layout, x, a, y, b)
    return _double_sum(kernel, layout, x, a, y, b)


def product(
    kernel: Kernel,
    x: Cloud,
    y: Float[Array, "m d"],
    v: Float[Array, "m *k"],
    layout: Layout = Layout(),
) -> Float[Array, "n *k"]:
    """The kernel's matrix times a vector or columns, tile by tile."""
    return cloud_between(x, y, kernel, layout=layout).fold_tiles(Sum(), _times, v)


def product_and_slopes(
    kernel: AbstractRadialKernel,
    x: Cloud,
    y: Float[Array, "m d"],
    v: Float[Array, "m k"],
    a: Weights,
    b: Float[Array, " m"],
    layout: Layout = Layout(),
) -> tuple[Float[Array, "n k"], Cloud]:
    """The kernel's matrix times columns, and sum_j b_j grad k(x_i, y_j) by x_i, in one pass.

    The weights `a` of x only say which points count: the rest may lie anywhere.
    """
    # Slopes are differences of moments, which round relative to distances from the origin.
    x, y = PointCloud(x, y).weighed(a, b).centred()
    columns = v, b, y
    if layout.mesh is None and layout.tile is None:
        # Values and slopes of all pairs, and two arrays of the same size on their way.
        layout = Layout(tile=default_tile(x.shape[0], y.shape[0], copies=4))
    origin = jnp.zeros_like(x[0])
    cloud = cloud_between(x, y, kernel.squares, layout=layout, centre=origin)
    return cloud.fold_tiles(Sum(), eqx.Partial(_tile, kernel), columns, x)


def _tile(kernel, columns, squares, x):
    v, b, y = columns
    if isinstance(kernel, Gaussian):
        # The derivative of an exponential is a multiple of it: one product serves both.
        both = _times(jnp.concatenate([v, _moments(b, y)], axis=1), kernel.profile(squares))
        products, sums = both[:, : v.shape[1]], kernel.rate.astype(x.dtype) * both[:, v.shape[1] :]
        return products, 2 * (x * sums[:, :1] - sums[:, 1:])
    values, slopes = kernel.profile_and_slope(squares)
    if x.shape[1] <= FEW_COORDINATES:
        # Slopes may be steep between near points: differences first, which moments cancel.
        pulls = slopes * b[None, :]
        gaps = (xk[:, None] - yk[None, :] for xk, yk in zip(x.T, y.T, strict=True))
        return _times(v, values), jnp.stack([2 * jnp.sum(pulls * gap, 1) for gap in gaps], 1)
    sums = _times(_moments(b, y), slopes)
    return _times(v, values), 2 * (x * sums[:, :1] - sums[:, 1:])


def _moments(b: Array, y: Array) -> Array:
    return jnp.concatenate([b[:, None], b[:, None] * y], axis=1)


def _times(v: Array, matrix: Array) -> Array:
    return jnp.matmul(matrix, v, precision=jax.lax.Precision.HIGHEST)


def _double_sum(kernel, layout, x, a, y, b) -> Scalar:
    cloud = cloud_between(x, y, kernel, layout=layout).weighed(a, b)
    return jnp.sum(a * cloud.fold_tiles(Sum(), _times, b))


@eqx.filter_custom_jvp
def _radial_within(kernel, layout, x, a):
    return _double_sum(kernel, layout, x, a, x, a)


@_radial_within.def_jvp
def _radial_within_jvp(primals, tangents):
    kernel, layout, x, a = primals
    by_kernel, _, *others = tangents
    sums, slopes = product_and_slopes(kernel, x, x, a[:, None], a, a, layout)
    moved = 2 * _along(sums[:, 0], a[:, None] * slopes, *others)
    moved = moved + _by_parameters(by_kernel, kernel, layout, x, a, x, a)
    return a @ sums[:, 0], moved


@eqx.filter_custom_jvp
def _radial_between(kernel, layout, x, a, y, b):
    return _double_sum(kernel, layout, x, a, y, b)


@_radial_between.def_jvp
def _radial_between_jvp(primals, tangents):
    kernel, layout, x, a, y, b = primals
    by_kernel, _, *others = tangents
    sums, slopes = product_and_slopes(kernel, x, y, b[:, None], a, b, layout)
    moved = _along(sums[:, 0], a[:, None] * slopes, *others[:2])
    if any(other is not None for other in others[2:]):
        backward, pulls = product_and_slopes(kernel, y, x, a[:, None], b, a, layout)
        moved = moved + _along(backward[:, 0], b[:, None] * pulls, *others[2:])
    moved = moved + _by_parameters(by_kernel, kernel, layout, x, a, y, b)
    return a @ sums[:, 0], moved


def _along(by_weights, by_points, points, weights) -> Scalar:
    """The derivative along tangents, of which some may be absent."""
    moved = jnp.zeros((), by_weights.dtype)
    if points is not None:
        moved = moved + jnp.sum(by_points * points)
    if weights is not None:
        moved = moved + jnp.sum(by_weights * weights)
    return moved


def _by_parameters(by_kernel, kernel, layout, x, a, y, b) -> Scalar:
    """The derivative along a change of the kernel itself."""
    if not jax.tree.leaves(by_kernel):
        return jnp.zeros((), x.dtype)

    def value(kernel):
        return _double_sum(kernel, layout, x, a, y, b)

    return eqx.filter_jvp(value, (kernel,), (by_kernel,))[1]
