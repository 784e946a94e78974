"""How large and how fast are particle flows? Beside loops by hand, torch and GeomLoss."""

import time
from typing import Any

import numpy as np

import transportx as tx
from experiments.harness import timing
from experiments.harness.command import Parser, UserError, at_least, output_file
from experiments.harness.memory import peak_mebibytes
from experiments.harness.runs import write_figures
from experiments.speed_gradient_flows import cells, loops

_MEBIBYTE = 2**20
# Of the distance travelled; fixed steps of kernels leave much less.
_ACCURACY = 1e-3
_TOLERANCE = 1e-2
# Flows of which only so many times fewer steps are timed.
_SLOWER = {"Sinkhorn divergence": 5}


def large(name: str, num: int, dim: int, steps: int) -> dict[str, Any]:
    """One flow of many particles: seconds of an evaluation, memory, and how it ended."""
    at = cells.clouds(num, dim)
    flow = timing.compiled(cells.ours(name, tx.ot.Sinkhorn(tol=_TOLERANCE), steps=steps), *at)
    began = time.perf_counter()
    made = flow.run(*at)
    seconds = time.perf_counter() - began
    return {
        "seconds_an_evaluation": seconds / (steps + 2),
        "planned_mebibytes": flow.temporary_bytes / _MEBIBYTE,
        "peak_mebibytes": peak_mebibytes(),
        "energy": [float(value) for value in made.energy],
        "status": tx.Status[made.status],
    }


def small(name: str, num: int, dim: int, steps: int, rounds: int) -> dict[str, Any]:
    """All entrants of one flow: milliseconds a step, ratios to ours, errors."""
    at = cells.clouds(num, dim)
    truth = cells.reference(name, steps, at)
    travelled = np.linalg.norm(truth - np.asarray(at.x))

    def error(answer: Any) -> float:
        return float(np.linalg.norm(np.asarray(answer, np.float64) - truth) / travelled)

    def accurate(run: Any, arguments: Any) -> bool:
        return error(run(*arguments)) <= _ACCURACY

    runs = dict(cells.rivals(name, dim, steps, accurate, at))
    base = next(iter(runs))
    errors = {label: error(run()) for label, run in runs.items()}
    taken = timing.measure(runs, rounds)
    return {
        label: {
            "milliseconds_a_step": timing.spread([1e3 * each / steps for each in times]),
            "times_ours": timing.spread(timing.ratios(times, taken[base])),
            "error": errors[label],
        }
        for label, times in taken.items()
    }


def show_large(name: str, row: dict[str, Any]) -> None:
    """Print one row of Markdown."""
    energy = " to ".join(f"{value:.4g}" for value in row["energy"])
    columns = f"{row['seconds_an_evaluation']:.2f} | {row['planned_mebibytes']:.0f}"
    print(f"| {name} | {columns} | {row['peak_mebibytes']:.0f} | {energy} | {row['status']} |")


def show_small(name: str, rows: dict[str, Any]) -> None:
    """Print the rows of one cell."""
    for label, row in rows.items():
        ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**row["times_ours"])
        took = row["milliseconds_a_step"]["median"]
        print(f"| {name} | {label} | {took:.3g} | {ratio} | {row['error']:.1e} |", flush=True)


def _arguments(description: str | None):
    parser = Parser("speed_gradient_flows", description)
    parser.add_argument("--cells", nargs="+", choices=cells.CELLS, default=list(cells.CELLS))
    parser.add_argument("--num", type=at_least(1), default=50_000)
    parser.add_argument("--dim", type=at_least(1), default=16)
    parser.add_argument("--steps", type=at_least(1), default=2)
    parser.add_argument("--small", type=at_least(1), default=2000)
    parser.add_argument("--small-steps", type=at_least(1), default=20)
    parser.add_argument("--rounds", type=at_least(1), default=7)
    parser.add_argument("--smoke", action="store_true", help="seconds; figures mean nothing")
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    if args.smoke:
        args.num, args.dim, args.steps = 64, 3, 1
        args.small, args.small_steps, args.rounds = 32, 2, 1
    return args


def main(description: str | None) -> None:
    """Parse the command line, measure, print."""
    args = _arguments(description)
    try:
        loops.use_all_cores()
    except ModuleNotFoundError as error:
        raise UserError(f'{error}; run `pip install -e ".[experiments,peers]"`') from error
    print(f"{args.num:,} particles, d = {args.dim}, streamed\n")
    print("| flow | s an evaluation | planned MiB | process peak MiB | energy | status |")
    print("|---|---|---|---|---|---|", flush=True)
    many, few = {}, {}
    for name in args.cells:
        many[name] = large(name, args.num, args.dim, args.steps)
        show_large(name, many[name])
    print(f"\n{args.small:,} particles, d = {args.dim}\n")
    print("| flow | | ms a step | x transportx | error |\n|---|---|---|---|---|", flush=True)
    for name in args.cells:
        steps = max(1, args.small_steps // _SLOWER.get(name, 1))
        few[name] = small(name, args.small, args.dim, steps, args.rounds)
        show_small(name, few[name])
    write_figures(args.out, {"large": many, "small": few})
