"""Recipes: found by name or path, resolved to every default, written back with their sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import JSON, Config, apply_overrides, load_yaml, validate
from pipeline.errors import ConfigError
from pipeline.stage import Recipe


def packaged_names() -> list[str]:
    """Return the names of the packaged recipes."""
    folder = resources.files("pipeline.recipes")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find(name_or_path: str) -> Path:
    """Return the file of a packaged recipe or the path given.

    Raises:
        ConfigError: If it is neither; lists the packaged names.
    """
    if name_or_path in packaged_names():
        return Path(str(resources.files("pipeline.recipes") / f"{name_or_path}.yaml"))
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise ConfigError(
        f"recipe {name_or_path!r}: neither a file nor a packaged recipe; "
        f"packaged are {', '.join(packaged_names())}"
    )


def resolve(
    recipe_type: type[Recipe], name_or_path: str, overrides: Sequence[str]
) -> tuple[Recipe, str]:
    """Read, override and validate a recipe.

    Returns:
        The recipe, and its YAML text with every default explicit and the source of each value.

    Raises:
        ConfigError: With every mistake at once.
    """
    path = find(name_or_path)
    given = load_yaml(path)
    recipe = validate(recipe_type, apply_overrides(given, overrides), str(path))
    sources = {dotted: "default" for dotted, _ in _leaves(recipe)}
    sources |= {dotted: path.name for dotted, _ in _leaves(given)} | _comments(path)
    for pair in overrides:
        dotted = pair.partition("=")[0].strip()
        below = [leaf for leaf in sources if leaf == dotted or leaf.startswith(f"{dotted}.")]
        sources |= dict.fromkeys(below, "--set")
    return recipe, _render(recipe, sources)


def _leaves(section: Config | JSON, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = section if isinstance(section, dict) else section.settings()
    for name, value in items.items():
        if isinstance(value, (Config, dict)) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _comments(path: Path) -> dict[str, str]:
    """Return the trailing comment of each value's line: the recipe's own word on its source."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = {}

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            _, mark, comment = lines[key.start_mark.line].rpartition("  # ")
            if mark:
                found[dotted] = f"{path.name}: {comment.strip()}"
            walk(value, f"{dotted}.")

    walk(yaml.compose(text), "")
    return found


def _render(
    section: Config | JSON, sources: dict[str, str], prefix: str = "", indent: str = ""
) -> str:
    lines = []
    items = section if isinstance(section, dict) else section.settings()
    for name, value in items.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, (Config, dict)) and value:
            lines.append(
                f"{indent}{name}:\n" + _render(value, sources, f"{dotted}.", indent + "  ")
            )
        else:
            plain = yaml.safe_dump(
                _plain(value), default_flow_style=True, width=10_000, allow_unicode=True
            ).removesuffix("\n...\n").rstrip("\n")  # fmt: skip
            lines.append(f"{indent}{name}: {plain}  # {sources.get(dotted, 'default')}\n")
    return "".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
