"""What a run is: TOML read into frozen dataclasses by pydantic; a refusal is one line.

A section of a config is a class under `section`, whose annotations say what its values may
be. Unknown keys, wrong types and numbers that are not finite are refused in every section.
"""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from experiments.harness.command import UserError

T = TypeVar("T")
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Several = Annotated[int, Field(ge=2, lt=2**31)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# Keys of JAX are made of the lower 32 bits.
Seed = Annotated[int, Field(ge=0, lt=2**32)]

_SHORTER = {
    "greater than 0": "positive",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}
_UNKNOWN = "unexpected_keyword_argument"
_STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def section(kind: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked as its annotations say."""
    made = pydantic.dataclasses.dataclass(kind, config=_STRICT, frozen=True, kw_only=True)
    return typing.cast(type[T], made)


@section
class Seeded:
    """A run whose random numbers all follow from one seed."""

    seed: Seed


def load(kind: type[T], path: Path, *, overrides: Sequence[str] = (), smoke: bool = False) -> T:
    """Read a config, a `section` of sections.

    `overrides` are `section.key=value`, values as in TOML. The table `[smoke]` holds overrides
    that make a run of seconds, used when `smoke`.
    """
    table = _read(path)
    smoke_table = table.pop("smoke", {})
    if not isinstance(smoke_table, dict):
        raise UserError(f"smoke must be a section, not {smoke_table!r}")
    for key, value in _flatten(smoke_table).items() if smoke else ():
        _assign(table, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: write section.key=value")
        _assign(table, key.strip(), _value(text.strip()))
    try:
        # As JSON: a strict reader of Python objects asks for dataclasses where it gets tables.
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(table, default=str))
    except pydantic.ValidationError as error:
        # A key that is unknown is why another is missing.
        first = min(error.errors(), key=lambda found: found["type"] != _UNKNOWN)
        raise UserError(_refusal(first, kind)) from error


def dump(config: Any) -> str:
    """The config, a dataclass, as TOML that `load` reads back to an equal one."""
    table = dataclasses.asdict(config)
    lines = [f"{k} = {json.dumps(v)}" for k, v in table.items() if not isinstance(v, dict)]
    for name, values in table.items():
        if isinstance(values, dict):
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def differences(config: Any, other: Any) -> list[str]:
    """Dotted keys at which two configs differ."""
    first, second = _flatten(dataclasses.asdict(config)), _flatten(dataclasses.asdict(other))
    return sorted(k for k in first.keys() | second.keys() if first.get(k) != second.get(k))


def require(holds: bool, key: str, message: str) -> None:
    """Refuse a value: the message goes on from the name of its key."""
    if not holds:
        raise UserError(f"{key} {message}")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no config file at {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _assign(table: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for name in sections:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{dotted}: {name} is a value, not a section")
    table[key] = value


def _value(text: str) -> Any:
    """A TOML value; what is not one, such as a bare word, is a string."""
    try:
        # What follows shows whether the text ends in a comment, or is more than one value.
        value, *rest = tomllib.loads(f"value = [{text}, 0]")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if rest == [0] else text


def _refusal(error: Any, config: Any) -> str:
    """What pydantic found wrong in a config, in one line."""
    keys: list[str] = []
    owner: Any = config
    kind: Any = config
    for part in error["loc"]:
        if isinstance(kind, types.UnionType):
            kind = _choices(kind)[part]
        elif isinstance(part, int):
            keys[-1] += f"[{part}]"
        else:
            keys, owner, kind = [*keys, part], kind, typing.get_type_hints(kind).get(part)
    where, value = ".".join(keys), error["input"]
    if error["type"] == _UNKNOWN:
        known = ", ".join(field.name for field in dataclasses.fields(owner))
        return f"unknown key {where}; known: {known}"
    if error["type"] == "missing":
        return f"missing key {where}"
    if isinstance(kind, types.UnionType):
        got = value.get("kind") if isinstance(value, dict) else value
        return f"{where}.kind is {got!r}; choose one of {', '.join(_choices(kind))}"
    if dataclasses.is_dataclass(kind):
        return f"{where} must be a section, not {value!r}"
    if typing.get_origin(kind) is typing.Literal:
        return f"{where} is {value!r}; choose one of {', '.join(typing.get_args(kind))}"
    must = error["msg"].removeprefix("Input should be ")
    for long, short in _SHORTER.items():
        must = must.replace(long, short)
    return f"{where} is {value!r}; it must be {must}"


def _choices(union: Any) -> dict[str, Any]:
    """The sections of a union, by their `kind`."""
    sections = typing.get_args(union)
    return {typing.get_args(typing.get_type_hints(s)["kind"])[0]: s for s in sections}
