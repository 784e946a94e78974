"""The diagnostics of a trained network: what a run leaves, and what it refuses."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import config as configs
from experiments import energy_diagnostics
from experiments.command import UserError
from experiments.energy_diagnostics import Config
from experiments.runs import RunFolder

CONFIG = Path("configs/energy_diagnostics.toml")


def load(*overrides):
    return configs.load_as(Config, CONFIG, overrides=list(overrides), smoke=True)


def test_a_run_leaves_its_files_and_shares_are_shares(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        summary = energy_diagnostics.run(load(), folder)
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("layers.png", "similarity.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    for state in ("initial", "trained"):
        read = summary[state]
        shares = np.array([read["gradient_share"], read["any_share"]])
        assert np.all(shares[0] <= shares[1] + 1e-5)
        assert np.all((shares >= 0) & (shares <= 1 + 1e-5))
        assert np.allclose(np.diag(read["cka"]), 1, atol=1e-5)


def test_bad_settings_are_refused_by_name():
    with pytest.raises(UserError, match="network.depth is 0"):
        load("network.depth=0")
