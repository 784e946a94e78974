"""Configs: what is refused, in which words, and that a resolved config reads back equal."""

import dataclasses
from pathlib import Path

import pytest

from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.train.config import Config

CONFIGS = sorted(p for p in Path("configs").rglob("*.toml") if "[field]" in p.read_text())
DIGITS = Path("configs/digits.toml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [False, True])
def test_every_config_loads_and_reads_back_equal(path, smoke, tmp_path):
    config = configs.load(Config, path, smoke=smoke)
    (tmp_path / "config.toml").write_text(configs.dump(config))
    assert configs.load(Config, tmp_path / "config.toml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_number_in_a_config_differs_from_its_smoke_run_only_as_said(path):
    full, smoke = configs.load(Config, path), configs.load(Config, path, smoke=True)
    assert "training.steps" in configs.differences(full, smoke)
    assert dataclasses.asdict(full)["data"] == dataclasses.asdict(smoke)["data"]


def test_overrides_reach_every_type():
    overrides = ["training.steps=7_000", "training.learning_rate=1", "coupling.kind=independent"]
    config = configs.load(Config, DIGITS, overrides=overrides)
    assert config.training.steps == 7000
    assert config.training.learning_rate == 1.0
    assert config.coupling.kind == "independent"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.stepz=3", "unknown key training.stepz"),
        ("trainning.steps=3", "unknown key trainning"),
        ("training.steps=-3", "training.steps is -3"),
        ("training.steps=2.5", "training.steps is 2.5"),
        ("training.steps=true", "training.steps is True"),
        ("training.learning_rate=fast", "training.learning_rate is 'fast'"),
        ("training.learning_rate=0.0", "training.learning_rate must be positive"),
        ("training.average_decay=1.0", "training.average_decay must be below 1"),
        ("training.microbatches=0", "training.microbatches is 0"),
        ("training.microbatches=3", "it must divide the 128 examples of a device"),
        ("training.label_dropout=1.5", "training.label_dropout must be at most 1"),
        ("training.checkpoint_every=30", "must be a multiple of training.chunk"),
        ("training.steps.deep=1", "steps is a value, not a section"),
        ("training=3", "training must be a section"),
        ("coupling.kind=greedy", "choose one of independent, assignment, entropic"),
        ("coupling=greedy", "coupling.kind is 'greedy'"),
        ("coupling.epsilon=0.1", "unknown key coupling.epsilon"),
        ("path.sigma=0.1", "unknown key path.sigma"),
        ("data.name=cifar", "choose one of digits, mnist, fashion_mnist"),
        ("field.patch=3", "must divide the side 8"),
        ("field.heads=5", "must divide width"),
        ("field.depth=0", "field.depth is 0"),
        ("field.products=int8", "choose one of float32, bfloat16"),
        ("field.keep=nothing", "choose one of everything, products, inputs"),
        ("sampling.steps=0", "sampling.steps is 0"),
        ("sampling.guidance=-1.0", "sampling.guidance is -1.0"),
        ("report.num=1", "report.num is 1"),
        ("seed=-1", "seed must not be negative"),
        ("seed", "write section.key=value"),
    ],
)
def test_bad_settings_are_refused_by_name(override, named):
    with pytest.raises(UserError) as refusal:
        configs.load(Config, DIGITS, overrides=[override])
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_key_is_named(tmp_path):
    text = DIGITS.read_text().replace("batch = 128", "")
    (tmp_path / "short.toml").write_text(text)
    with pytest.raises(UserError, match=r"missing key training\.batch"):
        configs.load(Config, tmp_path / "short.toml")


def test_files_that_are_missing_or_no_toml_are_named(tmp_path):
    with pytest.raises(UserError, match="no config file at"):
        configs.load(Config, tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("seed = = 1")
    with pytest.raises(UserError, match="is not valid TOML"):
        configs.load(Config, tmp_path / "broken.toml")


def test_points_need_a_network_for_points():
    overrides = ["data={kind='points', source='moons', target='moons'}"]
    with pytest.raises(UserError, match="points need an mlp"):
        configs.load(Config, DIGITS, overrides=overrides)
