"""DeepSpeed profiles: found by name or path; they own sharding and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.distributed.profile import (
    OWNED_BY_RECIPE,
    find_profile,
    load_profile,
    profiles_folder,
)
from pipeline.errors import ConfigError
from pipeline.recipe import resolve
from stages.recipe import SummarizationRecipe

NAMES = {"zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"}


def profile(folder: Path, content: object) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_shipped_profiles_are_the_documented_ones() -> None:
    assert {path.stem for path in profiles_folder().glob("*.json")} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_shipped_profile_loads_and_has_the_stage_in_its_name(name: str) -> None:
    loaded = load_profile(find_profile(name))
    assert loaded["zero_optimization"]["stage"] == int(name[4])
    assert ("offload" in name) == ("offload_optimizer" in loaded["zero_optimization"])


def test_a_profile_can_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = profile(tmp_path, {"zero_optimization": {"stage": 1}})
    monkeypatch.chdir(tmp_path)
    assert find_profile("mine.json") == path.resolve()
    assert find_profile(str(path)).is_absolute()


@pytest.mark.parametrize("name", ["zero4", "", "zero2 ", "ZERO2", "../ds_configs"])
def test_an_unknown_profile_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError) as failure:
        find_profile(name)
    assert all(known in str(failure.value) for known in NAMES)


@pytest.mark.parametrize("key", sorted(OWNED_BY_RECIPE))
def test_a_key_that_the_recipe_owns_is_refused_with_its_owner(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as failure:
        find_profile(str(profile(tmp_path, {key: 1, "zero_optimization": {"stage": 2}})))
    assert key in str(failure.value)
    assert OWNED_BY_RECIPE[key] in str(failure.value)


def test_every_owner_is_a_setting_of_the_recipe() -> None:
    values = resolve(SummarizationRecipe, "demo", [])[0]
    for owner in OWNED_BY_RECIPE.values():
        value: object = values
        for name in owner.split("."):
            assert hasattr(value, name), owner
            value = getattr(value, name)


@pytest.mark.parametrize("stage", [4, -1, "2", "auto", None, [2]])
def test_a_stage_that_does_not_exist_is_refused(stage: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage"):
        load_profile(profile(tmp_path, {"zero_optimization": {"stage": stage}}))


@pytest.mark.parametrize("content", [[], "zero2", 3, None, {"zero_optimization": 3}], ids=repr)
def test_json_of_another_shape_is_refused(content: object, tmp_path: Path) -> None:
    path = profile(tmp_path, content)
    with pytest.raises(ConfigError, match=r"mine\.json"):
        load_profile(path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1,}', b"\xff\xfe", b"zero: 2"], ids=repr)
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.json"):
        load_profile(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.json"):
        find_profile(str(tmp_path / "no.json"))
