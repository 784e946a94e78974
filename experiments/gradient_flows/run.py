"""Particles and densities that descend energies: which reach a target, and how fast."""

import time
from typing import Any

from experiments.gradient_flows import pictures
from experiments.gradient_flows.line import Line, diffuse
from experiments.gradient_flows.particles import Particles, Scene, flow_all
from experiments.gradient_flows.porous import Porous, spread
from experiments.harness import config as configs
from experiments.harness.runs import RunFolder, environment


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    particles: Particles
    porous: Porous
    line: Line


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
    folder.write_summary(summary)
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
