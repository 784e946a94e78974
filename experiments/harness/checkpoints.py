"""Checkpoints that survive a kill at any moment, and know when they are damaged.

orbax writes each to a temporary folder and renames it when complete. Every checkpoint
carries a digest of its numbers, checked right after writing and again at reading; states
that are not finite are never saved. Leftovers of interrupted writes are ignored.
"""

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.harness.command import UserError

# Room for a damaged newest checkpoint, and one to fall back on behind it.
_KEPT = 3


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = folder
        process = jax.process_index()
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            cleanup_tmp_directories=process == 0,
            enable_async_checkpointing=False,
            create=False,
            # Each process on its own: one writes, and none waits for the others to read.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process,
                active_processes={process},
                barrier_sync_key_prefix=f"process{process}",
            ),
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, as the disk has it now."""
        return max(self._manager.all_steps(read=True), default=None)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Write a checkpoint and read it back; raises if what was read differs."""
        leaves = _leaves(state)
        if not all(np.all(np.isfinite(leaf)) for leaf in leaves.values()):
            raise FloatingPointError(f"the state after {step} steps is not finite; not saved")
        meta = meta | {"digest": _digest(leaves)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves), meta=ocp.args.JsonSave(meta)
            ),
        )
        self._manager.wait_until_finished()
        self.restore(step, state)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The state of a checkpoint, shaped `like` a state of the same run, and its meta."""
        where = self._folder / str(step)
        expected = _leaves(like)
        try:
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(expected), meta=ocp.args.JsonRestore()
                ),
            )
            leaves, meta = saved["state"], saved["meta"]
            intact = meta["digest"] == _digest(leaves)
        # A damaged file can make orbax and its storage raise anything.
        except Exception as error:
            raise UserError(_damaged(where, f"{type(error).__name__} while reading")) from error
        if not intact:
            raise UserError(_damaged(where, "its numbers do not match their digest"))
        arrays, static = eqx.partition(like, eqx.is_array)
        names = jax.tree.structure(arrays)
        restored = [jax.numpy.asarray(leaves[str(i)]) for i in range(names.num_leaves)]
        return eqx.combine(jax.tree.unflatten(names, restored), static), meta

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the numbers of a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def close(self) -> None:
        """Release what orbax holds."""
        with contextlib.suppress(RuntimeError):
            self._manager.close()


def _leaves(state: Any) -> dict[str, np.ndarray]:
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(arrays)}


def _digest(leaves: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(leaves, key=int):
        leaf = np.asarray(leaves[name])
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _damaged(where: Path, how: str) -> str:
    return f"checkpoint {where} is damaged ({how}); move it away to resume from the one before"
