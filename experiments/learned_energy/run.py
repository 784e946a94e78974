"""Free energies learned from populations: a known one recovered, and real ones that predict."""

import json
import time
from typing import Any

import numpy as np

from experiments.data import populations as data
from experiments.harness import config as configs
from experiments.harness.runs import RunFolder, environment
from experiments.learned_energy import pictures, prediction, questions
from experiments.learned_energy.prediction import Predicted, Prediction
from experiments.learned_energy.recovery import Recovery, recover_all, true_potential

NO_CELLS = 'left out: scanpy is not installed (pip install -e ".[cells]")'


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    recovery: Recovery
    prediction: Prediction


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Recover, predict and draw; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    recovered = recover_all(config.recovery, config.seed)
    true = true_potential(config.recovery)
    pictures.potentials(folder.path / "potentials.png", true, recovered)
    pictures.populations(folder.path / "populations.png", config.recovery.times, recovered)
    predicted = _predict(config)
    for name, made in predicted.items():
        pictures.predictions(folder.path / f"{name}.png", made)
    pictures.bars(folder.path / "baselines.png", predicted)
    summary = {
        "seconds": round(time.perf_counter() - began, 2),
        "recovery": {name: made.figures for name, made in recovered.items()},
        "prediction": {name: made.figures for name, made in predicted.items()},
        "environment": environment(),
    }
    summary = json.loads(json.dumps(summary))
    folder.write_summary(summary)
    return summary


def _predict(config: Config) -> dict[str, Predicted]:
    chosen = config.prediction
    storms = questions.storm_splits(chosen.most, chosen.draws, config.seed)
    made = {"storms": prediction.answer_all(chosen, storms)}
    file = data.cells_file()
    if file is not None:
        cells = questions.cell_splits(file, chosen.most, chosen.window, chosen.components)
        made["cells"] = prediction.answer_all(chosen, cells)
    return made


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures, each beside its floor."""
    for name, case in summary["recovery"].items():
        floor, still = case["floor_wasserstein2"], case["no_change_wasserstein2"]
        print(f"{name}: last W2 without change {still:.3f}, of two samples {floor:.3f}")
        for form, found in case.items():
            if isinstance(found, dict):
                error = f"gradient error {100 * found['gradient_error']:.1f} %"
                print(f"  {form:12s} {error:24s} T {found['temperature']:.3f}", end="  ")
                print(f"predicted W2 {found['next_wasserstein2']:.3f}  ({found['seconds']} s)")
                print(f"    {found['status']}")
        again = [100 * error for error in case["weak form"]["repeated_gradient_errors"]]
        spread = f"{np.median(again):.1f} % ({min(again):.1f} to {max(again):.1f})"
        print(f"  weak form, other draws: gradient error, median of {len(again)}: {spread}")
    for name, found in summary["prediction"].items():
        print(f"{name}: mean W2 to the next population of {len(found['each'])} questions; chosen:")
        choices = [f"{c['bandwidth']:g}, {c['ridge']:g}" for c in found["chosen"]]
        print("    bandwidth, ridge: " + "; ".join(choices), end="")
        print(f"; plans not converged: {found['not_transported']}")
        for way, value in found["mean"].items():
            gain = found["gain"].get(way)
            print(f"  {way:15s} {value:.3f}", end="" if gain else "\n")
            if gain:
                print(f"   less by {gain['mean']:.3f} +- {gain['error']:.3f}, in {gain['better']}")
    if "cells" not in summary["prediction"]:
        print(f"cells: {NO_CELLS}")
    print(f"pictures and summary.json are in {folder.path}")
