"""Particles and densities that descend energies: which reach a target, and how fast.

    python -m experiments.gradient_flows configs/gradient_flows.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

One spot of particles flows onto two moons under the squared MMD (alone, and with birth and
death of weight), the energy distance, sliced W2 and the Sinkhorn divergence. Beside them the
porous medium equation, the flow of its energy, on a grid against Barenblatt's solution; and the
heat and Fokker-Planck equations by cells, by quantiles, and by particles with noise and without.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `metrics.jsonl` (energy,
dissipation and exact W2 of every recorded time), `particles.png`, `energies.png`,
`porous.png`, `line.png` and `summary.json`. W2 to the target stands beside its floor, that
between two samples of the target, and W2 to an exact law beside that of a sample.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from experiments.gradient_flows import pictures
from experiments.gradient_flows.line import Line, diffuse
from experiments.gradient_flows.particles import Particles, Scene, flow_all
from experiments.gradient_flows.porous import Porous, spread
from experiments.harness import config as configs
from experiments.harness.command import config_parser_for
from experiments.harness.runs import RunFolder, environment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    seed: int
    particles: Particles
    porous: Porous
    line: Line

    def __post_init__(self):
        configs.require(self.seed >= 0, "seed", "must not be negative")


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Both parts, with their pictures; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    scene = flow_all(config.particles, config.seed)
    _log(scene, folder)
    pictures.particles(folder.path / "particles.png", scene)
    pictures.energies(folder.path / "energies.png", scene)
    grid = spread(config.porous)
    pictures.porous(folder.path / "porous.png", grid)
    diffused = diffuse(config.line, config.seed)
    pictures.line(folder.path / "line.png", diffused)
    summary = {
        "seconds": round(time.perf_counter() - began, 2),
        "wasserstein2_floor": scene.floor,
        "particles": {name: flown.figures for name, flown in scene.flows.items()},
        "porous": grid.figures,
        "line": {name: made.figures for name, made in diffused.items()},
        "environment": environment(),
    }
    folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _log(scene: Scene, folder: RunFolder) -> None:
    for name, flown in scene.flows.items():
        record = flown.record
        columns = record.times, record.energy, record.dissipation, flown.distances
        for row in zip(*columns, strict=True):
            keys = "time", "energy", "dissipation", "wasserstein2"
            values = dict(zip(keys, map(float, row), strict=True))
            folder.log({"flow": name, **values})


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures, each beside its floor."""
    print(f"W2 between two samples of the target: {summary['wasserstein2_floor']:.3f}")
    for name, figures in summary["particles"].items():
        energy = f"energy {figures['energy_before']:.3g} -> {figures['energy_after']:.3g}"
        distance = f"W2 {figures['wasserstein2_before']:.3f} -> {figures['wasserstein2_after']:.3f}"
        print(f"  {name:22s} {energy:30s} {distance}  ({figures['seconds']} s)")
        print(f"    {figures['status']}")
    porous = summary["porous"]
    print(f"porous medium: relative L1 error {porous['relative_l1_error']:.3g}", end=", ")
    print(f"mass error {porous['mass_error']:.2g}, steps", end=" ")
    print(f"{porous['steps_over_explicit_limit']} times the explicit limit: {porous['status']}")
    for equation, ways in summary["line"].items():
        print(f"{equation}, W2 to the exact law:")
        for way, figures in ways.items():
            print(f"  {way:24s} {figures['wasserstein2']:.4f}")
    print(f"pictures and summary.json are in {folder.path}")


def main() -> None:
    """Parse the command line and run."""
    args = config_parser_for("gradient_flows", __doc__).parse_args()
    config = configs.load(Config, args.config, overrides=args.set, smoke=args.smoke)
    folder = RunFolder(args.out or Path("runs") / args.config.stem)
    show(run(config, folder), folder)
