"""Fused products with Gibbs kernels on GPUs, by Pallas for Triton: costs stay in registers.

A program of the grid holds a tile of sources and walks over the targets. Coordinates, factors
and columns come in chunks, so that registers suffice whatever the dimension.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
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

# Sources and targets of a tile, and coordinates that come at once. Triton wants powers of two.
# With 64 targets products of columns spill registers.
_ROWS, _TARGETS, _CHUNK = 64, 32, 32
# Columns of a product that one program computes; more are computed side by side.
_COLUMNS = 64
_WARPS, _STAGES = 4, 2


def suits(d: int, rank: int, width: int) -> bool:
    """All sizes: each comes in chunks."""
    del d, rank, width
    return True


def log_totals(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    t: Float[Array, " m"],
    b: Float[Array, " m"],
    *,
    interpret: bool = False,
) -> Float[Array, " n"]:
    """The log of sum_j b_j exp(t_j - |x_i - y_j|^2), in one pass over the targets."""
    n = x.shape[0]
    operands = (*_points(x, y), padded(t, _TARGETS), padded(b, _TARGETS))
    shape = (rounded_up(n, _ROWS),)
    return _call(_log_totals_kernel, operands, shape, interpret=interpret)[:n]


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
    (n, k), rows = (x.shape[0], r.shape[1]), rounded_up(x.shape[0], _ROWS)
    operands = (*_points(x, y), padded(s, _ROWS), padded(t, _TARGETS))
    if k == 1 and not factors:
        operands = (*operands, padded(r[:, 0], _TARGETS))
        return _call(_vector_kernel, operands, (rows,), interpret=interpret)[:n, None]
    columns = min(_COLUMNS, max(16, pl.next_power_of_2(k)))
    sizes = zip(factors, (_ROWS, _TARGETS), strict=False)
    operands = (
        *operands,
        padded(r, _TARGETS, columns),
        *(padded(factor, size, _CHUNK) for factor, size in sizes),
    )
    shape = rows, rounded_up(k, columns)
    return _call(_columns_kernel, operands, shape, columns, interpret=interpret)[:n, :k]


def _points(x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Both clouds, filled up to whole tiles, and their squared norms."""
    chunk = 1 if x.shape[1] <= FEW_COORDINATES else _CHUNK
    x, y = padded(x, _ROWS, chunk), padded(y, _TARGETS, chunk)
    return x, y, jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1)


def _call(
    kernel: Callable[..., None],
    operands: tuple[Array, ...],
    shape: tuple[int, ...],
    columns: int | None = None,
    *,
    interpret: bool,
) -> Array:
    """Run a kernel for every tile of sources, and of columns where there are any."""
    grid = (shape[0] // _ROWS,) if columns is None else (shape[0] // _ROWS, shape[1] // columns)
    if columns is None:
        spec = pl.BlockSpec((_ROWS,), lambda i: (i,))
    else:
        spec = pl.BlockSpec((_ROWS, columns), lambda i, j: (i, j))
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_specs=spec,
        out_shape=jax.ShapeDtypeStruct(shape, operands[0].dtype),
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(*operands)


def _log_totals_kernel(x_ref, y_ref, xx_ref, yy_ref, t_ref, b_ref, out_ref):
    rows = _rows()

    def visit(index, carry):
        peaks, sums = carry
        targets = _slice(index, _TARGETS)
        weights = b_ref[targets]
        costs = _costs(x_ref, y_ref, xx_ref, yy_ref, rows, targets)
        exponents = t_ref[targets][None, :] - costs
        most = jnp.max(counted(exponents, weights[None, :]), axis=1)
        new = jnp.maximum(peaks, most)
        terms = capped_exp(exponents - new[:, None]) * weights[None, :]
        return new, sums * jnp.exp(peaks - new) + jnp.sum(terms, axis=1)

    start = jnp.full(_ROWS, LOWEST, jnp.float32), jnp.zeros(_ROWS, jnp.float32)
    peaks, sums = jax.lax.fori_loop(0, y_ref.shape[0] // _TARGETS, visit, start)
    out_ref[...] = peaks + jnp.log(sums)


def _vector_kernel(x_ref, y_ref, xx_ref, yy_ref, s_ref, t_ref, r_ref, out_ref):
    rows = _rows()

    def visit(index, sums):
        targets = _slice(index, _TARGETS)
        entries = _entries(x_ref, y_ref, xx_ref, yy_ref, s_ref, t_ref, rows, targets)
        return sums + jnp.sum(entries * r_ref[targets][None, :], axis=1)

    start = jnp.zeros(_ROWS, jnp.float32)
    out_ref[...] = jax.lax.fori_loop(0, y_ref.shape[0] // _TARGETS, visit, start)


def _columns_kernel(x_ref, y_ref, xx_ref, yy_ref, s_ref, t_ref, r_ref, *refs):
    *factors, out_ref = refs
    rows = _rows()
    columns = _slice(pl.program_id(1), out_ref.shape[1])

    def visit(index, sums):
        targets = _slice(index, _TARGETS)
        entries = _entries(x_ref, y_ref, xx_ref, yy_ref, s_ref, t_ref, rows, targets)
        if factors:
            u_ref, v_ref = factors
            entries *= _products(u_ref, v_ref, rows, targets)
        return sums + dot(entries, r_ref[targets, columns])

    start = jnp.zeros(out_ref.shape, jnp.float32)
    out_ref[...] = jax.lax.fori_loop(0, y_ref.shape[0] // _TARGETS, visit, start)


def _rows():
    return _slice(pl.program_id(0), _ROWS)


def _slice(index, size):
    return pl.ds(index * size, size)


def _entries(x_ref, y_ref, xx_ref, yy_ref, s_ref, t_ref, rows, targets):
    costs = _costs(x_ref, y_ref, xx_ref, yy_ref, rows, targets)
    return capped_exp(s_ref[rows][:, None] + t_ref[targets][None, :] - costs)


def _costs(x_ref, y_ref, xx_ref, yy_ref, rows, targets):
    """Squared distances between some sources and some targets."""
    d = x_ref.shape[1]
    if d <= FEW_COORDINATES:
        return squared_gaps((x_ref[rows, k][:, None], y_ref[targets, k][None, :]) for k in range(d))
    products = _products(x_ref, y_ref, rows, targets)
    return expanded(xx_ref[rows][:, None], yy_ref[targets][None, :], products)


def _products(left_ref, right_ref, rows, targets):
    """Inner products, a chunk of coordinates at a time."""

    def add(index, sums):
        chunk = _slice(index, _CHUNK)
        return sums + dot(left_ref[rows, chunk], right_ref[targets, chunk], (1, 1))

    start = jnp.zeros((_ROWS, _TARGETS), jnp.float32)
    return jax.lax.fori_loop(0, left_ref.shape[1] // _CHUNK, add, start)
