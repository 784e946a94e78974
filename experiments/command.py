"""What every command shares: its parser, and failures that are the user's to mend."""

import argparse
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend; the message says what and how."""


def parser_for(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run a command; turn a `UserError` into its one line and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
