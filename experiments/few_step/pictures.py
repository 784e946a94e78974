"""Pictures of samples and of a generator while it trains, written as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.few_step.report import Judged

_DATA, _SAMPLES = "#d9a48f", "#1f6f8b"
_SHOWN = (1, 2, 4, 100)
_POINTS = 2000


def samples(path: Path, judged: dict[str, Judged], data: np.ndarray) -> None:
    """A row for each method, evaluations to the right: always the same noise."""
    figure = Figure(figsize=(2.4 * len(_SHOWN), 1.5 * len(judged)), layout="constrained")
    axes = figure.subplots(len(judged), len(_SHOWN), sharex=True, sharey=True, squeeze=False)
    low, high = data.min(0), data.max(0)
    margin = 0.15 * (high - low)
    for row, (name, made) in zip(axes, judged.items(), strict=True):
        for axis, num in zip(row, _SHOWN, strict=True):
            axis.set(xticks=[], yticks=[], aspect="equal")
            if num not in made.samples:
                axis.axis("off")
                continue
            _scatter(axis, data, made.samples[num])
            axis.set_title(f"{num}: {made.distances[num]:.3f}", fontsize=9)
        row[0].axis("on")
        row[0].set_ylabel(name.replace(", ", "\n"), fontsize=8)
    axes[0][0].set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
    )
    figure.savefig(path, dpi=80)


def film(path: Path, name: str, frames: list[tuple[int, np.ndarray]], data: np.ndarray) -> None:
    """One noise through a generator after so many steps of its training."""
    figure = Figure(figsize=(2.4 * len(frames), 2.6), layout="constrained")
    axes = figure.subplots(1, len(frames), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (step, made) in zip(axes, frames, strict=True):
        _scatter(axis, data, made)
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"step {step}", fontsize=9)
    axes[0].set_ylabel(name.replace(", ", "\n"), fontsize=8)
    figure.savefig(path, dpi=90)


def _scatter(axis, data: np.ndarray, made: np.ndarray) -> None:
    axis.scatter(*data[:_POINTS].T, s=2, color=_DATA, linewidths=0)
    axis.scatter(*made[:_POINTS].T, s=2, color=_SAMPLES, linewidths=0)
