"""Pictures of trained transformers: how they learnt, what their layers do along depth."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.transformer.report import Read, curves
from experiments.transformer.train import Trained

COLOURS = {"softmax": "#c8553d", "sinkhorn": "#1f6f8b"}
_GREY = "#999999"
# Asymmetry of a matrix with independent entries.
_RANDOM = 0.5**0.5
_PANELS = {
    "energies": ("interaction energy of directions", "energy / its maximum"),
    "clusters": ("clusters of directions", "mean number an image"),
    "asymmetry": ("asymmetry of a layer's Jacobian", "|J - J'| / 2|J|"),
    "alignment": ("attention against its energy's gradient", "cosine"),
}


def training(path: Path, trained: dict[str, list[Trained]], accuracies: dict, floor: float) -> None:
    """Losses of all seeds, and what each seed reached on the test half."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, judged = figure.subplots(1, 2, width_ratios=(1.6, 1))
    for place, (name, runs) in enumerate(trained.items()):
        for run in runs:
            label = name if run is runs[0] else None
            losses.semilogy(*_smooth(run.losses), color=COLOURS[name], linewidth=1, label=label)
        reached = 100 * np.array(accuracies[name])
        judged.plot(np.full(len(reached), place), reached, "o", color=COLOURS[name])
        judged.plot([place - 0.2, place + 0.2], 2 * [reached.mean()], color=COLOURS[name])
    losses.set(xlabel="step", ylabel="cross entropy (nats)", title="training")
    losses.legend()
    judged.set(xlim=(-0.6, len(trained) - 0.4), ylabel="test accuracy (%)")
    judged.set_title(f"all seeds and their mean\n(sampling error of one: {100 * floor:.2f} %)")
    judged.set_xticks(range(len(trained)), labels=list(trained))
    figure.savefig(path, dpi=90)


def _smooth(losses: Float[np.ndarray, " s"]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean losses of about forty stretches that end there."""
    ends = np.linspace(0, len(losses), min(40, len(losses)) + 1).astype(int)
    return ends[1:], np.add.reduceat(losses, ends[:-1]) / np.diff(ends)


def depth(path: Path, reads: dict[str, list[Read]], step: float) -> None:
    """Energy, clusters and two distances from a gradient flow, before and after training."""
    figure = Figure(figsize=(17, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_PANELS))
    for axis, (curve, (title, unit)) in zip(axes, _PANELS.items(), strict=True):
        for name, found in reads.items():
            for state, line in (("untrained", ":"), ("trained", "-")):
                _band(axis, curves(found, state, curve), step, COLOURS[name], line, name, state)
        axis.set(title=title, ylabel=unit, xlabel="depth (layers x step)")
    for axis, level, name in ((axes[2], _RANDOM, "random matrix"), (axes[3], 1, "gradient flow")):
        axis.axhline(level, color=_GREY, linewidth=0.8, label=name)
    axes[2].set_ylim(0, 1)
    for axis in axes:
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def _band(axis, values: np.ndarray, step: float, colour: str, line: str, name, state) -> None:
    """Mean over seeds, and all between the least and the most."""
    places = step * np.arange(values.shape[1])
    axis.plot(places, values.mean(axis=0), line, color=colour, label=f"{name}, {state}")
    axis.fill_between(places, *_extremes(values), color=colour, alpha=0.15, linewidth=0)


def _extremes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.min(axis=0), values.max(axis=0)
