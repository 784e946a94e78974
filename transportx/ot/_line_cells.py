"""Power cells along lines: which points of the data a line meets, and the mass of each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx.ot._grid_density import Lines
from transportx.ot._power_cells import CellSums, Heights

Scalar = Float[Array, ""]


class _Walk(NamedTuple):
    """Where the walk along each line is: in whose cell, at which position, in which piece."""

    owner: Int[Array, " r"]
    position: Float[Array, " r"]
    passed: "_Passed"
    sums: CellSums
    borders: Float[Array, "j j"]


def line_cells(
    lines: Lines, data: Heights, *, borders: bool
) -> tuple[CellSums, Float[Array, "j j"]]:
    """What the cells of the data hold of the density along the lines, exactly.

    Along a line every score is affine, so that cells are intervals; the next one begins where
    the first steeper score overtakes. O(m) for each line and each cell that it meets.

    Args:
        lines: The density.
        data: The data with their potentials.
        borders: Whether to also sum what a unit of the potential of one moves from the other,
            over all borders between two cells, shape (m, m); else that has no entries.
    """
    origins = lines.origins - data.centre[None, :]
    slopes = 2 * jnp.matmul(data.y, lines.direction, precision=jax.lax.Precision.HIGHEST)
    starts = data.scores(lines.origins).T
    running = _Running(lines)
    end = lines.edges[:, -1]
    rows = jnp.arange(end.size)

    def step(walk: _Walk) -> _Walk:
        steeper = slopes[None, :] - slopes[walk.owner][:, None]
        behind = starts[rows, walk.owner][:, None] - starts
        met = jnp.where(
            (steeper > 0) & (behind < jnp.inf), behind / jnp.where(steeper > 0, steeper, 1), jnp.inf
        )
        following = jnp.argmin(met, axis=1)
        met = met[rows, following]
        position = jnp.clip(met, walk.position, end)
        passed, density = running.up_to(position)
        part = _Passed(*(now - then for now, then in zip(passed, walk.passed, strict=True)))
        sums = _added(walk.sums, walk.owner, part, origins, lines.direction)
        inside = met < end
        crossed = walk.borders
        if borders:
            rate = jnp.where(inside, density / steeper[rows, following], 0)
            crossed = crossed.at[walk.owner, following].add(rate)
        owner = jnp.where(inside, following, walk.owner)
        return _Walk(owner, position, passed, sums, crossed)

    first = starts + slopes[None, :] * lines.edges[:, :1]
    # Of equals at the start, the one that wins from there on.
    best = first == jnp.max(first, axis=1, keepdims=True)
    owner = jnp.argmax(jnp.where(best, slopes[None, :], -jnp.inf), axis=1)
    m = slopes.size if borders else 0
    zeros = jnp.zeros((m, m), slopes.dtype)
    nothing, _ = running.up_to(lines.edges[:, 0])
    start = _Walk(owner, lines.edges[:, 0], nothing, CellSums.zeros(data.y), zeros)
    walk = jax.lax.while_loop(lambda walk: jnp.any(walk.position < end), step, start)
    return walk.sums, walk.borders


class _Passed(NamedTuple):
    """Integrals of the density along each line up to a position: of 1, of t and of t^2."""

    masses: Float[Array, " r"]
    firsts: Float[Array, " r"]
    seconds: Float[Array, " r"]


class _Running:
    """Running integrals of the density along each line."""

    def __init__(self, lines: Lines):
        self.edges = lines.edges
        lengths = jnp.diff(lines.edges, axis=1)
        some = lengths > 0
        self.rates = jnp.where(some, lines.masses / jnp.where(some, lengths, 1), 0)
        whole = _pieces(lines.masses, lines.edges[:, :-1], lengths)
        self.below = _Passed(*(jnp.cumsum(part, axis=1) - part for part in whole))

    def up_to(self, position: Float[Array, " r"]) -> tuple[_Passed, Float[Array, " r"]]:
        """The integrals up to a position of each line, and the density there."""
        find = jax.vmap(lambda edges, t: jnp.searchsorted(edges, t, side="right"))
        piece = jnp.clip(find(self.edges, position) - 1, 0, self.rates.shape[1] - 1)
        rows = jnp.arange(piece.size)
        start, rate = self.edges[rows, piece], self.rates[rows, piece]
        rest = _pieces(rate * (position - start), start, position - start)
        passed = _Passed(*(a[rows, piece] + b for a, b in zip(self.below, rest, strict=True)))
        return passed, rate


def _pieces(masses: Array, starts: Array, lengths: Array) -> _Passed:
    """The integrals over pieces of constant density."""
    middle = starts + lengths / 2
    return _Passed(masses, masses * middle, masses * (middle**2 + lengths**2 / 12))


def _added(
    sums: CellSums,
    owner: Int[Array, " r"],
    part: _Passed,
    origins: Float[Array, "r d"],
    direction: Float[Array, " d"],
) -> CellSums:
    """The sums with an interval of each line given to the cell that owns it."""
    moments = part.masses[:, None] * origins + part.firsts[:, None] * direction[None, :]
    along = jnp.matmul(origins, direction, precision=jax.lax.Precision.HIGHEST)
    squares = part.masses * jnp.sum(origins**2, axis=1) + 2 * part.firsts * along + part.seconds
    return CellSums(
        sums.masses.at[owner].add(part.masses),
        sums.moments.at[owner].add(moments),
        sums.squares + jnp.sum(squares),
        sums.information,
    )
