"""Pictures of a colour transfer and of a registration, written as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.differentiate_sinkhorn.colours import Transfer
from experiments.differentiate_sinkhorn.registration import Fit, Registered

_TARGET, _SOURCE = "#c8553d", "#1f6f8b"
_LINES = {"sinkhorn": "#1f6f8b", "sinkhorn_unbalanced": "#2a9d5c", "energy_distance": "#9a7b2f"}
# More points than this only blacken the page.
_MAX_POINTS = 3000


def colour_transfer(path: Path, made: Transfer) -> None:
    """Source, target and transferred photograph above the clouds of their colours."""
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    photographs = {
        "source": made.source,
        "target": made.target,
        "source in the target's colours": made.transferred,
    }
    for column, (title, image) in enumerate(photographs.items(), start=1):
        axis = figure.add_subplot(2, 3, column)
        axis.imshow(np.clip(image, 0, 1))
        axis.set_title(title)
        axis.set_axis_off()
        below = figure.add_subplot(2, 3, 3 + column, projection="3d")
        _palette(below, image.reshape(-1, 3)[made.shown[:_MAX_POINTS]])
    figure.savefig(path, dpi=110)


def _palette(axis, colours: np.ndarray) -> None:
    """A cloud of colours, each point in its own."""
    axis.scatter(*colours.T, s=4, c=np.clip(colours, 0, 1), linewidths=0, depthshade=False)
    ends = {"xlim": (0, 1), "ylim": (0, 1), "zlim": (0, 1)}
    axis.set(xlabel="red", ylabel="green", zlabel="blue", **ends)
    for set_ticks in (axis.set_xticks, axis.set_yticks, axis.set_zticks):
        set_ticks([0, 0.5, 1])
    axis.tick_params(labelsize=7)
    axis.view_init(elev=18, azim=-60)


def registration(path: Path, scenes: dict[str, Registered]) -> None:
    """A row for each scene: before, after with each loss, errors and losses over the steps."""
    columns = 3 + max(len(made.fits) for made in scenes.values())
    figure = Figure(figsize=(3.6 * columns, 3.5 * len(scenes)), layout="constrained")
    axes = figure.subplots(len(scenes), columns, squeeze=False)
    for row, (name, made) in zip(axes, scenes.items(), strict=True):
        before = next(iter(made.fits.values())).history[0]["error"]
        title = f"{name}: before, error {before:.3f}"
        _overlay(row[0], made, made.scene.source, title)
        for axis, (loss, fit) in zip(row[1:], made.fits.items(), strict=False):
            title = f"{_words(loss)}, error {fit.history[-1]['error']:.3f}"
            _overlay(axis, made, fit.moved, title)
        _curves(row[-2], made.fits, "error", "error to the truth")
        row[-2].axhline(made.floor, color="#888888", linestyle=":", label="partners known")
        row[-2].legend(fontsize=8)
        _curves(row[-1], made.fits, "loss", "loss / its start")
    figure.savefig(path, dpi=80)


def _overlay(axis, made: Registered, moved, title: str) -> None:
    for points, colour in ((made.scene.target, _TARGET), (moved, _SOURCE)):
        points = np.asarray(points)[:_MAX_POINTS]
        axis.scatter(points[:, 0], points[:, 1], s=2.5, color=colour, linewidths=0, alpha=0.8)
    axis.set_title(title, fontsize=11)
    axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-1.2, 2.2), ylim=(-1.6, 1.3))


def _curves(axis, fits: dict[str, Fit], key: str, title: str) -> None:
    for name, fit in fits.items():
        steps, values = ([row[k] for row in fit.history] for k in ("step", key))
        axis.plot(steps, values, color=_LINES[name], label=_words(name))
    axis.set_yscale("log")
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("step of L-BFGS")


def _words(name: str) -> str:
    return name.replace("_", ", ", 1) if name.startswith("sinkhorn") else name.replace("_", " ")
