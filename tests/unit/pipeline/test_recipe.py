"""Recipes: each packaged one is right, and its resolved text says the same thing again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.recipe import find, packaged_names, resolve
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

OWN_DATA = {"small": ["fetch.dataset.path=/data"]}
"""What a recipe for a folder of one's own leaves to the command line."""


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), value


def line_of(text: str, dotted: str) -> str:
    """Find the line of a value in block-style YAML by its path."""
    path: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = [*path[:depth], line.strip().partition(":")[0]]
        if ".".join(path) == dotted:
            return line
    raise AssertionError(f"{dotted} is not in the text")


def resolved(name: str) -> tuple[SummarizationRecipe, str]:
    recipe, text = resolve(SummarizationRecipe, name, OWN_DATA.get(name, []))
    assert isinstance(recipe, SummarizationRecipe)
    return recipe, text


@pytest.fixture(params=packaged_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_is_a_demo() -> None:
    assert "demo" in packaged_names()


def test_every_section_of_a_recipe_is_a_stage_and_every_stage_has_one() -> None:
    sections = set(SummarizationRecipe.model_fields) - {"name", "seed"}
    assert sections == {stage.name for stage in STAGES}


def test_a_packaged_recipe_carries_its_file_name(name: str) -> None:
    assert resolved(name)[0].name == name


def test_every_value_of_the_file_is_in_the_resolved_recipe(name: str) -> None:
    given = yaml.safe_load(find(name).read_text(encoding="utf-8"))
    values = dict(leaves(yaml.safe_load(resolved(name)[1])))
    for dotted, value in leaves(given):
        shown = values[dotted]
        assert shown == (float(value) if isinstance(shown, float) else value), dotted


def test_the_resolved_text_reads_back_as_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe, text = resolved(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    again, text_again = resolve(SummarizationRecipe, str(path), [])
    assert again == recipe
    assert yaml.safe_load(text_again) == yaml.safe_load(text)


def test_every_comment_of_the_file_is_kept(name: str) -> None:
    file = find(name).read_text(encoding="utf-8")
    text = resolved(name)[1]
    for line in file.splitlines():
        value, mark, comment = line.rpartition("  # ")
        if mark and not value.lstrip().startswith("#"):
            assert comment.strip() in text


def test_every_value_has_its_source() -> None:
    text = resolve(SummarizationRecipe, "demo", ["finetune.optimizer.lr=3e-5"])[1]
    assert line_of(text, "finetune.optimizer.lr").endswith("  # --set")
    assert line_of(text, "finetune.optimizer.eps").endswith("  # demo.yaml")
    assert line_of(text, "score.stemmer").endswith("  # default")


def test_an_override_beats_the_file_and_its_comment() -> None:
    text = resolve(SummarizationRecipe, "demo", ["finetune.dropout=0.25"])[1]
    assert line_of(text, "finetune.dropout").strip() == "dropout: 0.25  # --set"


@pytest.mark.parametrize(
    "text",
    ["a\nb", "x  # y", "k: v", "'\"", "- a", "null", "1e5", "2024-01-01", " lead", "#", "\t", "été",
     "x" * 300 + " " + "y" * 300, "...", "a\n...\n", "{}", "*a", "&a", "!x", "%", "@"],
)  # fmt: skip
def test_any_text_survives_resolving(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    dataset = {"source": "local", "path": f"{folder}/{text}", "columns": {"document": text}}
    overrides = [f"name={json.dumps(text)}", f"fetch.dataset={json.dumps(dataset)}"]
    recipe, shown = resolve(SummarizationRecipe, "demo", overrides)
    assert recipe.name == text
    path = tmp_path / "recipe.yaml"
    path.write_text(shown, encoding="utf-8")
    assert resolve(SummarizationRecipe, str(path), [])[0] == recipe


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("fetch.model.heads=5", "fetch.model"),
        ("generate.early_stopping=5", "generate.early_stopping"),
        ("generate.min_length=500", "generate"),
        ("finetune.schedule.warmup_updates=1000000", "finetune"),
        ("finetune.optimizer.betas=[0.9]", "finetune.optimizer.betas.1"),
        ("finetune.batch.lanes=true", "finetune.batch.lanes"),
        ("finetune=3", "finetune"),
        ("score.lead.unit=pages", "score.lead.unit"),
    ],
)
def test_a_mistake_is_told_by_the_path_that_set_takes(override: str, path: str) -> None:
    with pytest.raises(ConfigError) as failure:
        resolve(SummarizationRecipe, "demo", [override])
    lines = str(failure.value).splitlines()[1:]
    assert {line.strip().partition(":")[0] for line in lines} == {path}


@pytest.mark.parametrize("key", ["seed", "finetune.optimizer.lr", "finetune.dropout"])
def test_a_boolean_is_no_number_in_a_recipe(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        resolve(SummarizationRecipe, "demo", [f"{key}=true"])


def test_an_unknown_recipe_lists_the_packaged_ones() -> None:
    with pytest.raises(ConfigError) as failure:
        find("no-such-recipe")
    assert all(name in str(failure.value) for name in ["no-such-recipe", *packaged_names()])


def test_a_recipe_can_be_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(find("demo").read_text(encoding="utf-8"), encoding="utf-8")
    by_path = resolve(SummarizationRecipe, str(path), [])[0]
    assert by_path == resolve(SummarizationRecipe, "demo", [])[0]


def test_execution_settings_of_finetune_are_no_part_of_its_identity() -> None:
    finetune = resolved("demo")[0].finetune
    hidden = finetune.settings().keys() - finetune.identity().keys()
    assert hidden == {"validate_every", "checkpoint_every", "keep_checkpoints", "log_every"}
