"""Train, sample and judge a flow-matching model."""

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

import transportx as tx
from experiments.harness import config as configs
from experiments.harness import devices
from experiments.harness.checkpoints import Checkpoints
from experiments.harness.command import Terminated, UserError, config_parser
from experiments.harness.runs import RunFolder, environment
from experiments.train import problem, report
from experiments.train.config import Config


def run(config: Config, folder: RunFolder, *, resume: bool) -> dict[str, Any] | None:
    """Train (or go on training), then report; returns the summary, to process 0."""
    # Too few devices are refused before the folder is claimed.
    devices.mesh(config.training.devices)
    _start(config, folder, resume)
    try:
        state, seconds = _train(config, folder)
        return _report(config, folder, state, seconds) if devices.is_first() else None
    except FloatingPointError as error:
        kept = f"checkpoints in {folder.path} are as they were"
        raise FloatingPointError(f"{error}. {kept}") from error
    finally:
        folder.release()


def _report(
    config: Config, folder: RunFolder, state: tx.training.TrainState, seconds: float
) -> dict[str, Any]:
    try:
        figures = report.write(config, state.average, folder)
    except Terminated as stop:
        # No state is lost, so nothing that watches for 143 need start the training again.
        said = "stopped by SIGTERM during the report; training is done: --resume reports anew"
        raise UserError(said) from stop
    summary = {
        "steps": int(state.num_steps),
        "parameters": problem.count_parameters(state.field),
        "training_seconds": round(seconds, 2),
        **figures,
        "environment": environment(),
    }
    folder.write_summary(summary)
    return summary


def _start(config: Config, folder: RunFolder, resume: bool) -> None:
    """Claim the folder, once for all processes; one that is refused stops them all."""
    refusal = None
    if devices.is_first():
        try:
            folder.start(config, resume=resume)
        except (UserError, OSError) as error:
            refusal = error
    if devices.agree(refusal is not None):
        raise refusal or UserError("process 0 refused the run folder; its message says why")


def _train(config: Config, folder: RunFolder) -> tuple[tx.training.TrainState, float]:
    shared = config.training.devices > 1 or jax.process_count() > 1
    mesh = devices.mesh(config.training.devices) if shared else None
    made = problem.make(config, mesh)
    checkpoints = Checkpoints(folder.checkpoints, configs.dump(config))
    state, meta = made.state, {"seconds": 0.0}
    latest = checkpoints.latest() if devices.is_first() else None
    latest = devices.agree(-1 if latest is None else latest)
    if latest >= 0:
        state, meta = checkpoints.restore(latest, state)
    draw_batch = made.draw_batch
    if mesh is not None:
        state = eqx.filter_shard(state, devices.whole_on(mesh))
        draw_batch = devices.lay_over(mesh, draw_batch)
    taken, total = int(state.num_steps), config.training.steps
    watch = _Watch(config, folder, checkpoints, taken, meta["seconds"])
    with contextlib.closing(watch), watch.bar:
        state, _ = tx.training.fit(
            state,
            made.step,
            draw_batch,
            num_steps=total - taken,
            key=made.key,
            on_chunk=watch,
            chunk_size=config.training.chunk,
            draw_ahead=config.training.draw_ahead,
            donate=True,
        )
    checkpoints.close()
    if watch.terminated:
        raise Terminated(f" after step {total}; go on with --resume")
    return devices.held_here(state), watch.seconds


class _Watch:
    """What happens between chunks: log, progress, checkpoint."""

    def __init__(self, config, folder, checkpoints, taken: int, seconds: float):
        self.config = config
        self.folder = folder
        self.checkpoints = checkpoints
        self.seconds = seconds
        self.terminated = False
        self.writes = devices.is_first()
        if self.writes:
            folder.rewind_log(taken)
        self.bar = tqdm(
            total=config.training.steps,
            initial=taken,
            unit="step",
            dynamic_ncols=True,
            disable=not self.writes,
        )
        self.handler = signal.getsignal(signal.SIGTERM)
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._terminate)
        self.started = time.perf_counter()

    def __call__(self, state: tx.training.TrainState, losses: np.ndarray) -> None:
        step, training = int(state.num_steps), self.config.training
        self.seconds += time.perf_counter() - self.started
        ends = self._ends(step)
        if self.writes:
            loss = float(np.mean(losses, dtype=np.float64))
            self.folder.log({"step": step, "loss": loss, "seconds": round(self.seconds, 3)})
            self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.bar.update(len(losses))
            if ends or step % training.checkpoint_every == 0 or step == training.steps:
                state = devices.held_here(state)
                self.checkpoints.save(step, state, {"seconds": self.seconds})
        if ends:
            raise Terminated(f" after step {step}; go on with --resume")
        self.started = time.perf_counter()

    def _ends(self, step: int) -> bool:
        """Whether SIGTERM has come, to any process; all are told at the same step."""
        if jax.process_count() == 1:
            return self.terminated
        return multihost_utils.reached_preemption_sync_point(step)

    def close(self) -> None:
        """Leave SIGTERM to who had it, also where JAX took it to tell all processes."""
        signal.signal(signal.SIGTERM, self.handler or signal.SIG_DFL)

    def _terminate(self, *_) -> None:
        self.terminated = True


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the figures, each beside its floor."""
    for name, value in summary.items():
        if name.endswith("_floor") or isinstance(value, dict):
            continue
        floor = summary.get(f"{name}_floor")
        beside = "" if floor is None else f"   (floor {floor:.4g})"
        print(f"{name:28s} {value:.6g}{beside}")
    print(f"pictures, checkpoints and summary.json are in {folder.path}")


def main(description: str | None) -> None:
    """Parse the command line and run."""
    parser = config_parser("train", description)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    devices.add_arguments(parser)
    args = parser.parse_args()
    config = configs.load(Config, args.config, overrides=args.set, smoke=args.smoke)
    devices.join(args)
    folder = RunFolder(args.out or Path("runs") / args.config.stem)
    summary = run(config, folder, resume=args.resume)
    if summary is not None:
        show(summary, folder)
