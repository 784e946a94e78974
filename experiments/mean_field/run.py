"""What networks look like as measures over neurons, in three pictures."""

import time
from typing import Any

from experiments.harness import config as configs
from experiments.harness.runs import RunFolder, environment
from experiments.mean_field import pictures, scenes
from experiments.mean_field.scenes import Plane, Space, Taught, Width


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    plane: Plane
    space: Space
    width: Width

    def __post_init__(self):
        configs.require(self.plane.dim == 2, "plane.dim", "must be 2")


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """All scenes, with their pictures; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    taught = {
        "plane": scenes.teach(config.plane, config.seed),
        "space": scenes.teach(config.space, config.seed),
    }
    for name, made in taught.items():
        _log(folder, name, made)
    pictures.neurons(folder.path / "neurons.png", taught["plane"])
    pictures.descent(folder.path / "descent.png", taught["plane"], taught["space"])
    widened = scenes.widen(config.width, config.seed)
    pictures.width(folder.path / "width.png", widened)
    summary = {
        "seconds": round(time.perf_counter() - began, 2),
        **{name: made.figures for name, made in taught.items()},
        "width": widened.figures,
        "environment": environment(),
    }
    folder.write_summary(summary)
    return summary


def _log(folder: RunFolder, scene: str, taught: Taught) -> None:
    for way, made in taught.trainings.items():
        for row in zip(made.times, made.risk, made.dissipation, strict=True):
            values = dict(zip(("time", "risk", "dissipation"), map(float, row), strict=True))
            folder.log({"scene": scene, "way": way, **values})


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures."""
    for scene in ("plane", "space"):
        print(f"{scene}:")
        for name, figures in summary[scene].items():
            risk = f"risk {figures['risk_before']:.3g} -> {figures['risk_after']:.3g}"
            unseen = f"unseen {figures['risk_unseen']:.3g}"
            met = f"met {100 * figures['share_met']:.1f} %"
            print(f"  {name:26s} {risk:26s} {unseen:18s} {met}  ({figures['seconds']} s)")
            shares = ", ".join(f"{100 * share:.1f}" for share in figures["strength_recovered"])
            print(f"    of each teacher's strength: {shares} %")
            print(f"    {figures['status']}")
    _show_widths(summary["width"])
    print(f"pictures and summary.json are in {folder.path}")


def _show_widths(figures: dict[str, Any]) -> None:
    errors = figures["errors"]
    columns = figures["widths"], figures["mean_risk_relu"], errors["risk, relu"]
    columns = *columns, figures["mean_risk_linear"], errors["risk from its limit, linear"]
    print("width: risk at one time, mean and deviation of independent networks")
    for n, relu, spread, linear, error in zip(*columns, strict=True):
        print(f"  {n:7,d}  relu {relu:.4f} +- {spread:.4f}  linear {linear:.4f}, error {error:.4f}")
    print(f"  limit, linear: {figures['limit_risk_linear']:.4f}")
    for name, rate in figures["rates"].items():
        print(f"  {name}: as n^{rate:.3f}")
    print(f"  process peak {figures['peak_mebibytes']} MiB, {figures['seconds']} s")
