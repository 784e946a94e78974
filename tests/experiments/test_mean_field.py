"""The experiment on networks as measures: what a run leaves, what it finds, what it refuses."""

import json
import tomllib
from pathlib import Path

import jax
import pytest

from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder
from experiments.mean_field.run import Config, run

pytestmark = pytest.mark.slow

CONFIG = Path("configs/mean_field.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "mean_field")
    # In float32, as a user runs it.
    with jax.enable_x64(False):
        return folder, run(load(), folder)


def test_a_run_leaves_its_files(finished):
    folder, summary = finished
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("neurons", "descent", "width"):
        assert (folder.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()


def test_the_log_ends_with_the_figures_of_the_summary(finished):
    folder, summary = finished
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    last = {(row["scene"], row["way"]): row for row in rows}
    assert len(last) == 8
    for (scene, way), row in last.items():
        assert row["time"] == pytest.approx(getattr(load(), scene).t1)
        assert row["risk"] == summary[scene][way]["risk_after"]


def test_students_learn_in_every_way(finished):
    _, summary = finished
    for scene in ("plane", "space"):
        for way, figures in summary[scene].items():
            assert figures["status"].startswith("The last time was reached"), way
            assert figures["risk_after"] < figures["risk_before"]
    assert summary["plane"]["flow"]["drift_of_invariants"] < 1e-2


def test_smoke_differs_from_the_full_run_in_sizes_only():
    smoke = tomllib.loads(CONFIG.read_text())["smoke"]
    keys = {f"{section}.{key}" for section, values in smoke.items() for key in values}
    assert set(configs.differences(load(smoke=False), load())) == keys


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("plane.pupils=3", "unknown key plane.pupils"),
        ("plane.dim=3", "plane.dim must be 2"),
        ("plane.steps=90", "plane.steps must be a multiple of 40"),
        ("space.batch=9999", "space.batch must not exceed space.data"),
        ("space.rate=0.0", "space.rate is 0.0; it must be positive"),
        ("width.most=5", "width.most must exceed width.least"),
        ("width.copies=1", "width.copies is 1; it must be at least 2"),
        ("seed=-1", "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError, match=named):
        load(override)


def test_a_finished_run_is_not_overwritten(finished):
    with pytest.raises(UserError, match="already holds a run"):
        run(load(), finished[0])
