"""The learned-energy experiment: what a run leaves, what it finds, what it refuses."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.data import populations as data
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder
from experiments.learned_energy import prediction, questions
from experiments.learned_energy import run as learned_energy
from experiments.learned_energy.run import Config

CONFIG = Path("configs/learned_energy.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.mark.long
def test_a_run_leaves_its_files_and_recovers(tmp_path):
    folder = RunFolder(tmp_path / "learned_energy")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        summary = learned_energy.run(load(), folder)
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("potentials.png", "populations.png", "storms.png", "baselines.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()
    # Sixty points a population; of 2,000 the error is a few percent.
    assert summary["recovery"]["potential"]["weak form"]["gradient_error"] < 0.5
    storms = summary["prediction"]["storms"]
    assert all(choice["ridge"] in load().prediction.ridges for choice in storms["chosen"])
    gained = storms["mean"]["no change"] - storms["mean"]["learned energy"]
    assert np.isclose(storms["gain"]["no change"]["mean"], gained)


def test_storms_that_are_asked_about_were_not_learned_from():
    places, years = data.storms()

    def all_of(cloud, *thirds):
        """Whether these are August's points, of those thirds of the years."""
        rows = np.isin(years[8] % 3, thirds)
        august = {tuple(point) for point in places[8][rows].astype(np.float32)}
        return all(tuple(point) in august for point in cloud)

    first = questions.storm_splits(16, 1, 0)[0]
    asked = first.test[2]
    assert all_of(asked.start, 0)
    assert all_of(asked.before, 1, 2)
    one, other = first.validation[2], first.validation[7]
    assert all_of(one.before, 1)
    assert all_of(one.start, 2)
    assert all_of(other.before, 2)
    assert all_of(other.start, 1)
    assert {len(q.target) for q in first.test} == {16}


def test_gains_are_of_pairs():
    found = prediction._gain(np.array([0.1, -0.2, 0.4, 0.1]))
    assert np.isclose(found["mean"], 0.1)
    # Deviations 0, -0.3, 0.3, 0 of four, over the root of four.
    assert np.isclose(found["error"], np.sqrt(0.18 / 3) / 2)
    assert found["better"] == 3


def test_the_linear_map_is_exact_between_affine_images():
    x = np.random.default_rng(0).normal(size=(50, 2))
    matrix, shift = np.array([[1.5, 0.2], [0.2, 0.7]]), np.array([1.0, -2.0])
    question = questions.Question("", x, x @ matrix + shift, x, 1.0, x, (x, x))
    assert np.allclose(prediction.linear_map(question), x @ matrix + shift, rtol=1e-8)


def test_cells_are_read_by_windows_of_their_iterations(tmp_path):
    rng, rows = np.random.default_rng(0), np.tile(np.arange(12), 2)
    table = np.column_stack([rows, rng.normal(size=(24, 4))])
    np.savetxt(tmp_path / "cells.txt", table, header="it genes")
    times, clouds = data.cells(tmp_path / "cells.txt", 3, 2)
    assert times.tolist() == [0, 1, 2, 3]
    assert [cloud.shape for cloud in clouds] == [(6, 2)] * 4


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("recovery.times=[0.0, 0.3, 0.2]", "recovery.times must rise from 0"),
        ("recovery.n=1", "recovery.n is 1; it must be at least 2"),
        ("recovery.compared=5000", "recovery.compared must be at most n"),
        ("prediction.ridges=[0.0]", r"prediction.ridges\[0\] is 0.0; it must be positive"),
        ("seed=-1", "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError, match=named):
        load(override)
