"""Failures that are the user's to mend: one line on stderr, exit code 2."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend; the message says what and how."""


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run a command; turn a `UserError` into its one line and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
