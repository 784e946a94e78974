"""Pictures of clouds, trajectories and images, written as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_SOURCE, _SAMPLES, _TARGET = "#888888", "#1f6f8b", "#c8553d"
# More points than this only blacken the page.
_MAX_POINTS = 4000


def clouds(path: Path, source, samples, target) -> None:
    """Source, samples and held-out target side by side on one scale."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    panels = (
        ("source", source, _SOURCE),
        ("samples", samples, _SAMPLES),
        ("held-out target", target, _TARGET),
    )
    for axis, (title, points, colour) in zip(axes, panels, strict=True):
        points = np.asarray(points)[:_MAX_POINTS]
        axis.scatter(points[:, 0], points[:, 1], s=2, color=colour, linewidths=0)
        axis.set(title=title, aspect="equal")
    figure.savefig(path, dpi=120)


def trajectories(path: Path, paths: np.ndarray) -> None:
    """Paths of particles, shape (k, n, 2), from source (grey) to sample (blue)."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis = figure.subplots()
    axis.plot(paths[:, :, 0], paths[:, :, 1], color="#b0a060", linewidth=0.4, alpha=0.7)
    for points, colour, label in ((paths[0], _SOURCE, "t = 0"), (paths[-1], _SAMPLES, "t = 1")):
        axis.scatter(points[:, 0], points[:, 1], s=8, color=colour, label=label, zorder=2)
    axis.legend(loc="upper right")
    axis.set(title="trajectories", aspect="equal")
    figure.savefig(path, dpi=120)


def grid(path: Path, images: np.ndarray, rows: int) -> None:
    """Images of shape (n, h, w, c) in `rows` rows, one label a row."""
    columns = len(images) // rows
    figure = Figure(figsize=(7, 7 * rows / columns), layout="constrained")
    axis = figure.subplots()
    _show(axis, _mosaic(images, rows))
    axis.set_xticks([])
    axis.set_yticks(_centres(images.shape[1], rows), [str(label) for label in range(rows)])
    figure.savefig(path, dpi=120)


def formation(path: Path, paths: np.ndarray, times: Sequence[float]) -> None:
    """Samples at several times, shape (k, n, h, w, c): one sample a row, time to the right."""
    columns, rows = paths.shape[:2]
    figure = Figure(figsize=(7, 7 * rows / columns + 0.4), layout="constrained")
    axis = figure.subplots()
    _show(axis, _mosaic(paths.swapaxes(0, 1).reshape(-1, *paths.shape[2:]), rows))
    axis.set_xticks(_centres(paths.shape[3], columns), [f"t = {time:g}" for time in times])
    axis.set_yticks([])
    figure.savefig(path, dpi=120)


def _show(axis, mosaic: np.ndarray) -> None:
    axis.imshow(np.clip((mosaic + 1) / 2, 0, 1), cmap="gray", vmin=0, vmax=1)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)


def _gap(side: int) -> int:
    """Pixels between two tiles."""
    return max(1, side // 8)


def _centres(side: int, count: int) -> np.ndarray:
    step = side + _gap(side)
    return _gap(side) + (side - 1) / 2 + step * np.arange(count)


def _mosaic(images: np.ndarray, rows: int) -> np.ndarray:
    """Tiles on white, in `rows` rows; shape (height, width, channels)."""
    n, height, width, channels = images.shape
    columns, gap = n // rows, _gap(height)
    tiles = images[: rows * columns].reshape(rows, columns, height, width, channels)
    room = ((0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0))
    padded = np.pad(tiles, room, constant_values=1.0)
    pixels = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), -1, channels)
    return np.pad(pixels, ((0, gap), (0, gap), (0, 0)), constant_values=1.0)
