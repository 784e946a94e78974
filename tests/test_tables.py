"""The tables hold everything public, and the rooms keep to their walls."""

import ast
import inspect
import pathlib

import pytest

import transportx as tx
from tests import tables

LIBRARY = pathlib.Path(tx.__file__).parent
ROOMS = sorted(path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists())


def _concrete_classes(room):
    classes = {value for value in vars(room).values() if inspect.isclass(value)}
    return {cls for cls in classes if not inspect.isabstract(cls)}


@pytest.mark.parametrize(
    ("room", "base", "table"),
    [
        (tx.geometry, tx.geometry.AbstractCost, tables.COSTS),
        (tx.couplings, tx.couplings.AbstractCoupling, tables.COUPLINGS),
        (tx.interpolants, tx.interpolants.AbstractInterpolant, tables.INTERPOLANTS),
    ],
)
def test_every_public_class_is_in_its_table(room, base, table):
    public = {cls for cls in _concrete_classes(room) if issubclass(cls, base)}
    assert public == {type(item) for item in table.values()}


def test_every_public_field_is_in_a_table():
    fields = list(tables.FIELDS.values())
    fields += [field for field, _, _ in tables.CONDITIONED_FIELDS.values()]
    fields += [flow_map for flow_map, _ in tables.FLOW_MAPS.values()]
    public = {cls for cls in _concrete_classes(tx.fields) if "__call__" in vars(cls)}
    assert public == {type(field) for field in fields}


# Names that two rooms export for two objects of one meaning, each with its reason.
ONE_MEANING = {
    "flow": "an initial state carried along its velocity: that of a field, or of a functional",
    "wasserstein2": "W2, not its square: of samples in metrics, in closed form in gaussians",
}
# Names that a second room exports for the very same object.
REEXPORTS = {"sliced_wasserstein", "uniform_grid"}


def test_no_two_rooms_export_one_name_for_two_things():
    owners: dict[str, dict[str, object]] = {}
    for room in ROOMS:
        for name, thing in vars(getattr(tx, room)).items():
            if not (name.startswith("_") or inspect.ismodule(thing)):
                owners.setdefault(name, {})[room] = thing
    shared = {name: things for name, things in owners.items() if len(things) > 1}
    same = {name for name, things in shared.items() if len(set(map(id, things.values()))) == 1}
    assert same == REEXPORTS
    assert set(shared) - same == set(ONE_MEANING), shared


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_each_other_by_public_names(room):
    for path in (LIBRARY / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transportx."):
                _, owner, *inside = (node.module or "").split(".")
                public = inside in ([], ["internal"])
                assert owner == room or public, f"{path} reaches into {node.module}"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is_for_and_exports_by_name(room):
    tree = ast.parse((LIBRARY / room / "__init__.py").read_text())
    text = ast.get_docstring(tree) or ""
    assert len(text.split()) > 30
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom)
        assert all(alias.asname == alias.name for alias in node.names)
