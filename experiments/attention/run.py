"""What attention does to a measure of tokens, in five pictures."""

import time
from typing import Any

from experiments.attention import closures, pictures, scenes
from experiments.attention.choices import Circle, Shift, Sphere, Sweep
from experiments.attention.closures import Gaussian
from experiments.attention.scenes import Clustered
from experiments.harness import config as configs
from experiments.harness.runs import RunFolder, environment


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    circle: Circle
    sphere: Sphere
    sweep: Sweep
    gaussian: Gaussian
    shift: Shift


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """All scenes, with their pictures; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    clustered = {
        "circle": scenes.cluster(config.circle, dimension=2, seed=config.seed),
        "sphere": scenes.cluster(config.sphere, dimension=3, seed=config.seed),
        "shift": scenes.shift(config.shift, seed=config.seed),
    }
    for name, made in clustered.items():
        _log(folder, name, made)
    swept = scenes.sweep(config.sweep, seed=config.seed)
    gaussian = closures.spread_out(config.gaussian, seed=config.seed)
    pictures.circle(folder.path / "circle.png", clustered["circle"])
    pictures.sphere(folder.path / "sphere.png", clustered["sphere"])
    pictures.sweep(folder.path / "sweep.png", swept)
    pictures.gaussian(folder.path / "gaussian.png", gaussian)
    pictures.shift(folder.path / "shift.png", clustered["shift"])
    summary = {
        "seconds": round(time.perf_counter() - began, 2),
        **{name: scenes.figures(made) for name, made in clustered.items()},
        "farthest_mode": scenes.farthest_mode(clustered["shift"]),
        "sweep": scenes.sweep_figures(swept),
        "gaussian": closures.figures(gaussian),
        "environment": environment(),
    }
    folder.write_summary(summary)
    return summary


def _log(folder: RunFolder, scene: str, made: Clustered) -> None:
    rows = zip(made.depths, made.clusters, made.energies, made.orders, strict=True)
    for depth, clusters, energy, order in rows:
        entry = {"depth": float(depth), "clusters": int(clusters), "energy": float(energy)}
        folder.log({"scene": scene, **entry, "order": float(order)})


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures."""
    for name in ("circle", "sphere", "shift"):
        figures = summary[name]
        counts = f"{figures['clusters_before']} clusters before, {figures['clusters_after']} after"
        print(f"{name}: {counts}; energy {figures['energy_before']:.4g}", end="")
        print(f" -> {figures['energy_after']:.4g}")
    print(f"shift: farthest mode from its component {summary['farthest_mode']:.3f}")
    gaussian = summary["gaussian"]
    print(f"gaussian: blow-up at {gaussian['blow_up']:.6f}, by formula", end=" ")
    print(f"{gaussian['blow_up_exact']:.6f}")
    for name in ("softmax", "l2"):
        error = gaussian[f"particle_error_{name}"]
        print(f"  {name}: covariance of particles off by {error:.2g} half way")
    print(f"pictures and summary.json are in {folder.path}")
