"""Pictures of learned energies, written as PNG."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.learned_energy.prediction import Predicted
from experiments.learned_energy.recovery import Recovered

_OBSERVED, _PREDICTED = "#c8553d", "#1f6f8b"
_LEVELS = 18


def potentials(path: Path, true, recovered: dict[str, Recovered]) -> None:
    """Contours of the true potential and of each form's; a row for each case."""
    forms = ["weak form", "first order", "network"]
    figure = Figure(figsize=(3 * (1 + len(forms)), 2.9 * len(recovered)), layout="constrained")
    rows = figure.subplots(len(recovered), 1 + len(forms), squeeze=False)
    for row, (name, case) in zip(rows, recovered.items(), strict=True):
        panels = {"true": true} | case.potentials
        points = case.snapshots.reshape(-1, 2)
        for axis, panel in zip(row, ["true", *forms], strict=True):
            axis.set(xticks=[], yticks=[])
            if panel not in panels:
                axis.set_axis_off()
                continue
            _contours(axis, panels[panel], points)
            error = case.figures.get(panel, {}).get("gradient_error")
            axis.set_title(panel if error is None else f"{panel}: {100 * error:.1f} %", fontsize=10)
        row[0].set_ylabel(name, fontsize=8)
    figure.savefig(path, dpi=90)


def populations(path: Path, times: list[float], recovered: dict[str, Recovered]) -> None:
    """What was observed, and the last population as predicted from the one before."""
    figure = Figure(figsize=(2 * (len(times) + 1), 2 * len(recovered)), layout="constrained")
    rows = figure.subplots(len(recovered), len(times) + 1, sharex=True, sharey=True, squeeze=False)
    for row, (name, case) in zip(rows, recovered.items(), strict=True):
        for axis, time, cloud in zip(row, times, case.snapshots, strict=False):
            axis.scatter(*cloud.T, s=1, color=_OBSERVED, linewidths=0)
            axis.set_title(f"t = {time:g}", fontsize=9)
        row[-1].scatter(*case.predicted.T, s=1, color=_PREDICTED, linewidths=0)
        row[-1].set_title(f"t = {times[-1]:g}, predicted", fontsize=9)
        row[0].set_ylabel(name, fontsize=7)
        for axis in row:
            axis.set(xticks=[], yticks=[], aspect="equal")
    figure.savefig(path, dpi=90)


def predictions(path: Path, predicted: Predicted) -> None:
    """Each test question: where it starts, what came, what was predicted, on the potential."""
    columns = min(5, len(predicted.answers))
    lines = -(-len(predicted.answers) // columns)
    figure = Figure(figsize=(3 * columns, 2.8 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for axis, answer in zip(axes, predicted.answers, strict=False):
        question = answer.question
        seen = [cloud[:, :2] for cloud in (question.start, question.target, answer.predicted)]
        if question.start.shape[1] == 2:
            _contours(axis, answer.energy.potential, np.concatenate(seen))
        for cloud, colour in zip(seen, ("#999999", _OBSERVED, _PREDICTED), strict=True):
            axis.scatter(*cloud.T, s=4, color=colour, linewidths=0)
        gain = answer.distances["learned energy"] / answer.distances["no change"]
        axis.set_title(f"{question.name}: W2 {gain:.2f} of no change", fontsize=8)
    figure.savefig(path, dpi=90)


def bars(path: Path, predicted: dict[str, Predicted]) -> None:
    """Mean W2 to the next population, by each way."""
    figure = Figure(figsize=(4.5 * len(predicted), 3.5), layout="constrained")
    axes = figure.subplots(1, len(predicted), squeeze=False)[0]
    for axis, (name, made) in zip(axes, predicted.items(), strict=True):
        means = made.figures["mean"]
        colours = [_PREDICTED if way == "learned energy" else "#bbbbbb" for way in means]
        axis.barh(list(means), list(means.values()), color=colours)
        axis.invert_yaxis()
        axis.set(title=f"{name}: mean W2 to the next population")
    figure.savefig(path, dpi=90)


def _contours(axis, potential, points: np.ndarray) -> None:
    """Level lines over the middle of the points, evenly spaced in value."""
    low, high = np.percentile(points, [1, 99], axis=0)
    x, y = (np.linspace(a, b, 60) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    values = np.asarray(jax.jit(jax.vmap(potential))(jnp.asarray(grid, points.dtype)))
    axis.contour(x, y, values.reshape(60, 60), levels=_LEVELS, cmap="viridis", linewidths=0.8)
