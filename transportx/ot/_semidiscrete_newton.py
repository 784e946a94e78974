"""Potentials of a density along lines: in closed form on one line, by Newton's method on many."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx.ot._grid_density import Lines
from transportx.ot._line_cells import line_cells
from transportx.ot._power_cells import heights

Scalar = Float[Array, ""]
# Share of the source's box that the data are taken to at first.
_WITHIN = 0.95
# A step is halved so often before the search ends: rounding, or a kink, stops it then.
_MOST_HALVINGS = 12


def line_potentials(
    edges: Float[Array, " e"],
    masses: Float[Array, " p"],
    y: Float[Array, " m"],
    b: Float[Array, " m"],
) -> Float[Array, " m"]:
    """The exact potentials on the line, where cells follow each other as the data do.

    Neighbours meet where the source has as much mass below as the data: that is
    g_{j+1} - g_j = (y_{j+1} - y_j) (y_j + y_{j+1} - 2 F^{-1}(c_j)).
    """
    order = jnp.argsort(y)
    y = y[order]
    running = jnp.cumsum(masses)
    level = jnp.cumsum(b[order])[:-1] * running[-1]
    piece = jnp.clip(jnp.searchsorted(running, level), 0, masses.size - 1)
    mass = masses[piece]
    part = (level - (running[piece] - mass)) / jnp.where(mass > 0, mass, 1)
    border = edges[piece] + jnp.clip(part, 0, 1) * (edges[piece + 1] - edges[piece])
    steps = (y[1:] - y[:-1]) * ((y[1:] - border) + (y[:-1] - border))
    g = jnp.concatenate([jnp.zeros(1, y.dtype), jnp.cumsum(steps)])
    return jnp.zeros_like(g).at[order].set(g)


def affine_potentials(
    y: Float[Array, "m d"], b: Float[Array, " m"], low: Float[Array, " d"], high: Float[Array, " d"]
) -> Float[Array, " m"]:
    """Potentials for which the cell of each y_j has c + L y_j in it, L diagonal and positive.

    The map takes the box around the data to within that of the source, so that no cell is empty
    where the source has density: a start from which damped Newton steps lead to the optimum.
    """
    some = (b > 0)[:, None]
    least = jnp.min(jnp.where(some, y, jnp.inf), axis=0)
    most = jnp.max(jnp.where(some, y, -jnp.inf), axis=0)
    middle, length = (least + most) / 2, most - least
    shrink = _WITHIN * (high - low) / jnp.where(length > 0, length, 1)
    z = y - middle[None, :]
    apart = middle - (low + high) / 2
    squares = jnp.sum((1 - shrink)[None, :] * z**2, axis=1)
    return squares + 2 * jnp.matmul(z, apart, precision=jax.lax.Precision.HIGHEST)


class _Iterate(NamedTuple):
    """Potentials, what their cells lack, and what a unit of each moves from the others."""

    g: Float[Array, " m"]
    lacks: Float[Array, " m"]
    borders: Float[Array, "m m"]

    @property
    def error(self) -> Scalar:
        return jnp.sum(jnp.abs(self.lacks))


def newton_potentials(
    lines: Lines,
    y: Float[Array, "m d"],
    b: Float[Array, " m"],
    g: Float[Array, " m"],
    *,
    max_steps: int,
) -> tuple[Float[Array, " m"], Int[Array, ""]]:
    """Damped Newton on the semi-dual of a density along lines, until rounding stops it.

    The Hessian is minus the Laplacian of the graph of cells that touch, weighed by the density
    on their borders over twice the distance of their data. O(m^2) numbers are held.
    """
    total = jnp.sum(lines.masses)
    least = 100 * jnp.finfo(y.dtype).eps

    def at(g):
        sums, borders = line_cells(lines, heights(y, g, b), borders=True)
        return _Iterate(g, b - sums.masses / total, (borders + borders.T) / total)

    def unfinished(carry):
        iterate, steps, moved = carry
        return moved & (iterate.error > least) & (steps < max_steps)

    def step(carry):
        iterate, steps, _ = carry
        direction = _direction(iterate)

        def too_long(search):
            found, halvings = search
            bound = (1 - 0.25 * 0.5**halvings) * iterate.error
            return ~(found.error <= bound) & (halvings < _MOST_HALVINGS)

        def halve(search):
            _, halvings = search
            return at(iterate.g + 0.5 ** (halvings + 1) * direction), halvings + 1

        whole = at(iterate.g + direction), jnp.zeros((), y.dtype)
        found, _ = jax.lax.while_loop(too_long, halve, whole)
        better = found.error < iterate.error
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, iterate)
        return kept, steps + 1, better

    start = at(g), jnp.zeros((), jnp.int32), jnp.array(True)
    iterate, steps, _ = jax.lax.while_loop(unfinished, step, start)
    return iterate.g, steps


def _direction(iterate: _Iterate) -> Float[Array, " m"]:
    """The Newton step, of mean zero; a cell that touches no other rises alone."""
    rates = jnp.sum(iterate.borders, axis=1)
    typical = jnp.mean(rates)
    size = rates.size
    diagonal = jnp.where(rates > 1e-6 * typical, rates, rates + typical)
    # The constants, which change no cell, are held where they are.
    held = jnp.full((size, size), typical / size, rates.dtype)
    raised = diagonal * (1 + 10 * jnp.finfo(rates.dtype).eps)
    hessian = jnp.diag(raised) - iterate.borders + held
    return jax.scipy.linalg.solve(hessian, iterate.lacks, assume_a="pos")
