"""Which devices a run uses, in one process or in several that find each other.

Several processes (hosts of a TPU slice, nodes of a cluster) run the same command, told
apart by `--process`; JAX's own distributed engine joins them. On a TPU slice, and wherever
else JAX finds the cluster by itself, `--coordinator auto` is enough. They share the folder:
process 0 alone writes to it, the others read checkpoints there.
"""

import argparse
import socket
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.harness.command import UserError, at_least

AXIS = "data"
_AUTO = "auto"
# Seconds that processes wait for each other at the start.
_PATIENCE = 60

Tree = TypeVar("Tree")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that join several processes."""
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens; auto: ask the cluster"
    )
    parser.add_argument("--processes", type=at_least(1), default=1, help="that run this command")
    parser.add_argument("--process", type=int, default=0, help="which of them this is, from 0")


def join(args: argparse.Namespace) -> None:
    """Wait for the other processes; nothing to do for one alone.

    Raises:
        UserError: The options do not fit together, or the coordinator does not answer.
    """
    if args.processes < 1 or not 0 <= args.process < args.processes:
        cure = f"--processes is {args.processes}: give --process from 0 to one less"
        raise UserError(f"--process is {args.process}; {cure}")
    if args.coordinator == _AUTO:
        _join_cluster(args)
        return
    if (args.processes == 1) != (args.coordinator is None):
        raise UserError("--coordinator and --processes belong together: give both or neither")
    if args.processes == 1:
        return
    if args.process > 0:
        _wait_for(args.coordinator)
    jax.distributed.initialize(
        args.coordinator, args.processes, args.process, initialization_timeout=_PATIENCE
    )


def _join_cluster(args: argparse.Namespace) -> None:
    """Let JAX find out who else runs this command."""
    if (args.processes, args.process) != (1, 0):
        raise UserError("--coordinator auto counts the processes itself; leave out --process(es)")
    try:
        jax.distributed.initialize(initialization_timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        cure = "give --coordinator HOST:PORT, --processes and --process"
        raise UserError(f"no cluster found ({str(error).splitlines()[0]}); {cure}") from error


def _wait_for(coordinator: str) -> None:
    """See that somebody listens: JAX itself would abort the interpreter if nobody did."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator is {coordinator!r}; write HOST:PORT")
    end = time.monotonic() + _PATIENCE / 4
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError as error:
            if time.monotonic() > end:
                cure = "start process 0 there first"
                raise UserError(f"nobody answers at {coordinator} ({error}); {cure}") from error
            time.sleep(0.2)
        else:
            return


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agree(number: int) -> int:
    """The number that process 0 has; every process must ask."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def mesh(num: int, *, name: str = "training.devices") -> Mesh:
    """The first devices, in one row; with several processes it must be all devices.

    Raises:
        UserError: There are not as many; `name` is what to set.
    """
    found = jax.device_count()
    if not 1 <= num <= found or (jax.process_count() > 1 and num != found):
        cure = f"there are {found} here; set {name} to that number"
        raise UserError(f"{name} is {num}; {cure}")
    return _in_a_row(jax.devices()[:num])


def mesh_here(num: int) -> Mesh | None:
    """The devices of a run that are this process's own; None where that is one."""
    own = jax.local_devices()[:num]
    return _in_a_row(own) if len(own) > 1 else None


def _in_a_row(chosen: Sequence[Any]) -> Mesh:
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def whole_on(mesh: Mesh) -> NamedSharding:
    """Every device holds all of the array."""
    return NamedSharding(mesh, PartitionSpec())


def lay_over(mesh: Mesh, tree: Tree) -> Tree:
    """Arrays of the host with their rows over the devices; each process hands over its own."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def lay(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, own_rows(array), array.shape)

    def own_rows(array: np.ndarray) -> np.ndarray:
        places = sharding.addressable_devices_indices_map(array.shape).values()
        blocks = sorted(place[0].indices(len(array)) for place in places if place)
        return np.concatenate([array[slice(*block)] for block in blocks])

    arrays, static = eqx.partition(tree, lambda leaf: isinstance(leaf, np.ndarray))
    return eqx.combine(jax.tree.map(lay, arrays), static)


def held_here(tree: Tree) -> Tree:
    """Arrays that are whole on every device, as arrays of this process alone."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), arrays), static)
