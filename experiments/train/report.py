"""What a trained field is worth: figures against held-out data, with their floors, and pictures.

A floor is the same figure between two real samples: no model can be expected below it.
Samples are drawn on all devices of the run that this process has.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

import transportx as tx
from experiments.data import images, points
from experiments.harness import devices
from experiments.harness.runs import RunFolder
from experiments.train import pictures, problem
from experiments.train.choices import ImagesData, PointsData
from experiments.train.config import Config

# Columns of the picture that shows samples forming.
_FORMATION_TIMES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_TRAJECTORIES = 300
# Samples of each label in a picture.
_COLUMNS = 10
# The classifier sees at most this many pixels, 5,000 images of 28 x 28: its training grows
# with the square of their number.
_CLASSIFIER_PIXELS = 5000 * 28**2


def write(config: Config, field: Any, folder: RunFolder) -> dict[str, Any]:
    """Draw samples and pictures into the run folder; return the figures."""
    key = jr.fold_in(jr.key(config.seed), problem.REPORT)
    if isinstance(config.data, ImagesData):
        return _write_images(config, config.data, field, folder, key)
    return _write_points(config, config.data, field, folder, key)


def _write_points(config, data: PointsData, field, folder, key) -> dict[str, Any]:
    num = config.report.num
    keys = jr.split(key, 4)
    x0 = points.LAWS[data.source](num, key=keys[0])
    target, second = (points.LAWS[data.target](num, key=k) for k in keys[1:3])
    times = jnp.linspace(0, 1, config.sampling.steps + 1)
    sample = _sampler(config)
    paths = sample(field, x0, None, steps=config.sampling.steps, guidance=1.0, times=times)
    samples = paths[-1]
    pictures.clouds(folder.path / "samples.png", x0, samples, target)
    pictures.trajectories(folder.path / "trajectories.png", np.asarray(paths[:, :_TRAJECTORIES]))
    transport = tx.metrics.wasserstein2(x0, target)
    energy = tx.metrics.path_energy(field, x0, steps=config.sampling.steps)
    displacement = jnp.mean(jnp.sum((samples - x0) ** 2, axis=1))
    return {
        "num": num,
        "wasserstein2": float(tx.metrics.wasserstein2(samples, target)),
        "wasserstein2_floor": float(tx.metrics.wasserstein2(second, target)),
        **_distances(samples, target, second, keys[3]),
        "path_energy": float(energy),
        "wasserstein2_source_target": float(transport),
        "normalized_path_energy": float(jnp.abs(energy - transport**2) / transport**2),
        "straightness": float(energy - displacement),
    }


def _write_images(config, data: ImagesData, field, folder, key) -> dict[str, Any]:
    train, held_out = images.load_halves(data.name)
    num = min(config.report.num, len(held_out.labels), len(train.labels))
    steps, guidance = config.sampling.steps, config.sampling.guidance
    source_key, slice_key, picture_key = jr.split(key, 3)
    x0 = problem.draw_sources(config, num, key=source_key)
    labels = jnp.asarray(held_out.labels[:num])
    sample = _sampler(config)
    plain = sample(field, x0, labels, steps=steps, guidance=1.0)
    guided = sample(field, x0, labels, steps=steps, guidance=guidance)

    num_rows = images.NUM_LABELS[data.name]
    rows = jnp.repeat(jnp.arange(num_rows), _COLUMNS)
    noise = problem.draw_sources(config, rows.size, key=picture_key)
    times = jnp.array(_FORMATION_TIMES)
    paths = sample(field, noise, rows, steps=steps, guidance=guidance, times=times)
    pictures.grid(folder.path / "samples.png", np.asarray(paths[-1]), num_rows)
    pictures.formation(
        folder.path / "formation.png",
        np.asarray(paths[:, ::_COLUMNS]),
        _FORMATION_TIMES,
    )

    real, other = (_flat(half.images[:num]) for half in (held_out, train))
    return {
        "num": num,
        **_distances(_flat(plain), real, other, slice_key),
        **_memorisation(_flat(plain), real, _flat(train.images)),
        **_agreement(train, held_out, {"plain": plain, "guided": guided}, labels),
        "guidance": guidance,
    }


def _sampler(config: Config) -> Callable[..., Array]:
    mesh = devices.mesh_here(config.training.devices)
    return functools.partial(problem.sample, config, mesh=mesh)


def _distances(samples, target, second, key) -> dict[str, float]:
    """Distances of samples to the target, and of a second real sample to it: the floor."""

    def sliced(x):
        return tx.metrics.sliced_wasserstein(x, target, key=key)

    return {
        "energy_distance": float(tx.metrics.energy_distance(samples, target)),
        "energy_distance_floor": float(tx.metrics.energy_distance(second, target)),
        "sliced_wasserstein": float(sliced(samples)),
        "sliced_wasserstein_floor": float(sliced(second)),
    }


def _memorisation(samples, held_out, train) -> dict[str, float]:
    """Mean distance to the nearest training image: far below the held-out one, it copies."""

    def nearest(x):
        costs = tx.geometry.PointCloud(x, train)
        return float(jnp.mean(jnp.sqrt(costs.map_rows(jnp.min))))

    return {"nearest_training": nearest(samples), "nearest_training_floor": nearest(held_out)}


def _agreement(train, held_out, samples: dict[str, Array], labels) -> dict[str, float]:
    """How often a classifier of the real training half sees the label that was asked for."""
    from sklearn.svm import SVC

    shown = slice(_CLASSIFIER_PIXELS // train.images[0].size)
    classifier = SVC(C=10.0).fit(_flat(train.images[shown]), train.labels[shown])
    figures = {
        f"agreement_{name}": float(np.mean(classifier.predict(_flat(x)) == np.asarray(labels)))
        for name, x in samples.items()
    }
    predicted = classifier.predict(_flat(held_out.images[shown]))
    real = float(np.mean(predicted == held_out.labels[shown]))
    return figures | {"agreement_held_out": real}


def _flat(batch: Array | np.ndarray) -> Float[Array, "n d"]:
    return jax.numpy.asarray(batch).reshape(len(batch), -1)
