"""Training of one method for so many seconds."""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

import transportx as tx
from experiments.few_step.config import Training
from experiments.few_step.methods import Method


class Trained(NamedTuple):
    """A trained network, with what that took and what it was on its way.

    Attributes:
        network: The moving average of the parameters.
        steps: Steps of training.
        seconds: Their seconds, compiling left out.
        losses: Means of the loss over chunks.
        snapshots: Averages after chunks, the first before any.
    """

    network: Any
    steps: int
    seconds: float
    losses: np.ndarray
    snapshots: list[Any]


def train(config: Training, method: Method, key: PRNGKeyArray) -> Trained:
    """Chunks of steps until the seconds are over."""
    optimizer = optax.adam(config.learning_rate)
    start = tx.training.init(method.network, optimizer)
    step = tx.training.make_step(method.loss, optimizer, average_decay=config.average_decay)
    options = {"num_steps": config.chunk, "chunk_size": config.chunk, "key": key}
    tx.training.fit(start, step, method.draw, **options)  # Compiles.
    state, losses, spent, snapshots = start, [], 0.0, [start.average]
    while spent < config.seconds:
        began = time.perf_counter()
        state, found = tx.training.fit(state, step, method.draw, **options)
        jax.block_until_ready(eqx.filter(state, eqx.is_array))
        spent += time.perf_counter() - began
        losses.append(float(np.mean(found)))
        snapshots.append(state.average)
    return Trained(state.average, int(state.num_steps), spent, np.asarray(losses), snapshots)
