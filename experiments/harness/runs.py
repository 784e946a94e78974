"""The folder of a run: its config, its log, its checkpoints, its summary."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments.harness import config as configs
from experiments.harness.command import UserError

T = TypeVar("T")


class RunFolder:
    """Paths inside a run folder, and writes to it that cannot be left half done."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "config.toml").is_file()

    def start(self, config: Any, *, resume: bool) -> None:
        """Claim the folder for a run of this config, or check that it is its own."""
        if self.exists:
            if not resume:
                cure = "add --resume to continue it, or choose another --out"
                raise UserError(f"{self.path} already holds a run; {cure}")
            differing = configs.differences(config, self.config(type(config)))
            if differing:
                raise UserError(
                    f"{self.path} holds a run of another config, which differs in "
                    f"{', '.join(differing)}; choose another --out"
                )
            return
        self.claim(config)

    def claim(self, config: Any) -> None:
        """Start a run, of any dataclass of a config, in a folder with nothing in it."""
        if self.path.exists() and any(not p.name.startswith(".") for p in self.path.iterdir()):
            found = "already holds a run" if self.exists else "is not empty and holds no run"
            raise UserError(f"{self.path} {found}; choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("config.toml", configs.dump(config))

    def config(self, kind: type[T]) -> T:
        """The config, of this dataclass, that the run was started with."""
        if not self.exists:
            raise UserError(f"no run at {self.path}: there is no config.toml in it")
        return configs.load(kind, self.path / "config.toml")

    def write(self, name: str, text: str) -> None:
        """Replace a file at once: a kill leaves the old one or the new one."""
        temporary = self.path / f".{name}.tmp"
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)

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


def environment() -> dict[str, Any]:
    """Versions and device: what the same bits need."""
    packages = ("jax", "jaxlib", "equinox", "diffrax", "optax", "transportx")
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "device": device.device_kind,
        "num_devices": jax.device_count(),
    }


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
