"""Commands around fields and paths at their smoke size: what they write and what they say."""

import json

import pytest

from tests.helpers import assert_refused, command

pytestmark = pytest.mark.slow

EXPERIMENTS = {
    "interpolants": ("trajectories.png", "ways"),
    "velocity_fields": ("fields.png", "fields"),
    "sampler_bias": ("bias.png", "sources"),
}


@pytest.fixture(scope="module", params=EXPERIMENTS)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / request.param
    process = command(
        f"configs/{request.param}.toml",
        "--smoke",
        "--out",
        folder,
        module=f"experiments.{request.param}",
    )
    assert process.returncode == 0, process.stderr
    return request.param, folder, json.loads((folder / "summary.json").read_text())


def test_smoke_runs_leave_their_pictures_and_figures(made):
    name, folder, summary = made
    picture, key = EXPERIMENTS[name]
    assert (folder / picture).stat().st_size > 10_000
    rows = summary[key]
    if name == "interpolants":
        others = [row["energy_over_rays"] for row in rows.values()]
        # Nothing travels with less energy than the rays, up to the third digit of 12 particles.
        assert min(others) > 0.9
        assert all(sum(row["shares"]) == 12 for row in rows.values())
    elif name == "velocity_fields":
        energies = {field: row["energy"] for field, row in rows.items()}
        assert energies["least energy"] < energies["Dacorogna-Moser"]
        assert energies["least energy"] < energies["least energy and a swirl"]
        assert rows["Dacorogna-Moser"]["flux_curl"] < 1e-10 < rows["Dacorogna-Moser"]["curl"]
        assert rows["least energy"]["curl"] < 1e-10 < rows["least energy"]["flux_curl"]
    else:
        assert rows["Gaussian"]["asymmetry"] < 1e-4 < rows["Laplace"]["asymmetry"]


def test_a_folder_in_use_is_refused(made):
    name, folder, _ = made
    process = command(
        f"configs/{name}.toml", "--smoke", "--out", folder, module=f"experiments.{name}"
    )
    assert_refused(process, "already holds a run")


def test_the_memory_command_says_its_peak():
    process = command("--num", 512, "--dim", 2, module="experiments.memory_sinkhorn")
    assert process.returncode == 0, process.stderr
    assert "process peak" in process.stdout
