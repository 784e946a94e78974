"""The next population, from a free energy learned on others, beside three plain baselines."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from annotated_types import Ge, MinLen
from jaxtyping import Array

import transportx as tx
import transportx.gradient_flows as gf
import transportx.learned_energies as le
from experiments.harness import config as configs
from experiments.learned_energy.questions import Question, Split

# Predictions so many times as far out as what they predict have diverged.
_BOUND = 10.0


@configs.section
class Prediction:
    """How energies are learned from data, and chosen."""

    centres: configs.Count
    bandwidths: Annotated[list[configs.Positive], MinLen(1)]
    ridges: Annotated[list[configs.Positive], MinLen(1)]
    epsilon: configs.Positive
    most: Annotated[configs.Count, Ge(4)]
    draws: configs.Count
    components: configs.Count
    window: configs.Count


class Choice(NamedTuple):
    """What validation chooses: the bumps' width over the points' spread, and the ridge."""

    bandwidth: float
    ridge: float


class Answer(NamedTuple):
    """What was predicted of one question, and the energy it came of."""

    question: Question
    predicted: np.ndarray
    energy: le.LearnedEnergy
    distances: dict[str, float]


class Predicted(NamedTuple):
    """All test questions of one data set."""

    answers: list[Answer]
    figures: dict[str, Any]


Predictor = Callable[[Question], np.ndarray]


def no_change(question: Question) -> np.ndarray:
    """The start itself."""
    return question.start


def mean_shift(question: Question) -> np.ndarray:
    """The start, moved by the difference of the means."""
    shift = question.after.mean(axis=0) - question.before.mean(axis=0)
    return question.start + question.share * shift


def linear_map(question: Question) -> np.ndarray:
    """Along the optimal map between Gaussians of both populations' moments."""
    first, second = np.cov(question.before.T), np.cov(question.after.T)
    root = np.real(scipy.linalg.sqrtm(np.atleast_2d(first)))
    inner = np.real(scipy.linalg.sqrtm(root @ np.atleast_2d(second) @ root))
    inverse = np.linalg.inv(root)
    matrix = inverse @ inner @ inverse
    centred = question.start - question.before.mean(axis=0)
    image = question.after.mean(axis=0) + centred @ matrix.T
    return question.start + question.share * (image - question.start)


BASELINES: dict[str, Predictor] = {
    "no change": no_change,
    "mean shift": mean_shift,
    "linear map": linear_map,
}


class Dictionary(eqx.Module):
    """The coordinates, whose combinations are slopes, and bumps."""

    bumps: le.Bumps

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([x, self.bumps(x)])


class Learner(NamedTuple):
    """One question's velocities between its two populations, and where bumps are put."""

    moved: le.Displacements
    centres: Array
    spread: float


def learner(config: Prediction, question: Question) -> Learner:
    """By transport from before to after."""
    clouds = np.stack([question.before, question.after])
    points = np.concatenate(clouds)
    variance = points.var(axis=0).sum()
    # An array: a Python number would compile anew for every question.
    epsilon = jnp.asarray(config.epsilon * variance, clouds.dtype)
    moved = _transport(jnp.asarray(clouds), epsilon)
    spread = float(np.sqrt(variance / points.shape[1]))
    return Learner(moved, jnp.asarray(_scattered(points, config.centres)), spread)


@eqx.filter_jit
def _transport(clouds, epsilon):
    return le.transport_displacements(clouds, jnp.arange(2, dtype=clouds.dtype), epsilon=epsilon)


def _scattered(points: np.ndarray, num: int) -> np.ndarray:
    """Some of the points, from the middle on always the one farthest from those before."""
    rows = [int(np.argmin(np.sum((points - points.mean(axis=0)) ** 2, axis=1)))]
    nearest = np.full(len(points), np.inf)
    for _ in range(min(num, len(points)) - 1):
        nearest = np.minimum(nearest, np.sum((points - points[rows[-1]]) ** 2, axis=1))
        rows.append(int(np.argmax(nearest)))
    return points[rows]


def learn(given: Learner, choice: Choice) -> le.EnergyFit:
    """A potential of slopes and bumps."""
    width, ridge = jnp.array([choice.bandwidth * given.spread, choice.ridge], given.centres.dtype)
    return _fit(given.moved, given.centres, width, ridge)


@eqx.filter_jit
def _fit(moved, centres, width, ridge):
    return le.fit_displacements(moved, Dictionary(le.Bumps(centres, width)), ridge=ridge)


@eqx.filter_jit
def _flow(potential, x, share):
    return gf.flow(gf.Potential(potential), x, t1=share, steps=20).x[-1]


def by_energy(fit: le.EnergyFit, question: Question) -> np.ndarray:
    """The start, carried down the potential."""
    start = jnp.asarray(question.start)
    return np.asarray(_flow(fit.energy.potential, start, jnp.asarray(question.share, start.dtype)))


@jax.jit
def _exact(x, y):
    return tx.metrics.wasserstein2(x, y)


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Exact W2; infinite where a prediction has left all bounds."""
    if not np.max(np.abs(x)) < _BOUND * np.max(np.abs(y)):
        return float("inf")
    return float(_exact(jnp.asarray(x), jnp.asarray(y)))


def answer_all(config: Prediction, splits: list[Split]) -> Predicted:
    """Of each split, choose on the validation questions, then answer the test questions.

    The answers returned are those of each question's first draw.
    """
    scores = [_validate(config, split.validation) for split in splits]
    chosen = [min(found, key=lambda choice: found[choice]) for found in scores]
    asked = [
        (learn(learner(config, question), choice), question)
        for split, choice in zip(splits, chosen, strict=True)
        for question in split.test
    ]
    answers = list(itertools.starmap(_answer, asked))
    each, lost = _averaged(answers), tx.Status.NOT_TRANSPORTED
    table = {way: np.array([found[way] for found in each.values()]) for way in answers[0].distances}
    figures = {
        "chosen": [choice._asdict() for choice in chosen],
        "validation": [[{**c._asdict(), "wasserstein2": d} for c, d in f.items()] for f in scores],
        "mean": {way: float(np.mean(column)) for way, column in table.items()},
        "gain": {way: _gain(table[way] - table["learned energy"]) for way in BASELINES},
        # Bumps of large width are undetermined on purpose: the ridge decides.
        "not_transported": sum(bool(fit.status == lost) for fit, _ in asked),
        "each": each,
    }
    return Predicted(answers[: len(each)], figures)


def _averaged(answers: list[Answer]) -> dict[str, dict[str, float]]:
    """Distances of each question, by name, over the draws on which it was asked."""
    draws: dict[str, list[dict[str, float]]] = {}
    for answer in answers:
        draws.setdefault(answer.question.name, []).append(answer.distances)
    return {
        name: {way: float(np.mean([one[way] for one in found])) for way in found[0]}
        for name, found in draws.items()
    }


def _gain(differences: np.ndarray) -> dict[str, float]:
    """Of paired distances: their mean difference, its standard error, how many are positive."""
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    better = int(np.sum(differences > 0))
    return {"mean": float(np.mean(differences)), "error": float(error), "better": better}


def _validate(config: Prediction, questions: list[Question]) -> dict[Choice, float]:
    """Mean W2 of every choice."""
    learners = [learner(config, question) for question in questions]

    def score(choice):
        fits = [learn(given, choice) for given in learners]
        pairs = zip(fits, questions, strict=True)
        return float(np.mean([distance(by_energy(fit, q), q.target) for fit, q in pairs]))

    choices = itertools.product(config.bandwidths, config.ridges)
    return {choice: score(choice) for choice in itertools.starmap(Choice, choices)}


def _answer(fit: le.EnergyFit, question: Question) -> Answer:
    predicted, target = by_energy(fit, question), question.target
    distances = {name: distance(made(question), target) for name, made in BASELINES.items()}
    distances["learned energy"] = distance(predicted, target)
    distances["floor"] = distance(*question.twins)
    return Answer(question, predicted, fit.energy, distances)
