"""How fast are thousands of small entropic problems at once? Against a bare loop and ott-jax.

    python -m experiments.speed_small [--rounds 7] [--out FILE.json]

The job: from a batch of random logits (standard deviation 3, float32) to the doubly
stochastic matrices nearest to their exponentials, all of them to an L1 error of 1e-3 of the
mass, recomputed in float64. transportx vmaps `tx.ot.birkhoff` and stops by itself. The
bare loop is log-domain Sinkhorn written by hand for the batch, `lax.scan` without a stopping
rule, told beforehand the fewest steps (of 5, 10, 20, ...) that pass. ott-jax vmaps its
solver at the loosest of a ladder of thresholds that pass. Who does not pass, or has no gradient
in float32 (an error while running), "fails". The gradient is that of a weighted
sum of the matrices: implicit in transportx, unrolled by the bare loop. Ratios within rounds.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

import transportx as tx
from experiments.harness import timing
from experiments.harness.command import Parser, at_least, exit_cleanly, output_file
from experiments.harness.runs import write_figures
from experiments.harness.timing import Compiled

_CELLS = ((2, 8192), (8, 4096), (32, 512), (128, 64))
_TOL = 1e-3
_LADDER = [5 * 2**k for k in range(12)]
_THRESHOLDS = [_TOL * 0.5**k for k in range(8)]


class Racer(NamedTuple):
    """A solver of the batch: its matrices, and their weighted sum's gradient if it has one."""

    forward: Compiled
    gradient: Compiled | None
    setting: float


def ours(logits: Array) -> Array:
    """Transportx."""
    solver = tx.ot.Newton(tol=_TOL)
    return jax.vmap(lambda matrix: tx.ot.birkhoff(matrix, solver=solver).matrix())(logits)


def bare(logits: Array, num_steps: int) -> Array:
    """Log-domain Sinkhorn, nothing else."""

    def step(g, _):
        f = -jax.nn.logsumexp(logits + g[:, None, :], axis=2)
        return -jax.nn.logsumexp(logits + f[:, :, None], axis=1), f

    g, fs = jax.lax.scan(step, jnp.zeros(logits.shape[:2], logits.dtype), length=num_steps)
    return jnp.exp(logits + fs[-1][:, :, None] + g[:, None, :])


def ott(logits: Array, threshold: float) -> Array:
    """ott-jax, its default solver."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    solver = Sinkhorn(threshold=threshold, max_iterations=5000)

    def solve(matrix):
        geometry = Geometry(cost_matrix=-matrix, epsilon=1.0)
        weights = jnp.ones(len(matrix), matrix.dtype)
        return solver(LinearProblem(geometry, weights, weights)).matrix

    return jax.vmap(solve)(logits)


def worst_error(matrices: Array) -> float:
    """Greatest L1 error of both marginals in the batch, over the mass, in float64."""
    plans = np.asarray(matrices, np.float64)
    errors = sum(np.abs(plans.sum(axis) - 1).sum(1) for axis in (1, 2))
    return float(np.max(errors) / plans.shape[1])


def prepare(function: Callable[[Array], Array], logits: Array, setting: float) -> Racer | None:
    """Compiled, if it passes the audit."""
    forward = timing.compiled(function, logits)
    if not worst_error(forward.run(logits)) <= _TOL:
        return None
    weights = jr.normal(jr.key(1), logits.shape, logits.dtype)
    gradient = timing.compiled(jax.grad(lambda x: jnp.vdot(weights, function(x))), logits)
    try:
        gradient.run(logits)
    except jax.errors.JaxRuntimeError:
        # ott-jax's implicit solve raises where a problem of the batch is too near singular.
        print(f"no gradient at {setting:g}: it raises while running", file=sys.stderr)
        gradient = None
    return Racer(forward, gradient, setting)


def racers(logits: Array) -> dict[str, Racer]:
    """Who passes, at the loosest setting that does."""
    candidates: dict[str, list[tuple[Callable[[Array], Array], float]]] = {
        "transportx": [(ours, _TOL)],
        "bare loop": [(lambda x, k=k: bare(x, k), k) for k in _LADDER],
        "ott": [(lambda x, t=t: ott(x, t), t) for t in _THRESHOLDS],
    }
    passing = {
        name: next(filter(None, (prepare(f, logits, setting) for f, setting in tries)), None)
        for name, tries in candidates.items()
    }
    return {name: racer for name, racer in passing.items() if racer is not None}


def run_cell(num: int, batch: int, rounds: int) -> dict[str, Any]:
    """Times of a batch of problems with `num` points a side."""
    logits = 3 * jr.normal(jr.key(0), (batch, num, num), jnp.float32)
    found = racers(logits)
    figures: dict[str, Any] = {"settings": {name: racer.setting for name, racer in found.items()}}
    for kind in ("forward", "gradient"):
        runs = {
            name: functools.partial(getattr(racer, kind).run, logits)
            for name, racer in found.items()
            if getattr(racer, kind) is not None
        }
        taken = timing.measure(runs, rounds)
        figures[kind] = {
            "seconds": {name: timing.spread(values) for name, values in taken.items()},
            "times_faster": {
                name: timing.spread(timing.ratios(values, taken["transportx"]))
                for name, values in taken.items()
                if "transportx" in taken and name != "transportx"
            },
        }
    return figures


def show(table: dict[str, Any]) -> None:
    """Print Markdown."""
    print("| points, problems | | transportx, ms | x bare loop (its steps) | x ott |")
    print("|---|---|---|---|---|")
    for name, cell in table.items():
        for kind in ("forward", "gradient"):
            seconds, faster = cell[kind]["seconds"], cell[kind]["times_faster"]
            mine = f"{1e3 * seconds['transportx']['median']:.3g}" if "transportx" in seconds else ""
            ratios = [_ratio(faster.get(peer)) for peer in ("bare loop", "ott")]
            steps = cell["settings"].get("bare loop", "none passes")
            print(f"| {name} | {kind} | {mine} | {ratios[0]} ({steps}) | {ratios[1]} |")


def _ratio(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "fails"
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = Parser("speed_small", __doc__)
    parser.add_argument("--rounds", type=at_least(1), default=7)
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    table = {f"{num}, {batch}": run_cell(num, batch, args.rounds) for num, batch in _CELLS}
    show(table)
    write_figures(args.out, {"cells": table})


if __name__ == "__main__":
    exit_cleanly(main)
