"""The attention experiment: what a run leaves, what it finds, what it refuses."""

import json
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.attention.run import Config, run
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder

pytestmark = pytest.mark.slow

CONFIG = Path("configs/attention.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "attention")
    # In float32, as a user runs it.
    with jax.enable_x64(False):
        return folder, run(load(), folder)


def test_a_run_leaves_its_files(finished):
    folder, summary = finished
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("circle", "sphere", "sweep", "gaussian", "shift"):
        assert (folder.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()


def test_the_log_holds_every_recorded_depth(finished):
    folder, summary = finished
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    for scene, frames in (("circle", 7), ("sphere", 7), ("shift", 5)):
        logged = [row for row in rows if row["scene"] == scene]
        assert len(logged) == frames
        assert logged[-1]["clusters"] == summary[scene]["clusters_after"]


def test_tokens_cluster_and_energies_grow(finished):
    summary = finished[1]
    for scene in ("circle", "sphere", "shift"):
        figures = summary[scene]
        assert figures["clusters_after"] < figures["clusters_before"]
        assert figures["energy_grows"]
    assert summary["farthest_mode"] < 1


def test_blow_up_is_found_where_the_formula_says(finished):
    figures = finished[1]["gaussian"]
    # In float32.
    assert np.isclose(figures["blow_up"], figures["blow_up_exact"], rtol=1e-4)
    # A covariance of 100 particles is off by a fifth.
    assert figures["particle_error_softmax"] < 0.8
    assert figures["particle_error_l2"] < 0.8


def test_smoke_differs_from_the_full_run_in_sizes_only():
    smoke = tomllib.loads(CONFIG.read_text())["smoke"]
    keys = [f"{section}.{key}" for section, values in smoke.items() for key in values]
    assert set(configs.differences(load(smoke=False), load())) == set(keys)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("circle.token=3", "unknown key circle.token"),
        ("circle.tokens=1", "circle.tokens is 1"),
        ("sphere.beta=0.0", "sphere.beta is 0.0"),
        ("sweep.beta_most=0.5", "sweep.beta_most must exceed"),
        ("gaussian.share=1.0", "gaussian.share is 1.0; it must be below 1"),
        ("shift.radius=nan", "shift.radius is nan"),
        ("seed=-1", "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError) as refusal:
        load(override)
    assert named in str(refusal.value)
