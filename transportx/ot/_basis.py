"""A round of the exact search on the host: pairs come in, the best basis among them goes out."""

from typing import Any, NamedTuple

import numpy as np

from transportx.ot._network_simplex import SpanningTree, improve, spanning_forest
from transportx.ot._sparse_sinkhorn import COARSE, FINE, refine

# Arrays of JAX on the device, and of numpy on the host.
Numbers = Any

_UNITS = 2.0**51
_MOST_PIVOTS = 10**7
# Of the largest cost: what mass that finds no way yet is taken to cost.
_ABOVE = 2.0**20


class Prices(NamedTuple):
    """Pairs to consider, and how far each one's cost is below its potentials.

    Attributes:
        of_rows: f_i + g_j - C_ij of some targets of each source, shape (n, k).
        targets: Those targets; m where there is none.
        of_columns: f_i + g_j - C_ij of some sources of each target, shape (m, l).
        sources: Those sources; n where there is none.
    """

    of_rows: Numbers
    targets: Numbers
    of_columns: Numbers
    sources: Numbers


class Basis(NamedTuple):
    """A spanning tree of sources and targets, with its mass and its potentials.

    Attributes:
        parents: The parent of each source, then of each target: n + j for target j, n + m for
            those without; -1 throughout where there is no tree yet.
        costs: The cost of each node and its parent.
        masses: Mass between each node and its parent.
        f: Source potential.
        g: Target potential.
        misplaced: Mass that finds no way.
        height: What parts of the tree that nothing joins are apart in potentials: as much as
            the pairs between them were seen to allow.
        moved: Whether this round changed anything.
    """

    parents: Numbers
    costs: Numbers
    masses: Numbers
    f: Numbers
    g: Numbers
    misplaced: Numbers
    height: Numbers
    moved: Numbers


def next_basis(
    basis: Basis, prices: Prices, a: np.ndarray, b: np.ndarray, scale: float, stage: int
) -> Basis:
    """The best basis among the pairs of a basis and those of `prices`.

    Stage 0 only brings the potentials nearer, for better pairs to be chosen; stage 1 guesses a
    basis by a spanning tree of the entropic plan's largest entries; later ones go on from the
    basis that there is.

    References:
        Ge, Wang, Xiong and Ye, From an interior point to a corner point: smart crossover, 2021.
    """
    sources, targets, costs = _pairs(basis, prices, a, b)
    if stage < 2:
        epsilons = COARSE if stage == 0 else FINE
        f, g = _refined((sources, targets, costs), a, b, basis, [scale * e for e in epsilons])
        basis = basis._replace(f=np.nan_to_num(f), g=np.nan_to_num(g), moved=np.array(True))
        if stage == 0:
            return basis
    n, m = a.size, b.size
    if stage == 1:
        lengths = costs - basis.f[sources] - basis.g[targets]
        parents, tree_costs = spanning_forest((sources, n + targets), lengths, costs, n + m)
    else:
        parents, tree_costs = basis.parents.tolist(), basis.costs.tolist()
    units_a, units_b, unit = _units(a, b)
    tree = SpanningTree(parents, tree_costs, np.concatenate([units_a, -units_b]), n)
    pivots = improve(tree, sources, n + targets, costs, _MOST_PIVOTS)
    found = _answer(tree, (sources, targets, costs), unit, float(basis.height))
    moved = stage == 1 or pivots > 0 or found.height > basis.height
    return found._replace(moved=np.array(moved))


def _pairs(basis, prices, a, b):
    """Sources, targets and costs of the pairs that may carry mass, by source, each pair once."""
    n, m = a.size, b.size
    sources = np.repeat(np.arange(n), prices.targets.shape[1])
    targets = np.repeat(np.arange(m), prices.sources.shape[1])
    i = np.concatenate([sources, prices.sources.ravel()]).astype(np.int64)
    j = np.concatenate([prices.targets.ravel(), targets]).astype(np.int64)
    below = np.concatenate([prices.of_rows.ravel(), prices.of_columns.ravel()]).astype(float)
    usable = (i < n) & (j < m) & np.isfinite(below)
    i, j, below = i[usable], j[usable], below[usable]
    usable = (a[i] > 0) & (b[j] > 0)
    i, j, below = i[usable], j[usable], below[usable]
    _, once = np.unique(i * m + j, return_index=True)
    i, j, below = i[once], j[once], below[once]
    return i, j, basis.f[i] + basis.g[j] - below


def _refined(pairs, a, b, basis, epsilons):
    """Entropic potentials between the points with weight; those of the others stay."""
    some = a > 0, b > 0
    sources, targets, costs = pairs
    places = [np.cumsum(each) - 1 for each in some]
    few = places[0][sources], places[1][targets], costs
    total = np.sum(a)
    weights = a[some[0]] / total, b[some[1]] / total
    f, g = basis.f.copy(), basis.g.copy()
    f[some[0]], g[some[1]] = refine(few, weights, (f[some[0]], g[some[1]]), epsilons)
    return f, g


def _units(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights as whole numbers of one total, and the mass of a unit."""
    total, some_a, some_b = float(np.sum(a)), a > 0, b > 0
    if np.ptp(a[some_a]) == 0 and np.ptp(b[some_b]) == 0:
        counts = int(np.sum(some_a)), int(np.sum(some_b))
        return some_a * counts[1], some_b * counts[0], total / (counts[0] * counts[1])
    units_a, units_b = (
        np.where(some, np.maximum(1, np.rint(w / np.sum(w) * _UNITS)), 0).astype(np.int64)
        for w, some in ((a, some_a), (b, some_b))
    )
    missing = int(np.sum(units_a) - np.sum(units_b))
    less = units_b if missing > 0 else units_a
    # What rounding leaves goes to the largest, one unit each.
    each, rest = divmod(abs(missing), int(np.sum(less > 0)))
    less[less > 0] += each
    less[np.argsort(-less, kind="stable")[:rest]] += 1
    return units_a, units_b, total / float(np.sum(units_a))


def _answer(
    tree: SpanningTree, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], unit: float, least: float
) -> Basis:
    root, n = tree.root, tree.num_sources
    parents, flows = np.array(tree.parents[:root]), np.array(tree.flows[:root], float)
    lost = float(np.sum(flows[parents == root])) * unit / 2
    values = tree.potentials[:root] - np.median(tree.potentials.real[:root])
    values -= 1j * np.median(values.imag)
    sources, targets, costs = pairs
    reduced = costs - values[sources] + values[n + targets]
    parted = reduced.imag > 0
    height = np.max(-reduced.real[parted] / reduced.imag[parted], initial=least)
    if lost > 0:
        height = max(height, _ABOVE * float(np.max(np.abs(costs), initial=1)))
    values = values.real + height * values.imag
    costs = np.where(parents < root, np.array(tree.costs[:root]), 0)
    return Basis(
        parents, costs, flows * unit, values[:n], -values[n:], *map(np.array, (lost, height, True))
    )
