"""Figures of a trained method: how near its samples are to the data, and what they cost."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

import transportx as tx
from experiments.few_step.config import Config
from experiments.few_step.methods import Method, pairs
from experiments.harness import timing

_THOUSAND = 1000


class Judged(NamedTuple):
    """A method judged: by number of evaluations, energy distances and seconds per thousand."""

    distances: dict[int, float]
    seconds: dict[int, float]
    samples: dict[int, np.ndarray]


class Exam(NamedTuple):
    """What all methods of one seed are given, and the distance between two samples of the data."""

    x0: Any
    x1: Any
    floor: float


def set_exam(config: Config, key: PRNGKeyArray) -> Exam:
    """Sources and data of the report, and the floor."""
    draw = pairs(config, config.report.num)
    x0, x1, _ = draw(key=key)
    other = draw.target(config.report.num, key=jr.fold_in(key, 1))
    return Exam(x0, x1, float(_distance(other, x1)))


def judge(method: Method, network: Any, exam: Exam, key: PRNGKeyArray) -> Judged:
    """Sample by every number of evaluations; NaN where a sample is."""
    judged = Judged({}, {}, {})
    few = exam.x0[:_THOUSAND]
    for num in method.evaluations:
        made = _sample(method.sample, network, exam.x0, num, key)
        judged.distances[num] = float(_distance(made, exam.x1))
        judged.samples[num] = np.asarray(made)

        def thousand(num=num):
            jax.block_until_ready(_sample(method.sample, network, few, num, key))

        thousand()
        judged.seconds[num] = timing.least_seconds(thousand) * _THOUSAND / len(few)
    return judged


@eqx.filter_jit
def _sample(sample, network, x0, num: int, key):
    return sample(network, x0, num, key)


@jax.jit
def _distance(x, y):
    return tx.metrics.energy_distance(x, y)
