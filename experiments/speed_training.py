"""How many training steps a second, against torchcfm and against a loop without a library?

    python -m experiments.speed_training [--rounds 7] [--steps 2000] [--out FILE.json]

The job: flow matching of a Gaussian onto eight Gaussians of the plane, batches of 256
drawn anew each step, a 64-64-64 SELU network, Adam; coupled independently, and by exact
optimal transport of each batch. All run in this process, in turn, so that a drift of the
machine's speed meets all of them; ratios are taken within a round. transportx runs as a
user would run it, with its moving average of the parameters; the others keep none. It draws
four batches at once where they need exact transport, which then is found in parallel.
The bare loop is one `lax.scan` of plain functions and arrays. Also timed: compiling the
training step of configs/digits.toml. Needs the extra `peers`.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.experimental.buffer_callback import buffer_callback
from scipy.optimize import linear_sum_assignment

import transportx as tx
from experiments.data import points
from experiments.harness import config as configs
from experiments.harness import timing
from experiments.harness.command import Parser, UserError, at_least, exit_cleanly, output_file
from experiments.harness.runs import write_figures
from experiments.racing import peers_training as peers
from experiments.train import problem
from experiments.train.config import Config

_BATCH, _WIDTH, _DEPTH, _RATE = 256, 64, 3, 1e-3
_AHEAD = 4
Runner = Callable[[int], float]


def ours(coupling: tx.couplings.AbstractCoupling, draw_ahead: int) -> Runner:
    """transportx: `tx.training.fit`."""
    path = tx.interpolants.Linear()
    optimizer = optax.adam(_RATE)

    def loss(field, batch, *, key):
        return tx.losses.flow_matching(field, path, batch.x0, batch.x1, key=key)

    step = tx.training.make_step(loss, optimizer)
    draw = problem.PointBatches(points.gaussian, points.eight_gaussians, coupling, _BATCH)
    state = tx.training.init(tx.fields.MLP(2, _WIDTH, _DEPTH, key=jr.key(0)), optimizer)

    def run(steps: int) -> float:
        _, losses = tx.training.fit(
            state,
            step,
            draw,
            num_steps=steps,
            key=jr.key(1),
            chunk_size=steps,
            draw_ahead=draw_ahead,
        )
        return float(losses[-1])

    return run


def _search(_, found, costs) -> None:
    np.asarray(found)[...] = linear_sum_assignment(np.asarray(costs))[1]


def bare(exact: bool) -> Runner:
    """No library: arrays, functions, one `lax.scan`."""
    sizes = [3, *[_WIDTH] * _DEPTH, 2]
    keys = jr.split(jr.key(0), len(sizes))
    weights = [
        (jr.normal(k, (m, n)) / np.sqrt(m), jnp.zeros(n))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]
    optimizer = optax.adam(_RATE)

    def loss(weights, x0, x1, t):
        hidden = jnp.concatenate([(1 - t) * x0 + t * x1, t], axis=1)
        for matrix, bias in weights[:-1]:
            hidden = jax.nn.selu(hidden @ matrix + bias)
        matrix, bias = weights[-1]
        return jnp.mean((hidden @ matrix + bias - (x1 - x0)) ** 2)

    def match(x0, x1):
        costs = jnp.sum((x0[:, None, :] - x1[None, :, :]) ** 2, axis=2)
        # Not `jax.pure_callback`, whose arrays can wait for the one thread that reads them.
        search = buffer_callback(_search, jax.ShapeDtypeStruct((_BATCH,), jnp.int32))
        return search(costs)

    def body(carry, key):
        weights, state = carry
        source_key, target_key, time_key = jr.split(key, 3)
        x0 = points.gaussian(_BATCH, key=source_key)
        x1 = points.eight_gaussians(_BATCH, key=target_key)
        x1 = x1[match(x0, x1)] if exact else x1
        t = jr.uniform(time_key, (_BATCH, 1))
        value, gradient = jax.value_and_grad(loss)(weights, x0, x1, t)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), value

    scan = jax.jit(lambda carry, keys: jax.lax.scan(body, carry, keys))

    def run(steps: int) -> float:
        carry = weights, optimizer.init(weights)
        return float(scan(carry, jr.split(jr.key(1), steps))[1][-1])

    return run


def measure(runners: dict[str, Runner], rounds: int, steps: int) -> dict[str, list[float]]:
    """Steps a second of each, once a round, after a run that compiles."""
    runs = {name: functools.partial(run, steps) for name, run in runners.items()}
    for run in runs.values():
        run()
    taken = timing.measure(runs, rounds)
    return {name: [steps / seconds for seconds in each] for name, each in taken.items()}


def compile_seconds(path: Path) -> float:
    """Seconds to trace and compile one training step of a config."""
    made = problem.make(configs.load(Config, path))

    def first_step() -> float:
        start = time.perf_counter()
        tx.training.fit(made.state, made.step, made.draw_batch, num_steps=1, key=made.key)
        return time.perf_counter() - start

    cold = first_step()
    return cold - first_step()


def compare(rounds: int, steps: int) -> dict[str, Any]:
    """Rates and ratios for both couplings."""
    couplings = {
        "independent": tx.couplings.Independent(),
        "exact OT": tx.couplings.Assignment(),
    }
    table = {}
    for name, coupling in couplings.items():
        exact = name == "exact OT"
        torchcfm = peers.torchcfm_training(exact=exact, batch=_BATCH, width=_WIDTH, rate=_RATE)
        made = ours(coupling, _AHEAD if exact else 1)
        runners = {"transportx": made, "bare": bare(exact), "torchcfm": torchcfm}
        rates = measure(runners, rounds, steps // 4 if exact else steps)
        ratios = {
            peer: timing.spread(timing.ratios(rates["transportx"], rates[peer]))
            for peer in ("torchcfm", "bare")
        }
        table[name] = {
            "steps_per_second": {peer: timing.spread(values) for peer, values in rates.items()},
            "ratio": ratios,
        }
    return table


def show(table: dict[str, Any]) -> None:
    """Print the table in Markdown."""
    print("| coupling | transportx steps/s | torchcfm | bare loop | x torchcfm | x bare loop |")
    print("|---|---|---|---|---|---|")
    for name, row in table.items():
        rates = row["steps_per_second"]
        cells = [f"{rates[peer]['median']:.0f}" for peer in ("transportx", "torchcfm", "bare")]
        for peer in ("torchcfm", "bare"):
            ratio = row["ratio"][peer]
            cells.append(f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = Parser("speed_training", __doc__)
    parser.add_argument("--rounds", type=at_least(1), default=7)
    parser.add_argument("--steps", type=at_least(4), default=2000)
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    try:
        table = compare(args.rounds, args.steps)
    except ModuleNotFoundError as error:
        raise UserError(f'{error}; run `pip install -e ".[experiments,peers]"`') from error
    show(table)
    seconds = compile_seconds(Path("configs/digits.toml"))
    print(f"\ncompiling the step of configs/digits.toml: {seconds:.1f} s")
    write_figures(args.out, {"training": table, "digits_compile_seconds": seconds})


if __name__ == "__main__":
    exit_cleanly(main)
