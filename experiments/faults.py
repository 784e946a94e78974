"""Is anything lost when training is killed? SIGKILL at random moments, then resume.

    python -m experiments.faults configs/moons_to_8gaussians.toml --kills 10 [--signal TERM]
        [--processes 2] [--set section.key=value ...] [--smoke] [--seed 0]

Trains once undisturbed. Then trains in a second folder, killing the process at random
moments and resuming it, until it has finished and been killed often enough (starting over
in a fresh folder where it finishes too soon). Compares every logged loss and the digest
of every number of the final state, and checks after each kill that the newest checkpoint
is no older than before. With several processes, joined on this machine, a random one is
killed; those that cannot go on without it are killed some seconds later. `--signal TERM`
asks instead of killing. Exit code 1 if anything differs.
"""

import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness.checkpoints import Checkpoints
from experiments.harness.command import Parser, UserError, add_config, at_least, exit_cleanly
from experiments.harness.runs import RunFolder

# Seconds that processes have to end after one of them was killed, or asked to.
_GRACE = 20


class Job(NamedTuple):
    """A training command, run by one or several processes, and the signal that ends it."""

    command: list[str]
    processes: int
    signal: signal.Signals

    def start(self, target: Path, output: Any) -> list[subprocess.Popen]:
        """Start all processes on a run folder, or resume."""
        command = [*self.command, "--out", str(target), "--resume"]
        if self.processes > 1:
            command += ["--coordinator", f"localhost:{_free_port()}"]
            command += ["--processes", str(self.processes)]
        return [
            subprocess.Popen(
                command + (["--process", str(k)] if k else []), stdout=output, stderr=output
            )
            for k in range(self.processes)
        ]

    def run(self, target: Path, delay: float | None, victim: int) -> bool:
        """Train; after `delay` seconds signal the victim. True if all finished by themselves."""
        with (target.parent / "output.txt").open("a") as output:
            running = self.start(target, output)
            try:
                codes = _wait(running, delay)
            except subprocess.TimeoutExpired:
                running[victim].send_signal(self.signal)
                _end(running)
                return False
        if any(codes):
            lines = (target.parent / "output.txt").read_text().splitlines()
            last = lines[-1] if lines else ""
            raise UserError(f"training failed with exit codes {codes}: {last}")
        return True


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished run must agree on: all losses, and the digest of its last state."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]
    checkpoints = Checkpoints(RunFolder(folder).checkpoints, (folder / "config.toml").read_text())
    latest = checkpoints.latest()
    meta = None if latest is None else checkpoints.meta(latest)
    checkpoints.close()
    return {"losses": losses, "digest": meta and meta["digest"]}


def latest_checkpoint(folder: Path) -> int:
    """The newest complete checkpoint, or -1."""
    path = RunFolder(folder).checkpoints
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def disturb(job: Job, folder: Path, kills: int, within: float, seed: int) -> bool:
    """Run with `kills` kills, each within that many seconds of a start; True if all is well."""
    generator = random.Random(seed)
    expected = outcome(folder / "undisturbed")
    done, attempt, well = 0, 0, True
    while done < kills:
        attempt += 1
        target = folder / f"disturbed{attempt}"
        finished, newest = False, -1
        while not finished:
            delay = generator.uniform(0, within) if done < kills else None
            victim = generator.randrange(job.processes)
            finished = job.run(target, delay, victim)
            before, newest = newest, latest_checkpoint(target)
            well &= newest >= before
            if not finished:
                done += 1
                print(
                    f"{job.signal.name} {done:2d} to process {victim} after {delay:5.1f} s, "
                    f"newest checkpoint {newest}",
                    flush=True,
                )
        same = outcome(target) == expected
        well &= same
        print(f"finished: losses and final state {'equal' if same else 'DIFFER'}, bit for bit")
    return well


def _wait(running: list[subprocess.Popen], seconds: float | None) -> list[int]:
    """Exit codes of all, within that time together."""
    end = None if seconds is None else time.monotonic() + seconds
    return [
        process.wait(timeout=None if end is None else max(0, end - time.monotonic()))
        for process in running
    ]


def _end(running: list[subprocess.Popen]) -> None:
    """Let them end, and after some seconds make them."""
    try:
        _wait(running, _GRACE)
    except subprocess.TimeoutExpired:
        for process in running:
            process.kill()
        _wait(running, None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Parse the command line and disturb."""
    parser = Parser("faults", __doc__)
    add_config(parser)
    parser.add_argument("--kills", type=at_least(1), default=10)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--processes", type=at_least(1), default=1)
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args()
    command = [sys.executable, "-m", "experiments.train", str(args.config)]
    command += [part for override in args.set for part in ("--set", override)]
    command += ["--set", f"training.devices={args.processes}"]
    command += ["--smoke"] if args.smoke else []
    job = Job(command, args.processes, signal.Signals[f"SIG{args.signal}"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        job.run(folder / "undisturbed", None, victim=0)
        seconds = time.perf_counter() - start
        print(f"undisturbed: {seconds:.1f} s")
        well = disturb(job, folder, args.kills, seconds, args.seed)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    exit_cleanly(main)
