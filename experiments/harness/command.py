"""What every command shares: its parser, and an end in one line whatever went wrong."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_CURES = {
    errno.ENOSPC: "make room or choose another place",
    errno.EDQUOT: "make room or choose another place",
    errno.EFBIG: "make room or choose another place",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that you may write to",
}


class UserError(Exception):
    """Something the user can mend; the message says what and how."""


class Terminated(BaseException):
    """SIGTERM came."""


class Parser(argparse.ArgumentParser):
    """A parser that shows the module's docstring as it is written, and refuses in one line."""

    def __init__(self, name: str, description: str | None):
        super().__init__(
            prog=f"python -m experiments.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        # "argument --num: is 0; ..." reads as a sentence without its ends.
        raise UserError(f"{message.removeprefix('argument ').replace(': is ', ' is ', 1)}")


def config_parser(name: str, description: str | None) -> Parser:
    """A parser of what every command that runs a config takes."""
    parser = Parser(name, description)
    add_config(parser)
    parser.add_argument("--out", type=Path, help="run folder; by default runs/NAME")
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Take a config, changes to it, and its smoke size."""
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")


def at_least(low: int, below: int = 2**31) -> Callable[[str], int]:
    """The type of an option that is an integer from `low` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"is {text!r}; it must be an integer") from None
        if not low <= value < below:
            bound = f"at least {low}" if value < low else f"below {below}"
            raise argparse.ArgumentTypeError(f"is {value}; it must be {bound}")
        return value

    return parse


def not_negative(text: str) -> float:
    """The type of an option that is a finite number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {value}; it must be finite and at least 0")
    return value


def output_file(text: str) -> Path:
    """The type of an option that names a file to write: refused before the work, not after."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"is {path}, a folder; give a file")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"is {path}; its folder does not exist, make it first")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"is {path}; it cannot be written, choose another place")
    return path


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run a command; whatever the user can mend ends in one line and exit code 2.

    A loss or state that is not finite has exit code 1, SIGTERM 143 and Ctrl-C 130.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _end(f"error: {error}", 2)
    except FloatingPointError as error:
        _end(f"error: {error}", 1)
    except BrokenPipeError:
        # Whoever read the output has gone; Python must not flush what is left at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "see that the path is right")
        _end(f"error: {error.filename or 'a file'}: {error.strerror or error}; {cure}", 2)
    except Terminated as stop:
        _end(f"stopped by SIGTERM{stop}", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", 128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_) -> NoReturn:
    raise Terminated


def _end(line: str, code: int) -> NoReturn:
    print(" ".join(line.splitlines()), file=sys.stderr)
    sys.exit(code)
