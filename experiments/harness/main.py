"""The main function of a command that runs a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from experiments.harness import config as configs
from experiments.harness.command import config_parser, exit_cleanly
from experiments.harness.runs import RunFolder

C = TypeVar("C")
Summary = dict[str, Any]


def main(
    name: str,
    description: str | None,
    kind: type[C],
    run: Callable[[C, RunFolder], Summary],
    show: Callable[[Summary, RunFolder], None],
) -> None:
    """Parse the command line, run the config in its folder, show the summary.

    Args:
        name: Of the command, after `python -m experiments.`.
        description: Shown by `--help`.
        kind: The class of the config.
        run: Runs a config in a folder, and returns its summary.
        show: Prints a summary.
    """

    def run_and_show() -> None:
        args = config_parser(name, description).parse_args()
        config = configs.load(kind, args.config, overrides=args.set, smoke=args.smoke)
        folder = RunFolder(args.out or Path("runs") / args.config.stem)
        show(run(config, folder), folder)

    exit_cleanly(run_and_show)
