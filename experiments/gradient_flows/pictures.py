"""Pictures of gradient flows, written as PNG."""

from pathlib import Path

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from experiments.gradient_flows.line import Diffused
from experiments.gradient_flows.particles import Scene
from experiments.gradient_flows.porous import BarenblattRun

_TARGET, _PARTICLES, _EXACT = "#d9a48f", "#1f6f8b", "#c8553d"
_LINES = ("#1f6f8b", "#2a9d5c", "#9a7b2f", "#7a4fa3", "#c8553d")


def particles(path: Path, scene: Scene) -> None:
    """A row for each energy, time to the right; the area of a particle is its weight."""
    shown = (0, 1, 2, 4, -1)
    figure = Figure(figsize=(2.9 * len(shown), 1.9 * len(scene.flows)), layout="constrained")
    axes = figure.subplots(len(scene.flows), len(shown), sharex=True, sharey=True, squeeze=False)
    for row, (name, flown) in zip(axes, scene.flows.items(), strict=True):
        record = flown.record
        for axis, index in zip(row, shown, strict=True):
            axis.scatter(*scene.target.T, s=3, color=_TARGET, linewidths=0)
            weights = np.asarray(record.weights[index])
            areas = 5 * weights * weights.size
            axis.scatter(*np.asarray(record.x[index]).T, s=areas, color=_PARTICLES, linewidths=0)
            axis.set(aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"t = {float(record.times[index]):.2g}", fontsize=10)
        row[0].set_ylabel(name)
    figure.savefig(path, dpi=90)


def energies(path: Path, scene: Scene) -> None:
    """Energies over their start, and the exact distance to the target with its floor."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, flown) in zip(_LINES, scene.flows.items(), strict=True):
        energy = np.asarray(flown.record.energy)
        left.semilogy(flown.record.times, np.maximum(energy / energy[0], 1e-9), color=colour)
        right.semilogy(flown.record.times, flown.distances, color=colour, label=name)
    right.axhline(scene.floor, color="#888888", linestyle=":", label="two samples of the target")
    left.set(title="energy / its start", xlabel="t")
    right.set(title="exact W2 to the target", xlabel="t")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def porous(path: Path, spread: BarenblattRun) -> None:
    """Densities on Barenblatt's at five times, and the energy."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    last = len(spread.times) - 1
    for index in sorted({0, last // 16, last // 5, last // 2, last}):
        left.plot(spread.x, spread.exact[index], color=_EXACT, linewidth=1)
        left.plot(spread.x, spread.found[index], ".", color=_PARTICLES, markersize=3)
    left.set(title="porous medium: grid (dots) and Barenblatt (lines)", xlabel="x")
    right.loglog(spread.times, spread.energy, color=_PARTICLES)
    right.set(title="energy", xlabel="t")
    figure.savefig(path, dpi=100)


def line(path: Path, diffused: dict[str, Diffused]) -> None:
    """The distribution function of each way at the last time, on the exact one."""
    figure = Figure(figsize=(5 * len(diffused), 4), layout="constrained")
    axes = figure.subplots(1, len(diffused), squeeze=False)[0]
    for axis, (name, made) in zip(axes, diffused.items(), strict=True):
        x = made.mean + made.deviation * np.linspace(-3.5, 3.5, 200)
        exact = scipy.stats.norm.cdf(x, made.mean, made.deviation)
        axis.plot(x, exact, color="#888888", linewidth=4, label="exact")
        for colour, (way, (atoms, masses)) in zip(_LINES, made.atoms.items(), strict=False):
            order = np.argsort(atoms)
            levels = np.cumsum(masses[order]) - masses[order] / 2
            axis.plot(atoms[order], levels, color=colour, linewidth=1, label=way)
        axis.set(title=f"{name}: P(X < x)", xlabel="x", xlim=(x[0], x[-1]))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
