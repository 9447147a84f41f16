"""Configuration: every mistake at once, identity apart from execution, one text for equal values."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, StrictBool, StrictInt

from pipeline.config import (
    EXECUTION_ONLY,
    Config,
    apply_overrides,
    canonical_json,
    diff,
    fingerprint,
    load_yaml,
    validate,
)
from pipeline.errors import ConfigError


class Cat(Config):
    kind: Literal["cat"]
    lives: Annotated[StrictInt, Field(ge=1)] = 9


class Dog(Config):
    kind: Literal["dog"]
    barks: StrictBool = True


class Optimizer(Config):
    lr: Annotated[float, Field(gt=0)] = 3e-5
    lambda_: Annotated[float, Field(alias="lambda")] = 1.0
    log_every: Annotated[StrictInt, EXECUTION_ONLY] = 10


class Home(Config):
    rooms: StrictInt
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat(kind="cat")
    heating: StrictBool | Literal["auto"] = True
    limit: Annotated[float, Field(gt=0)] | None = None
    optimizer: Optimizer = Optimizer()
    color: Annotated[str, EXECUTION_ONLY] = "red"


def mistakes(settings: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        validate(Home, settings, "home.yaml")
    return [line.strip() for line in str(failure.value).splitlines()[1:]]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_mistakes_are_told_at_once_by_dotted_path() -> None:
    found = mistakes({"rooms": "many", "optimizer": {"lr": -1, "lrr": 2}, "garden": 1})
    assert [line.partition(":")[0] for line in found] == [
        "rooms",
        "optimizer.lr",
        "optimizer.lrr",
        "garden",
    ]


def test_a_missing_key_is_told_by_name() -> None:
    assert [line.partition(":")[0] for line in mistakes({})] == ["rooms"]


@pytest.mark.parametrize(
    ("settings", "wrong", "meant"),
    [
        ({"optimiser": {}}, "optimiser", "optimizer"),
        ({"optimizer": {"log_evry": 2}}, "optimizer.log_evry", "optimizer.log_every"),
        ({"optimizer": {"lambda_": 2.0}}, "optimizer.lambda_", "optimizer.lambda"),
        ({"pet": {"kind": "cat", "live": 3}}, "pet.live", "pet.lives"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known(
    settings: dict[str, Any], wrong: str, meant: str
) -> None:
    (line,) = mistakes({"rooms": 3, **settings})
    assert line.startswith(f"{wrong}:")
    assert f"{meant}?" in line


def test_an_unknown_key_of_a_union_is_only_compared_with_the_chosen_member() -> None:
    (line,) = mistakes({"rooms": 3, "pet": {"kind": "dog", "zzz": 3}})
    assert "barks" in line
    assert "lives" not in line


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"pet": {"kind": "cat", "lives": 0}}, "pet.lives"),
        ({"pet": {"kind": "cow"}}, "pet"),
        ({"pet": {}}, "pet"),
        ({"heating": 5}, "heating"),
        ({"heating": "off"}, "heating"),
        ({"limit": -1.0}, "limit"),
    ],
    ids=str,
)
def test_a_path_names_keys_only_and_never_the_member_of_a_union(
    settings: dict[str, Any], path: str
) -> None:
    assert {line.partition(":")[0] for line in mistakes({"rooms": 3, **settings})} == {path}


@pytest.mark.parametrize("value", [True, False, "3", 3.0, 3.5, None])
def test_a_strict_integer_takes_nothing_else(value: Any) -> None:
    (line,) = mistakes({"rooms": value})
    assert line.startswith("rooms:")
    assert repr(value) in line


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_number_must_be_finite(value: float) -> None:
    assert mistakes({"rooms": 1, "optimizer": {"lr": value}})


def test_configuration_cannot_be_changed() -> None:
    home = validate(Home, {"rooms": 3}, "home.yaml")
    with pytest.raises(ValueError, match="frozen"):
        home.rooms = 4  # type: ignore[misc]


@pytest.mark.parametrize("text", ["3e-5", "3.0e-5", "0.00003", "3E-05"])
def test_a_number_in_any_notation_is_the_same_number(text: str) -> None:
    settings = apply_overrides({"rooms": 1}, [f"optimizer.lr={text}"])
    assert validate(Home, settings, "home.yaml").optimizer.lr == 3e-5


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("a.b=1", {"a": {"b": 1, "kept": 0}}),
        ("a.new.deep=x", {"a": {"new": {"deep": "x"}, "kept": 0}}),
        ("a.b=", {"a": {"b": None, "kept": 0}}),
        ("a.b=x=y", {"a": {"b": "x=y", "kept": 0}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2], "kept": 0}}),
        ("a={c: 1}", {"a": {"c": 1}}),
        (" a.b =yes", {"a": {"b": True, "kept": 0}}),
        ("a.b='1'", {"a": {"b": "1", "kept": 0}}),
    ],
)
def test_an_override_sets_one_value(pair: str, expected: dict[str, Any]) -> None:
    given = {"a": {"kept": 0}}
    assert apply_overrides(given, [pair]) == expected
    assert given == {"a": {"kept": 0}}


def test_the_last_override_of_a_key_wins() -> None:
    assert apply_overrides({}, ["a.b=1", "a.b=2"]) == {"a": {"b": 2}}


@pytest.mark.parametrize("pair", ["a.b", "=1", "", "a.b={", "a.b=[1", "plain.deep=1", "list.0=1"])
def test_an_override_that_cannot_be_is_refused_with_its_text(pair: str) -> None:
    with pytest.raises(ConfigError) as failure:
        apply_overrides({"plain": 3, "list": [1]}, [pair])
    assert repr(pair) in str(failure.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", 3),
        ("top:\n  x: 1\n  y: 2\n  x: 3\n", 4),
        ("top: {x: 1, x: 2}\n", 1),
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 1\n\tb: 2\n", 2),
    ],
)
def test_broken_yaml_is_told_with_file_and_line(text: str, line: int, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as failure:
        load_yaml(path)
    assert f"{path}, line {line}:" in str(failure.value)


@pytest.mark.parametrize(
    "text",
    ["", "- 1\n- 2\n", "only words", "{{name}}: demo\n", "name: \x01\n", "? [a, b]\n: 1\n"],
    ids=["empty", "list", "text", "template", "control character", "list as key"],
)
def test_a_file_that_is_no_mapping_of_settings_is_a_config_error(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load_yaml(path)


def test_bytes_that_are_no_text_are_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load_yaml(path)


def test_yaml_merge_keys_do_what_yaml_says(tmp_path: Path) -> None:
    text = "base: &base {x: 1, y: 2}\nmine:\n  <<: *base\n  y: 3\n"
    assert load_yaml(written(tmp_path, text))["mine"] == {"x": 1, "y": 3}


def test_identity_has_what_shapes_the_result_and_nothing_else() -> None:
    home = validate(Home, {"rooms": 3, "color": "blue"}, "home.yaml")
    assert home.identity() == {
        "rooms": 3,
        "pet": {"kind": "cat", "lives": 9},
        "heating": True,
        "limit": None,
        "optimizer": {"lr": 3e-5, "lambda": 1.0},
    }


def test_execution_settings_do_not_move_a_fingerprint() -> None:
    plain = validate(Home, {"rooms": 3}, "home.yaml")
    other = {"rooms": 3, "color": "blue", "optimizer": {"log_every": 999}}
    shown = validate(Home, other, "home.yaml")
    changed = validate(Home, {"rooms": 3, "optimizer": {"lr": 1e-5}}, "home.yaml")
    assert fingerprint(plain.identity()) == fingerprint(shown.identity())
    assert fingerprint(plain.identity()) != fingerprint(changed.identity())


def test_a_setting_is_known_by_the_name_that_recipes_use() -> None:
    home = validate(Home, {"rooms": 3, "optimizer": {"lambda": 0.5}}, "home.yaml")
    assert home.optimizer.lambda_ == 0.5
    assert home.optimizer.settings() == {"lr": 3e-5, "lambda": 0.5, "log_every": 10}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": {"b": math.nan}}, "value.a.b"),
        ({"a": [1, math.inf]}, "value.a[1]"),
        ({"a": {1, 2}}, "value.a"),
        ({"a": [{"b": Path("/tmp")}]}, "value.a[0].b"),
        ({"f": print}, "value.f"),
        ({"a": object()}, "value.a"),
        ({"a": b"bytes"}, "value.a"),
        ({"a": {3: 1}}, "value.a"),
    ],
    ids=["nan", "inf", "set", "path", "function", "object", "bytes", "integer key"],
)
def test_what_has_no_stable_text_is_refused_by_place(value: Any, where: str) -> None:
    with pytest.raises(TypeError) as failure:
        canonical_json(value)
    assert f"{where}:" in str(failure.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), PLAIN, min_size=1, max_size=4))
def test_the_order_of_keys_and_the_kind_of_sequence_do_not_matter(payload: dict[str, Any]) -> None:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in reversed(list(value))}
        return tuple(map(reordered, value)) if isinstance(value, list) else value

    assert fingerprint(reordered(payload)) == fingerprint(payload)


@given(PLAIN, PLAIN)
def test_two_payloads_differ_in_diff_exactly_if_their_fingerprints_differ(a: Any, b: Any) -> None:
    same = fingerprint({"x": a}) == fingerprint({"x": b})
    assert (diff({"x": a}, {"x": b}) == []) == same
    assert diff({"x": a}, {"x": a}) == []


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"o": {"lr": 3e-5}}, {"o": {"lr": 1e-5}}, ["o.lr 3e-05 -> 1e-05"]),
        ({"a": 1}, {"a": 1, "b": 2}, ["b (absent) -> 2"]),
        ({"a": 1, "b": None}, {"a": 1}, ["b null -> (absent)"]),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a [1, 2] -> [1, 3]"]),
        ({"a": 1, "b": "x"}, {"a": 2, "b": "y"}, ["a 1 -> 2", "b x -> y"]),
        ({"h": "0" * 64}, {"h": "1" * 64}, [f"h {'0' * 12} -> {'1' * 12}"]),
    ],
)
def test_diff_says_old_and_new_by_field(old: Any, new: Any, lines: list[str]) -> None:
    assert diff(old, new) == lines


PRINT_FINGERPRINTS = """
from pathlib import Path
from pipeline.artifact import RunDir
from pipeline.files import sha256_file
from pipeline.planner import plan
from pipeline.recipe import resolve
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
recipe, _ = resolve(SummarizationRecipe, "demo", [])
for decision in plan(STAGES, recipe, RunDir(Path("/nonexistent")), sha256_file):
    print(decision.stage.name, decision.fingerprint)
"""


def test_another_process_with_another_hash_seed_has_the_same_fingerprints() -> None:
    outputs = set()
    for seed in ("0", "4242"):
        command = [sys.executable, "-c", PRINT_FINGERPRINTS]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.add(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 8
