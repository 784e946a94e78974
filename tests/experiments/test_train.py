"""The commands, run as a user runs them: files they leave, faults they survive, refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data.images import load_halves
from experiments.harness.runs import RunFolder
from experiments.train.config import Config
from tests.helpers import assert_refused, command, refusal, settings

CONFIGS = sorted(p for p in Path("configs").rglob("*.toml") if "[field]" in p.read_text())
FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def points_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "points"
    process = command("configs/moons_to_8gaussians.toml", "--smoke", "--out", folder)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    process = command("configs/digits.toml", "--smoke", "--out", folder)
    assert process.returncode == 0, process.stderr
    return folder


def assert_complete(folder, pictures):
    summary = json.loads((folder / "summary.json").read_text())
    floors = [name for name in summary if name.endswith("_floor")]
    assert len(floors) >= 3
    assert all(summary[name] >= 0 for name in floors)
    assert summary["environment"]["jax"]
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == summary["steps"]
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_run_on_points_leaves_its_files(points_run):
    assert_complete(points_run, ["samples.png", "trajectories.png"])


def test_a_run_on_images_leaves_its_files(digits_run):
    assert_complete(digits_run, ["samples.png", "formation.png"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if path.stem not in ("digits", "moons_to_8gaussians")],
    ids=lambda path: path.stem,
)
def test_every_other_config_runs(path, tmp_path):
    process = command(path, "--smoke", "--out", tmp_path / "run")
    if path.stem == "fashion_mnist" and not FASHION.is_dir():
        assert_refused(process, "apt-get install dataset-fashion-mnist")
    else:
        assert process.returncode == 0, process.stderr
        assert (tmp_path / "run" / "summary.json").is_file()


def test_halves_are_real_disjoint_and_the_same_every_time():
    train, held_out = load_halves("digits")
    again, _ = load_halves("digits")
    assert np.array_equal(train.images, again.images)
    assert len(train.labels) + len(held_out.labels) == 1797
    assert train.images.min() == -1
    assert train.images.max() == 1
    seen = {image.tobytes() for image in train.images}
    repeated = sum(image.tobytes() in seen for image in held_out.images)
    assert repeated == 0


@pytest.mark.slow
def test_the_same_seed_draws_the_same_samples(digits_run, tmp_path):
    def draw(name, *options):
        out = tmp_path / f"{name}.npz"
        arguments = (digits_run, "--num", 5, "--steps", 2, "--out", out, *options)
        process = command(*arguments, module="experiments.sample")
        assert process.returncode == 0, process.stderr
        return np.load(out)

    first, again = draw("first", "--label", 3), draw("again", "--label", 3)
    other = draw("other", "--label", 3, "--seed", 1, "--guidance", 2.0)
    assert first["samples"].shape == (5, 8, 8, 1)
    assert set(first["labels"]) == {3}
    assert np.array_equal(first["samples"], again["samples"])
    assert not np.array_equal(first["samples"], other["samples"])


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bits():
    arguments = ("configs/moons_to_8gaussians.toml", "--smoke", "--kills", 2)
    process = command(*arguments, module="experiments.faults")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("SIGKILL ") == 2
    assert "losses and final state equal, bit for bit" in process.stdout


@pytest.mark.long
def test_ten_kills_at_random_moments_lose_nothing():
    arguments = ("configs/moons_to_8gaussians.toml", "--kills", 10)
    settings = ("--set", "report.num=500", "--set", "training.steps=4000")
    settings += ("--set", "training.checkpoint_every=400")
    process = command(*arguments, *settings, module="experiments.faults")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("SIGKILL ") == 10


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint_is_written(tmp_path):
    folder = tmp_path / "run"
    settings = ("--set", "training.learning_rate=1e30", "--set", "training.warmup_steps=8")
    process = command("configs/gaussian_to_moons.toml", "--smoke", "--out", folder, *settings)
    assert process.returncode == 1
    assert "is not finite" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (folder / "summary.json").exists()
    saved = [path.name for path in (folder / "checkpoints").iterdir()]
    assert "20" not in saved


def test_a_finished_run_is_not_overwritten(points_run):
    before = (points_run / "summary.json").read_bytes()
    process = refusal("configs/moons_to_8gaussians.toml", "--smoke", "--out", points_run)
    assert_refused(process, "already holds a run", "--resume")
    assert (points_run / "summary.json").read_bytes() == before


def test_a_run_of_another_config_is_not_resumed(points_run):
    arguments = ("configs/moons_to_8gaussians.toml", "--smoke", "--out", points_run, "--resume")
    process = refusal(*arguments, "--set", "training.batch=33")
    assert_refused(process, "another config", "training.batch")


def test_a_folder_with_other_files_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    process = refusal("configs/gaussian_to_moons.toml", "--smoke", "--out", tmp_path)
    assert_refused(process, "is not empty")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.slow
def test_sigterm_during_the_report_ends_it_and_the_report_can_be_had_anew(points_run, tmp_path):
    """A program that asks for the report, and is asked to end while it is being made."""
    folder = tmp_path / "run"
    shutil.copytree(points_run, folder)
    (folder / "summary.json").unlink()
    code = (
        "import signal, sys; from experiments.train import report, run\n"
        "from experiments.harness.command import exit_cleanly\n"
        "real = report.write\n"
        "report.write = lambda *a: signal.raise_signal(signal.SIGTERM) or real(*a)\n"
        "exit_cleanly(lambda: run.main(None))"
    )
    arguments = ("configs/moons_to_8gaussians.toml", "--smoke", "--out", str(folder), "--resume")
    stopped = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=settings(),
        check=False,
    )
    assert stopped.returncode == 2, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == (
        "error: stopped by SIGTERM during the report; training is done: --resume reports anew"
    )
    assert "Traceback" not in stopped.stderr
    assert not (folder / "summary.json").exists()
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    figures, before = (
        json.loads((where / "summary.json").read_text()) for where in (folder, points_run)
    )
    assert figures == before | {"training_seconds": figures["training_seconds"]}


def test_a_second_resume_in_one_folder_is_refused(points_run):
    folder = RunFolder(points_run)
    config = folder.config(Config)
    folder.start(config, resume=True)
    arguments = ("configs/moons_to_8gaussians.toml", "--smoke", "--out", points_run, "--resume")
    assert_refused(refusal(*arguments), "another process is running in", "wait for its end")
    folder.release()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["garbled", "truncated", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_kept(points_run, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(points_run, folder)
    newest = folder / "checkpoints" / "20"
    files = sorted((newest / "state").rglob("*"), key=lambda path: path.stat().st_size)
    data = [path for path in files if path.is_file()][-1]
    if damage == "missing":
        data.unlink()
    else:
        content = bytearray(data.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = b"\0" * 64
        data.write_bytes(content if damage == "garbled" else content[:middle])
    arguments = ("configs/moons_to_8gaussians.toml", "--smoke", "--out", folder, "--resume")
    assert_refused(command(*arguments), "checkpoint", "20", "is damaged")
    assert (folder / "checkpoints" / "10").is_dir()
    if damage != "garbled":
        return
    shutil.rmtree(newest)
    process = command(*arguments)
    assert process.returncode == 0, process.stderr
    assert losses(folder) == losses(points_run)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("configs/none.toml",), ("no config file at",)),
        (("configs/digits.toml", "--set", "training.stepz=1"), ("unknown key training.stepz",)),
        (("configs/digits.toml", "--set", "training.steps=-1"), ("training.steps is -1",)),
        (("configs/digits.toml", "--set", "training.steps=many"), ("must be a valid integer",)),
        (
            ("configs/digits.toml", "--set", "training.devices=64"),
            ("training.devices is 64; there",),
        ),
    ],
)
def test_bad_settings_end_in_one_line(arguments, words, tmp_path):
    assert_refused(refusal(*arguments, "--out", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_is_not_there_is_refused_in_one_line(tmp_path):
    arguments = ("configs/digits.toml", "--coordinator", "auto", "--out", tmp_path / "run")
    assert_refused(command(*arguments), "no cluster found")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num", 0), ("--num is 0",)),
        (("--steps", 0), ("--steps is 0",)),
        (("--label", 3), ("need a run on labelled images",)),
        (("--seed", -1), ("--seed is -1",)),
    ],
)
def test_bad_sampling_requests_end_in_one_line(points_run, tmp_path, options, words):
    arguments = (points_run, "--out", tmp_path / "samples.npz", *options)
    assert_refused(refusal(*arguments, module="experiments.sample"), *words)


def test_sampling_needs_a_finished_run(tmp_path):
    arguments = (tmp_path, "--out", tmp_path / "samples.npz")
    assert_refused(refusal(*arguments, module="experiments.sample"), "no run at")
