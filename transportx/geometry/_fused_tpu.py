"""Fused products with Gibbs kernels on TPUs, by Pallas: costs are never written to memory.

A program of the grid holds a tile of sources, and a tile of targets with coordinates first:
targets lie along lanes. Each lane keeps its own maximum and sum; they are joined once a row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from transportx.geometry._costs import FEW_COORDINATES
from transportx.geometry._fused_tile import (
    LOWEST,
    capped_exp,
    counted,
    dot,
    expanded,
    padded,
    rounded_up,
    squared_gaps,
)

_LANES, _SUBLANES = 128, 8
_TILES = (512, 256, 128)
# What tiles may take of the 16 MiB of fast memory that a core of a v5e lends a program.
_TILE_BYTES = 11 * 2**20


class _Tile(NamedTuple):
    """Sources and targets that a program of the grid holds."""

    rows: int
    columns: int


def suits(d: int, rank: int, width: int) -> bool:
    """Whether points in d coordinates, factors of that rank and columns fit in fast memory."""
    return _bytes(_TILES[-1], d, rank, width) <= _TILE_BYTES


def log_totals(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    t: Float[Array, " m"],
    b: Float[Array, " m"],
    *,
    interpret: bool = False,
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp(t_j - |x_i - y_j|^2), in one pass over the targets."""
    tile = _tile(x, y, 0, 1)
    operands = (_row(t, tile.columns), _row(b, tile.columns))
    specs = (_targets(tile), _targets(tile))
    totals = _call(_log_totals_kernel, x, y, operands, specs, tile, interpret=interpret)
    return totals[0, : x.shape[0]]


def product(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    s: Float[Array, " n"],
    t: Float[Array, " m"],
    r: Float[Array, "m k"],
    *factors: Float[Array, "_ p"],
    interpret: bool = False,
) -> Float[Array, "n k"]:
    """Sums over j of exp(s_i + t_j - |x_i - y_j|^2) r_j, times <u_i, v_j> for factors u, v."""
    n, width = x.shape[0], r.shape[1]
    rank = factors[0].shape[1] if factors else 0
    tile = _tile(x, y, rank, width)
    operands = [_row(s, tile.rows), _row(t, tile.columns)]
    specs = [pl.BlockSpec((1, tile.rows), lambda i, j: (0, i)), _targets(tile)]
    if width == 1 and not factors:
        operands, specs = [*operands, _row(r[:, 0], tile.columns)], [*specs, _targets(tile)]
        sums = _call(_vector_kernel, x, y, operands, specs, tile, interpret=interpret)
        return sums[0, :n, None]
    operands.append(padded(r, tile.columns, 1))
    specs.append(pl.BlockSpec((tile.columns, width), lambda i, j: (j, 0)))
    if factors:
        operands += [padded(u, size, 1) for u, size in zip(factors, tile, strict=True)]
        specs += [
            pl.BlockSpec((tile.rows, rank), lambda i, j: (i, 0)),
            pl.BlockSpec((tile.columns, rank), lambda i, j: (j, 0)),
        ]
    return _call(_columns_kernel, x, y, operands, specs, tile, width, interpret=interpret)[:n]


def _bytes(size: int, d: int, rank: int, width: int) -> int:
    """Fast memory of square tiles, all that comes and goes being held twice."""
    columns = sum(rounded_up(count, _LANES) for count in (rank, rank, width, width) if count > 1)
    points = rounded_up(d, _LANES) + rounded_up(d, _SUBLANES)
    # The tile of costs itself, some of its like beside it, and the scratch.
    return 4 * size * (2 * (points + columns) + 4 * size + 2 * _LANES)


def _tile(x: Array, y: Array, rank: int, width: int) -> _Tile:
    fits = (size for size in _TILES if _bytes(size, x.shape[1], rank, width) <= _TILE_BYTES)
    size = next(fits, _TILES[-1])
    return _Tile(*(min(size, rounded_up(points.shape[0], _LANES)) for points in (x, y)))


def _row(vector: Array, multiple: int) -> Array:
    """A vector along lanes."""
    return padded(vector, multiple)[None, :]


def _targets(tile: _Tile) -> pl.BlockSpec:
    return pl.BlockSpec((1, tile.columns), lambda i, j: (0, j))


def _call(
    kernel: Callable[..., None],
    x: Array,
    y: Array,
    operands: Any,
    specs: Any,
    tile: _Tile,
    width: int | None = None,
    *,
    interpret: bool,
) -> Array:
    """Run a kernel over all tiles: one number a source along lanes, or `width` of them."""
    x, y = padded(x, tile.rows, _SUBLANES), padded(y, tile.columns, _SUBLANES)
    n, d = x.shape
    if width is None:
        out_shape, out_spec = (1, n), pl.BlockSpec((1, tile.rows), lambda i, j: (0, i))
    else:
        out_shape, out_spec = (n, width), pl.BlockSpec((tile.rows, width), lambda i, j: (i, 0))
    return pl.pallas_call(
        kernel,
        grid=(n // tile.rows, y.shape[0] // tile.columns),
        in_specs=[
            pl.BlockSpec((tile.rows, d), lambda i, j: (i, 0)),
            pl.BlockSpec((d, tile.columns), lambda i, j: (0, j)),
            *specs,
        ],
        out_specs=out_spec,
        out_shape=jax.ShapeDtypeStruct(out_shape, x.dtype),
        scratch_shapes=[pltpu.VMEM((tile.rows, _LANES), jnp.float32)] * 2,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(x, y.T, *operands)


def _log_totals_kernel(x_ref, y_ref, t_ref, b_ref, out_ref, peaks_ref, sums_ref):
    @pl.when(pl.program_id(1) == 0)
    def _():
        peaks_ref[...] = jnp.full_like(peaks_ref, LOWEST)
        sums_ref[...] = jnp.zeros_like(sums_ref)

    exponents = t_ref[...] - _costs(x_ref, y_ref)
    old = peaks_ref[...]
    peaks = functools.reduce(jnp.maximum, _by_lane(counted(exponents, b_ref[...])), old)
    terms = zip(_by_lane(exponents), _by_lane(b_ref[...]), strict=True)
    sums = sums_ref[...] * jnp.exp(old - peaks)
    for exponent, weight in terms:
        sums += capped_exp(exponent - peaks) * weight
    peaks_ref[...], sums_ref[...] = peaks, sums

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _():
        peak = jnp.max(peaks, axis=1, keepdims=True)
        total = jnp.sum(sums * jnp.exp(peaks - peak), axis=1, keepdims=True)
        out_ref[...] = _lying(peak + jnp.log(total))


def _vector_kernel(x_ref, y_ref, s_ref, t_ref, r_ref, out_ref, standing_ref, sums_ref):
    @pl.when(pl.program_id(1) == 0)
    def _():
        standing_ref[...] = _standing(s_ref[...])
        sums_ref[...] = jnp.zeros_like(sums_ref)

    entries = _entries(x_ref, y_ref, standing_ref, t_ref)
    sums_ref[...] += functools.reduce(jnp.add, _by_lane(entries * r_ref[...]))

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _():
        out_ref[...] = _lying(jnp.sum(sums_ref[...], axis=1, keepdims=True))


def _columns_kernel(x_ref, y_ref, s_ref, t_ref, r_ref, *refs):
    *factors, out_ref, standing_ref, _ = refs

    @pl.when(pl.program_id(1) == 0)
    def _():
        standing_ref[...] = _standing(s_ref[...])
        out_ref[...] = jnp.zeros_like(out_ref)

    entries = _entries(x_ref, y_ref, standing_ref, t_ref)
    if factors:
        u_ref, v_ref = factors
        entries *= dot(u_ref[...], v_ref[...], (1, 1))
    out_ref[...] += dot(entries, r_ref[...])


def _entries(x_ref, y_ref, standing_ref, t_ref):
    return capped_exp(standing_ref[:, :1] + t_ref[...] - _costs(x_ref, y_ref))


def _costs(x_ref, y_ref):
    """Squared distances, targets along lanes."""
    d = x_ref.shape[1]
    if d <= FEW_COORDINATES:
        return squared_gaps((x_ref[:, k : k + 1], y_ref[k : k + 1, :]) for k in range(d))
    x, y = x_ref[...], y_ref[...]
    xx, yy = jnp.sum(x * x, axis=1, keepdims=True), jnp.sum(y * y, axis=0, keepdims=True)
    return expanded(xx, yy, dot(x, y))


def _by_lane(tile):
    """The tile cut into pieces as wide as there are lanes."""
    return [tile[:, k : k + _LANES] for k in range(0, tile.shape[1], _LANES)]


def _lying(column):
    """A column (rows, 1) as a row (1, rows)."""
    return jnp.broadcast_to(column, (column.shape[0], _LANES)).T[:1, :]


def _standing(row):
    """A row (1, rows) as a column, the same in all lanes."""
    return jnp.broadcast_to(row, (_LANES, row.shape[1])).T
