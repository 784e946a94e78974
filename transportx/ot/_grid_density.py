"""Densities on a grid as sources: to draw from, and as lines along which they are integrated."""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks

# Slope of the lines in units of a cell: the golden ratio is far from every simple fraction, so
# that no border between points of a lattice runs along them.
_SLOPE = (1 + math.sqrt(5)) / 2


class Lines(NamedTuple):
    """Piecewise constant densities along parallel lines.

    Attributes:
        direction: Unit vector along all lines.
        origins: A point of each line, from which positions along it are counted.
        edges: Positions where the density may change, rising.
        masses: Mass of each piece.
    """

    direction: Float[Array, " d"]
    origins: Float[Array, "r d"]
    edges: Float[Array, "r e"]
    masses: Float[Array, "r p"]


@_checks.gate
class GridDensity(eqx.Module):
    """A density on a grid of the line or the plane: constant on every cell of a box.

    As a source of `semidiscrete` it is integrated exactly on the line. In the plane it is
    integrated along `num_lines` parallel lines, each exactly: with more lines between two
    neighbouring points of the data, cell masses are as much more accurate.

    Attributes:
        masses: Mass of each cell, not negative, shape (n,) on the line and (n, k) in the plane,
            where the first index goes with the first coordinate.
        low: Lower corner of the box, shape (d,).
        high: Upper corner of the box, shape (d,), above the lower one.
        num_lines: Lines along which cells of the plane are integrated.

    Raises:
        ValueError: The corners have other dimensions than the masses, or there is no line.

    Example:
        >>> density = tx.ot.GridDensity(jnp.array([0.2, 0.8]), jnp.zeros(1), jnp.ones(1))
        >>> x = density.sample(key=jr.key(0), num=1000)
        >>> x.shape, round(float(jnp.mean(x > 0.5)), 1)
        ((1000, 1), 0.8)
    """

    masses: Float[Array, " n"] | Float[Array, "n k"]
    low: Float[Array, " d"]
    high: Float[Array, " d"]
    num_lines: int = eqx.field(static=True, default=1024)

    def __check_init__(self):
        if self.masses.ndim != self.low.size:
            problem = f"has shape {self.masses.shape} where `low` has {self.low.size} coordinates"
            _checks.reject("masses", problem, "give one axis per coordinate, one or two")
        _checks.count("num_lines", self.num_lines)

    @_checks.gate
    def sample(self, *, key: PRNGKeyArray, num: int) -> Float[Array, "num d"]:
        """Draw `num` independent points."""
        _checks.count("num", num)
        cell_key, place_key = jr.split(key)
        flat = jnp.ravel(self.masses)
        # By position in the running total, not by a number for each pair of draw and cell.
        total = jnp.cumsum(flat)
        level = total[-1] * jr.uniform(cell_key, (num,), flat.dtype)
        cells = jnp.minimum(jnp.searchsorted(total, level, side="right"), flat.size - 1)
        corner = jnp.stack(jnp.unravel_index(cells, self.masses.shape), axis=1)
        place = corner.astype(flat.dtype) + jr.uniform(place_key, corner.shape, flat.dtype)
        shape = jnp.array(self.masses.shape, flat.dtype)
        cell = (self.high - self.low).astype(flat.dtype) / shape
        return self.low.astype(flat.dtype)[None, :] + cell[None, :] * place


def lines_through(density: GridDensity, offset: float) -> Lines:
    """The density along lines.

    Args:
        density: On the line, where there is one line, or in the plane.
        offset: Where the lines lie between others of the same distance, from 0 to 1.
    """
    if density.masses.ndim > 1:
        return _lines_of_the_plane(density, offset)
    # Positions from the middle of the box: the same digits wherever the box is.
    size = density.masses.size
    middle, length = (density.low + density.high) / 2, density.high - density.low
    edges = length[:, None] * (jnp.arange(size + 1, dtype=length.dtype) / size - 0.5)[None, :]
    return Lines(jnp.ones_like(length), middle[:, None], edges, density.masses[None, :])


def _lines_of_the_plane(density: GridDensity, offset: float) -> Lines:
    """Lines of one slope through the cells, as far from each other as they are many.

    Positions are counted in cells: the box is [0, n] x [0, k], stretched at the end.
    """
    n, k = density.masses.shape
    dtype = density.masses.dtype
    norm = math.hypot(1.0, _SLOPE)
    direction = jnp.array([1 / norm, _SLOPE / norm], dtype)
    normal = jnp.array([-_SLOPE / norm, 1 / norm], dtype)
    first, last = -n * _SLOPE / norm, k / norm
    spacing = (last - first) / density.num_lines
    offsets = first + (jnp.arange(density.num_lines, dtype=dtype) + offset) * spacing
    origins = offsets[:, None] * normal[None, :]
    across = [
        (jnp.arange(size + 1, dtype=dtype)[None, :] - origins[:, i, None]) / direction[i]
        for i, size in enumerate((n, k))
    ]
    enter = jnp.maximum(*(edges[:, :1] for edges in across))
    leave = jnp.maximum(jnp.minimum(*(edges[:, -1:] for edges in across)), enter)
    edges = jnp.sort(jnp.clip(jnp.concatenate(across, axis=1), enter, leave), axis=1)
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    cells = [
        jnp.clip(jnp.floor(origins[:, i, None] + middle * direction[i]), 0, size - 1).astype(int)
        for i, size in enumerate((n, k))
    ]
    masses = density.masses[cells[0], cells[1]] * jnp.diff(edges, axis=1) * spacing
    # What the lines miss or see twice is far below a cell; the total is kept.
    masses = masses * (jnp.sum(density.masses) / jnp.sum(masses))
    cell = (density.high - density.low) / jnp.array([n, k], dtype)
    stretch = jnp.linalg.norm(direction * cell)
    corner = density.low[None, :]
    return Lines(
        direction * cell / stretch, corner + origins * cell[None, :], edges * stretch, masses
    )
