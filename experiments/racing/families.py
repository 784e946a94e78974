"""Families of entropic transport problems: weights, shapes and penalties that users bring.

Every problem has the cost |x - y|^2, weights of total one, and an epsilon that is a share
of the mean cost. All are drawn in float64 from fixed seeds.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import sklearn.datasets

Array = np.ndarray


class Problem(NamedTuple):
    """Two weighted clouds, and penalties in units of the mean cost (infinite: enforced)."""

    x: Array
    y: Array
    a: Array
    b: Array
    rho_a: float = np.inf
    rho_b: float = np.inf

    def rounded(self, dtype: Any) -> "Problem":
        """The same problem in another dtype, penalties in units of the cost."""
        x, y, a, b = (np.asarray(part, dtype) for part in self[:4])
        mean = self.mean_cost
        return Problem(x, y, a, b, float(self.rho_a * mean), float(self.rho_b * mean))

    @property
    def mean_cost(self) -> float:
        """Mean of |x - y|^2 between independent points."""
        return float(self.a @ squared_distances(self.x, self.y) @ self.b)


def squared_distances(x: Array, y: Array) -> Array:
    """All |x_i - y_j|^2, by differences."""
    return np.sum((x[:, None] - y[None]) ** 2, axis=-1)


def _uniform(n: int) -> Array:
    return np.full(n, 1 / n)


def _shares(weights: Array) -> Array:
    return weights / weights.sum()


def _clouds(rng: np.random.Generator) -> Iterator[Problem]:
    for n, m, d in [(300, 300, 2), (256, 200, 16)]:
        x, y = rng.normal(size=(n, d)), 1 + 0.5 * rng.normal(size=(m, d))
        yield Problem(x, y, _uniform(n), _uniform(m))


def _clusters(rng: np.random.Generator) -> Iterator[Problem]:
    for far in (10, 100):
        centres = far * rng.normal(size=(5, 2))
        x = centres[rng.integers(5, size=240)] + 0.3 * rng.normal(size=(240, 2))
        y = centres[rng.integers(5, size=250)] + 0.3 * rng.normal(size=(250, 2))
        yield Problem(x, y, _uniform(240), _uniform(250))


def _histograms(rng: np.random.Generator) -> Iterator[Problem]:
    x, y = np.linspace(-1, 2, 50), np.linspace(-1, 2, 51)

    def bell(points, mean, deviation):
        return _shares(np.exp(-(((points - mean) / deviation) ** 2) / 2))

    for one, other in [
        ((0.2, 0.18), (0.8, 0.19)),
        ((0, 0.1), (1, 0.1)),
        ((0.2, 0.15), (0.8, 0.15)),
        ((-0.5, 0.3), (1.2, 0.07)),
    ]:
        yield Problem(x[:, None], y[:, None], bell(x, *one), bell(y, *other))


def _images(rng: np.random.Generator) -> Iterator[Problem]:
    images, _ = sklearn.datasets.load_digits(return_X_y=True)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 8)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for i, j in [(0, 11), (3, 58)]:
        a, b = (_shares(np.asarray(images[k])) for k in (i, j))
        yield Problem(grid, grid, a, b)
        a, b = (_shares(np.asarray(images[k]) + 1e-6) for k in (i, j))
        yield Problem(grid, grid, a, b)


def _colours(rng: np.random.Generator) -> Iterator[Problem]:
    grid = (np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1) + 0.5) / 8
    photographs = sklearn.datasets.load_sample_images()["images"]
    a, b = (
        np.histogramdd(photograph.reshape(-1, 3), bins=(8, 8, 8), range=[(0, 256)] * 3)[0].ravel()
        for photograph in photographs
    )
    yield Problem(grid.reshape(-1, 3), grid.reshape(-1, 3), _shares(a), _shares(b))


def _decades(rng: np.random.Generator) -> Iterator[Problem]:
    x, y = rng.normal(size=(200, 2)), 0.5 + rng.normal(size=(180, 2))
    power = _shares(np.arange(1.0, 201) ** -2.0), _shares(np.arange(1.0, 181) ** -1.5)
    yield Problem(x, y, *power)
    soft = _shares(np.exp(rng.uniform(-46, 0, 200))), _shares(np.exp(rng.uniform(-46, 0, 180)))
    yield Problem(x, y, *soft)
    near = _shares(np.exp(-4 * np.sum(x**2, 1))), _shares(np.exp(-3 * np.sum((y - 1) ** 2, 1)))
    yield Problem(x, y, *near)


def _outliers(rng: np.random.Generator) -> Iterator[Problem]:
    x, y = rng.normal(size=(200, 2)), 0.5 + rng.normal(size=(220, 2))
    for far in (10.0, 100.0):
        moved = x.copy()
        moved[0] += far
        yield Problem(moved, y, _uniform(200), _uniform(220))
    padded = np.concatenate([x, np.full((20, 2), 30.0)])
    yield Problem(padded, y, _shares(np.arange(220) < 200), _uniform(220))


def _uneven(rng: np.random.Generator) -> Iterator[Problem]:
    x, y = rng.normal(size=(1000, 2)), 0.5 * rng.normal(size=(12, 2))
    yield Problem(x, y, _uniform(1000), _shares(np.arange(1.0, 13)))
    yield Problem(y, x, _shares(np.arange(1.0, 13)), _uniform(1000))
    yield Problem(x[:, :1], y[:1, :1], _uniform(1000), _uniform(1))


def _unbalanced(rng: np.random.Generator) -> Iterator[Problem]:
    x, y = rng.normal(size=(200, 2)), 1 + 0.5 * rng.normal(size=(180, 2))
    heavy = _shares(np.exp(-3 * np.sum(x**2, 1)))
    for rho in (0.01, 1.0, 100.0):
        yield Problem(x, y, _uniform(200), _uniform(180), rho, rho)
        yield Problem(x, y, heavy, _uniform(180), rho, np.inf)


FAMILIES: dict[str, Callable[[np.random.Generator], Iterator[Problem]]] = {
    "clouds": _clouds,
    "clusters far apart": _clusters,
    "Gaussian histograms": _histograms,
    "digits": _images,
    "colours of photographs": _colours,
    "weights over decades": _decades,
    "outliers and padding": _outliers,
    "n much larger than m": _uneven,
    "unbalanced": _unbalanced,
}


def problems(family: str) -> list[Problem]:
    """The problems of a family: the same at every call."""
    return list(FAMILIES[family](np.random.default_rng(0)))


def audit(problem: Problem, epsilon: float, f: Array, g: Array) -> float:
    """L1 error of both marginals over the mass, in float64, uncapped; infinite for overflow.

    `problem` holds what the solver saw: its arrays as rounded, and penalties in cost units.
    """
    x, y, a, b = (np.asarray(part, np.float64) for part in problem[:4])
    f, g = np.asarray(f, np.float64), np.asarray(g, np.float64)
    with np.errstate(all="ignore"):
        exponents = (f[:, None] + g[None] - squared_distances(x, y)) / epsilon
        held = (a[:, None] > 0) & (b[None] > 0)
        plan = a[:, None] * b[None] * np.exp(np.where(held, exponents, -np.inf))
        asked_a, asked_b = a * np.exp(-f / problem.rho_a), b * np.exp(-g / problem.rho_b)
        distance = np.abs(plan.sum(1) - asked_a).sum() + np.abs(plan.sum(0) - asked_b).sum()
        error = distance / min(asked_a.sum(), asked_b.sum())
    return float(error) if np.isfinite(error) else float("inf")
