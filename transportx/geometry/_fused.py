r"""Sums over exp(s_i + t_j - |x_i - y_j|^2) that never hold it: kernels of TPUs and GPUs.

Two primitives: the log of such sums, and products. Programs for one TPU or one NVIDIA GPU
run the Pallas kernels of `_fused_tpu` and `_fused_gpu`; all others visit tiles by XLA.
Derivatives of either are products again, in either direction and O((n + m) d) memory.
"""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def log_totals(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    t: Float[Array, " m"],
    b: Float[Array, " m"],
    interpreted: str | None = None,
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp(t_j - |x_i - y_j|^2), in one pass over the targets.

    Args:
        x: Source points, near the origin: their squares are expanded.
        y: Target points, near the origin.
        t: Exponents of the targets, finite.
        b: Weights; terms of weight zero count for nothing, and have a derivative.
        interpreted: "tpu" or "cuda" to run that platform's kernel on any, interpreted.
    """
    return _log_totals_p.bind(x, y, t, b, interpreted=interpreted)


@log_totals.defjvp
def _log_totals_jvp(interpreted, primals, tangents):
    x, y, t, b = primals
    totals = log_totals(x, y, t, b, interpreted)

    def sums(x, y, t, b):
        return product(x, y, -totals, t, b[:, None], interpreted=interpreted)[:, 0]

    return totals, jax.jvp(sums, primals, tangents)[1]


def product(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    s: Float[Array, " n"],
    t: Float[Array, " m"],
    r: Float[Array, "m k"],
    *factors: Float[Array, "_ p"],
    interpreted: str | None = None,
) -> Float[Array, "n k"]:
    r"""Sums over j of exp(s_i + t_j - |x_i - y_j|^2) <u_i, v_j> r_j, over tiles of targets.

    Args:
        x: Source points, near the origin: their squares are expanded.
        y: Target points, near the origin.
        s: Exponents of the sources.
        t: Exponents of the targets.
        r: Columns to multiply with.
        *factors: u, (n, p), and v, (m, p); without them the inner product is one.
        interpreted: "tpu" or "cuda" to run that platform's kernel on any, interpreted.
    """
    bind = functools.partial(_product_p.bind, interpreted=interpreted)
    if not factors:
        return bind(x, y, s, t, r)
    u, v = factors
    if u.shape[1] == 1:
        return u * bind(x, y, s, t, v * r)
    if r.shape[1] == 1:
        return jnp.sum(u * bind(x, y, s, t, v * r), axis=1, keepdims=True)
    return bind(x, y, s, t, r, u, v)


def _product_jvp(primals, tangents, *, interpreted):
    """Moved ends and columns give products; moved points, products with their coordinates."""
    x, y, s, t, r, *factors = primals
    dx, dy, ds, dt, dr, *dfactors = tangents
    times = functools.partial(product, x, y, s, t, interpreted=interpreted)
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


def _product_transpose(cotangent, x, y, s, t, r, *factors, interpreted):
    """Columns, and either factor: the other two change places."""
    forth = functools.partial(product, x, y, s, t, interpreted=interpreted)
    back = functools.partial(product, y, x, t, s, interpreted=interpreted)
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


def _kernels(platform: str) -> ModuleType:
    """Imported where a kernel is compiled: Pallas takes a quarter of a second."""
    return importlib.import_module(_KERNELS[platform])


def _run(name: str, tiles: Callable[..., Array], *operands: Array, interpreted: str | None):
    """Whatever the platform: XLA's tiles, or kernels that are interpreted."""
    if interpreted is None:
        return tiles(*operands)
    return getattr(_kernels(interpreted), name)(*operands, interpret=True)


def _lower(name, platform, everywhere, ctx, *operands, interpreted):
    """The platform's kernel in programs of one device: XLA can't divide it among several."""
    if interpreted is None and _on_one_device(ctx):
        kernels = _kernels(platform)
        if kernels.suits(*_sizes(*ctx.avals_in)):
            rule = mlir.lower_fun(getattr(kernels, name), multiple_results=False)
            return rule(ctx, *operands)
    rule = mlir.lower_fun(everywhere, multiple_results=False)
    return rule(ctx, *operands, interpreted=interpreted)


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
    """An operation by kernels where there are some, by tiles elsewhere."""

    def abstract(*avals, interpreted):
        return ShapedArray(shape(*avals), avals[0].dtype)

    primitive = Primitive(f"fused_{name}")
    everywhere = functools.partial(_run, name, tiles)
    primitive.def_impl(jax.jit(everywhere, static_argnames="interpreted"))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(everywhere, multiple_results=False))
    for platform in _KERNELS:
        rule = functools.partial(_lower, name, platform, everywhere)
        mlir.register_lowering(primitive, rule, platform=platform)
    batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
    return primitive


_log_totals_p = _primitive("log_totals", _log_totals_tiles, lambda x, *_: x.shape[:1])
_product_p = _primitive(
    "product", _product_tiles, lambda x, y, s, t, r, *_: (x.shape[0], r.shape[1])
)
ad.primitive_jvps[_product_p] = _product_jvp
ad.primitive_transposes[_product_p] = _product_transpose
