"""The next population, from a free energy learned on others, beside three plain baselines."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import transportx as tx
import transportx.gradient_flows as gf
from experiments import config as configs
from experiments import learned_energy_data as data

# Predictions so many times as far out as what they predict have diverged.
_BOUND = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """How energies are learned from data, and chosen."""

    degrees: list
    ridge: float
    epsilon: float
    most: int
    components: int
    window: int

    def __post_init__(self):
        degrees = self.degrees and all(type(d) is int and d > 0 for d in self.degrees)
        configs.require(bool(degrees), "prediction.degrees", "must be positive integers")
        configs.at_least(self, 4, "most")
        configs.at_least(self, 1, "components", "window")
        configs.positive(self, "ridge", "epsilon")


class Question(NamedTuple):
    """Two populations to learn from, and one that is to be moved by `share` of their time."""

    name: str
    before: np.ndarray
    after: np.ndarray
    start: np.ndarray
    share: float
    target: np.ndarray
    second: np.ndarray | None


class Answer(NamedTuple):
    """What was predicted of one question, and the energy it came of."""

    question: Question
    predicted: np.ndarray
    energy: gf.LearnedEnergy
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


def learn(config: Prediction, question: Question, degree: int) -> gf.EnergyFit:
    """A potential of monomials, by the first-order condition midway."""
    clouds = jnp.asarray(np.stack([question.before, question.after]))
    epsilon = config.epsilon * np.var(question.before, axis=0).sum()
    # An array: a Python number would compile anew for every question.
    return _fit(clouds, degree, jnp.asarray(epsilon, clouds.dtype), config.ridge)


@eqx.filter_jit
def _fit(clouds, degree: int, epsilon, ridge):
    features = gf.Monomials(clouds.shape[-1], degree)
    times = jnp.arange(2, dtype=clouds.dtype)
    # Tests beyond the features give as many equations as unknowns, and more.
    tests = gf.Monomials(clouds.shape[-1], degree + 1)
    return gf.fit_first_order(
        clouds, times, features, epsilon=epsilon, entropy=False, tests=tests, ridge=ridge
    )


@eqx.filter_jit
def _flow(potential, x, share):
    return gf.flow(gf.Potential(potential), x, t1=share, num_steps=20).x[-1]


def by_energy(fit: gf.EnergyFit, question: Question) -> np.ndarray:
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


def answer_all(config: Prediction, validation: list[Question], test: list[Question]) -> Predicted:
    """Choose the degree on validation questions, then answer the test questions."""
    scores = {
        degree: float(
            np.mean(
                [distance(by_energy(learn(config, q, degree), q), q.target) for q in validation]
            )
        )
        for degree in config.degrees
    }
    degree = min(scores, key=lambda d: scores[d])
    answers = [_answer(config, question, degree) for question in test]
    names = answers[0].distances
    means = {name: float(np.mean([a.distances[name] for a in answers])) for name in names}
    each = {a.question.name: a.distances for a in answers}
    figures = {"degree": degree, "validation": scores, "mean": means, "each": each}
    return Predicted(answers, figures)


def _answer(config: Prediction, question: Question, degree: int) -> Answer:
    fit = learn(config, question, degree)
    predicted = by_energy(fit, question)
    target = question.target
    distances = {name: distance(made(question), target) for name, made in BASELINES.items()}
    distances["learned energy"] = distance(predicted, target)
    if question.second is not None:
        distances["floor"] = distance(question.second, target)
    return Answer(question, predicted, fit.energy, distances)


def storm_questions(config: Prediction, seed: int) -> tuple[list[Question], list[Question]]:
    """Next month, of years not learned from: each third year tests, the one after validates.

    The floor is the learned-from years' own next month.
    """
    places, years = data.storms()
    rng = np.random.default_rng(seed)

    def draw(month, chosen):
        rows = np.flatnonzero(np.isin(years[month] % 3, chosen))
        return places[month][rng.choice(rows, config.most, replace=False)].astype(np.float32)

    def questions(learned, asked):
        months = list(data.MONTHS)
        return [
            Question(
                f"{data.MONTHS[a]} to {data.MONTHS[b]}",
                draw(a, learned),
                draw(b, learned),
                draw(a, asked),
                1.0,
                draw(b, asked),
                draw(b, learned),
            )
            for a, b in zip(months[:-1], months[1:], strict=True)
        ]

    return questions([2], [1]), questions([1, 2], [0])


def cell_questions(config: Prediction, file) -> tuple[list[Question], list[Question]]:
    """A population between its neighbours in time: odd ones validate, even ones test."""
    times, clouds = data.cells(file, config.window, config.components)
    few = min(config.most, *map(len, clouds))
    clouds = [cloud[:few].astype(np.float32) for cloud in clouds]
    made = [
        Question(
            f"time {times[j]:g}", clouds[j - 1], clouds[j + 1], clouds[j - 1], 0.5, clouds[j], None
        )
        for j in range(1, len(clouds) - 1)
    ]
    return made[0::2], made[1::2]
