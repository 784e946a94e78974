"""A small transformer on real digits, with softmax and with Sinkhorn attention, read as a flow."""

import time
from typing import Any

import numpy as np

from experiments.harness import config as configs
from experiments.harness.runs import RunFolder, environment
from experiments.transformer import choices, pictures, report, train
from experiments.transformer import tokens as on_images
from experiments.transformer.choices import Network, Reading, Training
from experiments.transformer.report import Read
from experiments.transformer.train import Split, Trained

MIXINGS = ("softmax", "sinkhorn")


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    network: Network
    training: Training
    reading: Reading

    def __post_init__(self):
        last = self.seed + self.training.seeds - 1
        configs.require(last < 2**32, "seed", f"is {self.seed}; seeds run up to 4294967295")


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Train, judge, read and draw; returns the summary."""
    folder.claim(config)
    began = time.perf_counter()
    data = train.split(config.training)
    trained = {name: _train(config, name, data, folder) for name in MIXINGS}
    judged = {name: _judge(runs, data) for name, runs in trained.items()}
    images = data.test.images
    reads = {
        name: [report.read(made, images, config.reading) for made in runs]
        for name, runs in trained.items()
    }
    _draw(config, folder, trained, judged, reads, data)
    summary = {
        "seconds": round(time.perf_counter() - began, 2),
        "sampling_error": _sampling_error(judged, data),
        **{name: judged[name] | report.figures(reads[name]) for name in MIXINGS},
        "environment": environment(),
    }
    folder.write_summary(summary)
    return summary


def _train(config: Config, name: str, data: Split, folder: RunFolder) -> list[Trained]:
    mixing = choices.mixing(name, config.network, config.training)
    runs = []
    for made in train.train(config.network, config.training, mixing, data.train, config.seed):
        for step in range(config.training.chunk, len(made.losses) + 1, config.training.chunk):
            loss = float(np.mean(made.losses[step - config.training.chunk : step]))
            folder.log({"mixing": name, "seed": made.seed, "step": step, "loss": loss})
        runs.append(made)
    return runs


def _judge(runs: list[Trained], data: Split) -> dict[str, Any]:
    """Accuracies of every seed, their mean and deviation, and what a step took."""
    shares = [train.accuracies(made.model, data.validation, data.test) for made in runs]
    validation, test = (list(column) for column in zip(*shares, strict=True))
    return {
        "test": test,
        "test_mean": float(np.mean(test)),
        "test_deviation": float(np.std(test, ddof=1)),
        "validation": validation,
        "seconds_per_step": float(np.median([made.step_seconds for made in runs])),
    }


def _sampling_error(judged: dict[str, dict[str, Any]], data: Split) -> float:
    """Standard error of one accuracy, of so many test images."""
    share = np.mean([figures["test_mean"] for figures in judged.values()])
    return float(np.sqrt(share * (1 - share) / len(data.test.labels)))


def _draw(config, folder, trained, judged, reads: dict[str, list[Read]], data: Split) -> None:
    tests = {name: figures["test"] for name, figures in judged.items()}
    pictures.training(folder.path / "training.png", trained, tests, _sampling_error(judged, data))
    pictures.depth(folder.path / "depth.png", reads, config.network.step)
    on_images.tokens(folder.path / "tokens.png", reads, data.test, config.network.patch)
    on_images.shares(folder.path / "shares.png", reads, data.test)


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the comparison and what was read."""
    print("attention   test accuracy (%)    every seed              ms a step")
    for name in MIXINGS:
        found = summary[name]
        spread = f"{100 * found['test_mean']:.2f} +- {100 * found['test_deviation']:.2f}"
        seeds = " ".join(f"{100 * share:.2f}" for share in found["test"])
        print(f"{name:11s} {spread:20s} {seeds:23s} {1e3 * found['seconds_per_step']:.1f}")
    print(f"sampling error of one accuracy: {100 * summary['sampling_error']:.2f}")
    for name in MIXINGS:
        _show_layers(name, summary[name])
    print(f"pictures and summary.json are in {folder.path}")


def _show_layers(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: rows sum to 1 within {found['row_error']:.1g}", end=", ")
    print(f"columns within {found['column_error']:.1g}")
    for curve in report.CURVES:
        for state in Read._fields:
            values = " ".join(f"{value:7.3f}" for value in found[f"{curve}_{state}"])
            print(f"  {curve:16s} {state:10s} {values}")
