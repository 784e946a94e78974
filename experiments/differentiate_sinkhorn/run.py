"""What the map and the gradient of entropic transport are good for, on real photographs."""

import time
from typing import Any

from experiments.differentiate_sinkhorn import colours, registration
from experiments.differentiate_sinkhorn import pictures as pictures_sinkhorn
from experiments.differentiate_sinkhorn.colours import Colours
from experiments.differentiate_sinkhorn.registration import Registered
from experiments.differentiate_sinkhorn.warps import Registration
from experiments.harness import config as configs
from experiments.harness.runs import RunFolder, environment


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    colours: Colours
    registration: Registration


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Both parts, with their pictures; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    photographs, colour_figures = colours.transfer(config.colours, config.seed)
    pictures_sinkhorn.colour_transfer(folder.path / "colour_transfer.png", photographs)
    scenes = _register(config, folder)
    pictures_sinkhorn.registration(folder.path / "registration.png", scenes)
    summary = {
        "seconds": round(time.perf_counter() - began, 2),
        "colour_transfer": colour_figures,
        "registration": {name: _figures(scene) for name, scene in scenes.items()},
        "environment": environment(),
    }
    folder.write_summary(summary)
    return summary


def _register(config: Config, folder: RunFolder) -> dict[str, Registered]:
    scenes = {}
    for name, outliers in (("clean", 0.0), ("outliers", config.registration.outliers)):
        made = registration.register(config.registration, outliers=outliers, seed=config.seed)
        scenes[name] = made
        for loss, fit in made.fits.items():
            for row in fit.history:
                folder.log({"scene": name, "divergence": loss, **row})
    return scenes


def _figures(made: Registered) -> dict[str, Any]:
    before = registration.error(made.scene.source, made.scene.truth)
    fits = {name: fit.figures for name, fit in made.fits.items()}
    return {"error_before": before, "error_floor": made.floor, **fits}


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures, each beside its floor."""
    figures = summary["colour_transfer"]
    before, after, floor = (figures[f"energy_distance_{k}"] for k in ("before", "after", "floor"))
    print(f"colours: energy distance {before:.4f} before, {after:.4f} after (floor {floor:.4f})")
    print(f"plan: error {figures['marginal_error']:.2g}, gap {figures['gap']:.2g}", end="; ")
    print(figures["status"])
    for name, scene in summary["registration"].items():
        before, floor = scene["error_before"], scene["error_floor"]
        print(f"registration, {name}: error {before:.4f} before (floor {floor:.4f})")
        for loss, fit in scene.items():
            if isinstance(fit, dict):
                print(f"  {loss:20s} {fit['error']:.4f} after, in {fit['seconds']} s")
    print(f"pictures and summary.json are in {folder.path}")
