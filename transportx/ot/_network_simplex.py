"""The network simplex on the host: from a spanning tree to the optimal one, pivot by pivot."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Rounding of a reduced cost, in units in the last place of the numbers it is made of.
_ROUNDING = 8 * np.finfo(np.float64).eps


class SpanningTree:
    """A spanning tree of n sources, m targets and an artificial root, with flow and potentials.

    Nodes are the sources, then the targets, then the root. Every node but the root has an arc to
    or from its parent; one between a source and a target goes from source to target. An arc to
    or from the root stands for mass that finds no way. Its cost is above all others: it is the
    unit of the imaginary part of potentials. The cost of an arc in the tree is the potential of
    its tail less that of its head.

    The tree is strongly feasible: every arc without flow leads to the parent. Pivots keep it so,
    and then never come back to a tree that they have left. Flows are whole numbers, so that none
    is zero by rounding alone.

    References:
        Cunningham, A network simplex method, 1976.
    """

    def __init__(
        self, parents: Sequence[int], costs: Sequence[float], supplies: np.ndarray, num_sources: int
    ):
        """Hang below the root what would send its mass against an arc.

        Args:
            parents: The parent of each node; the root, n + m, where there is none.
            costs: The cost of the arc between each node and its parent.
            supplies: Whole units that each node sends, negative where it receives.
            num_sources: n.
        """
        self.root = len(parents)
        self.num_sources = num_sources
        self.parents, self.costs = [*parents, -1], [*costs, 0.0]
        self.children: list[set[int]] = [set() for _ in self.parents]
        for node, parent in enumerate(parents):
            self.children[parent].add(node)
        self.upward = [True] * (self.root + 1)
        self.flows, self.sizes = [0] * (self.root + 1), [1] * (self.root + 1)
        self._hang([int(supply) for supply in supplies] + [0])
        self.potentials: Any = np.zeros(self.root + 1, complex)
        self.value_again()

    def _hang(self, net: list[int]) -> None:
        """Flows and sizes, from the leaves to the root."""
        for node in self.below(self.root)[:0:-1]:
            parent, send = self.parents[node], net[node]
            source = node < self.num_sources
            if parent != self.root and (send < 0 if source else send >= 0):
                self.children[parent].remove(node)
                self.children[self.root].add(node)
                self.parents[node] = parent = self.root
            self.upward[node] = send >= 0 if parent == self.root else source
            self.flows[node] = abs(send)
            net[parent] += send
            self.sizes[parent] += self.sizes[node]

    def below(self, node: int) -> list[int]:
        """A node and all that hang from it, each after its parent."""
        nodes = [node]
        for each in nodes:
            nodes.extend(self.children[each])
        return nodes

    def value_again(self) -> None:
        """Potentials from the costs of the tree, without the rounding of many pivots."""
        potentials = [0j] * (self.root + 1)
        for node in self.below(self.root)[1:]:
            parent = self.parents[node]
            cost = 1j if parent == self.root else self.costs[node]
            potentials[node] = potentials[parent] + (cost if self.upward[node] else -cost)
        self.potentials[:] = potentials

    def pivot(self, tail: int, head: int, cost: float, reduced: complex) -> None:
        """Let an arc of negative reduced cost into the tree, and the arc that it empties out."""
        join, leaving, amount, at_tail = self._leaving(tail, head)
        if amount:
            self._push(tail, join, amount, up_is_more=False)
            self._push(head, join, amount, up_is_more=True)
        near, far = (tail, head) if at_tail else (head, tail)
        self._shift(leaving, reduced if at_tail else -reduced)
        self._cut(leaving, join, near)
        self._attach(near, far, join, cost, amount, upward=at_tail)

    def _leaving(self, tail: int, head: int) -> tuple[int, int, int, bool]:
        """(the join of both ways up, the node whose arc leaves, its flow, if on the tail's way).

        Of several arcs that empty at once the last one on the cycle leaves, from the join by the
        tail and by the head: so the tree stays strongly feasible.
        """
        parents, sizes, flows, upward = self.parents, self.sizes, self.flows, self.upward
        one, other = tail, head
        least_one = least_other = float("inf")
        at_one = at_other = -1
        while one != other:
            if sizes[one] < sizes[other]:
                if upward[one] and flows[one] < least_one:
                    at_one, least_one = one, flows[one]
                one = parents[one]
            else:
                if not upward[other] and flows[other] <= least_other:
                    at_other, least_other = other, flows[other]
                other = parents[other]
        if least_one < least_other:
            return one, at_one, int(least_one), True
        return one, at_other, int(least_other), False

    def _push(self, node: int, join: int, amount: int, *, up_is_more: bool) -> None:
        while node != join:
            self.flows[node] += amount if self.upward[node] == up_is_more else -amount
            node = self.parents[node]

    def _shift(self, top: int, change: complex) -> None:
        """Add to the potentials below `top`, or, for the same differences, take from all others."""
        if 2 * self.sizes[top] <= self.root:
            self.potentials[self.below(top)] += change
            return
        siblings = self.children[self.parents[top]]
        siblings.remove(top)
        self.potentials[self.below(self.root)] -= change
        siblings.add(top)

    def _cut(self, leaving: int, join: int, near: int) -> None:
        """Take off what hangs from `leaving`, and hang it up by `near` instead."""
        parents, children, sizes = self.parents, self.children, self.sizes
        size, above = sizes[leaving], parents[leaving]
        children[above].remove(leaving)
        while above != join:
            sizes[above] -= size
            above = parents[above]
        stem = [near]
        while stem[-1] != leaving:
            stem.append(parents[stem[-1]])
        for low, high in zip(stem[-2::-1], stem[:0:-1], strict=True):
            # From the top: what was the parent of `low` becomes its child.
            children[high].remove(low)
            children[low].add(high)
            parents[high], self.upward[high] = low, not self.upward[low]
            self.flows[high], self.costs[high] = self.flows[low], self.costs[low]
        rest = 0
        for node in stem:
            rest, sizes[node] = sizes[node], size - rest

    def _attach(
        self, near: int, far: int, join: int, cost: float, flow: int, *, upward: bool
    ) -> None:
        self.parents[near], self.costs[near] = far, cost
        self.flows[near], self.upward[near] = flow, upward
        self.children[far].add(near)
        size = self.sizes[near]
        while far != join:
            self.sizes[far] += size
            far = self.parents[far]


def improve(
    tree: SpanningTree, tails: np.ndarray, heads: np.ndarray, costs: np.ndarray, max_pivots: int
) -> int:
    """Pivot until no arc's cost is below what its ends' potentials allow; the number of pivots.

    All arcs are priced at once; then each node's worst one comes to its turn, if it still should.
    """
    pivots, fresh = 0, True
    while pivots < max_pivots:
        reduced: Any = costs - tree.potentials[tails] + tree.potentials[heads]
        rounding = _ROUNDING * (np.abs(costs) + np.abs(tree.potentials.real[tails]))
        wrong = (reduced.imag < 0) | ((reduced.imag == 0) & (reduced.real < -rounding))
        (wrong,) = np.nonzero(wrong)
        if wrong.size == 0 and fresh:
            break
        if wrong.size == 0:
            tree.value_again()
        fresh = wrong.size == 0
        order = wrong[np.lexsort((reduced.real[wrong], reduced.imag[wrong]))]
        _, first = np.unique(tails[order], return_index=True)
        for arc in order[np.sort(first)].tolist():
            tail, head, cost = int(tails[arc]), int(heads[arc]), float(costs[arc])
            now = complex(cost - tree.potentials[tail] + tree.potentials[head])
            if now.imag < 0 or (now.imag == 0 and now.real < -rounding[arc]):
                tree.pivot(tail, head, cost, now)
                pivots += 1
    return pivots


def spanning_forest(
    ends: tuple[np.ndarray, np.ndarray], lengths: np.ndarray, costs: np.ndarray, num_nodes: int
) -> tuple[list[int], list[float]]:
    """A shortest spanning forest: parents, `num_nodes` for the top of a tree, and arcs' costs."""
    # Imported here, so that `import transportx` does not wait for SciPy.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    order = np.argsort(lengths, kind="stable")
    # Ranks: a length of zero would be no arc.
    ranks = np.empty(lengths.size)
    ranks[order] = np.arange(1, lengths.size + 1)
    graph = coo_array((ranks, ends), shape=(num_nodes, num_nodes)).tocsr()
    kept = order[minimum_spanning_tree(graph).data.astype(int) - 1]
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(num_nodes)]
    columns = (each[kept].tolist() for each in (*ends, costs))
    for tail, head, cost in zip(*columns, strict=True):
        neighbours[tail].append((head, cost))
        neighbours[head].append((tail, cost))
    parents, kept_costs = [-1] * num_nodes, [0.0] * num_nodes
    for top in range(num_nodes):
        tree = [top] if parents[top] < 0 else []
        for node in tree:
            if node == top:
                parents[top] = num_nodes
            for other, cost in neighbours[node]:
                if parents[other] < 0:
                    parents[other], kept_costs[other] = node, cost
                    tree.append(other)
    return parents, kept_costs
