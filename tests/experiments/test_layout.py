"""The folder of experiments: at its top only commands, beside them three folders of helpers."""

import ast
from pathlib import Path

import pytest

import transportx as tx

EXPERIMENTS = Path("experiments")
HELPERS = {"harness", "data", "racing"}
ROOMS = {path.parent.name for path in Path(tx.__file__).parent.glob("*/__init__.py")}


def commands():
    """What can be typed after `python -m experiments.`, each with the file that runs."""
    files = {p.stem: p for p in EXPERIMENTS.glob("*.py") if p.stem != "__init__"}
    folders = {p.parent.name: p for p in EXPERIMENTS.glob("*/__main__.py")}
    return files | folders


def test_the_top_holds_commands_and_three_folders_of_helpers():
    found = {p.stem for p in EXPERIMENTS.iterdir() if not p.name.startswith("__")}
    assert found == set(commands()) | HELPERS | {"README"}
    for path in commands().values():
        assert 'if __name__ == "__main__":' in path.read_text(), path


@pytest.mark.parametrize("path", ["README.md", "experiments/README.md"])
def test_every_command_that_a_readme_names_is_there(path):
    words = Path(path).read_text().replace("`", " ").split()
    named = {word.removeprefix("experiments.") for word in words if word.startswith("experiments.")}
    assert len(named) > 10
    assert named <= set(commands())


def test_no_import_binds_the_name_of_a_room_to_an_experiment():
    for path in [*EXPERIMENTS.rglob("*.py"), *Path("tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments"):
                bound = {alias.asname or alias.name for alias in node.names}
                assert not bound & ROOMS, f"{path} takes {bound & ROOMS} from {node.module}"


def test_helpers_do_not_lean_on_commands():
    for folder in HELPERS:
        for path in (EXPERIMENTS / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                    "experiments."
                ):
                    assert (node.module or "").split(".")[1] in HELPERS, f"{path}: {node.module}"
