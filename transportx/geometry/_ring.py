"""Sums over all pairs of blocks, targets passed around a ring of devices; with derivatives.

Rows stay where they are; columns go from device to device until each has met all rows.
Derivatives and transposes of such a sum are such sums again, so that a backward pass keeps
nothing but its arguments, and visits and passes on once more.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

Visit = Callable[..., Sequence[Array]]


class Placement(Enum):
    """Where an array lies.

    WHOLE arrays are on every device. ROWS lie over the devices; so do COLUMNS, which move.
    ENTRIES have a row for each row and a column for each column; they lie as rows do.
    """

    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"
    ENTRIES = "entries"


class Ring(NamedTuple):
    """Devices of a mesh: the axes that rows lie over, and the one that columns move along.

    `axis` is among `row_axes`, or None: then every device holds all columns.
    """

    mesh: Mesh
    row_axes: tuple[str, ...]
    axis: str | None

    @property
    def num_rows(self) -> int:
        """Blocks of rows."""
        return self._count(self.row_axes)

    @property
    def num_columns(self) -> int:
        """Blocks of columns."""
        return self._count(self.column_axes)

    @property
    def column_axes(self) -> tuple[str, ...]:
        """The axis that columns lie over, if any."""
        return () if self.axis is None else (self.axis,)

    @property
    def other_axes(self) -> tuple[str, ...]:
        """Axes of rows along which columns are copies."""
        return tuple(axis for axis in self.row_axes if axis != self.axis)

    def _count(self, axes: tuple[str, ...]) -> int:
        count = 1
        for axis in axes:
            count *= self.mesh.shape[axis]
        return count

    def spec(self, placement: Placement) -> PartitionSpec:
        """How an array lies over the mesh."""
        rows = self.row_axes or None
        axes = {Placement.WHOLE: (), Placement.COLUMNS: (self.axis,)}.get(placement, (rows,))
        return PartitionSpec(*axes)

    def blocks(self, placement: Placement) -> tuple[int, ...]:
        """Into how many blocks the leading axes are cut at a visit."""
        rows, columns = self.num_rows, self.num_columns
        return {
            Placement.WHOLE: (),
            Placement.ROWS: (rows,),
            Placement.COLUMNS: (columns,),
            Placement.ENTRIES: (rows, columns),
        }[placement]

    def cut(
        self, arrays: Sequence[Any], placements: Sequence[Placement]
    ) -> list[jax.ShapeDtypeStruct]:
        """Shapes of the blocks that a visit sees."""
        return [
            jax.ShapeDtypeStruct(_scaled(one.shape, self.blocks(where), divide=True), one.dtype)
            for one, where in zip(arrays, placements, strict=True)
        ]

    def pass_on(self, blocks: Any) -> Any:
        """Hand blocks to the next device; inside `shard_map`."""
        if self.axis is None:
            return blocks
        count = self.num_columns
        to_next = [(i, (i + 1) % count) for i in range(count)]
        return jax.tree.map(lambda block: jax.lax.ppermute(block, self.axis, to_next), blocks)

    def place(self, step: Array) -> Array:
        """Which block of columns is here after so many passes; inside `shard_map`."""
        here = 0 if self.axis is None else jax.lax.axis_index(self.axis)
        return (here - step) % self.num_columns

    def map(
        self, body: Callable[..., Any], placements: Sequence[Placement], out: Any
    ) -> Callable[..., Any]:
        """`body` on every device, by how its arguments and results lie."""
        # With `check_vma` JAX tracks which arrays are copies, to transpose sums over devices.
        # Derivatives have rules of their own below and never pass through this `shard_map`.
        specs = tuple(self.spec(one) for one in placements)
        out_specs = jax.tree.map(self.spec, out)
        return jax.shard_map(
            body, mesh=self.mesh, in_specs=specs, out_specs=out_specs, check_vma=False
        )


def ring_sum(
    ring: Ring,
    visit: Visit,
    arguments: Sequence[Array],
    placements: Sequence[Placement],
    out: Sequence[Placement],
) -> list[Array]:
    """Sum what `visit` gives of each pair of a block of rows and a block of columns.

    Args:
        ring: The devices.
        visit: Takes a block of each argument; gives blocks of the results, floating. It
            closes over no array.
        arguments: Arrays.
        placements: Where each of them lies.
        out: Where the results lie: summed over both blocks (WHOLE), over columns (ROWS), over
            rows (COLUMNS), or put side by side (ENTRIES).
    """
    # So that programs whose arguments lie elsewhere are compiled for these devices.
    arguments = [
        jax.lax.with_sharding_constraint(one, NamedSharding(ring.mesh, ring.spec(where)))
        for one, where in zip(arguments, placements, strict=True)
    ]
    return _ring_sum.bind(
        *arguments, ring=ring, visit=visit, placements=tuple(placements), out=tuple(out)
    )


# A primitive, for the sake of its derivatives. Differentiated by JAX, the scan below would keep
# what each visit computed, all blocks of costs together, and pass it round once more. With rules
# of its own a derivative is a ring sum of another visit: nothing is kept but the arguments.
_ring_sum = Primitive("ring_sum")
_ring_sum.multiple_results = True


def _run(*arguments, ring: Ring, visit: Visit, placements, out):
    """One scan on every device: visit the block that is here, then pass on what moves."""
    parts = jax.eval_shape(visit, *ring.cut(arguments, placements))

    def body(*arguments):
        def step(carry, passes):
            moving, sums = carry
            place = ring.place(passes)
            blocks = [
                _block(one, place, ring) if where is Placement.ENTRIES else one
                for one, where in zip(
                    _merged(arguments, moving, placements), placements, strict=True
                )
            ]
            sums = [
                _put(total, part, place) if where is Placement.ENTRIES else total + part
                for total, part, where in zip(sums, visit(*blocks), out, strict=True)
            ]
            # Sums that belong to columns travel with them, and are home after a full round.
            moving, travelling = ring.pass_on((moving, _moving(sums, out)))
            return (moving, _merged(sums, travelling, out)), None

        moving = _moving(arguments, placements)
        zeros = [
            jnp.zeros(_whole_rows(part.shape, where, ring), part.dtype)
            for part, where in zip(parts, out, strict=True)
        ]
        (_, sums), _ = jax.lax.scan(
            step, (moving, zeros), jnp.arange(ring.num_columns, dtype=jnp.int32)
        )
        # What devices hold copies of: each has added the part of its own rows alone.
        over = {Placement.WHOLE: ring.row_axes, Placement.COLUMNS: ring.other_axes}
        return [jax.lax.psum(s, over.get(w, ())) for s, w in zip(sums, out, strict=True)]

    return ring.map(body, placements, list(out))(*arguments)


def _moving(arrays, placements):
    return [
        one for one, where in zip(arrays, placements, strict=True) if where is Placement.COLUMNS
    ]


def _merged(arrays, moving, placements):
    """The arrays, those of columns in the place that they moved to."""
    moving = iter(moving)
    return [
        next(moving) if where is Placement.COLUMNS else one
        for one, where in zip(arrays, placements, strict=True)
    ]


def _whole_rows(shape, where, ring):
    if where is not Placement.ENTRIES:
        return shape
    return shape[0], shape[1] * ring.num_columns, *shape[2:]


def _block(entries, place, ring):
    size = entries.shape[1] // ring.num_columns
    return jax.lax.dynamic_slice_in_dim(entries, place * size, size, axis=1)


def _put(entries, block, place):
    start = place * block.shape[1]
    return jax.lax.dynamic_update_slice_in_dim(entries, block, start, axis=1)


def _abstract(*shapes, ring: Ring, visit: Visit, placements, out):
    parts = jax.eval_shape(visit, *ring.cut(shapes, placements))
    return [
        ShapedArray(_scaled(part.shape, ring.blocks(where), divide=False), part.dtype)
        for part, where in zip(parts, out, strict=True)
    ]


def _scaled(shape, counts, *, divide):
    leading = (s // c if divide else s * c for s, c in zip(shape, counts, strict=False))
    return *leading, *shape[len(counts) :]


def _jvp(primals, tangents, *, ring: Ring, visit: Visit, placements, out):
    """The sum of what the visits' derivatives give, tangents lying as their arguments do."""
    # Symbolic zeros stay at home: a tangent costs as much to pass on as what it belongs to.
    moved = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]
    count = len(primals)

    def moved_visit(*blocks):
        still, moves = blocks[:count], blocks[count:]

        def of_moved(*some):
            return visit(*_replaced(still, moved, some))

        return jax.jvp(of_moved, [still[i] for i in moved], list(moves))[1]

    primal = ring_sum(ring, visit, primals, placements, out)
    arguments = *primals, *(tangents[i] for i in moved)
    both = *placements, *(placements[i] for i in moved)
    return primal, ring_sum(ring, moved_visit, arguments, both, out)


def _replaced(arrays, places, new):
    arrays = list(arrays)
    for place, one in zip(places, new, strict=True):
        arrays[place] = one
    return arrays


def _transpose(cotangents, *arguments, ring: Ring, visit: Visit, placements, out):
    """The sum of what the visits' transposes give: arguments and results change places.

    A result over ROWS becomes an argument over ROWS, and so on: what was summed over columns is
    handed to every block of them, and what was handed to each is summed.
    """
    linear = [i for i, one in enumerate(arguments) if ad.is_undefined_primal(one)]
    known = [i for i in range(len(arguments)) if i not in linear]
    live = [i for i, cotangent in enumerate(cotangents) if type(cotangent) is not ad.Zero]
    # JAX gives no values for these, only their types.
    shapes = ring.cut([arguments[i].aval for i in linear], [placements[i] for i in linear])

    def pull(*blocks):
        given, pulled = blocks[: len(known)], blocks[len(known) :]

        def of_linear(*some):
            arrays = _replaced([None] * len(arguments), known, given)
            parts = visit(*_replaced(arrays, linear, some))
            return [parts[i] for i in live]

        # Linear in these, so that zero is as good as any place.
        zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
        return jax.vjp(of_linear, *zeros)[1](list(pulled))

    found = ring_sum(
        ring,
        pull,
        [*(arguments[i] for i in known), *(cotangents[i] for i in live)],
        [*(placements[i] for i in known), *(out[i] for i in live)],
        [placements[i] for i in linear],
    )
    return _replaced([None] * len(arguments), linear, found)


def _batch(arguments, axes, *, ring: Ring, visit: Visit, placements, out):
    """One round for the whole batch: each visit is vmapped."""
    # Batch axes go behind the axes that blocks are cut along, so that `placements` stays as it is.
    behind = [len(ring.blocks(where)) for where in placements]
    out_axes = [len(ring.blocks(where)) for where in out]
    arguments = [
        one if axis is None else jnp.moveaxis(one, axis, place)
        for one, axis, place in zip(arguments, axes, behind, strict=True)
    ]
    in_axes = [None if a is None else place for a, place in zip(axes, behind, strict=True)]
    each = jax.vmap(lambda *blocks: list(visit(*blocks)), tuple(in_axes), out_axes)
    return ring_sum(ring, each, arguments, placements, out), out_axes


# All that JAX has to know of a primitive: its values, types, derivatives, batches and programs.
_ring_sum.def_impl(_run)
_ring_sum.def_abstract_eval(_abstract)
ad.primitive_jvps[_ring_sum] = _jvp
ad.primitive_transposes[_ring_sum] = _transpose
batching.primitive_batchers[_ring_sum] = _batch
mlir.register_lowering(_ring_sum, mlir.lower_fun(_run, multiple_results=True))
