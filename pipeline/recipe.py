"""Recipes: found by name or path, built on one another, resolved to every value and its source."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.config import JSON, Config, apply_overrides, load_yaml, validate
from pipeline.errors import ConfigError
from pipeline.stage import Recipe

DEFAULT = "default"
"""Source of a value that no file gives."""
COMMAND_LINE = "--set"
"""Source of a value given on the command line."""
KIND = "source"
"""The key that says what a section is, such as `local`; sections of different kinds share nothing."""


def packaged_names() -> list[str]:
    """Return the names of the packaged recipes."""
    folder = resources.files("pipeline.recipes")
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find(name_or_path: str, folder: Path | None = None) -> Path:
    """Return the file of a packaged recipe or the path given.

    Args:
        name_or_path: A packaged name, or the path of a file.
        folder: What a relative path starts from; None for the working directory.

    Raises:
        ConfigError: If it is neither; lists the packaged names.
    """
    if name_or_path in packaged_names():
        return Path(str(resources.files("pipeline.recipes") / f"{name_or_path}.yaml"))
    path = (folder or Path()) / name_or_path
    if path.is_file():
        return path
    raise ConfigError(
        f"recipe {name_or_path!r}: neither a file nor a packaged recipe; "
        f"packaged are {', '.join(packaged_names())}"
    )


def resolve(
    recipe_type: type[Recipe], name_or_path: str, overrides: Sequence[str]
) -> tuple[Recipe, str]:
    """Read a recipe with those it builds on, override and validate it.

    Returns:
        The recipe, its `sources` complete; and its YAML text, which stands alone: every default
        explicit, no base. Resolving that text gives the same recipe and the same text again.

    Raises:
        ConfigError: With every mistake at once.
    """
    layers = _layers(name_or_path)
    given, given_sources = _stacked(layers)
    files = ", based on ".join(str(layer.path) for layer in reversed(layers))
    recipe = validate(recipe_type, apply_overrides(given, overrides), files)
    if recipe.sources:
        raise ConfigError(f"--set sources: give sources in a file, such as {layers[-1].path}")
    sources = {dotted: given_sources.get(dotted, DEFAULT) for dotted, _ in _leaves(_values(recipe))}
    for pair in overrides:
        asked = pair.partition("=")[0].strip()
        below = [leaf for leaf in sources if leaf == asked or leaf.startswith(f"{asked}.")]
        sources |= dict.fromkeys(below, COMMAND_LINE)
    recipe = recipe.model_copy(update={"sources": sources})
    return recipe, _render({**_values(recipe), "sources": sources})


def explain(recipe: Recipe) -> str:
    """Return a resolved recipe as YAML for people: each value with its source beside it."""
    return _render(_values(recipe), recipe.sources)


class _Layer(NamedTuple):
    """What one file gives."""

    path: Path
    settings: JSON
    sources: dict[str, str]


def _layers(name_or_path: str) -> list[_Layer]:
    """Read a recipe and those it builds on, the one without a base first."""
    path = find(name_or_path)
    layers: list[_Layer] = []
    while True:
        settings = load_yaml(path)
        base = settings.pop("base", None)
        layers.insert(0, _Layer(path, settings, _own_sources(path, settings.pop("sources", {}))))
        if base is None:
            return layers
        path = _base_file(base, path)
        if path.resolve() in {layer.path.resolve() for layer in layers}:
            circle = " -> ".join([*(str(layer.path) for layer in reversed(layers)), str(path)])
            raise ConfigError(
                f"{layers[0].path}: base: recipes build on one another in a circle ({circle}); "
                "take one base out"
            )


def _base_file(base: object, path: Path) -> Path:
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected the name or path of one recipe, found {base!r}")
    try:
        return find(base, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from error


def _own_sources(path: Path, sources: object) -> dict[str, str]:
    is_text = isinstance(sources, dict) and all(
        isinstance(key, str) and isinstance(text, str) and text.strip()
        for key, text in sources.items()
    )
    if not isinstance(sources, dict) or not is_text:
        raise ConfigError(
            f"{path}: sources: expected one text a setting, such as "
            f"finetune.optimizer.lr: where it is from; found {sources!r}"
        )
    return sources


def _stacked(layers: Sequence[_Layer]) -> tuple[JSON, dict[str, str]]:
    """Lay the files over one another.

    Returns:
        The nested values, and the source of each by dotted name: the text that goes with the value
        (never that of a value it replaces), else the name of its file.

    Raises:
        ConfigError: If a file gives a source to a setting that neither it nor a base of it sets.
    """
    given: JSON = {}
    sources: dict[str, str] = {}
    for path, settings, own in layers:
        given = _over(given, settings)
        known = {dotted for dotted, _ in _leaves(given)}
        for dotted in own.keys() - known:
            near = difflib.get_close_matches(dotted, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "name one by its full dotted path"
            raise ConfigError(f"{path}: sources: {dotted} is not set in this recipe; {hint}")
        files = {dotted: path.name for dotted, _ in _leaves(settings)}
        sources = {
            dotted: text for dotted, text in (sources | files | own).items() if dotted in known
        }
    return given, sources


def _over(base: JSON, own: JSON) -> JSON:
    """Return `own` laid over `base`, mapping by mapping; a section of another kind replaces it."""
    if KIND in own and KIND in base and own[KIND] != base[KIND]:
        return own
    both = {
        key: _over(base[key], value)
        for key, value in own.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **own, **both}


def _values(recipe: Recipe) -> JSON:
    """Return everything a recipe sets, without what is said about it."""
    return {name: value for name, value in recipe.settings().items() if name != "sources"}


def _leaves(section: Config | JSON, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = section if isinstance(section, dict) else section.settings()
    for name, value in items.items():
        if isinstance(value, (Config, dict)) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _render(
    section: Config | JSON,
    beside: Mapping[str, str] | None = None,
    prefix: str = "",
    indent: str = "",
) -> str:
    """Write YAML in block style; `beside` has the comment of each value by its dotted name."""
    lines = []
    items = section if isinstance(section, dict) else section.settings()
    for name, value in items.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, (Config, dict)) and value:
            below = _render(value, beside, f"{dotted}.", indent + "  ")
            lines.append(f"{indent}{name}:\n{below}")
        else:
            plain = yaml.safe_dump(
                _plain(value), default_flow_style=True, width=10_000, allow_unicode=True
            ).removesuffix("\n...\n").rstrip("\n")  # fmt: skip
            comment = "" if beside is None else f"  # {' '.join(beside[dotted].split())}"
            lines.append(f"{indent}{name}: {plain}{comment}\n")
    return "".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
