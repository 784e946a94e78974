"""Everything public, read from the source: what tests of examples and of words go through."""

import ast
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import transportx as tx

PACKAGE = pathlib.Path(tx.__file__).parent
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
Definition = ast.FunctionDef | ast.ClassDef


class Public(NamedTuple):
    """A public function or class: its name as users write it, and where it is defined."""

    name: str
    file: pathlib.Path
    node: Definition

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""


class Docstring(NamedTuple):
    """A docstring that `help` shows: of the package, a room, something public or its method."""

    name: str
    text: str


@functools.cache
def _definitions(file: pathlib.Path) -> dict[str, Definition]:
    nodes = ast.parse(file.read_text()).body
    return {node.name: node for node in nodes if isinstance(node, Definition)}


def _exports(package: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Names that the `__init__` of a package exports from files, and the files."""
    for node in ast.parse((package / "__init__.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            file = PACKAGE.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
            yield from ((alias.name, file) for alias in node.names if file.exists())


def everything() -> list[Public]:
    """Every public function and class once, in the room that defines it."""
    found = [
        Public(name if package == PACKAGE else f"{package.name}.{name}", file, node)
        for package in (PACKAGE, *(PACKAGE / room for room in ROOMS))
        for name, file in _exports(package)
        if file.parent == package and (node := _definitions(file).get(name))
    ]
    assert len({public.name for public in found}) == len(found)
    return found


def docstrings() -> Iterator[Docstring]:
    """Docstrings of the package, its rooms, everything public, and its public methods."""
    for package in (PACKAGE, *(PACKAGE / room for room in ROOMS)):
        module = ast.parse((package / "__init__.py").read_text())
        yield Docstring(package.name, ast.get_docstring(module) or "")
    for public in everything():
        yield Docstring(public.name, public.docstring)
        for method in public.node.body if isinstance(public.node, ast.ClassDef) else []:
            if isinstance(method, ast.FunctionDef) and (text := ast.get_docstring(method)):
                if method.name == "__call__" or not method.name.startswith("_"):
                    yield Docstring(f"{public.name}.{method.name}", text)
