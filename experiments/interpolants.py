"""How particles travel from noise to three points, under several schedules and with noise.

    python -m experiments.interpolants configs/interpolants.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

The field is exact: what perfect training on three data points yields. Every schedule carries
the same noise to the same points along other ways; a diffusion reaches the same law by
rough ways; rays of optimal transport, with a third of the noise for each point, are straight.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `trajectories.png` and
`summary.json`, with the path energy of each over the squared Wasserstein distance of the
same particles (1 for the rays, by definition), the shares of the three points, and how far
the ends of each schedule are from those of the first.
"""

from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge
from jaxtyping import Array
from matplotlib.figure import Figure

import transportx as tx
from experiments.harness import config as configs
from experiments.harness.main import main
from experiments.harness.runs import RunFolder, environment

_COLOURS = ("#1f6f8b", "#c8553d", "#2a9d5c")


@configs.section
class Sampling:
    """How many particles, how many steps, and how much noise the diffusion has."""

    particles: Annotated[configs.Count, Ge(3)]
    steps: configs.Several
    end: configs.Fraction
    noise: configs.Positive


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    radius: configs.Positive
    sampling: Sampling


def three_points(radius: float) -> Array:
    """An equilateral triangle around the origin."""
    angles = jnp.pi / 2 + 2 * jnp.pi / 3 * jnp.arange(3)
    return radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)


def trajectories(config: Config) -> dict[str, Array]:
    """Positions (times, particles, 2) of every way to travel."""
    sampling, data = config.sampling, three_points(config.radius)
    noise_key, diffusion_key = jr.split(jr.key(config.seed))
    x0 = jr.normal(noise_key, (sampling.particles, 2))
    times = sampling.end * jnp.linspace(0, 1, sampling.steps + 1)
    options = {"times": times, "t1": sampling.end, "steps": tx.evolution.AdaptiveSteps(1e-6, 1e-6)}
    paths = {
        "linear": tx.interpolants.Linear(),
        "trigonometric": tx.interpolants.Trigonometric(),
        "variance preserving": tx.interpolants.VariancePreserving(),
    }
    found = {
        name: jax.jit(lambda x, p=path: tx.sampling.flow(_field(data, p), x, **options))(x0)
        for name, path in paths.items()
    }
    linear = paths["linear"]
    found["linear, diffused"] = _diffused(
        _field(data, linear), linear, x0, times, sampling, diffusion_key
    )
    ends = _matched(x0, data)
    found["rays of optimal transport"] = x0 + times[:, None, None] * (ends - x0)
    return found


def _field(data: Array, path: tx.interpolants.AbstractInterpolant) -> tx.fields.EmpiricalField:
    return tx.fields.EmpiricalField(data, path)


def _diffused(field, path, x0, times, sampling, key) -> Array:
    """One step of the diffusion between two times, all recorded.

    Its noise falls with what is left of the time: the score of single points would ask for
    ever shorter steps.
    """
    score = tx.fields.ScoreOf(field, path)

    def step(x, inputs):
        t0, t1, key = inputs
        noise = sampling.noise * (1 - t0)
        drift = jax.vmap(lambda x: field(t0, x) + noise**2 / 2 * score(t0, x))(x)
        x = x + (t1 - t0) * drift + noise * jnp.sqrt(t1 - t0) * jr.normal(key, x.shape)
        return x, x

    inputs = times[:-1], times[1:], jr.split(key, times.size - 1)
    return jnp.concatenate([x0[None], jax.lax.scan(step, x0, inputs)[1]])


def _matched(x0: Array, data: Array) -> Array:
    """The point that exact transport to equal masses sends each particle to."""
    copies = jnp.tile(data, (-(-len(x0) // 3), 1))[: len(x0)]
    return copies[tx.ot.assignment(tx.geometry.PointCloud(x0, copies).matrix())]


def figures(found: dict[str, Array], config: Config) -> dict[str, Any]:
    """Energy over that of the rays, shares of the points, distance of the ends."""
    data, rays = three_points(config.radius), found["rays of optimal transport"]
    first = next(iter(found.values()))
    return {
        name: {
            "energy_over_rays": float(_energy(path) / _energy(rays)),
            "shares": np.bincount(_nearest(path[-1], data), minlength=3).tolist(),
            "ends_from_the_first": float(jnp.mean(jnp.linalg.norm(path[-1] - first[-1], axis=1))),
        }
        for name, path in found.items()
    }


def _energy(path: Array) -> Array:
    """Mean of the squared speed over a uniform clock, from recorded positions."""
    return jnp.mean(jnp.sum(jnp.diff(path, axis=0) ** 2, axis=-1)) * (len(path) - 1) ** 2


def _nearest(x: Array, data: Array) -> np.ndarray:
    return np.asarray(jnp.argmin(tx.geometry.PointCloud(x, data).matrix(), axis=1))


def draw(path: Path, found: dict[str, Array], config: Config) -> None:
    """Every way in its panel, a particle in the colour of the point that it reaches."""
    data = three_points(config.radius)
    figure = Figure(figsize=(3.4 * len(found), 3.7), layout="constrained")
    for axis, (name, ways) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        for k, which in enumerate(_nearest(ways[-1], data)):
            axis.plot(*np.asarray(ways[:, k]).T, color=_COLOURS[which], linewidth=0.5, alpha=0.7)
        axis.scatter(*np.asarray(data).T, s=30, color="black", zorder=3)
        axis.set(title=name, aspect="equal", xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Travel and draw; returns the summary."""
    folder.claim(config)
    found = trajectories(config)
    draw(folder.path / "trajectories.png", found, config)
    summary = {"ways": figures(found, config), "environment": environment()}
    folder.write_summary(summary)
    return summary


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print a line of each way."""
    for name, row in summary["ways"].items():
        print(f"{name:26s} energy {row['energy_over_rays']:.3g} of the rays', {row['shares']}")
    print(f"trajectories.png and summary.json are in {folder.path}")


if __name__ == "__main__":
    main("interpolants", __doc__, Config, run, show)
