"""Reductions over targets that go around a ring of devices, by any merge."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from transportx.geometry._merges import AbstractMerge
from transportx.geometry._point_cloud import PointCloud
from transportx.geometry._ring import Placement, Ring, ring_sum


class Operands(NamedTuple):
    """Arguments of a reduction: what every device holds, and the blocks that lie on each.

    Attributes:
        whole: (cost, function, centre of the points or None); arrays in them are on every
            device.
        rows: Source points, and what belongs to them.
        columns: (target points, what belongs to them).
    """

    whole: PyTree
    rows: PyTree
    columns: PyTree

    def part(self, tile: int) -> PyTree[Array]:
        """What the targets of this block give the rows of this block."""
        (cost, function, centre), (x, *rows), (y, columns) = self
        cloud = PointCloud(x, y, cost, tile=tile, centre=centre)
        return cloud.map_tiles(eqx.Partial(function, columns), *rows)


def fold(ring: Ring, merge: AbstractMerge, tile: int, operands: Operands) -> PyTree[Array]:
    """What all targets give each row, `tile` rows of costs held at once."""
    fold = Fold(ring, merge, tile)
    # A rule for derivatives would hide that sums are linear: what has one is not transposed.
    return fold.add(operands) if merge.additive else _joined(fold, operands)


class Fold(eqx.Module):
    """Parts joined around a ring.

    Attributes:
        ring: The devices.
        merge: How parts are joined.
        tile: Rows of costs held at once.
    """

    ring: Ring = eqx.field(static=True)
    merge: AbstractMerge
    tile: int = eqx.field(static=True)

    def add(self, operands: Operands) -> PyTree[Array]:
        """The sum of all parts."""
        leaves, placements, rebuild = _flat(operands)

        def visit(*blocks):
            return rebuild(blocks).part(self.tile)

        shapes, tree = jax.tree.flatten(jax.eval_shape(visit, *self.ring.cut(leaves, placements)))
        out = [Placement.ROWS] * len(shapes)
        sums = ring_sum(self.ring, lambda *b: jax.tree.leaves(visit(*b)), leaves, placements, out)
        return jax.tree.unflatten(tree, sums)

    def join(self, operands: Operands) -> PyTree[Array]:
        """Visit block after block; not to be differentiated, which would keep all of them."""
        leaves, placements, rebuild = _flat(operands)
        shapes = jax.eval_shape(
            lambda *b: rebuild(b).part(self.tile), *self.ring.cut(leaves, placements)
        )

        def body(*blocks):
            here = rebuild(blocks)
            moving, still = eqx.partition(here.columns, eqx.is_array)

            def step(carry, _):
                moving, total = carry
                met = here._replace(columns=eqx.combine(moving, still))
                total = self.merge.join(total, met.part(self.tile))
                return (self.ring.pass_on(moving), total), None

            start = moving, self.merge.empty(shapes)
            return jax.lax.scan(step, start, length=self.ring.num_columns)[0][1]

        out = jax.tree.map(lambda _: Placement.ROWS, shapes)
        return self.ring.map(body, placements, out)(*leaves)

    def shares(self, operands: Operands, joined: PyTree[Array]) -> PyTree[Array]:
        """The floating part of what was joined, as a sum that can be differentiated."""
        leaves, placements, rebuild = _flat(operands)
        parts, tree = jax.tree.flatten(joined)

        def visit(*blocks):
            part = rebuild(blocks[: len(leaves)]).part(self.tile)
            whole = jax.tree.unflatten(tree, blocks[len(leaves) :])
            return jax.tree.leaves(_floating(self.merge.share(whole, part)))

        floating, out_tree = jax.tree.flatten(_floating(joined))
        placements = [*placements, *[Placement.ROWS] * len(parts)]
        out = [Placement.ROWS] * len(floating)
        return jax.tree.unflatten(
            out_tree, ring_sum(self.ring, visit, [*leaves, *parts], placements, out)
        )


@eqx.filter_custom_jvp
def _joined(fold: Fold, operands: Operands) -> PyTree[Array]:
    return fold.join(operands)


@_joined.def_jvp
def _joined_jvp(primals: Any, tangents: Any) -> Any:
    (fold, operands), (_, moves) = primals, tangents
    joined = _joined(fold, operands)
    held = jax.lax.stop_gradient(joined)
    _, moved = eqx.filter_jvp(lambda operands: fold.shares(operands, held), (operands,), (moves,))
    return joined, moved


def whole_costs(ring: Ring, tile: int, operands: Operands) -> Array:
    """Costs, the rows of each device whole on it."""
    leaves, placements, rebuild = _flat(operands)
    return ring_sum(
        ring, lambda *blocks: [rebuild(blocks).part(tile)], leaves, placements, [Placement.ENTRIES]
    )[0]


def _floating(tree: PyTree) -> PyTree:
    return eqx.filter(tree, eqx.is_inexact_array)


def _flat(operands: Operands):
    """Its arrays, where each of them lies, and how to rebuild it of others in their place."""
    arrays, static = eqx.partition(operands, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)
    kinds = zip((Placement.WHOLE, Placement.ROWS, Placement.COLUMNS), arrays, strict=True)
    placements = [where for where, part in kinds for _ in jax.tree.leaves(part)]
    return leaves, placements, lambda blocks: eqx.combine(jax.tree.unflatten(tree, blocks), static)
