"""Pictures of token dynamics, written as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.attention.closures import GaussianPath, Gaussians
from experiments.attention.scenes import Clustered, Swept, mixture_density

_DARK, _WARM, _GREY = "#1f6f8b", "#c8553d", "#bbbbbb"
# Frames of the sphere: the start, two on the way, the end.
_SPHERE_FRAMES = 4
_TICKS = (1, 2, 3, 4, 6, 8, 12, 16, 25, 40, 60, 100, 200, 400)


def circle(path: Path, made: Clustered) -> None:
    """Angles over the depth, tokens before and after, clusters and energy."""
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    angles, rounds, counts = figure.subplots(1, 3, width_ratios=(1.6, 1, 1.3))
    turned = np.unwrap(np.arctan2(made.path[..., 1], made.path[..., 0]), axis=0)
    colours = _hues(turned[0])
    for track, colour in zip(turned.T, colours, strict=True):
        angles.plot(made.depths, track, color=colour, linewidth=0.9)
    angles.set(xlabel="depth", ylabel="angle", title="every token")
    ring = np.linspace(0, 2 * np.pi, 200)
    rounds.plot(np.cos(ring), np.sin(ring), color=_GREY, linewidth=0.8)
    rounds.scatter(*made.path[0].T, s=14, c=colours, alpha=0.6, label="before")
    rounds.scatter(*(0.82 * made.path[-1]).T, s=60, c=colours, label="after")
    rounds.set(aspect="equal", title="before (rim), after (inside)")
    rounds.set_axis_off()
    _counts(counts, made, "energy / its maximum")
    figure.savefig(path, dpi=90)


def sphere(path: Path, made: Clustered) -> None:
    """Tokens on the sphere at a few depths."""
    figure = Figure(figsize=(4 * _SPHERE_FRAMES + 4.6, 4.2), layout="constrained")
    last = len(made.depths) - 1
    # More frames early, where things happen.
    frames = np.unique(np.round(last * np.linspace(0, 1, _SPHERE_FRAMES) ** 2).astype(int))
    colours = _hues(np.arctan2(made.path[0, :, 1], made.path[0, :, 0]))
    columns = len(frames) + 1
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    globe = np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)
    for place, frame in enumerate(frames, start=1):
        axis = figure.add_subplot(1, columns, place, projection="3d")
        axis.plot_wireframe(*globe, color=_GREY, linewidth=0.3)
        axis.scatter(*made.path[frame].T, s=22, c=colours, depthshade=False)
        axis.set_title(f"depth {made.depths[frame]:.1f}, {made.clusters[frame]} clusters")
        axis.set_box_aspect((1, 1, 1))
        axis.set_axis_off()
    _counts(figure.add_subplot(1, columns, columns), made, "energy / its maximum")
    figure.savefig(path, dpi=80)


def sweep(path: Path, swept: Swept) -> None:
    """Number of clusters by depth and beta."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    counts = np.maximum(swept.clusters, 1)
    mesh = axis.pcolormesh(swept.depths, swept.betas, np.log2(counts), cmap="viridis")
    axis.set(yscale="log", xlabel="depth", ylabel="beta", title="clusters on the circle")
    bar = figure.colorbar(mesh, ax=axis)
    ticks = np.arange(0, np.floor(np.log2(counts.max())) + 1)
    bar.set_ticks(list(ticks), labels=[f"{2**tick:.0f}" for tick in ticks])
    figure.savefig(path, dpi=90)


def gaussian(path: Path, made: Gaussians) -> None:
    """Ellipses of two standard deviations over the depth, and the widest against it."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    softmax, l2, widths = figure.subplots(1, 3)
    _ellipses(softmax, made.softmax, "softmax: up to blow-up")
    _ellipses(l2, made.l2, "L2: as far")
    for spread, colour, name in ((made.softmax, _WARM, "softmax"), (made.l2, _DARK, "L2")):
        largest = np.sqrt(np.linalg.eigvalsh(spread.covariances)[:, -1])
        widths.plot(spread.depths, largest, "o-", color=colour, label=name)
    widths.axvline(made.blow_up, color="#555555", linestyle=":", label="blow-up, detected")
    widths.set(xlabel="depth", title="largest standard deviation")
    widths.legend()
    figure.savefig(path, dpi=90)


def shift(path: Path, made: Clustered) -> None:
    """The density, tracks of tokens to its modes, and how many are left."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    axis, counts = figure.subplots(1, 2)
    ticks = np.linspace(-3, 3, 120)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    density = mixture_density(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    axis.contourf(ticks, ticks, density, levels=12, cmap="Greys", alpha=0.6)
    axis.plot(made.path[..., 0], made.path[..., 1], color=_DARK, linewidth=0.4, alpha=0.7)
    axis.scatter(*made.path[0].T, s=4, color=_DARK)
    axis.scatter(*made.path[-1].T, s=70, color=_WARM, marker="*", zorder=3)
    axis.set(aspect="equal", title="mean shift as L2 attention", xlim=(-3, 3), ylim=(-3, 3))
    _counts(counts, made, "mean log-density")
    figure.savefig(path, dpi=90)


def _counts(axis, made: Clustered, energy: str) -> None:
    axis.step(made.depths, made.clusters, where="mid", color=_WARM)
    axis.set(xlabel="depth", yscale="log", title=f"clusters; {energy}")
    axis.set_ylabel("clusters", color=_WARM)
    ticks = [t for t in _TICKS if min(made.clusters) <= t <= max(made.clusters)]
    axis.set_yticks(ticks, labels=[str(t) for t in ticks])
    axis.minorticks_off()
    other = axis.twinx()
    other.plot(made.depths, made.energies, color=_DARK)
    other.tick_params(axis="y", labelcolor=_DARK)


def _ellipses(axis, spread: GaussianPath, title: str) -> None:
    ring = np.linspace(0, 2 * np.pi, 200)
    unit = np.stack([np.cos(ring), np.sin(ring)])
    shades = np.linspace(0.25, 1, len(spread.depths))
    moments = zip(spread.means, spread.covariances, shades, strict=True)
    for mean, covariance, shade in moments:
        outline = mean[:, None] + 2 * np.linalg.cholesky(covariance) @ unit
        axis.plot(*outline, color=_WARM, alpha=shade)
    axis.scatter(*spread.tokens.T, s=2, color=_DARK, alpha=0.5, linewidths=0)
    axis.set(aspect="equal", title=f"{title} (dots: particles half way)")


def _hues(angles: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return colormaps["hsv"]((angles % (2 * np.pi)) / (2 * np.pi))
