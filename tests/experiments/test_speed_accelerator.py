"""The benchmark of accelerators where there are none."""

import json
import sys

import numpy as np
import pytest

from experiments import speed_accelerator
from experiments.harness.command import UserError


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["speed_accelerator", *options])
    speed_accelerator.main()


def test_it_says_that_there_is_no_accelerator(monkeypatch):
    with pytest.raises(UserError, match="no accelerator.*--smoke"):
        run(monkeypatch)


def test_a_smoke_run_checks_interpreted_kernels(monkeypatch, tmp_path, capsys):
    run(monkeypatch, "--smoke", "--rounds", "1", "--out", str(tmp_path / "figures.json"))
    (cell,) = json.loads((tmp_path / "figures.json").read_text())["cells"].values()
    assert set(cell["differs"]) == {"XLA tiles", "tpu kernels", "cuda kernels"}
    # Rounding of float32 on ten iterations with exponents of about 20.
    assert max(cell["differs"].values()) < 1e-4
    assert not cell["absent"]
    assert "| 150, 20 | cuda kernels |" in capsys.readouterr().out


def test_the_loop_of_kernels_is_sinkhorns():
    points = speed_accelerator.draw(40, 12)
    x, y = (cloud.astype(np.float64) for cloud in points)
    epsilon = 0.1
    exponents = -np.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=2) / epsilon
    f = g = np.zeros(40)
    for _ in range(10):
        f = -np.log(np.mean(np.exp(exponents + g[None, :]), axis=1))
        g = -np.log(np.mean(np.exp(exponents + f[:, None]), axis=0))
    # Costs of about two, rounded to float32 and divided by epsilon.
    np.testing.assert_allclose(speed_accelerator.fused(points)(), epsilon * f, atol=1e-5)
