"""Pictures of the tokens of digits in trained transformers: their ways, and what they give."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.data.images import Images
from experiments.transformer.report import Read

_DIGITS = 3


def tokens(path: Path, reads: dict[str, list[Read]], data: Images, patch: int) -> None:
    """Tokens of a few digits on their way through each network, in its two widest directions."""
    figure = Figure(figsize=(4.2 * len(reads) + 3, 3.9 * _DIGITS), layout="constrained")
    axes = figure.subplots(_DIGITS, len(reads) + 1, width_ratios=(0.7, *len(reads) * (1,)))
    for row in range(_DIGITS):
        title = f"a {data.labels[row]}: a token for each dot;\nanother, black, is to name it"
        _image(axes[row, 0], data.images[row], patch)
        axes[row, 0].set_title(title)
    for column, (name, found) in enumerate(reads.items(), start=1):
        plane, share = _widest(np.asarray(found[0].trained.paths))
        for row in range(_DIGITS):
            axis = axes[row, column]
            _tracks(axis, plane[row])
            axis.set(xlabel=f"two widest directions: {share:.0%} of all variance")
            axis.set_title(f"{name}: from the dots to the stars")
    figure.savefig(path, dpi=65)


def _widest(paths: Float[np.ndarray, "b l n d"]) -> tuple[Float[np.ndarray, "b l n 2"], float]:
    """Coordinates in the two principal components of all tokens of all images and depths."""
    flat = paths.reshape(-1, paths.shape[-1])
    centred = flat - flat.mean(axis=0)
    spreads, directions = np.linalg.eigh(centred.T @ centred)
    plane = centred @ directions[:, :-3:-1]
    return plane.reshape(*paths.shape[:-1], 2), float(spreads[-2:].sum() / spreads.sum())


def _tracks(axis, plane: Float[np.ndarray, "l n 2"]) -> None:
    colours = _places(plane.shape[1])
    for track, colour in zip(plane.swapaxes(0, 1), colours, strict=True):
        axis.plot(*track.T, color=colour, linewidth=1)
    axis.scatter(*plane[0].T, s=14, c=colours)
    axis.scatter(*plane[-1].T, s=80, c=colours, marker="*", edgecolors="black", linewidths=0.4)


def shares(path: Path, reads: dict[str, list[Read]], data: Images) -> None:
    """What each patch of one digit gives in every layer: in Sinkhorn attention, all alike."""
    given = {name: np.asarray(found[0].trained.given)[:, 0] for name, found in reads.items()}
    layers = len(next(iter(given.values())))
    figure = Figure(figsize=(2.6 * layers + 1, 2.9 * len(given)), layout="constrained")
    axes = figure.subplots(len(given), layers, squeeze=False)
    for row, (name, sums) in enumerate(given.items()):
        for layer in range(layers):
            _shade(axes[row, layer], sums[layer], data.images[0])
            title = f"{name}, layer {layer + 1}\nthe token that names: {sums[layer, -1]:.2f}"
            axes[row, layer].set_title(title, fontsize=9)
    label = "sum of a token's column: 1 where all give alike"
    figure.colorbar(axes[0, 0].get_images()[0], ax=axes, label=label)
    figure.savefig(path, dpi=80)


def _shade(axis, sums: Float[np.ndarray, " n"], picture: Float[np.ndarray, "h w 1"]) -> None:
    """What patches give, where they are, over the shadow of the digit."""
    side = picture.shape[0]
    grid = sums[:-1].reshape(round((len(sums) - 1) ** 0.5), -1)
    axis.imshow(grid, cmap="RdBu_r", vmin=0, vmax=2, extent=(0, side, side, 0))
    axis.imshow(picture[..., 0], cmap="Greys", extent=(0, side, side, 0), alpha=0.25)
    axis.set_axis_off()


def _image(axis, picture: Float[np.ndarray, "h w 1"], patch: int) -> None:
    """An image with a dot on each of its patches, in the colour of its track."""
    side = picture.shape[0]
    axis.imshow(picture[..., 0], cmap="Greys", extent=(0, side, side, 0), alpha=0.8)
    middles = np.arange(patch / 2, side, patch)
    across, down = np.meshgrid(middles, middles)
    axis.scatter(across, down, s=60, c=_places(len(middles) ** 2 + 1)[:-1], edgecolors="white")
    axis.set_axis_off()


def _places(count: int) -> np.ndarray:
    """A colour for each token; black for the last."""
    return np.concatenate([colormaps["hsv"](np.arange(count - 1) / count), [(0, 0, 0, 1)]])
