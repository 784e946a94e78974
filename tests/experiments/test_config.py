"""Configs: what is refused, in which words, and that a resolved config reads back equal."""

import contextlib
import dataclasses
import importlib.util
from pathlib import Path

import pytest

from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.train.config import Config

CONFIGS = sorted(p for p in Path("configs").rglob("*.toml") if "[field]" in p.read_text())
DIGITS = Path("configs/digits.toml")


def kind_of(path):
    """The class of a config: that of the command of its name, or else of training."""
    for module in (f"experiments.{path.stem}.run", f"experiments.{path.stem}"):
        if importlib.util.find_spec(f"experiments.{path.stem}") is not None:
            with contextlib.suppress(ModuleNotFoundError):
                return importlib.import_module(module).Config
    return Config


def flat(config):
    """Values by dotted key, in the order of the config."""
    table = dataclasses.asdict(config)
    sections = {k: v for k, v in table.items() if isinstance(v, dict)}
    inner = {f"{name}.{key}": v for name, values in sections.items() for key, v in values.items()}
    return {k: v for k, v in table.items() if k not in sections} | inner


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
        ("training.learning_rate=0.0", "training.learning_rate is 0.0; it must be positive"),
        ("training.average_decay=1.0", "training.average_decay is 1.0; it must be below 1"),
        ("training.microbatches=0", "training.microbatches is 0"),
        ("training.microbatches=3", "it must divide the 128 examples of a device"),
        ("training.label_dropout=1.5", "training.label_dropout is 1.5; it must be at most 1"),
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
        ("seed=-1", "seed is -1; it must be at least 0"),
        ("seed", "write section.key=value"),
        ("seed=4_294_967_296", "seed is 4294967296; it must be below 4294967296"),
        ("seed=9_223_372_036_854_775_808", "seed is 9223372036854775808; it must be below"),
        ("training.steps=2_147_483_648", "it must be below 2147483648"),
        ("training.learning_rate=nan", "training.learning_rate is nan; it must be a finite"),
        ("training.learning_rate=inf", "training.learning_rate is inf; it must be a finite"),
        ("sampling.guidance=nan", "sampling.guidance is nan; it must be a finite number"),
        ("training.label_dropout=nan", "training.label_dropout is nan"),
        ("training.steps=2024-01-01", "training.steps is '2024-01-01'; it must be a valid int"),
        ("coupling.kind=[1]", "coupling.kind is [1]; choose one of independent, assignment"),
        ("coupling.kind={a=1}", "coupling.kind is {'a': 1}; choose one of independent"),
        ("coupling=[1]", "coupling.kind is [1]; choose one of independent"),
        ("coupling={}", "coupling.kind is None; choose one of independent"),
        ("field.products=[1]", "field.products is [1]; choose one of float32, bfloat16"),
        ("data.name={}", "data.name is {}; choose one of digits"),
        ("coupling={kind='entropic', epsilon=-1}", "coupling.epsilon is -1; it must be positive"),
        ("coupling={kind='entropic'}", "missing key coupling.epsilon"),
        ("path={kind='brownian_bridge', sigma=nan}", "path.sigma is nan"),
        ("training.steps=7\nseed=1", "training.steps is '7\\nseed=1'; it must be a valid integer"),
        ("training.steps=7 # or so", "training.steps is '7 # or so'; it must be a valid integer"),
        ("training.steps=7, 8", "training.steps is '7, 8'; it must be a valid integer"),
        ("training.steps=", "training.steps is ''; it must be a valid integer"),
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


def test_a_config_that_is_not_utf8_or_whose_smoke_size_is_no_section_is_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes("# für kurze Läufe\nseed = 1".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.toml is not UTF-8 \(byte 3\); save it as UTF-8"):
        configs.load(Config, tmp_path / "latin.toml")
    (tmp_path / "smoke.toml").write_text("smoke = 3\n" + DIGITS.read_text().split("[smoke]")[0])
    with pytest.raises(UserError, match="smoke must be a section, not 3"):
        configs.load(Config, tmp_path / "smoke.toml")


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.toml")), ids=lambda p: p.stem)
def test_no_config_of_ours_takes_a_number_that_is_not_finite(path):
    """Of every command: each number in turn is NaN or infinite, and is refused by its key."""
    kind = kind_of(path)
    for key, value in flat(configs.load(kind, path)).items():
        for bad in ("nan", "inf", "-inf") if isinstance(value, int | float) else ():
            with pytest.raises(UserError) as refusal:
                configs.load(kind, path, overrides=[f"{key}={bad}"])
            assert str(refusal.value).startswith(f"{key} is {bad}; it must be ")


def test_points_need_a_network_for_points():
    overrides = ["data={kind='points', source='moons', target='moons'}"]
    with pytest.raises(UserError, match="points need an mlp"):
        configs.load(Config, DIGITS, overrides=overrides)
