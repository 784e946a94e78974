"""Populations to be predicted from others: storms of other years, cells between two times."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import populations as data


class Question(NamedTuple):
    """Two populations to learn from, and one that is to be moved by `share` of their time.

    The twins are two samples of what the target is one of: their distance is its floor.
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    start: np.ndarray
    share: float
    target: np.ndarray
    twins: tuple[np.ndarray, np.ndarray]


class Split(NamedTuple):
    """Questions on which to choose, and others to be answered by what was chosen."""

    validation: list[Question]
    test: list[Question]


def storm_splits(most: int, draws: int, seed: int) -> list[Split]:
    """Next month, of years not learned from: each third of the years is asked of the others.

    Of the two others, each validates what is learned from the other one. The floor is that to
    the learned-from years' own next month.
    """
    places, years = data.storms()
    rng = np.random.default_rng(seed)
    months = list(data.MONTHS)

    def draw(month, thirds):
        rows = np.flatnonzero(np.isin(years[month] % 3, thirds))
        return places[month][rng.choice(rows, most, replace=False)].astype(np.float32)

    def ask(a, b, learned, asked):
        name = f"{data.MONTHS[a]} to {data.MONTHS[b]}, third {asked + 1}"
        before, after, start = draw(a, learned), draw(b, learned), draw(a, [asked])
        target = draw(b, [asked])
        return Question(name, before, after, start, 1.0, target, (draw(b, learned), target))

    def questions(learned, asked):
        return [ask(a, b, learned, asked) for a, b in zip(months[:-1], months[1:], strict=True)]

    def split(asked):
        one, other = (third for third in range(3) if third != asked)
        validation = questions([one], other) + questions([other], one)
        return Split(validation, questions([one, other], asked))

    return [split(asked) for _ in range(draws) for asked in range(3)]


def cell_splits(file: Path, most: int, window: int, components: int) -> list[Split]:
    """A population between its neighbours in time: odd ones validate, even ones test.

    The floor is between every other iteration of the target's and the rest.
    """
    times, clouds = data.cells(file, window, components)
    few = min(most, *map(len, clouds))
    clouds = [cloud[:few].astype(np.float32) for cloud in clouds]

    def ask(j):
        before, target, after = clouds[j - 1 : j + 2]
        twins = target[0::2], target[1::2]
        return Question(f"time {times[j]:g}", before, after, before, 0.5, target, twins)

    made = [ask(j) for j in range(1, len(clouds) - 1)]
    return [Split(made[0::2], made[1::2])]
