r"""Sums over exp(s_i + t_j - |x_i - y_j|^2) that never hold it: kernels of TPUs and GPUs.

Two primitives: the log of such sums, and products. Callers say for which platform a program is;
on one TPU or one NVIDIA GPU it runs the Pallas kernels of `_fused_tpu` and `_fused_gpu`, on
several devices XLA's tiles. Derivatives of either primitive are products again, in either
direction and O((n + m) d) memory. A kernel in these files is a program of Pallas.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from transportx.geometry._fused_tile import capped_exp
from transportx.geometry._point_cloud import PointCloud

_KERNELS = {"tpu": "transportx.geometry._fused_tpu", "cuda": "transportx.geometry._fused_gpu"}


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def log_totals(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    t: Float[Array, " m"],
    b: Float[Array, " m"],
    platform: str | None = None,
    interpreted: bool = False,  # noqa: FBT001, FBT002 - no name may be given to `nondiff_argnums`
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp(t_j - |x_i - y_j|^2), in one pass over the targets.

    Args:
        x: Source points, near the origin: their squares are expanded.
        y: Target points, near the origin.
        t: Exponents of the targets, finite.
        b: Weights; terms of weight zero count for nothing, and have a derivative.
        platform: "tpu" or "cuda", whose kernel to run; None for XLA's tiles.
        interpreted: Whether to interpret the kernel, on whatever device there is.
    """
    return _log_totals_p.bind(x, y, t, b, platform=platform, interpreted=interpreted)


@log_totals.defjvp
def _log_totals_jvp(platform, interpreted, primals, tangents):
    x, y, t, b = primals
    how = {"platform": platform, "interpreted": interpreted}
    totals = log_totals(x, y, t, b, **how)

    def sums(x, y, t, b):
        return product(x, y, -totals, t, b[:, None], **how)[:, 0]

    return totals, jax.jvp(sums, primals, tangents)[1]


def product(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    s: Float[Array, " n"],
    t: Float[Array, " m"],
    r: Float[Array, "m k"],
    *factors: Float[Array, "_ p"],
    platform: str | None = None,
    interpreted: bool = False,  # noqa: FBT001, FBT002 - no name may be given to `nondiff_argnums`
) -> Float[Array, "n k"]:
    r"""Sums over j of exp(s_i + t_j - |x_i - y_j|^2) <u_i, v_j> r_j, over tiles of targets.

    Args:
        x: Source points, near the origin: their squares are expanded.
        y: Target points, near the origin.
        s: Exponents of the sources.
        t: Exponents of the targets.
        r: Columns to multiply with.
        *factors: u, (n, p), and v, (m, p); without them the inner product is one.
        platform: "tpu" or "cuda", whose kernel to run; None for XLA's tiles.
        interpreted: Whether to interpret the kernel, on whatever device there is.
    """
    bind = functools.partial(_product_p.bind, platform=platform, interpreted=interpreted)
    if not factors:
        return bind(x, y, s, t, r)
    u, v = factors
    if u.shape[1] == 1:
        return u * bind(x, y, s, t, v * r)
    if r.shape[1] == 1:
        return jnp.sum(u * bind(x, y, s, t, v * r), axis=1, keepdims=True)
    return bind(x, y, s, t, r, u, v)


def _product_jvp(primals, tangents, **how):
    """Moved ends and columns give products; moved points, products with their coordinates."""
    x, y, s, t, r, *factors = primals
    dx, dy, ds, dt, dr, *dfactors = tangents
    times = functools.partial(product, x, y, s, t, **how)
    out = times(r, *factors)
    if factors and not (_still(dx) and _still(dy)):
        # Of products that are derivatives themselves: XLA's tiles, differentiated.
        return out, _tile_tangent(primals, tangents)
    moved = []
    # d of -|x - y|^2 is -2 <x, dx> - 2 <y, dy> + 2 <x, dy> + 2 <dx, y>.
    ends_x = _sum(ds, None if _still(dx) else -2 * jnp.sum(x * dx, axis=1))
    ends_y = _sum(dt, None if _still(dy) else -2 * jnp.sum(y * dy, axis=1))
    if ends_x is not None:
        moved.append(ends_x[:, None] * out)
    columns = _sum(dr, None if ends_y is None else ends_y[:, None] * r)
    if columns is not None:
        moved.append(times(columns, *factors))
    if not _still(dx):
        moved.append(times(r, 2 * dx, y))
    if not _still(dy):
        moved.append(times(r, 2 * x, dy))
    for which, tangent in enumerate(dfactors):
        if not _still(tangent):
            changed = [*factors]
            changed[which] = tangent
            moved.append(times(r, *changed))
    return out, functools.reduce(jnp.add, moved) if moved else jnp.zeros_like(out)


def _still(tangent) -> bool:
    return isinstance(tangent, ad.Zero)


def _sum(tangent, other):
    """Of what there is; None of nothing."""
    parts = [part for part in (tangent, other) if part is not None and not _still(part)]
    return functools.reduce(jnp.add, parts) if parts else None


def _tile_tangent(primals, tangents):
    tangents = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(_product_tiles, tuple(primals), tangents)[1]


def _product_transpose(cotangent, x, y, s, t, r, *factors, **how):
    """Columns, and either factor: the other two change places."""
    forth = functools.partial(product, x, y, s, t, **how)
    back = functools.partial(product, y, x, t, s, **how)
    if ad.is_undefined_primal(r):
        return None, None, None, None, back(cotangent, *factors[::-1]), *[None] * len(factors)
    u, v = factors
    if ad.is_undefined_primal(u):
        return None, None, None, None, None, forth(v, cotangent, r), None
    return None, None, None, None, None, None, back(u, r, cotangent)


def _log_totals_tiles(x, y, t, b):
    def rows(t, b, costs):
        exponents = t[None, :] - costs
        peak = jnp.max(jnp.where(b[None, :] != 0, exponents, -jnp.inf), axis=1)
        sums = jnp.matmul(capped_exp(exponents - peak[:, None]), b, precision="highest")
        return peak + jnp.log(sums)

    return PointCloud(x, y).map_tiles(eqx.Partial(rows, t, b))


def _product_tiles(x, y, s, t, r, *factors):
    def rows(t, r, v, costs, s, *u):
        entries = capped_exp(s[:, None] + t[None, :] - costs)
        for left, right in zip(u, v, strict=True):
            entries = entries * jnp.matmul(left, right.T, precision="highest")
        return jnp.matmul(entries, r, precision="highest")

    u, v = factors[:1], factors[1:]
    return PointCloud(x, y).map_tiles(eqx.Partial(rows, t, r, v), s, *u)


def _lower(name, tiles, ctx, *operands, platform: str | None, interpreted: bool):
    """The platform's kernel in programs of one device: XLA can't divide it among several."""
    function = tiles
    if platform is not None and (interpreted or _on_one_device(ctx)):
        # Imported where a kernel is compiled: Pallas takes a quarter of a second.
        kernels = importlib.import_module(_KERNELS[platform])
        if interpreted or kernels.suits(*_sizes(*ctx.avals_in)):
            function = functools.partial(getattr(kernels, name), interpret=interpreted)
    return mlir.lower_fun(function, multiple_results=False)(ctx, *operands)


def _on_one_device(ctx: mlir.LoweringRuleContext) -> bool:
    context = ctx.module_context.axis_context
    return isinstance(context, mlir.ShardingContext) and context.num_devices == 1


def _sizes(x, y, s, t, *columns) -> tuple[int, int, int]:
    """Coordinates, rank of the factors, width of the columns."""
    widths = [column.shape[1] for column in columns]
    return x.shape[1], widths[1] if len(widths) > 1 else 0, widths[0] if widths else 1


def _batch(primitive, operands, axes, **params):
    """One problem after another: each has work enough for a whole device."""
    moved = [
        operand if axis is None else jnp.moveaxis(operand, axis, 0)
        for operand, axis in zip(operands, axes, strict=True)
    ]
    batched = [operand for operand, axis in zip(moved, axes, strict=True) if axis is not None]

    def one(own):
        own = iter(own)
        return primitive.bind(
            *(
                operand if axis is None else next(own)
                for operand, axis in zip(moved, axes, strict=True)
            ),
            **params,
        )

    return jax.lax.map(one, batched), 0


def _primitive(name: str, tiles: Callable[..., Array], shape: Callable[..., Any]) -> Primitive:
    """An operation by the kernel of the platform that it is told, by tiles where that can't be."""

    def abstract(*avals, platform, interpreted):
        return ShapedArray(shape(*avals), avals[0].dtype)

    primitive = Primitive(f"fused_{name}")
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("platform", "interpreted")))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, functools.partial(_lower, name, tiles))
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    return primitive


_log_totals_p = _primitive("log_totals", _log_totals_tiles, lambda x, *_: x.shape[:1])
_product_p = _primitive(
    "product", _product_tiles, lambda x, y, s, t, r, *_: (x.shape[0], r.shape[1])
)
ad.primitive_jvps[_product_p] = _product_jvp
ad.primitive_transposes[_product_p] = _product_transpose
