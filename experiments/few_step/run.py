"""Generators of one step and of few: training, figures and pictures of all methods."""

import time
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from experiments.few_step import methods, pictures, report
from experiments.few_step.config import Config
from experiments.few_step.fitting import Trained, train
from experiments.few_step.methods import Method
from experiments.few_step.report import Exam, Judged
from experiments.harness.runs import RunFolder, environment

_FRAMES = 6
Row = tuple[str, Method, Trained, Judged]


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Every method for every seed, with pictures of the first; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    rows: dict[str, list[dict[str, Any]]] = {}
    floors = []
    for number in range(config.report.seeds):
        key = jr.fold_in(jr.key(config.seed), number)
        exam = report.set_exam(config, jr.fold_in(key, 0))
        floors.append(exam.floor)
        kept = {}
        for name, method, trained, judged in _train_all(config, exam, jr.fold_in(key, 1)):
            figures = {
                "steps": trained.steps,
                "training_seconds": round(trained.seconds, 2),
                "last_loss": float(trained.losses[-1]),
                "energy_distance": _named(judged.distances),
                "seconds_per_thousand": _named(judged.seconds),
            }
            rows.setdefault(name, []).append(figures)
            folder.log({"method": name, "seed": number, "floor": exam.floor, **figures})
            kept[name] = method, trained, judged
        if number == 0:
            _draw(folder, kept, exam)
    summary = {
        "seconds": round(time.perf_counter() - began, 1),
        "floor": _mean(floors),
        "methods": {name: _over_seeds(found) for name, found in rows.items()},
        "environment": environment(),
    }
    folder.write_summary(summary)
    return summary


def _train_all(config: Config, exam: Exam, key) -> Iterator[Row]:
    """Train and judge all methods, those that need a trained field after it."""
    network_key, train_key, sample_key = jr.split(key, 3)

    def made(name, method) -> Row:
        trained = train(config.training, method, train_key)
        return name, method, trained, report.judge(method, trained.network, exam, sample_key)

    field = None
    for name, method in methods.from_data(config, network_key):
        row = made(name, method)
        field = row[2].network if name == methods.FIELD else field
        yield row
        if name == methods.FIELD:
            for other in methods.from_field(config, field, network_key):
                yield made(*other)


def _over_seeds(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over trainings, with deviations of distances."""
    distances = [figures["energy_distance"] for figures in found]
    seconds = [figures["seconds_per_thousand"] for figures in found]
    return {
        "steps": _mean([figures["steps"] for figures in found]),
        "training_seconds": _mean([figures["training_seconds"] for figures in found]),
        "energy_distance": {num: _mean([d[num] for d in distances]) for num in distances[0]},
        "deviation": {num: float(np.std([d[num] for d in distances])) for num in distances[0]},
        "seconds_per_thousand": {num: _mean([s[num] for s in seconds]) for num in seconds[0]},
    }


def _named(values: dict[int, float]) -> dict[str, float]:
    """Numbers by the number of evaluations, as JSON has them."""
    return {str(num): value for num, value in values.items()}


def _mean(values) -> float:
    return float(np.mean(values))


def _draw(folder: RunFolder, kept: dict[str, Any], exam: Exam) -> None:
    data = np.asarray(exam.x1)
    judged = {name: row[2] for name, row in kept.items()}
    pictures.samples(folder.path / "samples.png", judged, data)
    name = next(name for name in kept if name.startswith("descent"))
    _, trained, _ = kept[name]
    last = len(trained.snapshots) - 1
    # Most happens soon: frames at squares of even spaces.
    chosen = sorted({round(last * (k / (_FRAMES - 1)) ** 2) for k in range(_FRAMES)})
    per_chunk = trained.steps // max(last, 1)
    frames = [
        (index * per_chunk, np.asarray(_generated(trained.snapshots[index], exam.x0)))
        for index in chosen
    ]
    pictures.film(folder.path / "training.png", name, frames, data)


@eqx.filter_jit
def _generated(network, x0):
    return jax.vmap(eqx.Partial(methods.generate, network))(x0)


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the table: energy distance by evaluations, sampling and training times."""
    nums = methods.EVALUATIONS
    print(f"energy distance to the data, by evaluations (floor {summary['floor']:.4f}):")
    heads = "".join(f"{num:>9}" for num in nums)
    print(f"{'':42s}{heads}   ms per 1,000 (1, 4, 100)   steps in seconds")
    for name, figures in summary["methods"].items():
        cells = "".join(_cell(figures["energy_distance"], num) for num in nums)
        costs = ", ".join(_cost(figures["seconds_per_thousand"], num) for num in (1, 4, 100))
        trained = f"{figures['steps']:.0f} in {figures['training_seconds']:.0f}"
        print(f"{name:42s}{cells}   {costs:26s} {trained}")
    print(f"pictures and summary.json are in {folder.path}")


def _cell(values: dict[str, float], num: int) -> str:
    return f"{values[str(num)]:9.4f}" if str(num) in values else f"{'-':>9}"


def _cost(values: dict[str, float], num: int) -> str:
    return f"{1000 * values[str(num)]:.1f}" if str(num) in values else "-"
