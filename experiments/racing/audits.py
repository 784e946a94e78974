"""An entropic transport problem to race on: its points, and the audit of an answer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Potentials = tuple[np.ndarray, np.ndarray]

# Entries of one block of the audit: 32 MiB in float64.
_BLOCK_ENTRIES = 2**22


class Problem(NamedTuple):
    """Two float32 clouds with uniform weights and cost |x - y|^2.

    `tol` bounds the audited error, `patience` is about how many seconds one run may take.
    """

    x: np.ndarray
    y: np.ndarray
    epsilon: float
    relative_epsilon: float
    tol: float
    patience: float
    streamed: bool

    @property
    def arguments(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x, y and epsilon as a compiled solver takes them."""
        return jnp.asarray(self.x), jnp.asarray(self.y), jnp.float32(self.epsilon)


def draw(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A standard Gaussian, and a shifted mixture of four stretched Gaussians; n points each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    centres = 1 + rng.normal(size=(4, d))
    spreads = np.stack([rng.permutation(np.geomspace(0.3, 1.2, d)) for _ in centres])
    which = rng.integers(len(centres), size=n)
    y = centres[which] + spreads[which] * rng.normal(size=(n, d))
    return x.astype(np.float32), y.astype(np.float32)


def mean_cost(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of |x - y|^2 over all pairs, in float64. O(n + m)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    squares = np.mean(np.sum(x * x, axis=1)) + np.mean(np.sum(y * y, axis=1))
    return float(squares - 2 * np.mean(x, axis=0) @ np.mean(y, axis=0))


def marginal_error(problem: Problem, potentials: Potentials) -> float:
    """L1 distance of both marginals from uniform, over the mass, in float64.

    Blocks of rows keep memory at O(n + m). Infinite where a potential is not finite.
    """
    x, y, f, g = (np.asarray(array, np.float64) for array in (problem.x, problem.y, *potentials))
    if not (np.all(np.isfinite(f)) and np.all(np.isfinite(g))):
        return float("inf")
    rows = max(1, _BLOCK_ENTRIES // len(y))
    columns, error = np.zeros(len(y)), 0.0
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        block = _plan(x[part], y, f[part], g, problem.epsilon) / (len(x) * len(y))
        error += np.sum(np.abs(np.sum(block, axis=1) - 1 / len(x)))
        columns += np.sum(block, axis=0)
    return float(error + np.sum(np.abs(columns - 1 / len(y))))


def _plan(x: np.ndarray, y: np.ndarray, f: np.ndarray, g: np.ndarray, epsilon: float) -> np.ndarray:
    """Density of the plan with respect to the product of its weights."""
    costs = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)[None, :] - 2 * x @ y.T
    with np.errstate(over="ignore"):
        return np.exp((f[:, None] + g[None, :] - costs) / epsilon)
