"""How long until entropic transport is solved to an audited error? Against ott-jax, POT, GeomLoss.

    python -m experiments.speed_sinkhorn [--rounds 5] [--cells all] [--libraries all three]
        [--out FILE.json]

The job: a Gaussian onto a mixture of four Gaussians, uniform weights, cost |x - y|^2,
float32, from the points to the potentials. Cells are groups (dense, streamed, all, smoke)
or names such as n1024-d2-eps0.05-tol0.001; eps is relative to the mean cost.

A time counts only if the L1 error of both marginals, recomputed in float64 outside the
solver, is at most tol. Peers stop by rules of their own, so each is first searched for its
loosest threshold (or fewest iterations) that passes the audit; transportx runs at the
cell's tol, or at 0.7 or 0.5 of it where rounding to float32 makes the audit disagree with
its own. One run may take about 20 s, 300 s streamed; who does not pass in that is 'not
reached'. Settings much slower in the search than the best of their library aren't timed
again, ott's default excepted. Then all run in turn, in this process, warm, compiled
beforehand; ratios are taken within a round. Needs the extra `peers`; GeomLoss streams only
where pykeops is installed.
"""

import functools
import importlib.metadata
import itertools
import json
import statistics
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import transportx as tx
from experiments.harness import timing
from experiments.harness.command import Parser, UserError, at_least, exit_cleanly, output_file
from experiments.harness.runs import environment
from experiments.racing import audits as entropic
from experiments.racing import peers_sinkhorn, race
from experiments.racing import tables as race_tables
from experiments.racing.audits import Problem
from experiments.racing.race import Entrant, Searched, Trial


class Cell(NamedTuple):
    """A size, a dimension, epsilon over the mean cost, a tolerance; seconds one run may take."""

    n: int
    d: int
    relative_epsilon: float
    tol: float
    patience: float = 20
    streamed: bool = False

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return f"n{self.n}-d{self.d}-eps{self.relative_epsilon:g}-tol{self.tol:g}"


_DENSE = (
    Cell(1024, 2, 0.05, 1e-3),
    Cell(1024, 2, 0.05, 1e-5),
    Cell(1024, 2, 0.005, 1e-3),
    Cell(1024, 2, 0.005, 1e-5),
    Cell(1024, 16, 0.01, 1e-3),
    Cell(1024, 16, 0.01, 1e-5),
    Cell(2048, 64, 0.01, 1e-3),
    Cell(4096, 3, 0.01, 1e-3),
)
_STREAMED = (Cell(32768, 3, 0.05, 1e-2, patience=300, streamed=True),)
_SMOKE = (Cell(64, 2, 0.05, 1e-2, patience=1),)
_GROUPS = {
    "dense": _DENSE,
    "streamed": _STREAMED,
    "all": _DENSE + _STREAMED,
    "smoke": _SMOKE,
}


def _solver(tol: float) -> tx.ot.Newton:
    return tx.ot.Newton(tol=tol)


def _plan(x: Any, y: Any, epsilon: Any, tol: float) -> tx.ot.EntropicPlan:
    return tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=epsilon, solver=_solver(tol))


def ours(problem: Problem) -> Entrant:
    """transportx: `tx.ot.solve`, at the cell's tolerance or at a tighter one, as peers are."""
    arguments = problem.arguments

    @functools.cache
    def solver(tol: float) -> timing.Compiled:
        def potentials(x: Any, y: Any, epsilon: Any) -> Any:
            plan = _plan(x, y, epsilon, tol)
            return plan.f, plan.g

        return timing.compiled(potentials, *arguments)

    def value_and_potential(tol: float, x: Any, y: Any, epsilon: Any) -> Any:
        plan = _plan(x, y, epsilon, tol)
        return plan.value, plan.f

    return Entrant(
        library="transportx",
        setting=type(_solver(problem.tol)).__name__,
        knobs=[share * problem.tol for share in (1, 0.7, 0.5)],
        run=lambda tol: solver(tol).run(*arguments),
        potentials=lambda answer: answer,
        forward=solver(problem.tol),
        value_and_potential=lambda tol: functools.partial(value_and_potential, tol),
    )


def prepare(cell: Cell) -> Problem:
    """The cell's points and its epsilon, rounded to float32 as every solver sees it."""
    x, y = entropic.draw(cell.n, cell.d)
    epsilon = float(np.float32(cell.relative_epsilon * entropic.mean_cost(x, y)))
    return Problem(x, y, epsilon, cell.relative_epsilon, cell.tol, cell.patience, cell.streamed)


_PEERS = {"ott": peers_sinkhorn.ott, "POT": peers_sinkhorn.pot, "GeomLoss": peers_sinkhorn.geomloss}


def search(problem: Problem, libraries: Iterable[str]) -> Searched:
    """Every entrant with its loosest passing trial, or its best failing one."""
    peers = (_PEERS[library](problem) for library in libraries)
    entrants = itertools.chain([ours(problem)], *peers)
    return [(entrant, _told(entrant, race.loosest(entrant, problem))) for entrant in entrants]


def _told(entrant: Entrant, trial: Trial) -> Trial:
    """Say how a search ended: one may take minutes."""
    print(f"  {entrant.name}: {trial.error:.2e} in {trial.seconds:.3g} s", file=sys.stderr)
    return trial


def run_cell(cell: Cell, rounds: int, libraries: Iterable[str]) -> dict[str, Any]:
    """Search, race, differentiate."""
    print(cell.name, file=sys.stderr)
    problem = prepare(cell)
    searched = search(problem, libraries)
    chosen = race.contenders(searched, problem)
    row = {
        "epsilon": problem.epsilon,
        "entrants": {entrant.name: _found(entrant, trial, cell) for entrant, trial in searched},
        "absent": peers_sinkhorn.absences(problem),
        "derivatives": {
            entrant.name: race.derivatives(entrant, trial.knob, problem, rounds)
            for entrant, trial in chosen
            if entrant.library == "transportx" or entrant.name == race.DEFAULT_PEER
        },
    }
    return row | race.race(chosen, rounds)


def _found(entrant: Entrant, trial: Trial, cell: Cell) -> dict[str, Any]:
    figures: dict[str, Any] = trial._asdict() | {"reached": trial.error <= cell.tol}
    if entrant.forward is not None:
        figures["compile_seconds"] = entrant.forward.seconds
        figures["temporary_bytes"] = entrant.forward.temporary_bytes
    return figures


def summarize(table: dict[str, Any]) -> dict[str, Any]:
    """Over the cells where both passed: geometric mean of medians, and the least ratio."""
    summary = {}
    for peer in ("ott best", "ott default", "POT best", "GeomLoss best"):
        ratios = [
            row["times_faster"][peer] for row in table.values() if peer in row["times_faster"]
        ]
        if ratios:
            summary[peer] = {
                "geometric_mean": statistics.geometric_mean(r["median"] for r in ratios),
                "least": min(r["min"] for r in ratios),
                "cells": len(ratios),
            }
    return summary


def choose(names: Iterable[str]) -> list[Cell]:
    """Cells of groups and names, in order."""
    known = _GROUPS | {cell.name: (cell,) for group in _GROUPS.values() for cell in group}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"no cells {', '.join(unknown)}; choose from {', '.join(known)}")
    return [cell for name in names for cell in known[name]]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = Parser("speed_sinkhorn", __doc__)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--cells", nargs="+", default=["all"], help="groups or names of cells")
    parser.add_argument("--libraries", nargs="*", choices=_PEERS, default=list(_PEERS))
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    cells = choose(args.cells)
    try:
        peers_sinkhorn.require()
    except ModuleNotFoundError as error:
        raise UserError(f'{error}; run `pip install -e ".[experiments,peers]"`') from error
    # A peer that overflows is judged by the audit, not by its warnings.
    warnings.filterwarnings("ignore", module=r"ot\.")
    table: dict[str, Any] = {}
    for cell in cells:
        table[cell.name] = run_cell(cell, args.rounds, args.libraries)
        if args.out is not None:
            write(args.out, table)
    race_tables.show(table, summarize(table))


def write(path: Path, table: dict[str, Any]) -> None:
    """Write the figures of the cells so far."""
    packages = ("ott-jax", "pot", "geomloss", "torch")
    versions = environment() | {name: importlib.metadata.version(name) for name in packages}
    figures = {"cells": table, "summary": summarize(table), "environment": versions}
    path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    exit_cleanly(main)
