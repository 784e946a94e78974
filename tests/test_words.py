"""Docstrings say what a reader needs: every parameter, in words of its own."""

import ast
import re

from tests import public

_HEADINGS = ("Args:", "Attributes:")
# What opens a description badly: "As in X" sends the reader away, "Of the target." has no subject.
_HABITS = re.compile(
    r"^\w+: (as (in|for|of|at)\b|of\b|given\.)|\b(arguments|errors).* as (in )?`", re.I
)
# A first line that opens so says about a thing, but does not name it.
_NAMELESS = re.compile(r"(what|of|as|how|where)\b", re.I)
_THINGS = "number|weight|time|matrix|mean|noise|draw|step|evaluation|product|label"
_OWNERS = "call|point|example|token|component|step|row|class|chunk|degree|target|head|cell|pair"
# English says "one number per point".
_A_POINT = re.compile(rf"\b({_THINGS})s? an? ({_OWNERS}|neuron|layer|record|particle)\b")


def _parameters(node):
    """Names that a caller passes, or reads as fields, in order."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs]
        return [each.arg for each in every if each and each.arg not in ("self", "cls")]
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            return _parameters(inner)
    fields = [inner for inner in node.body if isinstance(inner, ast.AnnAssign)]
    names = [ast.unparse(field.target) for field in fields if not _is_of_the_class(field)]
    return [name for name in names if not name.startswith("_")]


def _is_of_the_class(field):
    """Whether a field is a constant that a class fixes, which no caller passes."""
    return any(word in ast.unparse(field.annotation) for word in ("ClassVar", "AbstractVar"))


def _described(docstring):
    """Names with a description under `Args:` or `Attributes:`; `x, y: text` describes both."""
    names, inside = set(), False
    for line in docstring.splitlines():
        if line.strip() and not line.startswith(" "):
            inside = line.strip() in _HEADINGS
        elif inside and (entry := re.match(r"    \*?(\w+(?:, \w+)*): \S", line)):
            names |= set(entry[1].split(", "))
    return names


def test_every_parameter_is_described():
    missing = []
    for thing in public.everything():
        names = _parameters(thing.node)
        silent = [name for name in names if name not in _described(thing.docstring)]
        if len(names) >= 3 and silent:
            missing.append(f"{thing.name}: {', '.join(silent)}")
    assert not missing, "\n".join(missing)


def test_descriptions_are_whole_sentences_of_their_own():
    habits = [
        f"{name}: {line.strip()}"
        for name, text in public.docstrings()
        for line in text.splitlines()
        if _HABITS.search(line.strip()) or _A_POINT.search(line)
    ]
    assert not habits, "\n".join(habits)


def test_no_function_has_more_than_ten_arguments():
    crowded = [
        f"{thing.name}: {len(_parameters(thing.node))} arguments"
        for thing in public.everything()
        if len(_parameters(thing.node)) > 10
    ]
    assert not crowded, "\n".join(crowded)


def test_first_lines_name_the_thing():
    nameless = [
        f"{name}: {text.splitlines()[0]}"
        for name, text in public.docstrings()
        if _NAMELESS.match(text)
    ]
    assert not nameless, "\n".join(nameless)
