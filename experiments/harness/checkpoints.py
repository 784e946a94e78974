"""Checkpoints that survive a kill at any moment, and know when they are damaged.

orbax writes each to a temporary folder and renames it when complete. Every checkpoint
carries a digest of its step, its config and its numbers with their shapes, checked right
after writing and again at reading: what was renamed, or is of another run, is refused.
States that are not finite are never saved. Leftovers of interrupted writes are ignored.
"""

import contextlib
import hashlib
import json
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
    """The checkpoints of one run folder, of the run that has this config."""

    def __init__(self, folder: Path, config: str):
        self._config = config
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
        """Write a checkpoint and read it back.

        Raises:
            FloatingPointError: The state is not finite.
            UserError: It was not written whole, or one of this step or a later one exists.
        """
        latest = self.latest()
        if latest is not None and latest >= step:
            where = self._folder / str(latest)
            raise UserError(f"step {step} is not after checkpoint {where}; move that away first")
        leaves = _leaves(state)
        if not all(np.all(np.isfinite(leaf)) for leaf in leaves.values()):
            raise FloatingPointError(f"the state after {step} steps is not finite; not saved")
        meta = meta | self._origin(step) | {"digest": self._digest(step, leaves)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(leaves), meta=ocp.args.JsonSave(meta))
        # A full disk can make orbax and its storage raise anything.
        try:
            self._manager.save(step, args=args)
            self._manager.wait_until_finished()
        except Exception as error:
            why = " ".join(str(error).split())[:200]
            cure = "make room for it, then go on with --resume"
            raise UserError(f"no checkpoint written to {self._folder}: {why}; {cure}") from error
        self.restore(step, state)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The state of a checkpoint, shaped `like` a state of the same run, and its meta."""
        where, expected = self._folder / str(step), _leaves(like)
        # A damaged file can make orbax and its storage raise anything.
        try:
            meta = self.meta(step)
            self._check_origin(step, meta)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(expected))
            leaves = self._manager.restore(step, args=args)["state"]
            intact = meta["digest"] == self._digest(step, leaves)
        except UserError:
            raise
        except Exception as error:
            raise UserError(_damaged(where, f"{type(error).__name__} while reading")) from error
        if not intact:
            raise UserError(_damaged(where, "its numbers do not match their digest"))
        if _shapes(leaves) != _shapes(expected):
            raise UserError(f"checkpoint {where} is of a network of other shapes")
        arrays, static = eqx.partition(like, eqx.is_array)
        names = jax.tree.structure(arrays)
        restored = [jax.numpy.asarray(leaves[str(i)]) for i in range(names.num_leaves)]
        return eqx.combine(jax.tree.unflatten(names, restored), static), meta

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the numbers of a checkpoint."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def _origin(self, step: int) -> dict[str, Any]:
        return {"step": step, "config": hashlib.sha256(self._config.encode()).hexdigest()}

    def _check_origin(self, step: int, meta: dict[str, Any]) -> None:
        where = self._folder / str(step)
        if meta["step"] != step:
            raise UserError(f"checkpoint {where} is of step {meta['step']}; name it that again")
        if meta["config"] != self._origin(step)["config"]:
            raise UserError(f"checkpoint {where} is of a run of another config; move it away")

    def _digest(self, step: int, leaves: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(self._origin(step)).encode())
        for name in sorted(leaves, key=int):
            leaf = np.asarray(leaves[name])
            digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
            digest.update(leaf.tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Release what orbax holds."""
        with contextlib.suppress(RuntimeError):
            self._manager.close()


def _leaves(state: Any) -> dict[str, np.ndarray]:
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(arrays)}


def _shapes(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _damaged(where: Path, how: str) -> str:
    return f"checkpoint {where} is damaged ({how}); move it away to resume from the one before"
