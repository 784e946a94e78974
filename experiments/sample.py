"""Draw from a finished run; the same seed gives the same samples.

    python -m experiments.sample RUN_DIR --num 64 --out samples.npz
        [--seed 0] [--steps N] [--guidance W] [--label K] [--devices N]

The archive holds `samples` (num, ...), and for images their `labels` (num,).
Several devices share the samples, which then differ by rounding.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

import transportx as tx
from experiments.data import images
from experiments.harness import config as configs
from experiments.harness import devices
from experiments.harness.checkpoints import Checkpoints
from experiments.harness.command import (
    Parser,
    UserError,
    at_least,
    exit_cleanly,
    not_negative,
    output_file,
)
from experiments.harness.runs import RunFolder
from experiments.train import problem
from experiments.train.choices import ImagesData
from experiments.train.config import Config


def load_field(folder: RunFolder, config: Config) -> tx.fields.MLP | tx.fields.DiT:
    """The averaged field of a finished run."""
    checkpoints = Checkpoints(folder.checkpoints, configs.dump(config))
    latest = checkpoints.latest()
    if latest is None or latest < config.training.steps:
        have = "no checkpoint" if latest is None else f"{latest} of {config.training.steps} steps"
        raise UserError(f"{folder.path} is not finished ({have}); go on with --resume")
    like = tx.training.init(problem.make_field(config), problem.make_optimizer(config))
    state, _ = checkpoints.restore(latest, like)
    checkpoints.close()
    return state.average


def draw(
    config: Config,
    field,
    *,
    num: int,
    seed: int,
    steps: int,
    guidance: float,
    label: int | None,
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """Samples, with their labels where the model has labels."""
    source_key, label_key = jr.split(jr.key(seed))
    x0 = problem.draw_sources(config, num, key=source_key)
    if not isinstance(config.data, ImagesData):
        samples = problem.sample(config, field, x0, None, steps=steps, guidance=1.0, mesh=mesh)
        return {"samples": np.asarray(samples)}
    labels = jr.randint(label_key, (num,), 0, images.NUM_LABELS[config.data.name])
    if label is not None:
        labels = jnp.full_like(labels, label)
    samples = problem.sample(config, field, x0, labels, steps=steps, guidance=guidance, mesh=mesh)
    return {"samples": np.asarray(samples), "labels": np.asarray(labels)}


def check(config: Config, args: argparse.Namespace) -> None:
    """Refuse arguments that no run, or not this one, can serve."""
    if isinstance(config.data, ImagesData):
        num_labels = images.NUM_LABELS[config.data.name]
        if args.label is not None and not 0 <= args.label < num_labels:
            raise UserError(f"--label is {args.label}; choose 0 to {num_labels - 1}")
    elif (args.label, args.guidance) != (None, None):
        raise UserError("--label and --guidance need a run on labelled images")
    if args.out.suffix != ".npz":
        raise UserError(f"--out is {args.out}; it must end in .npz")


def main() -> None:
    """Parse the command line and draw."""
    parser = Parser("sample", __doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=at_least(1), default=64)
    parser.add_argument("--out", type=output_file, required=True)
    parser.add_argument("--seed", type=at_least(0, below=2**32), default=0)
    parser.add_argument("--steps", type=at_least(1), help="by default as in the run's config")
    parser.add_argument("--guidance", type=not_negative, help="by default as in the run's config")
    parser.add_argument("--label", type=at_least(0), help="by default labels are drawn uniformly")
    parser.add_argument("--devices", type=at_least(1), default=1, help="that share the samples")
    args = parser.parse_args()
    folder = RunFolder(args.run)
    config = folder.config(Config)
    check(config, args)
    archive = draw(
        config,
        load_field(folder, config),
        num=args.num,
        seed=args.seed,
        steps=config.sampling.steps if args.steps is None else args.steps,
        guidance=config.sampling.guidance if args.guidance is None else args.guidance,
        label=args.label,
        mesh=devices.mesh(args.devices, name="--devices") if args.devices != 1 else None,
    )
    np.savez(args.out, allow_pickle=False, **archive)
    print(f"{args.num} samples written to {args.out}")


if __name__ == "__main__":
    exit_cleanly(main)
