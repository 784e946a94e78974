"""What the kernels of a program take of an H100: registers, spills, threads, shared memory.

XLA says how it launches a kernel; NVIDIA's assembler, run on the code that XLA wrote, says
what it takes. Neither needs a GPU.
"""

import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.plan.ahead import Target

_LAUNCH = re.compile(r"\] (\w+) grid: .* threads: \[(\d+), .*shared_memory: (\d+) bytes")
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_TAKEN = re.compile(r"(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


class Taken(NamedTuple):
    """What one kernel takes: registers a thread, bytes that a thread spills, what a block has."""

    registers: int
    spilled_bytes: int
    threads: int
    shared_bytes: int


def missing() -> str | None:
    """Why nothing can be told here; None if it can."""
    return None if _assembler() else "ptxas is not on the PATH; install NVIDIA's nvcc package"


def taken(target: Target, function: Callable[..., Any], *arguments: Any) -> dict[str, Taken]:
    """What each kernel of the compiled function takes, by name; Triton's and XLA's own."""
    lowered = target.lower(function, *arguments)
    with tempfile.TemporaryDirectory() as folder:
        lowered.compile(compiler_options={"xla_dump_to": folder})
        launches = _launches(pathlib.Path(folder))
        assembled = _assembled(pathlib.Path(folder))
    return {name: Taken(*assembled[name], *launches[name]) for name in launches}


def _launches(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Threads and shared bytes of a block, by kernel."""
    (sequence,) = folder.glob("*thunk_sequence.txt")
    found = _LAUNCH.findall(sequence.read_text())
    return {name: (int(threads), int(shared)) for name, threads, shared in found}


def _assembled(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Registers and spilled bytes of a thread, by kernel."""
    kernels = {}
    for path in folder.glob("*.ptx"):
        if not path.stat().st_size:
            continue
        command = [_assembler(), "-v", "-arch", "sm_90a", path, "-o", folder / "cubin"]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, report in zip(*[iter(_ENTRY.split(ran.stderr)[1:])] * 2, strict=True):
            spilled, registers = map(int, _TAKEN.findall(report)[0])
            kernels[name] = registers, spilled
    return kernels


def _assembler() -> str | None:
    return shutil.which("ptxas")
