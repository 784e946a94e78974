"""How soon are semidiscrete potentials found, how good are they, and what does pairing cost?

    python -m experiments.speed_semidiscrete [--cells line plane digits assign] [--out FILE.json]

Potentials: of 40 points under a density on the line (in float64) and under draws from a normal law,
against the closed form; of 1,000 points under a density on a grid of the plane and under draws from
a uniform law; of 898 real digits in 64 dimensions under Gaussian noise. Each with the L1 error
of its cell masses on fresh points, what that would be for exact potentials (the floor), and the
seconds of the whole call, its compilation included. Pairing: 1,024 fresh points with 60,000 of 784
dimensions, the seconds of a call once compiled and the memory that XLA plans for it beside
its arguments. Processor seconds stand beside those of the clock: on a machine that is shared they
say what an idle one would take at most.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.stats
from jaxtyping import Array

import transportx as tx
from experiments.data import images
from experiments.harness import timing
from experiments.harness.command import Parser, exit_cleanly, output_file
from experiments.harness.runs import write_figures

_MEBIBYTE = 2**20
Row = dict[str, Any]


def normal(dim: int) -> Callable[..., Array]:
    """Draws from the standard normal law."""
    return lambda *, key, num: jr.normal(key, (num, dim))


def uniform(*, key, num) -> Array:
    """Draws from the unit square."""
    return jr.uniform(key, (num, 2))


def solved(name: str, source: Any, y: Array, **options: Any) -> tuple[Row, tx.ot.SemiDiscretePlan]:
    """The figures of a plan, and the plan."""
    clock, work = time.perf_counter(), time.process_time()
    plan = jax.block_until_ready(tx.ot.semidiscrete(source, y, key=jr.key(0), **options))
    row = {
        "cell": name,
        "seconds": round(time.perf_counter() - clock, 2),
        "processor seconds": round(time.process_time() - work, 2),
        "mass error": float(plan.mass_error),
        "floor": float(plan.error_floor),
        "converged": bool(plan.converged),
    }
    return row, plan


def line() -> Iterator[Row]:
    """The line: potentials against the closed form."""
    with jax.enable_x64(True):
        masses = jr.uniform(jr.key(1), (500,), float)
        y = 3 * jr.normal(jr.key(2), (40, 1), float)
        density = tx.ot.GridDensity(masses, -4 * jnp.ones(1), 4 * jnp.ones(1))
        row, plan = solved("line, a grid of 500", density, y, tol=1e-9)
        running = np.concatenate([[0.0], np.cumsum(masses)]) / np.sum(masses)

        def quantile(levels):
            return np.interp(levels, running, np.linspace(-4, 4, 501))

        yield row | {"largest error of g": _error(plan, quantile)}
    row, plan = solved("line, drawn", normal(1), y[:5].astype(jnp.float32), tol=2e-3)
    yield row | {"largest error of g": _error(plan, scipy.stats.norm.ppf)}


def _error(plan: tx.ot.SemiDiscretePlan, quantile: Callable[[Any], Any]) -> float:
    """How far differences of neighbours' potentials are from the closed form at most."""
    y = np.asarray(plan.y[:, 0], np.float64)
    order = np.argsort(y)
    levels = np.cumsum(np.asarray(plan.b, np.float64)[order])[:-1]
    y, g = y[order], np.asarray(plan.g, np.float64)[order]
    return float(np.max(np.abs(np.diff(g) - np.diff(y**2) + 2 * quantile(levels) * np.diff(y))))


def plane() -> Iterator[Row]:
    """1,000 points of the plane."""
    y = jr.uniform(jr.key(3), (1000, 2))
    density = tx.ot.GridDensity(jnp.ones((64, 64)), jnp.zeros(2), jnp.ones(2), num_lines=2048)
    yield solved("plane, 1,000 points, a grid", density, y, tol=1e-3)[0]
    yield solved("plane, 1,000 points, drawn", uniform, y, tol=0.02)[0]


def digits() -> Iterator[Row]:
    """Noise over real digits."""
    train, _ = images.load_halves("digits")
    y = jnp.asarray(train.images).reshape(len(train.images), -1)
    yield solved(f"{len(y)} digits, 64 dimensions, drawn", normal(64), y, tol=0.05)[0]


def assign() -> Iterator[Row]:
    """Pairing with a data set of the size of MNIST."""
    y = jr.normal(jr.key(4), (60_000, 784))
    plan = tx.ot.semidiscrete(
        normal(784), y, key=jr.key(0), init=jnp.zeros(60_000), num_steps=1, batch=1, num_audit=1
    )
    x = jr.normal(jr.key(5), (1024, 784))
    compiled = timing.compiled(lambda plan, x: plan.assign(x, key=jr.key(0)), plan, x)
    work = time.process_time()
    compiled.run(plan, x)
    yield {
        "cell": "1,024 points to 60,000 of 784 dimensions",
        "processor seconds": round(time.process_time() - work, 2),
        "seconds": round(timing.least_seconds(lambda: compiled.run(plan, x)), 2),
        "temporary MiB": round(compiled.temporary_bytes / _MEBIBYTE, 1),
    }


CELLS = {"line": line, "plane": plane, "digits": digits, "assign": assign}


def main() -> None:
    """Parse the command line, solve, print."""
    parser = Parser("speed_semidiscrete", __doc__)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    rows = []
    for name in args.cells:
        for row in CELLS[name]():
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    write_figures(args.out, {"rows": rows})


if __name__ == "__main__":
    exit_cleanly(main)
