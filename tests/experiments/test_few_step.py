"""The comparison of few-step generators: what a run leaves, and what it refuses."""

import json
import math
import tomllib
from pathlib import Path

import jax
import pytest

from experiments.few_step import methods
from experiments.few_step.config import Config
from experiments.few_step.run import run, show
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder

pytestmark = pytest.mark.slow

CONFIG = Path("configs/few_step.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "few_step")
    # In float32, as a user runs it.
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        return folder, run(load(), folder)


def test_a_run_leaves_its_files(finished):
    folder, summary = finished
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("samples.png", "training.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == list(summary["methods"])


def test_every_method_has_its_figures(finished, capsys):
    folder, summary = finished
    assert summary["floor"] > 0
    for name, figures in summary["methods"].items():
        one = name.startswith("descent")
        nums = ["1"] if one else list(map(str, methods.EVALUATIONS))
        assert list(figures["energy_distance"]) == list(figures["seconds_per_thousand"]) == nums
        assert all(map(math.isfinite, figures["energy_distance"].values())), name
        assert figures["steps"] >= load().training.chunk
        assert figures["training_seconds"] > 0
    show(summary, folder)
    shown = capsys.readouterr().out
    assert all(name in shown for name in summary["methods"])


def test_smoke_differs_from_the_full_run_in_sizes_only():
    smoke = tomllib.loads(CONFIG.read_text())["smoke"]
    keys = {f"{section}.{key}" for section, values in smoke.items() for key in values}
    assert set(configs.differences(load(smoke=False), load())) == keys


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("descent.epsilon=0.1", "unknown key descent.epsilon; known: batch"),
        ("descent.epsilons=[]", "descent.epsilons"),
        ("descent.bandwidths=[0.1, -1.0]", r"descent.bandwidths\[1\] is -1.0; it must be positive"),
        ("training.seconds=0.0", "training.seconds is 0.0; it must be positive"),
        ("data.target='digits'", "data.target is 'digits'; choose one of gaussian, moons"),
        ("flow_maps.equal_fraction=1.5", "flow_maps.equal_fraction is 1.5; it must be at most 1"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError, match=named):
        load(override)
