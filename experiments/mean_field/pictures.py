"""Pictures of networks as measures, written as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import transportx.mean_field as mf
from experiments.mean_field.scenes import Taught, Widths

_PLUS, _MINUS, _GREY = "#c8553d", "#1f6f8b", "#bbbbbb"
_LINES = ("#1f6f8b", "#c8553d", "#9a7b2f", "#2a9d5c")


def neurons(path: Path, taught: Taught) -> None:
    """Every student's way: its direction, and as radius the root of its strength."""
    shown = ("flow", "birth and death of weight", "SGD")
    figure = Figure(figsize=(5 * len(shown), 5), layout="constrained")
    axes = figure.subplots(1, len(shown))
    for axis, name in zip(axes, shown, strict=True):
        _tracks(axis, taught.trainings[name].networks, taught.teacher)
        figures = taught.figures[name]
        met = f"{100 * figures['share_met']:.1f} % of the strength has met a teacher"
        axis.set(aspect="equal", title=f"{name}\n{met}", xlabel="along w, root of n a |u| |w|")
    figure.savefig(path, dpi=90)


def _tracks(axis, networks: mf.Network, teacher: mf.Network) -> None:
    assert networks.weights is not None
    inner, outer = np.asarray(networks.inner), np.asarray(networks.outer)[..., 0]
    count = inner.shape[1]
    shares = count * np.asarray(networks.weights)
    # The radius is a root: a hundred neurons of equal share fit beside one that has it all.
    placed = np.sqrt(shares * np.abs(outer))[..., None] * _rooted(inner)
    colours = [_PLUS if u > 0 else _MINUS for u in outer[-1]]
    for i, colour in enumerate(colours):
        axis.plot(*placed[:, i].T, color=colour, linewidth=0.7, alpha=0.6)
    axis.scatter(*placed[0].T, s=5, color=_GREY, zorder=2)
    axis.scatter(*placed[-1].T, s=16, c=colours, zorder=3, linewidths=0)
    reach = 1.1 * np.max(np.linalg.norm(placed, axis=-1))
    for w, u in zip(np.asarray(teacher.inner), np.asarray(teacher.outer)[:, 0], strict=True):
        end = reach * w / np.linalg.norm(w)
        colour = _PLUS if u > 0 else _MINUS
        axis.plot([0, end[0]], [0, end[1]], "--", color=colour, linewidth=1.2)


def _rooted(inner: np.ndarray) -> np.ndarray:
    """Directions of the rows, as long as the roots of their lengths."""
    norms = np.linalg.norm(inner, axis=-1, keepdims=True)
    return inner / np.sqrt(np.maximum(norms, 1e-12))


def descent(path: Path, plane: Taught, space: Taught) -> None:
    """Risk over time in every way, in the plane and beyond it."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, taught in zip(axes, (plane, space), strict=True):
        for colour, (name, made) in zip(_LINES, taught.trainings.items(), strict=True):
            axis.semilogy(made.times, made.risk, color=colour, label=name)
        count, dim = taught.teacher.inner.shape
        axis.set(xlabel="t", title=f"risk, {count} teachers in {dim} dimensions")
    axes[0].legend()
    figure.savefig(path, dpi=100)


def width(path: Path, made: Widths) -> None:
    """Spread and errors over the width, with the fitted powers."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    for colour, (name, errors) in zip(_LINES, made.errors.items(), strict=False):
        rate = made.rates[name]
        centre = np.exp(np.mean(np.log(errors)) - rate * np.mean(np.log(made.widths)))
        axis.loglog(made.widths, errors, "o", color=colour, label=f"{name}: n^{rate:.2f}")
        axis.loglog(made.widths, centre * made.widths**rate, color=colour, linewidth=1)
    axis.set(xlabel="width n", title="spread at one time, and its fitted power")
    axis.legend()
    figure.savefig(path, dpi=100)
