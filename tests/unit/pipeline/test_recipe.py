"""Recipes: each packaged one is right, and its resolved text says the same thing again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ConfigError
from pipeline.recipe import explain, find, packaged_names, resolve
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

OWN_DATA = {
    name: ["fetch.dataset.path=/data"]
    for name in packaged_names()
    if name.startswith(("small", "gigaword", "reddit"))
}
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
    sections = set(SummarizationRecipe.model_fields) - {"name", "seed", "sources"}
    assert sections == {stage.name for stage in STAGES}


def test_a_packaged_recipe_carries_its_file_name(name: str) -> None:
    assert resolved(name)[0].name == name


def test_every_value_of_the_file_is_in_the_resolved_recipe(name: str) -> None:
    given = yaml.safe_load(find(name).read_text(encoding="utf-8"))
    given = {key: value for key, value in given.items() if key not in {"base", "sources"}}
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
    assert text_again == text


def test_the_resolved_text_stands_alone(name: str) -> None:
    text = yaml.safe_load(resolved(name)[1])
    values = dict(leaves({key: value for key, value in text.items() if key != "sources"}))
    assert "base" not in text
    assert text["sources"].keys() == values.keys()


def test_every_value_has_its_source() -> None:
    recipe, text = resolve(SummarizationRecipe, "demo", ["finetune.optimizer.lr=3e-5"])
    assert recipe.sources["finetune.optimizer.lr"] == "--set"
    assert recipe.sources["finetune.optimizer.betas"].startswith("[ours]")
    assert recipe.sources["name"] == "demo.yaml"
    assert recipe.sources["score.sentences"] == "default"
    assert yaml.safe_load(text)["sources"] == recipe.sources


def test_a_value_is_explained_beside_it(name: str) -> None:
    recipe = resolved(name)[0]
    text = explain(recipe)
    for dotted, source in recipe.sources.items():
        assert line_of(text, dotted).endswith(f"  # {' '.join(source.split())}")
    values = yaml.safe_load(resolved(name)[1])
    assert {**yaml.safe_load(text), "sources": values["sources"]} == values


def test_an_override_beats_the_file_and_its_source() -> None:
    recipe, _ = resolve(SummarizationRecipe, "demo", ["finetune.dropout=0.25"])
    assert line_of(explain(recipe), "finetune.dropout").strip() == "dropout: 0.25  # --set"


def test_sources_are_given_in_files() -> None:
    with pytest.raises(ConfigError, match=r"--set sources: .* in a file"):
        resolve(SummarizationRecipe, "demo", ["sources={seed: me}"])


def written(folder: Path, **recipes: dict[str, Any]) -> Path:
    """Write recipes to a folder and return the last one's path."""
    for name, values in recipes.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_recipe_is_laid_over_its_base_mapping_by_mapping(tmp_path: Path) -> None:
    mine = {"base": "demo", "name": "mine", "finetune": {"optimizer": {"betas": [0.8, 0.9]}}}
    recipe, _ = resolve(SummarizationRecipe, str(written(tmp_path, mine=mine)), [])
    base = resolved("demo")[0]
    optimizer = base.finetune.optimizer.model_copy(update={"betas": (0.8, 0.9)})
    finetune = base.finetune.model_copy(update={"optimizer": optimizer})
    shared = {"finetune": finetune, "name": "mine", "sources": recipe.sources}
    assert recipe == base.model_copy(update=shared)


def test_bases_are_found_beside_the_recipe_and_stack(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    written(tmp_path, first={"base": "demo", "seed": 5, "finetune": {"updates": 300}})
    second = {"base": "../first.yaml", "name": "second", "finetune": {"updates": 400}}
    recipe, _ = resolve(SummarizationRecipe, str(written(tmp_path / "deep", second=second)), [])
    assert isinstance(recipe, SummarizationRecipe)
    assert (recipe.name, recipe.seed, recipe.finetune.updates) == ("second", 5, 400)
    found = [recipe.sources[dotted] for dotted in ("seed", "finetune.updates", "finetune.dropout")]
    assert found[:2] == ["first.yaml", "second.yaml"]
    assert found[2].startswith("[ours]")


def test_a_replaced_value_does_not_keep_the_source_of_the_old_one(tmp_path: Path) -> None:
    mine = {
        "base": "demo",
        "finetune": {"dropout": 0.3, "updates": 900},
        "sources": {"finetune.updates": "[ours] halved", "finetune.precision": "[ours] agreed"},
    }
    recipe, _ = resolve(SummarizationRecipe, str(written(tmp_path, mine=mine)), [])
    assert recipe.sources["finetune.dropout"] == "mine.yaml"
    assert recipe.sources["finetune.updates"] == "[ours] halved"
    assert recipe.sources["finetune.precision"] == "[ours] agreed"


def test_a_section_of_another_kind_replaces_that_of_the_base(tmp_path: Path) -> None:
    """A base on the Hub leaves nothing behind where its recipe reads local files, nor its sources."""
    mine = {
        "base": "cnn_dm_bart_large",
        "fetch": {"dataset": {"source": "local", "path": "/data"}},
    }
    recipe, _ = resolve(SummarizationRecipe, str(written(tmp_path, mine=mine)), [])
    assert isinstance(recipe, SummarizationRecipe)
    dataset = {"source": "local", "path": "/data"}
    assert recipe.fetch.dataset == type(recipe.fetch.dataset).model_validate(dataset)
    assert recipe.fetch.model == resolved("cnn_dm_bart_large")[0].fetch.model
    assert recipe.sources["fetch.dataset.columns.document"] == "default"
    assert "fetch.dataset.revision" not in recipe.sources


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ({"a": {"base": "b.yaml"}, "b": {"base": "a.yaml"}}, ["circle", "a.yaml -> ", "b.yaml"]),
        ({"a": {"base": "a.yaml"}}, ["a.yaml: base: ", "circle"]),
        ({"a": {"base": "nope"}}, ["a.yaml: base: ", "'nope'", "demo"]),
        ({"a": {"base": ["demo"]}}, ["a.yaml: base: ", "one recipe", "['demo']"]),
        ({"a": {"base": "demo", "seed": "x"}}, ["a.yaml, based on ", "demo.yaml", "seed"]),
        (
            {"a": {"base": "demo", "sources": {"finetune.optimzer.lr": "me"}}},
            ["a.yaml: sources: finetune.optimzer.lr", "did you mean finetune.optimizer.lr?"],
        ),
        ({"a": {"base": "demo", "sources": {"finetune": "me"}}}, ["finetune is not set"]),
        ({"a": {"base": "demo", "sources": ["seed"]}}, ["a.yaml: sources: ", "['seed']"]),
        ({"a": {"base": "demo", "sources": {"seed": 3}}}, ["a.yaml: sources: ", "{'seed': 3}"]),
        ({"a": {"base": "demo", "sources": {"seed": " "}}}, ["a.yaml: sources: "]),
    ],
)
def test_a_mistake_in_base_or_sources_names_its_file(
    recipes: dict[str, dict[str, Any]], told: list[str], tmp_path: Path
) -> None:
    written(tmp_path, **recipes)
    with pytest.raises(ConfigError) as failure:
        resolve(SummarizationRecipe, str(tmp_path / "a.yaml"), [])
    assert all(word in str(failure.value) for word in told), str(failure.value)


def test_what_is_said_of_a_recipe_is_no_part_of_any_identity() -> None:
    recipe = resolved("demo")[0]
    other = recipe.model_copy(update={"sources": {"seed": "elsewhere"}, "name": "other"})
    for stage in STAGES:
        before, after = (stage.payload(one, {}, lambda _: "") for one in (recipe, other))
        assert before == after


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
    path = tmp_path / "demo.yaml"
    path.write_text(find("demo").read_text(encoding="utf-8"), encoding="utf-8")
    by_path = resolve(SummarizationRecipe, str(path), [])[0]
    assert by_path == resolve(SummarizationRecipe, "demo", [])[0]


def test_execution_settings_of_finetune_are_no_part_of_its_identity() -> None:
    finetune = resolved("demo")[0].finetune
    hidden = finetune.settings().keys() - finetune.identity().keys()
    assert hidden == {
        "activation_checkpointing", "checkpoint_every", "device_tflops", "keep_checkpoints", "log_every",
        "max_failed_saves", "same_dropout_every", "tensorboard", "validate_every",
    }  # fmt: skip
