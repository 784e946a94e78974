"""What a run is: TOML read into frozen dataclasses. Unknown keys and wrong types are errors."""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.harness.command import UserError

T = typing.TypeVar("T")


def load(kind: type[T], path: Path, *, overrides: Sequence[str] = (), smoke: bool = False) -> T:
    """Read a config, a frozen dataclass of sections.

    `overrides` are `section.key=value`, values as in TOML. The table `[smoke]` holds overrides
    that make a run of seconds, used when `smoke`.
    """
    if not path.is_file():
        raise UserError(f"no config file at {path}")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    smoke_table = table.pop("smoke", {})
    if smoke:
        for key, value in _flatten(smoke_table).items():
            _assign(table, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: write section.key=value")
        _assign(table, key.strip(), _parse_value(text.strip()))
    return _parse(kind, table, "")


def dump(config: Any) -> str:
    """The config, a dataclass, as TOML that `load` reads back to an equal one."""
    table = dataclasses.asdict(config)
    lines = [f"{k} = {json.dumps(v)}" for k, v in table.items() if not isinstance(v, dict)]
    for section, values in table.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def differences(config: Any, other: Any) -> list[str]:
    """Dotted keys at which two configs differ."""
    first, second = _flatten(dataclasses.asdict(config)), _flatten(dataclasses.asdict(other))
    return sorted(k for k in first.keys() | second.keys() if first.get(k) != second.get(k))


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
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"{dotted}: {section} is a value, not a section")
    table[key] = value


def _parse_value(text: str) -> Any:
    """A TOML value; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Build `kind`, a dataclass, a union of dataclasses told apart by `kind`, or a scalar."""
    if isinstance(kind, types.UnionType):
        return _parse_choice(typing.get_args(kind), value, where)
    if not dataclasses.is_dataclass(kind):
        return _parse_scalar(kind, value, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a section, not {value!r}")
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in value:
        if key not in fields:
            raise UserError(f"unknown key {_join(where, key)}; known: {', '.join(fields)}")
    for key in fields:
        if key not in value:
            raise UserError(f"missing key {_join(where, key)}")
    parsed = {key: _parse(hints[key], value[key], _join(where, key)) for key in fields}
    return typing.cast(Any, kind)(**parsed)


def _parse_choice(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    names = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
    if not isinstance(value, dict) or value.get("kind") not in names:
        got = value.get("kind") if isinstance(value, dict) else value
        raise UserError(f"{where}.kind is {got!r}; choose one of {', '.join(names)}")
    return _parse(names[value["kind"]], value, where)


def _parse_scalar(kind: Any, value: Any, where: str) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            choices = ", ".join(map(str, typing.get_args(kind)))
            raise UserError(f"{where} is {value!r}; choose one of {choices}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{where} is {value!r}; it must be of type {kind.__name__}")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def require(holds: bool, key: str, message: str) -> None:
    """Refuse a value: the message goes on from the name of its key."""
    if not holds:
        raise UserError(f"{key} {message}")


def positive(section: Any, *keys: str) -> None:
    """Refuse values of a section that are not positive and finite."""
    for key in keys:
        value = getattr(section, key)
        name = f"{type(section).__name__.lower()}.{key}"
        require(0 < value < float("inf"), name, f"is {value}; it must be positive and finite")


def at_least(section: Any, low: int, *keys: str) -> None:
    """Refuse values of a section below a bound."""
    for key in keys:
        value = getattr(section, key)
        name = f"{type(section).__name__.lower()}.{key}"
        require(value >= low, name, f"is {value}; it must be at least {low}")
