"""Typed, frozen configuration from YAML, with every error reported at once; fingerprints of it."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from pipeline.errors import ConfigError

JSON = dict[str, Any]

EXECUTION_ONLY = "execution only"
"""Annotates a field that changes how work is done or shown but never its result: not hashed."""


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Number = Annotated[float, BeforeValidator(_no_boolean)]
"""A float from a recipe: `3e-5`, which YAML reads as text, is one; `true` is none."""


class Config(BaseModel):
    """Base of every configuration section: frozen, no unknown keys, no infinities.

    Each field states its unit and range in its docstring, which becomes its description.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> JSON:
        """Return the fields that shape the result; those marked EXECUTION_ONLY are left out."""
        fields = type(self).model_fields
        return {
            fields[name].alias or name: value.identity() if isinstance(value, Config) else value
            for name, value in self
            if EXECUTION_ONLY not in fields[name].metadata
        }

    def settings(self) -> JSON:
        """Return this section's values by the names that a recipe uses (`lambda`, not `lambda_`)."""
        fields = type(self).model_fields
        return {fields[name].alias or name: value for name, value in self}


ConfigT = TypeVar("ConfigT", bound=Config)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a plain word", problem_mark=key_node.start_mark
                )
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> JSON:
    """Read a YAML mapping.

    Raises:
        ConfigError: If the file is missing, is no YAML mapping, or gives a key twice; names the line.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({error})") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(loaded).__name__}")
    return loaded


def apply_overrides(settings: JSON, overrides: Iterable[str]) -> JSON:
    """Set `section.key=value` pairs in a copy of nested settings; values are read as YAML.

    Raises:
        ConfigError: If a pair has no `=`, its value is not YAML, or it goes through a plain value.
    """
    merged: JSON = _deep_copy(settings)
    for pair in overrides:
        dotted, separator, text = pair.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError(f"--set {pair!r}: expected section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair!r}: the value is not valid YAML") from error
        *parents, leaf = dotted.strip().split(".")
        section = merged
        for depth, name in enumerate(parents):
            child = section.get(name)
            if child is None:
                child = section[name] = {}
            if not isinstance(child, dict):
                path = ".".join(parents[: depth + 1])
                raise ConfigError(f"--set {pair!r}: {path} is a value ({child!r}), not a section")
            section = child
        section[leaf] = value
    return merged


def _deep_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deep_copy(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_deep_copy(child) for child in value]
    return value


def validate(config_type: type[ConfigT], settings: JSON, source: str) -> ConfigT:
    """Build the typed configuration, or report every mistake in it at once.

    Args:
        config_type: The configuration to build.
        settings: Nested plain values.
        source: Where they came from, for the message.

    Raises:
        ConfigError: One line a mistake: dotted path, value, what is allowed, the nearest known key.
    """
    try:
        return config_type.model_validate(settings)
    except ValidationError as error:
        lines = [_describe(config_type, details) for details in error.errors(include_url=False)]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        raise ConfigError("\n  ".join([f"{source}: {count}", *lines])) from None


def _describe(config_type: type[Config], details: Any) -> str:
    location = [str(part) for part in details["loc"]]
    parent, known = _section_at(config_type, location[:-1])
    kind, value = details["type"], details["input"]
    is_named = kind in {"extra_forbidden", "missing"}  # the last part is no known field then
    path = [*parent, *location[-1:]] if is_named else _section_at(config_type, location)[0]
    dotted = ".".join(path) or "(whole recipe)"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        if near:
            return f"{dotted}: unknown key; did you mean {'.'.join([*parent, near[0]])}?"
        return f"{dotted}: unknown key; known here: {', '.join(sorted(known))}"
    if kind == "missing":
        return f"{dotted}: required, but not given; --set {dotted}=VALUE gives it"
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(value, (dict, Config)):
        return f"{dotted}: {message}"
    return f"{dotted}: {message} (got {value!r})"


def _section_at(config_type: type[Config], location: list[str]) -> tuple[list[str], list[str]]:
    """Follow a pydantic error location to the section it names; union tags are passed over."""
    section: list[type[Config]] = [config_type]
    path: list[str] = []
    for name in location:
        fields = {
            field.alias or key: field.annotation
            for option in section
            for key, field in option.model_fields.items()
        }
        if name in fields:
            section = list(_config_types(fields[name])) or section
            path.append(name)
        else:  # a tag such as "local" that chose one member of a union
            tagged = [option for option in section if _has_tag(option, name)]
            section = tagged or section
    known = {field.alias or key for option in section for key, field in option.model_fields.items()}
    return path, sorted(known)


def _has_tag(option: type[Config], tag: str) -> bool:
    return any(tag in get_args(field.annotation) for field in option.model_fields.values())


def _config_types(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in get_args(annotation):
        yield from _config_types(argument)


def canonical_json(value: Any) -> str:
    """Serialise to the one JSON text that equal values share in every process.

    Raises:
        TypeError: For anything that has no such text (a path, a set, a function, NaN), naming where.
    """
    return json.dumps(
        _canonical(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )


def _canonical(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"cannot fingerprint {where}: {value!r} is not a finite number")
        return value
    if isinstance(value, Config):
        return _canonical(value.settings(), where)
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str)]
        if bad:
            raise TypeError(f"cannot fingerprint {where}: key {bad[0]!r} is not a string")
        return {key: _canonical(child, f"{where}.{key}") for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(child, f"{where}[{index}]") for index, child in enumerate(value)]
    raise TypeError(
        f"cannot fingerprint {where}: {type(value).__name__} has no text that is the same in every "
        "process; use plain numbers, strings, lists and mappings"
    )


def fingerprint(payload: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of the canonical JSON of `payload`."""
    return hashlib.sha256(canonical_json(payload).encode("ascii")).hexdigest()


def diff(old: Any, new: Any, path: str = "") -> list[str]:
    """Say field by field how two payloads differ: `finetune.optimizer.lr 3e-05 -> 1e-05`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted({*old, *new}):
            child = f"{path}.{key}" if path else key
            if key not in old:
                lines.append(f"{child} (absent) -> {_short(new[key])}")
            elif key not in new:
                lines.append(f"{child} {_short(old[key])} -> (absent)")
            else:
                lines += diff(old[key], new[key], child)
        return lines
    same = canonical_json(old) == canonical_json(new)
    return [] if same else [f"{path} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    is_digest = isinstance(value, str) and len(value) == 64
    return text[:12] if is_digest else text if len(text) <= 60 else text[:57] + "..."
