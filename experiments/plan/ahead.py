"""The compilers of accelerators, ahead of time: no TPU or GPU needs to be there.

`libtpu` (the extra `tpu`) compiles for any TPU topology, and JAX's CUDA plugin (the extra
`h100`) for H100s, on a machine that has neither. What compiles is accepted by the real
compiler and its memory is known; nothing is said about numbers or speed.
"""

import contextlib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Checks while running call the host, which the CUDA compiler can do only beside a device.
os.environ.setdefault("EQX_ON_ERROR", "nan")
# Compilers of devices that are not there must not be asked to start them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled, Lowered

from experiments.harness.command import UserError

AXIS = "data"
_GIBIBYTE = 2**30


class Chip(NamedTuple):
    """One device of a kind: memory in bytes, peak FLOP/s in bfloat16, bytes/s of its memory.

    `links` is bytes/s that reach it from others of its slice or node, over all its links:
    one way, which is half of what makers call bidirectional (v5e 400 GB/s, v5p 1200, NVLink
    900). From their data sheets (cloud.google.com/tpu/docs, nvidia.com).
    """

    memory: float
    flops: float
    bandwidth: float
    links: float


CHIPS = {
    "v4": Chip(32 * _GIBIBYTE, 275e12, 1.2e12, 300e9),
    "v5e": Chip(16 * _GIBIBYTE, 197e12, 0.82e12, 200e9),
    "v5p": Chip(95 * _GIBIBYTE, 459e12, 2.765e12, 600e9),
    "v6e": Chip(32 * _GIBIBYTE, 918e12, 1.64e12, 400e9),
    "h100": Chip(80e9, 989e12, 3.35e12, 450e9),
}

# NVIDIA H100 80GB HBM3, as the CUDA compiler wants it described.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """Devices to compile for, all along one axis of a mesh."""

    name: str
    platform: str
    mesh: Mesh

    @property
    def chip(self) -> Chip:
        """What one of the devices can do."""
        return CHIPS[self.name.partition(":")[0]]

    def abstract(self, tree: Any, *, sharded: bool = False) -> Any:
        """Shapes of arrays that lie over the devices, or whole on each of them."""
        spec = PartitionSpec(AXIS) if sharded else PartitionSpec()
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def lower(
        self, function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()
    ) -> Lowered:
        """The program for abstract arguments, before the device's own compiler sees it.

        It may reuse the memory of the arguments at the places `donate`.
        """
        # The newest JAX asks for what GPU it lowers, where there is none.
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            traced = jax.jit(function, donate_argnums=donate).trace(*arguments)
            return traced.lower(lowering_platforms=(self.platform,))

    def compile(
        self, function: Callable[..., Any], *arguments: Any, donate: tuple[int, ...] = ()
    ) -> Compiled:
        """The program for abstract arguments, by the device's own compiler; as `lower`."""
        return compile_quietly(self.lower(function, *arguments, donate=donate))


def compile_quietly(lowered: Lowered) -> Compiled:
    """The program, by the compiler of the devices that it was lowered for."""
    with _quiet():
        return lowered.compile()


def missing(platform: str) -> str | None:
    """Why there is no compiler for "tpu" or "cuda" here; None if there is."""
    module, extra = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda13_plugin", "h100")}[platform]
    if importlib.util.find_spec(module) is None:
        return f'{module} is not installed; run `pip install -e ".[{extra}]"`'
    return None


@functools.cache
def target(name: str) -> Target:
    """Devices by name: TPUs as "v5e:2x4", H100s as "h100:8".

    Raises:
        UserError: No such devices, or their compiler is not installed.
    """
    kind, _, size = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", size):
        known = ", ".join(CHIPS)
        raise UserError(f"no topology {name!r}; give KIND:SIZE, as v5e:2x4, KIND of {known}")
    platform = "cuda" if kind == "h100" else "tpu"
    reason = missing(platform)
    if reason is not None:
        raise UserError(reason)
    devices = np.array(_devices(platform, name, size))
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    return Target(name, platform, mesh)


def _devices(platform: str, name: str, size: str) -> list[Any]:
    # libtpu asks the cloud's metadata server unless told not to, and lets one process in.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    if platform == "cuda":
        options = {"topology": f"1x1x{size}", "target_config": _H100}
        return topologies.get_topology_desc("h100", "cuda", **options).devices
    try:
        with _quiet():
            return topologies.get_topology_desc(name, "tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"no topology {name!r}: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what libtpu writes to standard error about the TPU that isn't there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
