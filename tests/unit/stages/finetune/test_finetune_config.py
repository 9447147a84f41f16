"""Settings of fine-tuning that cannot be right are refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError
from pipeline.stage import Execution
from stages.finetune import config as module
from stages.finetune.config import FinetuneConfig, check_launch


def checked(**settings: Any) -> FinetuneConfig:
    return validate(FinetuneConfig, settings, "mine.yaml")


def execution(processes: int) -> Execution:
    return Execution(processes, threads=1, ds_profile=Path("zero2.json"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r4f": {}}, ["r4f", "classification head", "2008.03156, section 3.2", "Use r3f"]),
        ({"r4f": None}, ["r4f: not offered"]),
        (
            {"dropout": 0, "attention_dropout": 0, "r3f": {"noise": "none"}},
            ["r3f.noise none", "both passes the same", "r3f.lambda 0 or a dropout"],
        ),
        (
            {"updates": 10, "schedule": {"warmup_updates": 10}},
            ["schedule.warmup_updates 10", "less than updates 10"],
        ),
        ({"batch": {"lanes": 0}}, ["batch.lanes", "0"]),
        ({"precision": "tf32"}, ["precision", "tf32", "bf16"]),
        ({"r3f": {"sigma": 0}}, ["r3f.sigma"]),
        ({"r3f": {"lambda": -1}}, ["r3f.lambda", "-1"]),
        ({"dropout": 1.0}, ["dropout", "1.0"]),
        ({"selection": {"weights": "worst"}}, ["selection.weights", "worst", "average"]),
        ({"selection": {"every": 0}}, ["selection.every"]),
        ({"nonfinite": {"action": "ignore"}}, ["nonfinite.action", "ignore", "skip"]),
        ({"nonfinite": {"budget": 0}}, ["nonfinite.budget"]),
        ({"schedule": {"decay": "linear"}}, ["schedule.decay", "linear", "cosine"]),
        ({"keep_checkpoints": 0}, ["keep_checkpoints"]),
        ({"max_failed_saves": -1}, ["max_failed_saves", "-1"]),
        ({"device_tflops": 0}, ["device_tflops"]),
        ({"optimizer": {"decay": "some"}}, ["optimizer.decay", "some", "matrices"]),
    ],
)
def test_an_impossible_setting_is_named(settings: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        checked(**settings)
    for text in ("mine.yaml", *told):
        assert text in str(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"r3f": {"noise": "none"}},  # dropout alone makes the passes differ
        {
            "dropout": 0,
            "attention_dropout": 0,
            "activation_dropout": 0.1,
            "r3f": {"noise": "none"},
        },
        {"dropout": 0, "attention_dropout": 0, "r3f": {"noise": "none", "lambda": 0}},
        {"dropout": 0, "attention_dropout": 0},
    ],
)
def test_two_passes_that_differ_are_allowed(settings: dict[str, Any]) -> None:
    assert checked(**settings).r3f.noise in {"none", "normal"}


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        checked(updates=-1, precision="int8", batch={"lanes": "many"})
    for name in ("updates", "precision", "batch.lanes"):
        assert name in str(refusal.value)


@pytest.mark.parametrize(("lanes", "processes"), [(2, 3), (1, 8)])
def test_more_processes_than_lanes_are_refused(lanes: int, processes: int) -> None:
    settings = checked(batch={"lanes": lanes})
    with pytest.raises(ConfigError, match=rf"{processes} processes.*use {lanes} or fewer"):
        check_launch(settings, execution(processes))
    check_launch(settings, execution(lanes))


def test_tensorboard_must_be_installed_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check_launch(checked(), execution(1))
    with pytest.raises(ConfigError, match=r"not installed.*\[track\].*tensorboard=false"):
        check_launch(checked(tensorboard=True), execution(1))


def test_tensorboard_that_is_installed_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object() if name == "tensorboard" else 0)
    check_launch(checked(tensorboard=True), execution(1))


SHAPES = FinetuneConfig().identity()


@pytest.mark.parametrize(
    ("settings", "is_hashed"),
    [
        ({"activation_checkpointing": True}, False),
        ({"validate_every": 7}, False),
        ({"checkpoint_every": 7, "keep_checkpoints": 7, "max_failed_saves": 7}, False),
        ({"log_every": 7, "same_dropout_every": 7, "tensorboard": True}, False),
        ({"device_tflops": 7.0}, False),
        ({"selection": {"weights": "best"}}, True),
        ({"selection": {"patience": 3}}, True),
        ({"nonfinite": {"action": "skip"}}, True),
        ({"schedule": {"decay": "cosine"}}, True),
        ({"compile": True}, True),
        ({"precision": "fp16"}, True),
    ],
)
def test_what_shapes_the_weights_is_hashed_and_nothing_else(
    settings: dict[str, Any], is_hashed: bool
) -> None:
    assert (checked(**settings).identity() != SHAPES) is is_hashed
