"""Potentials of entropic transport over few pairs, on the host: what a basis is guessed from."""

from collections.abc import Sequence

import numpy as np

# Of the scale of costs: what the potentials are brought to before pairs are chosen a last time,
# and then before a basis is guessed.
COARSE, FINE = (0.003,), (0.001, 0.0003)
_STEPS, _AUDIT, _TOL = 400, 10, 1e-3
# Steps are longer than Sinkhorn's by a factor below this, as the observed rate asks.
_LONGEST = 1.8
_MOST = 300.0


def refine(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray],
    potentials: tuple[np.ndarray, np.ndarray],
    epsilons: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials of the plan exp((f_i + g_j - C_ij) / epsilon) over some pairs, roughly.

    Any answer is a good one, only not as good a guess: nothing is proved of it.

    Args:
        pairs: Sources, targets and costs of the pairs, sources in rising order.
        weights: Positive weights of sources and targets.
        potentials: (f, g) to start from.
        epsilons: Falling regularisations.

    References:
        Thibault, Chizat, Dossal and Papadakis, Overrelaxed Sinkhorn-Knopp algorithm for
        regularized optimal transport, 2017.
    """
    from scipy.sparse import csr_array

    sources, targets, costs = pairs
    f, g = potentials
    starts = np.searchsorted(sources, np.arange(f.size + 1))
    for epsilon in epsilons:
        exponents = np.clip((f[sources] + g[targets] - costs) / epsilon, -_MOST, _MOST / 6)
        kernel = csr_array((np.exp(exponents), targets, starts), shape=(f.size, g.size))
        rows, columns = _scaled(kernel, *map(np.log, weights))
        f, g = f + epsilon * rows, g + epsilon * columns
    return f, g


def _scaled(kernel, log_a: np.ndarray, log_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the scalings of rows and columns with the least error that was seen."""
    transposed = kernel.T.tocsr()
    rows, columns = np.zeros_like(log_a), np.zeros_like(log_b)
    factor, last, least, best = 1.0, np.inf, np.inf, (rows, columns)
    for step in range(_STEPS):
        sums = np.log(np.maximum(kernel @ np.exp(columns), 1e-290))
        if step % _AUDIT == 1:
            error = np.sum(np.abs(np.exp(np.minimum(rows + sums, _MOST)) - np.exp(log_a)))
            if error < least:
                least, best = error, (rows, columns)
            if error <= _TOL:
                break
            if error > 2 * least:
                # Too long a step for what is left: back, and on in shorter ones.
                (rows, columns), factor = best, 1 + (factor - 1) / 2
                sums = np.log(np.maximum(kernel @ np.exp(columns), 1e-290))
            elif step > 3 * _AUDIT and factor == 1:
                rate = np.clip(error / last, 1e-3, 0.99999) ** (1 / _AUDIT)
                factor = min(2 / (1 + np.sqrt(1 - rate)), _LONGEST)
            last = error
        rows = np.clip(rows + factor * (log_a - sums - rows), -_MOST, _MOST)
        sums = np.log(np.maximum(transposed @ np.exp(rows), 1e-290))
        columns = np.clip(columns + factor * (log_b - sums - columns), -_MOST, _MOST)
    return best
