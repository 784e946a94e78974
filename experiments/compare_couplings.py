"""What does a coupling buy? Trains one config with each, over seeds, and prints the figures.

    python -m experiments.compare_couplings configs/moons_to_8gaussians.toml --seeds 3
        [--set section.key=value ...] [--smoke] [--out FILE.json]

Every figure is computed on fresh points. W2 stands beside its floor, the distance between
two samples of the target of the same size; the normalized path energy of Tong et al.
(2023) is zero for optimal transport.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from experiments.harness import config as configs
from experiments.harness.command import (
    Parser,
    UserError,
    add_config,
    at_least,
    exit_cleanly,
    output_file,
)
from experiments.harness.runs import RunFolder, write_figures
from experiments.train import run as train
from experiments.train.choices import PointsData
from experiments.train.config import Config

_FIGURES = ("normalized_path_energy", "wasserstein2", "wasserstein2_floor", "straightness")


def run(path: Path, coupling: str, seed: int, overrides: list[str], smoke: bool) -> dict[str, Any]:
    """Summary of one training run, in a folder that is thrown away."""
    overrides = [*overrides, f"coupling={{kind='{coupling}'}}", f"seed={seed}"]
    config = configs.load(Config, path, overrides=overrides, smoke=smoke)
    if not isinstance(config.data, PointsData):
        raise UserError(f"{path} is about images; couplings are compared on points")
    with tempfile.TemporaryDirectory() as folder:
        summary = train.run(config, RunFolder(Path(folder) / "run"), resume=False)
    assert summary is not None, "one process is the first"
    return summary


def show(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Print mean and standard deviation over seeds, in Markdown."""
    print("| coupling | " + " | ".join(_FIGURES) + " | worst W2 / floor |")
    print("|---" * (len(_FIGURES) + 2) + "|")
    for coupling, summaries in rows.items():
        cells = []
        for figure in _FIGURES:
            values = [summary[figure] for summary in summaries]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {deviation:.4f}")
        worst = max(s["wasserstein2"] / s["wasserstein2_floor"] for s in summaries)
        print(f"| {coupling} | " + " | ".join(cells) + f" | {worst:.3f} |")


def main() -> None:
    """Parse the command line, train, print."""
    parser = Parser("compare_couplings", __doc__)
    add_config(parser)
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--out", type=output_file, help="also write every summary as JSON")
    args = parser.parse_args()
    rows = {
        coupling: [
            run(args.config, coupling, seed, args.set, args.smoke) for seed in range(args.seeds)
        ]
        for coupling in ("assignment", "independent")
    }
    show(rows)
    write_figures(args.out, rows)


if __name__ == "__main__":
    exit_cleanly(main)
