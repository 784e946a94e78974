"""What would a training run need on these accelerators? Asked of their compiler, without them."""

import json
import sys
from pathlib import Path
from typing import Any

# First: it tells equinox not to ask the host at run time, which no compiler can here.
from experiments.plan import ahead  # isort: skip
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.stages import Compiled, Lowered

from experiments.harness import config as configs
from experiments.harness.command import Parser, UserError, add_config, output_file
from experiments.plan import programs, traffic
from experiments.plan.ahead import Target
from experiments.train import problem
from experiments.train.config import Config

_MEBIBYTE = 2**20


def lower_step(config: Config, target: Target) -> Lowered:
    """One training step for the target: the state whole on each device, data and batch shared."""
    if config.training.batch % target.mesh.size:
        cure = f"give a multiple of the {target.mesh.size} devices"
        raise UserError(f"training.batch is {config.training.batch}; {cure}")
    made = problem.make(config, target.mesh)
    held, static = eqx.partition((made.state, made.draw_batch), _is_array)

    def step(state, draw_batch, key):
        state, draw_batch = eqx.combine((state, draw_batch), static)
        batch_key, loss_key = jr.split(key)
        state, loss = made.step(state, draw_batch(key=batch_key), key=loss_key)
        return eqx.filter(state, eqx.is_array), loss

    state, key = target.abstract((held[0], jax.eval_shape(lambda: made.key)))
    data = target.abstract(held[1], sharded=True)
    return target.lower(step, state, data, key, donate=(0,))


def _is_array(leaf: Any) -> bool:
    """On a device or, as the images to be laid over devices, on the host."""
    return isinstance(leaf, jax.Array | np.ndarray)


def compile_step(config: Config, target: Target) -> Compiled:
    """The step, by the compiler of the target."""
    return ahead.compile_quietly(lower_step(config, target))


def memory_at_peak(program: Compiled) -> int:
    """Bytes of one device: what goes in, what comes out, what is needed between, and the code.

    Of TPUs no less than what their compiler counts against the device: its analysis has gaps
    between arrays more than once.
    """
    memory = program.memory_analysis()
    assert memory is not None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    own = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return held + own - memory.alias_size_in_bytes


def figures(program: Compiled, target: Target) -> dict[str, Any]:
    """What the compiler says of one device, and what its program does."""
    text = program.as_text() or ""
    work, moved, chip = programs.work_of_text(text), traffic.traffic(text), target.chip
    times = {
        "arithmetic": work.flops / chip.flops,
        "memory": moved / chip.bandwidth,
        "collectives": sum(work.sent.values()) / chip.links,
    }
    bound = max(times, key=lambda name: times[name])
    peak = memory_at_peak(program)
    return {
        "devices": target.mesh.size,
        "memory MiB": peak / _MEBIBYTE,
        "share of the device's": peak / chip.memory,
        "GFLOP": work.flops / 1e9,
        "memory traffic MiB": moved / _MEBIBYTE,
        "collectives MiB": {name: round(s / _MEBIBYTE, 3) for name, s in work.sent.items()},
        "loops of unknown length": work.open_loops,
        "least milliseconds a step": 1e3 * times[bound],
        "bound by": bound,
    }


def largest_batch(config: Config, overrides: list[str], path: Path, target: Target) -> int:
    """The last of the batch, twice it, four times it ... that fits."""
    batch = config.training.batch
    while True:
        larger = configs.load(Config, path, overrides=[*overrides, f"training.batch={2 * batch}"])
        try:
            program = compile_step(larger, target)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return batch
        if figures(program, target)["share of the device's"] > 1:
            return batch
        batch *= 2


def plan(config: Config, target: Target) -> dict[str, Any]:
    """Compile and look; a program that the compiler refuses for its size is an answer too."""
    try:
        program = compile_step(config, target)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "why": str(error).splitlines()[0]}
    table = figures(program, target)
    if table["share of the device's"] <= 1:
        return {"fits": True, **table}
    have = target.chip.memory / _MEBIBYTE
    why = f"it needs {table['memory MiB']:.0f} MiB of the {have:.0f} MiB of a device"
    return {"fits": False, "why": why, **table}


def main(description: str | None) -> None:
    """Parse the command line, compile, print."""
    parser = Parser("plan", description)
    add_config(parser)
    parser.add_argument("--topology", required=True, metavar="KIND:SIZE")
    parser.add_argument("--largest", action="store_true", help="also find the largest batch")
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    config = configs.load(Config, args.config, overrides=args.set, smoke=args.smoke)
    target = ahead.target(args.topology)
    table = {"config": args.config.stem, "topology": args.topology, **plan(config, target)}
    table["parameters"] = problem.count_parameters(problem.make_field(config))
    if args.largest and table["fits"]:
        table["largest batch"] = largest_batch(config, args.set, args.config, target)
    if args.out is not None:
        args.out.write_text(json.dumps(table, indent=2) + "\n")
    if not table["fits"]:
        cure = "lower training.batch, raise training.microbatches or take more devices"
        print(f"error: does not fit: {table['why']}; {cure}", file=sys.stderr)
        sys.exit(1)
    for name, value in table.items():
        print(f"{name:28s} {value:.6g}" if isinstance(value, float) else f"{name:28s} {value}")
