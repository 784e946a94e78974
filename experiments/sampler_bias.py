"""What perfectly trained flow matching does to a finite data set, and what its source decides.

    python -m experiments.sampler_bias configs/sampler_bias.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Fields are exact for real digits on their two leading components, from three sources of
unit variance: Gaussian, Laplace and Student-t. For each: the law at the end against fresh
digits and against the training digits (it memorises), how far the field is from a gradient,
and the tail of the kinetic energy over particles.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `bias.png` and
`summary.json`. Energies are path energies in units of the data's variance; `tail` is how many
times the median the energy of the top percent is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Array
from matplotlib.figure import Figure

import transportx as tx
from experiments.data.images import load_halves
from experiments.harness import config as configs
from experiments.harness.main import main
from experiments.harness.runs import RunFolder, environment


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    data: configs.Several
    particles: Annotated[configs.Count, Ge(100)]
    width: configs.Fraction
    steps: configs.Several
    freedom: Annotated[float, Gt(2)]  # or there is no variance


class Source(NamedTuple):
    """A law of unit variance and independent coordinates: its draws and its log-density."""

    draw: Callable[..., Array]
    log_density: Callable[[Array], Array]


def sources(freedom: float) -> dict[str, Source]:
    """Light, middle and heavy tails."""
    narrow = np.sqrt((freedom - 2) / freedom)

    def student(x):
        return -(freedom + 1) / 2 * jnp.sum(jnp.log1p((x / narrow) ** 2 / freedom))

    return {
        "Gaussian": Source(jr.normal, lambda x: -jnp.sum(x**2) / 2),
        "Laplace": Source(
            lambda key, shape: jr.laplace(key, shape) / np.sqrt(2),
            lambda x: -np.sqrt(2) * jnp.sum(jnp.abs(x)),
        ),
        "Student-t": Source(lambda key, shape: narrow * jr.t(key, freedom, shape), student),
    }


def digits(config: Config) -> tuple[Array, Array]:
    """Training and fresh digits on two components, centred, of unit mean variance."""
    train, fresh = (half.images.reshape(len(half.images), -1) for half in load_halves("digits"))
    centre = train.mean(0)
    ways = np.linalg.svd(train - centre, full_matrices=False)[2][:2]
    train, fresh = ((half - centre) @ ways.T for half in (train, fresh))
    scale = np.sqrt(train.var(0).mean())
    return jnp.asarray(train[: config.data] / scale), jnp.asarray(fresh / scale)


class Outcome(NamedTuple):
    """Where particles of a source end, the energy of each, and its field's asymmetry on the way."""

    ends: Array
    energies: np.ndarray
    asymmetry: float


def travel(source: Source, data: Array, config: Config, key: Array) -> Outcome:
    """Carry particles through the exact field of a source."""
    path = tx.interpolants.Linear(config.width)
    field = tx.fields.SourcedEmpiricalField(data, source.log_density, path)
    x0 = source.draw(key, (config.particles, data.shape[1]))

    def rate(t, state, args):
        velocity = field(t, state[:-1])
        return jnp.concatenate([velocity, jnp.sum(velocity**2)[None]])

    @jax.jit
    def run(x0):
        start = jnp.concatenate([x0, jnp.zeros((len(x0), 1))], axis=1)
        return tx.sampling.flow(rate, start, steps=config.steps)

    ends = run(x0)
    middle = tx.sampling.flow(field, x0[:100], steps=config.steps // 2, t1=0.5)
    skew = jax.vmap(lambda x: tx.fields.asymmetry(field, jnp.asarray(0.5), x))(middle)
    return Outcome(ends[:, :-1], np.asarray(ends[:, -1]), float(jnp.mean(skew)))


def figures(found: dict[str, Outcome], train: Array, fresh: Array, width: float) -> dict[str, Any]:
    """Distances of the ends, with the floor of fresh data, and the energies' tails."""
    rows: dict[str, Any] = {
        "fresh digits": {"energy_distance_to_train": float(_distance(fresh, train))}
    }
    for name, outcome in found.items():
        nearest = jnp.sqrt(jnp.min(tx.geometry.PointCloud(outcome.ends, train).matrix(), axis=1))
        top = np.sort(outcome.energies)[-max(1, len(outcome.energies) // 100) :]
        rows[name] = {
            "energy_distance_to_train": float(_distance(outcome.ends, train)),
            "energy_distance_to_fresh": float(_distance(outcome.ends, fresh)),
            "nearest_training_point_over_width": float(jnp.median(nearest)) / width,
            "mean_energy": float(outcome.energies.mean()),
            "tail": float(top.mean() / np.median(outcome.energies)),
            "asymmetry": outcome.asymmetry,
        }
    return rows


def _distance(x: Array, y: Array) -> Array:
    return tx.metrics.energy_distance(x, y)


def draw(path: Path, found: dict[str, Outcome], train: Array) -> None:
    """Ends over the training points, and how many particles need more than an energy."""
    figure = Figure(figsize=(4 * (len(found) + 1), 4), layout="constrained")
    *axes, last = figure.subplots(1, len(found) + 1)
    for axis, (name, outcome) in zip(axes, found.items(), strict=True):
        axis.scatter(*np.asarray(outcome.ends[:3000]).T, s=2, color="#1f6f8b", linewidths=0)
        axis.scatter(*np.asarray(train).T, s=6, color="#c8553d", linewidths=0)
        axis.set(title=f"{name}: samples, and digits", aspect="equal", xticks=[], yticks=[])
        energies = np.sort(outcome.energies)
        last.loglog(energies, 1 - np.arange(energies.size) / energies.size, label=name)
    last.set(title="share of particles above an energy", xlabel="path energy")
    last.legend()
    figure.savefig(path, dpi=110)


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Travel and draw; returns the summary."""
    folder.claim(config)
    train, fresh = digits(config)
    found = {
        name: travel(source, train, config, key)
        for (name, source), key in zip(
            sources(config.freedom).items(), jr.split(jr.key(config.seed), 3), strict=True
        )
    }
    draw(folder.path / "bias.png", found, train)
    rows = figures(found, train, fresh, config.width)
    summary = {"sources": rows, "environment": environment()}
    folder.write_summary(summary)
    return summary


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print a line of each source."""
    for name, row in summary["sources"].items():
        print(f"{name:13s}", ", ".join(f"{k} {v:.3g}" for k, v in row.items()))
    print(f"bias.png and summary.json are in {folder.path}")


if __name__ == "__main__":
    main("sampler_bias", __doc__, Config, run, show)
