"""One curve of densities, several fields that move it: what a density does not tell.

    python -m experiments.velocity_fields configs/velocity_fields.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

A Gaussian splits in two: the law of x_t between a Gaussian and a mixture, in the plane. On a
grid at one time: the field of flow matching, the field whose flux is a gradient
(Dacorogna-Moser), the gradient field of least energy, and that with a swirl added which
moves no mass.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `fields.png` and
`summary.json`, with energy, curl and continuity residual of each field. The residual of
the flow-matching field is that of sampling it on faces; those of the others are of rounding.
"""

from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Array
from matplotlib.figure import Figure

import transportx as tx
from experiments.harness import config as configs
from experiments.harness.main import main
from experiments.harness.runs import RunFolder, environment


@configs.section
class Config:
    """One run, whole."""

    cells: Annotated[configs.Count, Ge(8)]
    length: configs.Positive
    time: configs.Fraction
    floor: configs.Positive
    swirl: float


def flow_matching_field() -> tx.fields.MixtureField:
    """From one Gaussian to two, one of them narrow and tilted."""
    source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
    target = tx.gaussians.Mixture(
        jnp.array([0.4, 0.6]),
        jnp.array([[-2.0, 0.5], [1.8, -0.3]]),
        jnp.array([[[0.2, 0.1], [0.1, 0.4]], [[0.5, -0.2], [-0.2, 0.3]]]),
    )
    return tx.fields.MixtureField(source, target)


def curve(box: tx.fields.Box, field: tx.fields.MixtureField, config: Config) -> tuple[Array, Array]:
    """Density in the cells and its rate; a floor keeps the quotients by it finite."""
    points = box.centres().reshape(-1, 2)

    def density(t):
        law = field.law(t)
        logs = jax.vmap(
            lambda x: jax.vmap(tx.gaussians.log_density, (None, 0, 0))(
                x, law.means, law.covariances
            )
        )(points)
        values = jnp.exp(logs) @ law.weights
        return values.reshape(box.shape) + config.floor

    time = jnp.asarray(config.time)
    return jax.jvp(density, (time,), (jnp.ones_like(time),))


def fields(config: Config) -> tuple[tx.fields.Box, Array, Array, dict[str, Any]]:
    """The grid, the density, its rate, and its fields by name."""
    box = tx.fields.Box((config.cells, config.cells), (config.length, config.length))
    field = flow_matching_field()
    density, rate = curve(box, field, config)
    rate = rate - jnp.mean(rate)
    least = tx.fields.least_squares(box, density, rate, rtol=1e-6)
    corners = (density[1:, 1:] + density[:-1, :-1]) / 2
    swirl = tx.fields.flux_null(box, density, config.swirl * corners)
    return (
        box,
        density,
        rate,
        {
            "flow matching": _on_faces(box, field, config.time),
            "Dacorogna-Moser": tx.fields.dacorogna_moser(box, density, rate),
            "least energy": least,
            "least energy and a swirl": tuple(v + w for v, w in zip(least, swirl, strict=True)),
        },
    )


def _on_faces(box: tx.fields.Box, field: Any, time: float) -> tuple[Array, ...]:
    """Normal components of a field of the plane at the midpoints of the faces."""
    centres = box.centres()
    velocities = jax.vmap(jax.vmap(lambda x: field(jnp.asarray(time), x)))
    first, second = (centres[1:] + centres[:-1]) / 2, (centres[:, 1:] + centres[:, :-1]) / 2
    return velocities(first)[..., 0], velocities(second)[..., 1]


def draw(path: Path, box: tx.fields.Box, density: Array, found: dict[str, Any]) -> None:
    """Arrows of every field over the density."""
    figure = Figure(figsize=(4.2 * len(found), 4.4), layout="constrained")
    centres, every = np.asarray(box.centres()), max(1, box.shape[0] // 20)
    for axis, (name, velocity) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        first, second = (np.asarray(v) for v in velocity)
        arrows = np.stack(
            [(first[1:, 1:-1] + first[:-1, 1:-1]), (second[1:-1, 1:] + second[1:-1, :-1])]
        )
        arrows = arrows / 2 * (np.asarray(density)[1:-1, 1:-1] > 1e-3)
        inner = centres[1:-1, 1:-1][::every, ::every]
        axis.imshow(
            np.asarray(density).T,
            origin="lower",
            cmap="Blues",
            extent=np.repeat(np.asarray(box.lengths) / 2, 2) * [-1, 1, -1, 1],
        )
        axis.quiver(*inner.reshape(-1, 2).T, *arrows[:, ::every, ::every].reshape(2, -1))
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Compute and draw; returns the summary."""
    # Densities fall over many decades, and the field of least energy divides by them.
    jax.config.update("jax_enable_x64", True)
    folder.claim(config)
    box, density, rate, found = fields(config)
    draw(folder.path / "fields.png", box, density, found)
    figures = {
        name: {k: float(v) for k, v in diagnosed._asdict().items()}
        for name, velocity in found.items()
        for diagnosed in [tx.fields.diagnose_field(box, density, rate, velocity)]
    }
    summary = {"fields": figures, "environment": environment()}
    folder.write_summary(summary)
    return summary


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print a line of each field."""
    for name, row in summary["fields"].items():
        print(f"{name:26s}", ", ".join(f"{k} {v:.3g}" for k, v in row.items()))
    print(f"fields.png and summary.json are in {folder.path}")


if __name__ == "__main__":
    main("velocity_fields", __doc__, Config, run, show)
