"""The experiment on trained transformers: what a run leaves, what it finds, what it refuses."""

import json
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.data import images
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder
from experiments.transformer import network as transformer_network
from experiments.transformer import run as transformer
from experiments.transformer import train
from experiments.transformer.report import CURVES
from experiments.transformer.run import MIXINGS, Config

pytestmark = pytest.mark.slow

CONFIG = Path("configs/transformer.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "transformer")
    # In float32 and with the promotion that optax needs, as a user runs it.
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        return folder, transformer.run(load(), folder)


def test_a_run_leaves_its_files(finished):
    folder, summary = finished
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("training", "tokens", "depth", "shares"):
        assert (folder.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert {(row["mixing"], row["seed"], row["step"]) for row in rows} == {
        (mixing, seed, step) for mixing in MIXINGS for seed in (0, 1) for step in (2, 4)
    }


def test_figures_are_those_of_both_kinds_of_attention(finished):
    config, summary = load(), finished[1]
    for name in MIXINGS:
        figures = summary[name]
        assert len(figures["test"]) == 2
        assert 0 < figures["test_mean"] < 1
        assert figures["row_error"] < 1e-5
        for curve in CURVES:
            for state in ("untrained", "trained"):
                values = np.array(figures[f"{curve}_{state}"])
                between = curve in ("energies", "clusters")
                assert values.shape == (config.network.depth + between,)
                assert np.all(np.abs(values) <= (17 if curve == "clusters" else 1.0001))
    assert summary["sinkhorn"]["column_error"] < config.training.marginal_tol
    assert summary["softmax"]["column_error"] > config.training.marginal_tol


def test_what_is_shown_is_what_was_found(finished, capsys):
    folder, summary = finished
    transformer.show(summary, folder)
    shown = capsys.readouterr().out
    for name in MIXINGS:
        assert f"{name:11s} {100 * summary[name]['test_mean']:.2f} +- " in shown
        assert f"{summary[name]['energies_trained'][-1]:7.3f}" in shown


def test_images_of_the_parts_are_all_and_none_is_in_two():
    parts = train.split(load(smoke=False).training)
    assert [len(part.labels) for part in parts] == [699, 200, 898]
    half, test = images.load_halves("digits")
    assert np.array_equal(parts.test.images, test.images)
    joined = np.concatenate([parts.train.images, parts.validation.images])
    assert np.array_equal(joined, half.images)


def test_patches_are_squares_in_reading_order():
    image = np.arange(64.0).reshape(8, 8, 1)
    found = transformer_network.patches(jax.numpy.asarray(image), 2)
    assert found.shape == (16, 4)
    assert found[0].tolist() == [0, 1, 8, 9]
    assert found[5].tolist() == [18, 19, 26, 27]


def test_smoke_differs_from_the_full_run_where_its_section_says():
    smoke = tomllib.loads(CONFIG.read_text())["smoke"]
    keys = {f"{section}.{key}" for section, values in smoke.items() for key in values}
    assert set(configs.differences(load(smoke=False), load())) == keys


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("network.layers=3", "unknown key network.layers"),
        ("network.patch=3", "network.patch must divide 8"),
        ("network.heads=3", "network.heads must divide network.width"),
        ("network.step=0.0", "network.step is 0.0; it must be positive"),
        ("training.seeds=1", "training.seeds is 1; it must be at least 2"),
        ("training.steps=2", "training.steps must exceed training.chunk"),
        ("training.marginal_tol=nan", "training.marginal_tol is nan"),
        ("training.solver=simplex", "training.solver is 'simplex'; choose one of newton, sinkhorn"),
        ("reading.jacobians=9", "reading.jacobians must not exceed reading.images"),
        ("seed=4_294_967_295", "seed is 4294967295; seeds run up to 4294967295"),
        ("seed=-1", "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError, match=named):
        load(override)


def test_a_finished_run_is_not_overwritten(finished):
    with pytest.raises(UserError, match="already holds a run"):
        transformer.run(load(), finished[0])
