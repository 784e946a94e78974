"""Training one network for every mixing and seed, and judging it."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import transportx as tx
from experiments.data import images
from experiments.transformer.choices import Network, Training
from experiments.transformer.network import Classifier
from transportx import attention as att


class Split(NamedTuple):
    """Digits to train on, to choose settings by, and to judge by."""

    train: images.Images
    validation: images.Images
    test: images.Images


class Trained(NamedTuple):
    """One network before and after training, with what it cost."""

    seed: int
    untrained: Classifier
    model: Classifier
    losses: Float[np.ndarray, " s"]
    step_seconds: float


def split(training: Training) -> Split:
    """One half tests; the other trains, but for its last images, which validate."""
    half, test = images.load_halves("digits")
    first = slice(len(half.labels) - training.validation)
    last = slice(first.stop, None)
    train, validation = (images.Images(half.images[s], half.labels[s]) for s in (first, last))
    return Split(train, validation, test)


def train(
    network: Network, training: Training, mixing: att.AbstractMixing, data: images.Images, seed: int
) -> Iterator[Trained]:
    """One network after another, of seeds of their own; compiled once."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, training.steps // 10, training.steps
    )
    optimizer = optax.adamw(schedule, weight_decay=training.weight_decay)
    step = tx.training.make_step(_loss, optimizer, average_decay=training.average_decay)
    draw = eqx.Partial(_draw, jnp.asarray(data.images), jnp.asarray(data.labels), training.batch)
    for number in range(seed, seed + training.seeds):
        keys = jr.split(jr.key(number))
        untrained = Classifier(network, mixing, key=keys[0])
        watch = _Watch()
        state, losses = tx.training.fit(
            tx.training.init(untrained, optimizer),
            step,
            draw,
            num_steps=training.steps,
            key=keys[1],
            on_chunk=watch,
            chunk_size=training.chunk,
        )
        yield Trained(number, untrained, state.average, losses, watch.step_seconds())


class _Watch:
    """When each chunk ended, and how many steps it took."""

    def __init__(self):
        self.ends: list[float] = []
        self.sizes: list[int] = []

    def __call__(self, state: tx.training.TrainState, losses: np.ndarray) -> None:
        self.ends.append(time.perf_counter())
        self.sizes.append(len(losses))

    def step_seconds(self) -> float:
        """The median over all chunks but the first, which compiled."""
        return float(np.median(np.diff(self.ends) / self.sizes[1:]))


def accuracies(model: Classifier, *parts: images.Images) -> list[float]:
    """The share of each part's images that is named rightly."""
    named = np.asarray(_name(model, jnp.concatenate([part.images for part in parts])))
    ends = np.cumsum([len(part.labels) for part in parts])[:-1]
    pairs = zip(np.split(named, ends), parts, strict=True)
    return [float(np.mean(found == part.labels)) for found, part in pairs]


@eqx.filter_jit
def _name(model: Classifier, pictures: Float[Array, "b h w 1"]) -> Int[Array, " b"]:
    return jnp.argmax(jax.vmap(model)(pictures), axis=1)


def _draw(pictures, labels, batch: int, *, key) -> tuple[Array, Array]:
    places = jr.randint(key, (batch,), 0, labels.shape[0])
    return pictures[places], labels[places]


def _loss(model: Classifier, batch: tuple[Array, Array], *, key) -> Float[Array, ""]:
    pictures, labels = batch
    logits = jax.vmap(model)(pictures)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
