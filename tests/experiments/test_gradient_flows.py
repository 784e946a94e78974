"""The gradient-flow experiment: what a run leaves, what it finds, what it refuses."""

import json
import tomllib
from pathlib import Path

import jax
import pytest

from experiments.gradient_flows.run import Config, run
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder

pytestmark = pytest.mark.slow

CONFIG = Path("configs/gradient_flows.toml")


def load(*overrides, smoke=True):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=smoke)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "gradient_flows")
    # In float32, as a user runs it.
    with jax.enable_x64(False):
        return folder, run(load(), folder)


def test_a_run_leaves_its_files(finished):
    folder, summary = finished
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("particles.png", "energies.png", "porous.png", "line.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert configs.load(Config, folder.path / "config.toml") == load()


def test_the_log_ends_with_the_figures_of_the_summary(finished):
    folder, summary = finished
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    last = {row["flow"]: row for row in rows}
    assert set(last) == set(summary["particles"])
    for name, row in last.items():
        assert row["time"] == pytest.approx(load().particles.t1)
        assert row["energy"] == summary["particles"][name]["energy_after"]
        assert row["wasserstein2"] == summary["particles"][name]["wasserstein2_after"]


def test_the_nearer_to_transport_the_sooner_at_the_moons(finished):
    summary = finished[1]
    flows = summary["particles"]
    names = "MMD", "MMD, birth and death", "energy distance", "sliced W2", "Sinkhorn divergence"
    ends = [flows[name]["wasserstein2_after"] for name in names]
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] < summary["wasserstein2_floor"]
    for name, figures in flows.items():
        assert figures["energy_after"] < 0.3 * figures["energy_before"], name
        assert figures["status"].startswith("The last time was reached"), name


def test_the_porous_medium_follows_barenblatt(finished):
    figures = finished[1]["porous"]
    assert figures["status"].startswith("The last time was reached")
    assert figures["relative_l1_error"] < 0.1
    assert figures["mass_error"] < 1e-5
    assert figures["least_mass"] > 0
    assert figures["largest_rise_of_energy"] <= 0


def test_diffusions_of_every_kind_end_near_the_exact_law(finished):
    for ways in finished[1]["line"].values():
        for way, figures in ways.items():
            assert figures.get("status", "The last time was reached").startswith("The last"), way
            # Ten steps, a few cells or quantiles or a small sample, of deviations of 1 and 1.5.
            assert figures["wasserstein2"] < 0.3, way


def test_smoke_differs_from_the_full_run_in_sizes_only():
    smoke = tomllib.loads(CONFIG.read_text())["smoke"]
    keys = {f"{section}.{key}" for section, values in smoke.items() for key in values}
    assert set(configs.differences(load(smoke=False), load())) == keys


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("particles.many=3", "unknown key particles.many"),
        ("particles.n=1", "particles.n is 1; it must be at least 2"),
        ("particles.epsilon=0.0", "particles.epsilon is 0.0; it must be positive"),
        ("porous.exponent=1.0", "porous.exponent is 1.0; it must be above 1"),
        ("porous.t1=0.05", "porous.t1 must be above porous.t0"),
        ("line.cells=1", "line.cells is 1; it must be at least 2"),
        ("seed=-1", "seed is -1; it must be at least 0"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError, match=named):
        load(override)


def test_a_finished_run_is_not_overwritten(finished):
    with pytest.raises(UserError, match="already holds a run"):
        run(load(), finished[0])
