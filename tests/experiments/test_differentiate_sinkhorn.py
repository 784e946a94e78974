"""Colour transfer and registration: what a run leaves, what it finds, what it refuses."""

import json
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import photographs
from experiments.differentiate_sinkhorn import run as differentiate_sinkhorn
from experiments.differentiate_sinkhorn import warps
from experiments.differentiate_sinkhorn.run import Config
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.main import main
from experiments.harness.runs import RunFolder

pytestmark = pytest.mark.slow

CONFIG = Path("configs/differentiate_sinkhorn.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "sinkhorn")
    # In float32, as a user runs it: L-BFGS keeps some of its state in the default type.
    with jax.enable_x64(False):
        return folder, differentiate_sinkhorn.run(load(), folder)


def test_a_run_leaves_its_files(finished):
    folder, summary = finished
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    assert summary["environment"]["jax"]
    for name in ("colour_transfer.png", "registration.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()


def test_the_log_ends_with_the_errors_of_the_summary(finished):
    folder, summary = finished
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    last = {(row["scene"], row["divergence"]): row for row in rows}
    assert len(last) == 6
    for (scene, divergence), row in last.items():
        assert row["step"] == load().registration.steps
        assert row["error"] == summary["registration"][scene][divergence]["error"]


def test_transferred_colours_are_nearly_as_near_the_target_as_its_own(finished):
    figures = finished[1]["colour_transfer"]
    floor = figures["energy_distance_floor"]
    assert figures["converged"]
    assert figures["energy_distance_before"] > 5 * floor
    assert figures["energy_distance_after"] < 2 * floor


@pytest.mark.parametrize("divergence", ["sinkhorn", "sinkhorn_unbalanced", "energy_distance"])
def test_registration_nears_the_truth(finished, divergence):
    scene = finished[1]["registration"]["clean"]
    found = scene[divergence]
    assert scene["error_floor"] < found["error"] < 0.7 * scene["error_before"]
    assert found["divergence_after"] < 0.5 * found["divergence_before"]


def test_only_loose_marginals_let_the_outliers_go(finished):
    scene = finished[1]["registration"]["outliers"]
    assert scene["sinkhorn_unbalanced"]["converged"]
    assert scene["sinkhorn_unbalanced"]["error"] < 0.7 * scene["sinkhorn"]["error"]


def test_the_truth_is_the_turn_and_the_bend_that_the_config_asks_for():
    plain = ("registration.scale=1.0", "registration.rotation=90.0", "registration.bend=0.5")
    scene = warps.make_scene(load(*plain).registration, outliers=0.0, seed=3)
    x, y = np.asarray(scene.source, np.float64).T
    turned = np.stack([-y, x + y**2 / 2], axis=1)
    moved = np.asarray(scene.truth, np.float64) - turned
    assert np.ptp(moved, axis=0).max() < 1e-6  # one shift for all, to float32


def test_no_two_points_are_partners():
    still = ("scale=1.0", "rotation=0.0", "bend=0.0", "noise=0.0")
    config = load(*(f"registration.{setting}" for setting in still)).registration
    scene = warps.make_scene(config, outliers=0.0, seed=0)
    apart = np.linalg.norm(scene.truth[:, None] - scene.target[None], axis=2)
    # A pixel is 1 / 200.
    assert apart.min() > 0.9 / 200


def test_outliers_take_the_place_of_target_points():
    config = load().registration
    clean = warps.make_scene(config, outliers=0.0, seed=0)
    polluted = warps.make_scene(config, outliers=0.5, seed=0)
    assert clean.target.shape == polluted.target.shape
    far = np.asarray(polluted.target)[:, 0] > np.asarray(clean.target)[:, 0].max()
    assert far.sum() == config.m // 2


def test_a_warp_starts_as_the_identity():
    points = jnp.asarray(photographs.pagoda_edges()[:50])
    phi = warps.features(points, 3)
    assert phi.shape == (50, 12)
    assert np.allclose(warps.warp(phi, warps.identity(phi)), points)
    assert warps.roughness(warps.identity(phi)) == 0


def test_smoke_differs_from_the_full_run_in_sizes_only():
    differing = configs.differences(load(smoke=False), load())
    assert set(differing) == set(smoke_keys())


def smoke_keys():
    smoke = tomllib.loads(CONFIG.read_text())["smoke"]
    return [f"{section}.{key}" for section, values in smoke.items() for key in values]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("colours.pixelz=3", "unknown key colours.pixelz"),
        ("colour.pixels=3", "unknown key colour"),
        ("colours.pixels=many", "colours.pixels is 'many'; it must be a valid integer"),
        ("colours.pixels=1", "colours.pixels is 1; it must be at least 2"),
        ("colours.report_pixels=200_000", "colours needs pixels + 2 report_pixels"),
        ("colours.source=rome", "choose one of china, flower"),
        ("colours.epsilon=0.0", "colours.epsilon is 0.0; it must be positive"),
        ("colours.epsilon=inf", "it must be a finite number"),
        ("registration.epsilon=nan", "it must be a finite number"),
        ("registration.rho=-1", "registration.rho is -1; it must be positive"),
        ("registration.n=9", "registration.n is 9; it must be at least 10"),
        ("registration.steps=0", "registration.steps is 0"),
        ("registration.outliers=1.0", "registration.outliers is 1.0; it must be below 1"),
        ("registration=3", "registration must be a section"),
        ("seed=-1", "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError) as refusal:
        load(override)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_more_points_than_edges_are_refused():
    config = load("registration.n=40_000").registration
    with pytest.raises(UserError, match="there are only"):
        warps.make_scene(config, outliers=0.0, seed=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["configs/none.toml"], "no config file at configs/none.toml"),
        ([str(CONFIG), "--set", "seed=zero"], "seed is 'zero'; it must be a valid integer"),
        (["configs/digits.toml"], "unknown key data"),
    ],
)
def test_bad_commands_end_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["differentiate_sinkhorn", *arguments, "--out", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main(
            "differentiate_sinkhorn",
            None,
            Config,
            differentiate_sinkhorn.run,
            differentiate_sinkhorn.show,
        )
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert not folder.exists()


def test_a_finished_run_is_not_overwritten(finished):
    folder, _ = finished
    before = (folder.path / "summary.json").read_bytes()
    with pytest.raises(UserError, match="already holds a run; choose another --out"):
        differentiate_sinkhorn.run(load(), folder)
    assert (folder.path / "summary.json").read_bytes() == before
