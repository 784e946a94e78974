"""Train, sample and judge a flow-matching model.

    python -m experiments.train configs/digits.toml [--set section.key=value ...]
        [--out DIR] [--resume] [--smoke]

Shows a progress bar with loss and speed. Writes to the run folder (`runs/NAME`): the
resolved `config.toml`, `metrics.jsonl`, checkpoints, pictures, and `summary.json` with
every figure, its sampling floor, versions and device. A run killed at any moment goes on
with `--resume` to the same bits.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import transportx as tx
from experiments import config as configs
from experiments import problem, report
from experiments.checkpoints import Checkpoints
from experiments.command import config_parser_for, exit_cleanly
from experiments.config import Config
from experiments.runs import RunFolder, environment


def run(config: Config, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
    """Train (or go on training), then report; returns the summary."""
    folder.start(config, resume=resume)
    state, seconds = _train(config, folder)
    figures = report.write(config, state.average, folder)
    summary = {
        "steps": int(state.num_steps),
        "parameters": problem.count_parameters(state.field),
        "training_seconds": round(seconds, 2),
        **figures,
        "environment": environment(),
    }
    folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _train(config: Config, folder: RunFolder) -> tuple[tx.training.TrainState, float]:
    made = problem.make(config)
    checkpoints = Checkpoints(folder.checkpoints)
    state, meta = made.state, {"seconds": 0.0}
    latest = checkpoints.latest()
    if latest is not None:
        state, meta = checkpoints.restore(latest, state)
    taken, total = int(state.num_steps), config.training.steps
    folder.rewind_log(taken)
    watch = _Watch(config, folder, checkpoints, made.state, seconds=meta["seconds"])
    with tqdm(total=total, initial=taken, unit="step", dynamic_ncols=True) as bar:
        watch.bar = bar
        state, _ = tx.training.fit(
            state,
            made.step,
            made.draw_batch,
            num_steps=total - taken,
            key=made.key,
            on_chunk=watch,
            chunk_size=config.training.chunk,
        )
    checkpoints.close()
    return state, watch.seconds


class _Watch:
    """What happens between chunks: log, progress, checkpoint."""

    def __init__(self, config, folder, checkpoints, like, *, seconds: float):
        self.config = config
        self.folder = folder
        self.checkpoints = checkpoints
        self.like = like
        self.seconds = seconds
        self.bar: tqdm | None = None
        self.started = time.perf_counter()

    def __call__(self, state: tx.training.TrainState, losses: np.ndarray) -> None:
        step = int(state.num_steps)
        self.seconds += time.perf_counter() - self.started
        loss = float(np.mean(losses, dtype=np.float64))
        self.folder.log({"step": step, "loss": loss, "seconds": round(self.seconds, 3)})
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.bar.update(len(losses))
        if step % self.config.training.checkpoint_every == 0 or step == self.config.training.steps:
            self.checkpoints.save(step, state, {"seconds": self.seconds})
        self.started = time.perf_counter()


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures, each beside its floor."""
    for name, value in summary.items():
        if name.endswith("_floor") or isinstance(value, dict):
            continue
        floor = summary.get(f"{name}_floor")
        beside = "" if floor is None else f"   (floor {floor:.4g})"
        print(f"{name:28s} {value:.6g}{beside}")
    print(f"pictures, checkpoints and summary.json are in {folder.path}")


def main() -> None:
    """Parse the command line and run."""
    parser = config_parser_for("train", __doc__)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    config = configs.load(args.config, overrides=args.set, smoke=args.smoke)
    folder = RunFolder(args.out or Path("runs") / args.config.stem)
    try:
        summary = run(config, folder, resume=args.resume)
    except (tx.training.NonFiniteLossError, FloatingPointError) as error:
        print(f"error: {error}. Checkpoints in {folder.path} are as they were", file=sys.stderr)
        sys.exit(1)
    show(summary, folder)


if __name__ == "__main__":
    exit_cleanly(main)
