"""Is anything lost when training is killed? SIGKILL at random moments, then resume.

    python -m experiments.faults configs/moons_to_8gaussians.toml --kills 10
        [--set section.key=value ...] [--smoke] [--seed 0]

Trains once undisturbed. Then trains in a second folder, killing the process at random
moments and resuming it, until it has finished and been killed often enough (starting over
in a fresh folder where it finishes too soon). Compares every logged loss and the digest
of every number of the final state, and checks after each kill that the newest checkpoint
is no older than before. Exit code 1 if anything differs.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.checkpoints import Checkpoints
from experiments.command import UserError, exit_cleanly, parser_for
from experiments.runs import RunFolder


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished run must agree on: all losses, and the digest of its last state."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses = [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]
    checkpoints = Checkpoints(RunFolder(folder).checkpoints)
    latest = checkpoints.latest()
    meta = None if latest is None else checkpoints.meta(latest)
    checkpoints.close()
    return {"losses": losses, "digest": meta and meta["digest"]}


def latest_checkpoint(folder: Path) -> int:
    """The newest complete checkpoint, or -1."""
    path = RunFolder(folder).checkpoints
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def disturb(command: list[str], folder: Path, kills: int, within: float, seed: int) -> bool:
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
            finished = _run(command, target, delay)
            before, newest = newest, latest_checkpoint(target)
            well &= newest >= before
            if not finished:
                done += 1
                print(f"kill {done:2d} after {delay:5.1f} s, newest checkpoint {newest}")
        same = outcome(target) == expected
        well &= same
        print(f"finished: losses and final state {'equal' if same else 'DIFFER'}, bit for bit")
    return well


def _run(command: list[str], target: Path, delay: float | None) -> bool:
    """Start or resume; kill after `delay` seconds. True if it finished by itself."""
    with (target.parent / "output.txt").open("a") as output:
        process = subprocess.Popen(
            [*command, "--out", str(target), "--resume"], stdout=output, stderr=output
        )
        try:
            code = process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    if code != 0:
        lines = (target.parent / "output.txt").read_text().splitlines()
        raise UserError(f"training failed with exit code {code}: {lines[-1] if lines else ''}")
    return True


def main() -> None:
    """Parse the command line and disturb."""
    parser = parser_for("faults", __doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.kills < 1:
        raise UserError(f"--kills is {args.kills}; it must be at least 1")
    command = [sys.executable, "-m", "experiments.train", str(args.config)]
    command += [part for override in args.set for part in ("--set", override)]
    command += ["--smoke"] if args.smoke else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        _run(command, folder / "undisturbed", None)
        seconds = time.perf_counter() - start
        print(f"undisturbed: {seconds:.1f} s")
        well = disturb(command, folder, args.kills, seconds, args.seed)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    exit_cleanly(main)
