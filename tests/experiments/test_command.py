"""What a command says when it cannot: one line, and an exit code, whatever went wrong."""

import signal
import sys
from pathlib import Path

import pytest

from experiments import compare_couplings, faults, memory_sinkhorn, sample, speed_small
from experiments.harness.command import Terminated, UserError, exit_cleanly
from experiments.harness.main import main
from experiments.interpolants import Config
from tests.experiments.test_layout import commands


@pytest.fixture
def end(monkeypatch, capsys):
    """Run a main function in this process; returns its exit code and its only line."""

    def run(function, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            exit_cleanly(function)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return ended.value.code, lines[0]

    return run


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("two\nlines"), 2, "error: two lines"),
        (FloatingPointError("no number"), 1, "error: no number"),
        (OSError(28, "No space left on device", "/x"), 2, "error: /x: No space left on device;"),
        (OSError(30, "Read-only file system", "/x"), 2, "error: /x: Read-only file system;"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied;"),
        (Terminated(" at noon"), 143, "stopped by SIGTERM at noon"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
)
def test_every_end_is_one_line_with_its_code(end, error, code, line):
    ended, said = end(raising(error))
    assert ended == code
    assert said.startswith(line)


def test_sigterm_ends_any_command_in_one_line(end):
    assert end(lambda: signal.raise_signal(signal.SIGTERM)) == (143, "stopped by SIGTERM")


def test_a_fault_of_ours_is_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        exit_cleanly(lambda: print(1 / 0))


def ways(config, folder):
    """A run that does no work: what is tried is its folder."""
    folder.claim(config)
    folder.write_summary({})
    return {}


def interpolants():
    main("interpolants", None, Config, ways, lambda *_: None)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", "is a file; choose another --out"),
        ("file/run", "Not a directory; see that the path is right"),
        ("/proc/run", "No such file or directory"),
        ("/sys/run", "; choose a place that you may write to"),
        ("thesis", "is not empty and holds no run"),
    ],
)
def test_a_place_where_no_run_can_be_is_refused(end, tmp_path, out, words):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    code, line = end(interpolants, "configs/interpolants.toml", "--out", tmp_path / out)
    assert code == 2
    assert line.startswith("error: ")
    assert words in line
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "radius=nan"), "radius is nan; it must be a finite number"),
        (("--set", "radius=2\nseed=1"), r"radius is '2\nseed=1'; it must be a valid number"),
        (("--set", "a\nb=1"), "unknown key a b; known: seed, radius, sampling"),
        (("--set",), "--set: expected one argument"),
        (("--sett", "seed=1"), "unrecognized arguments"),
    ],
)
def test_bad_arguments_of_a_config_are_refused(end, tmp_path, arguments, words):
    code, line = end(interpolants, "configs/interpolants.toml", "--out", tmp_path / "x", *arguments)
    assert code == 2
    assert words in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (speed_small.main, ("--rounds", 0), "--rounds is 0; it must be at least 1"),
        (speed_small.main, ("--rounds", "many"), "--rounds is 'many'; it must be an integer"),
        (speed_small.main, ("--out", "."), "--out is ., a folder; give a file"),
        (speed_small.main, ("--out", "none/x.json"), "none/x.json; its folder does not exist"),
        (memory_sinkhorn.main, ("--num", 7), "--num is 7; it must be at least 8"),
        (memory_sinkhorn.main, ("--dim", 2**31), "--dim is 2147483648; it must be below"),
        (faults.main, ("x.toml", "--kills", 0), "--kills is 0; it must be at least 1"),
        (faults.main, ("x.toml", "--signal", "HUP"), "--signal: invalid choice: 'HUP'"),
        (compare_couplings.main, ("x.toml", "--seeds", 0), "--seeds is 0"),
        (compare_couplings.main, ("x.toml",), "no config file at x.toml"),
        (sample.main, ("runs", "--out", "x.npz", "--seed", 2**32), "--seed is 4294967296; it must"),
        (sample.main, ("runs", "--out", "x.npz", "--guidance", "nan"), "it must be finite"),
        (sample.main, ("runs", "--out", "x.npz", "--steps", 0), "--steps is 0"),
        (sample.main, (), "the following arguments are required: run, --out"),
    ],
)
def test_bad_options_are_refused_by_name(end, function, arguments, words):
    code, line = end(function, *arguments)
    assert code == 2
    assert words in line


def test_what_the_disk_has_no_room_for_is_said(end, monkeypatch):
    monkeypatch.setattr(speed_small, "run_cell", lambda *_: {})
    monkeypatch.setattr(speed_small, "show", lambda *_: None)
    code, line = end(speed_small.main, "--out", "/dev/full")
    assert (code, line) == (
        2,
        "error: a file: No space left on device; make room or choose another place",
    )


@pytest.mark.parametrize("name", commands())
def test_every_command_ends_through_one_gate(name):
    text = Path(commands()[name]).read_text()
    assert f'main("{name}", __doc__, Config, run, show)' in text or "exit_cleanly(" in text
