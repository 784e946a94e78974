"""The folder of a run: its config, its log, its checkpoints, its summary."""

import fcntl
import json
import os
import platform
import weakref
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments.harness import config as configs
from experiments.harness.command import UserError

T = TypeVar("T")


class RunFolder:
    """Paths inside a run folder, and writes to it that cannot be left half done.

    Who claims a folder holds it until `release`, or the end of the process, however it ends.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.release: Callable[[], object] = lambda: None

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.toml").is_file()

    def start(self, config: Any, *, resume: bool) -> None:
        """Claim the folder for a run of this config, or check that it is its own."""
        if not self.exists:
            self.claim(config)
            return
        if not resume:
            cure = "add --resume to continue it, or choose another --out"
            raise UserError(f"{self.path} already holds a run; {cure}")
        differing = configs.differences(config, self.config(type(config)))
        if differing:
            raise UserError(
                f"{self.path} holds a run of another config, which differs in "
                f"{', '.join(differing)}; choose another --out"
            )
        self._hold()

    def claim(self, config: Any) -> None:
        """Start a run, of any dataclass of a config, in a folder with nothing in it."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        if any(not p.name.startswith(".") for p in self.path.iterdir()):
            found = "already holds a run" if self.exists else "is not empty and holds no run"
            raise UserError(f"{self.path} {found}; choose another --out")
        self._hold()
        self.write("config.toml", configs.dump(config))

    def _hold(self) -> None:
        """Keep all others out; the operating system lets go of what a killed process held."""
        lock = os.open(self.path / ".lock", os.O_WRONLY | os.O_CREAT)
        self.release = weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            cure = "wait for its end, or choose another --out"
            raise UserError(f"another process is running in {self.path}; {cure}") from error

    def config(self, kind: type[T]) -> T:
        """The config, of this dataclass, that the run was started with."""
        if not self.exists:
            raise UserError(f"no run at {self.path}: there is no config.toml in it")
        return configs.load(kind, self.path / "config.toml")

    def write(self, name: str, text: str) -> None:
        """Replace a file at once: a kill leaves the old one or the new one."""
        temporary = self.path / f".{name}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the figures of a finished run."""
        self.write("summary.json", json.dumps(summary, indent=2) + "\n")

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def rewind_log(self, step: int) -> None:
        """Forget log lines after `step`, and one that a kill cut short."""
        log = self.path / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        kept = [line for line in lines if _logged_step(line) <= step]
        self.write("metrics.jsonl", "".join(line + "\n" for line in kept))


def write_figures(path: Path | None, figures: dict[str, Any]) -> None:
    """Write what a benchmark measured, with its environment, where it was asked to."""
    if path is not None:
        path.write_text(json.dumps(figures | {"environment": environment()}, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Versions and device: what the same bits need."""
    packages = ("jax", "jaxlib", "equinox", "diffrax", "optax", "transportx")
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "device": device.device_kind,
        "num_devices": jax.device_count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed: read from its source"


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
