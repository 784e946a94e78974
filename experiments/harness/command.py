"""What every command shares: its parser, and failures that are the user's to mend."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can mend; the message says what and how."""


def parser_for(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def config_parser_for(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser of what every command that runs a config takes."""
    parser = parser_for(name, description)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, help="run folder; by default runs/NAME")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    return parser


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run a command; turn a `UserError` into its one line and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
