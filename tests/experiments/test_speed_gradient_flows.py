"""The command that measures particle flows: its loops by hand, and a run at the smoke size."""

import importlib.util
import json

import numpy as np
import pytest

from tests.helpers import assert_refused, command, refusal

MISSING = [name for name in ("torch", "geomloss") if importlib.util.find_spec(name) is None]
NAME = "experiments.speed_gradient_flows"


@pytest.mark.skipif(bool(MISSING), reason=f"needs the extra `peers`: no {', '.join(MISSING)}")
@pytest.mark.long
def test_every_loop_brings_particles_to_the_same_place(tmp_path):
    out = tmp_path / "figures.json"
    process = command("--smoke", "--out", out, module=NAME)
    assert process.returncode == 0, process.stderr
    figures = json.loads(out.read_text())
    for row in figures["large"].values():
        assert row["energy"][1] < row["energy"][0]
        assert row["status"].startswith("The last time was reached")
        assert row["peak_mebibytes"] > 100
    assert [len(rows) for rows in figures["small"].values()] == [3, 3, 3, 5]
    for name, rows in figures["small"].items():
        assert next(iter(rows.values()))["times_ours"]["median"] == 1
        # Derivatives on paper and ours, in float32; transport as accurate as was asked.
        bound = 1e-3 if name == "Sinkhorn divergence" else 1e-4
        errors = {
            label: row["error"] for label, row in rows.items() if not label.startswith("GeomLoss")
        }
        assert max(errors.values()) < bound, errors
        assert np.isfinite(list(errors.values())).all()


def test_sizes_are_refused_by_name():
    assert_refused(refusal("--rounds", 0, module=NAME), "--rounds")


@pytest.mark.skipif(not MISSING, reason="the extra `peers` is installed")
def test_missing_peers_are_named():
    assert_refused(refusal("--smoke", module=NAME), "peers")
