"""The finetune stage on a tiny model: resume, selection, non-finite updates, precision, what it records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.distributed import collectives
from pipeline.distributed.storage import checkpoint_bytes
from pipeline.distributed.world import World
from pipeline.distributed.zero import full_state
from pipeline.errors import EXIT_FAILED, EXIT_PREEMPTED
from pipeline.files import read_json
from pipeline.recipe import resolve
from stages.finetune.costs import Costs
from stages.finetune.curriculum import Curriculum
from stages.finetune.data import EncodedSplit
from stages.finetune.metrics_log import without_clock
from stages.finetune.throughput import device_name
from stages.recipe import SummarizationRecipe
from tests.launching import TINY, copy_run, sumpipe
from tests.rank_server import RankServer

pytestmark = pytest.mark.distributed

CASES = "tests.distributed.training_cases"
SMALL = (
    *("fetch.dataset.train_rows=80", "fetch.dataset.valid_rows=6", "fetch.dataset.test_rows=2"),
    *("fetch.model.d_model=32", "fetch.model.layers=1", "fetch.model.ffn=32"),
)
BASE = ("updates=12", "schedule.warmup_updates=2", "batch.lane_tokens=400")
Train = Callable[..., dict[str, Any]]
Record = dict[str, Any]


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankServer]:
    with RankServer(CASES) as server:
        yield server


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("training") / "encoded"
    changes = [f"--set={change}" for change in SMALL]
    done = sumpipe("run", TINY, "--run-dir", run_dir, "--to", "encode", *changes)
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture(scope="module")
def train(ranks: RankServer, encoded: Path) -> Train:
    """Run or resume finetune in a run directory, which is made if it is not there."""

    def call(run_dir: Path, *settings: str, size: int = 1, **case: Any) -> dict[str, Any]:
        if not run_dir.exists():
            copy_run(encoded, run_dir)
        given = {"run_dir": run_dir, "settings": [*BASE, *settings], **case}
        if case.get("fault") == "kill":
            ranks.results(size, f"{CASES}:finetune", **given)  # nobody is left to tell
            assert not (run_dir / "finetune").exists(), "the moment did not come"
            return {}
        answers = ranks.run(size, f"{CASES}:finetune", **given)
        assert all(answer["code"] == answers[0]["code"] for answer in answers)
        first: dict[str, Any] = answers[0]
        return first

    return call


def finished(train: Train, run_dir: Path, *settings: str, **case: Any) -> dict[str, Any]:
    """Train to the commit."""
    done = train(run_dir, *settings, **case)
    assert done["code"] == 0, done["error"]
    return done


def stage_folder(run_dir: Path) -> Path:
    return next(f for f in (run_dir / "finetune", run_dir / "finetune.partial") if f.exists())


def records(run_dir: Path, *, has: str = "") -> list[Record]:
    """The records of metrics.jsonl, all or those with a key, without what a clock measured."""
    text = (stage_folder(run_dir) / "metrics.jsonl").read_text("utf-8")
    found: list[Record] = without_clock(map(json.loads, text.splitlines()))
    return [record for record in found if not has or has in record]


def checkpoints(run_dir: Path) -> list[int]:
    folders = (stage_folder(run_dir) / "checkpoints").glob("update_*")
    return sorted(int(folder.name.removeprefix("update_")) for folder in folders)


def checkpoint(run_dir: Path, update: int) -> Path:
    return stage_folder(run_dir) / "checkpoints" / f"update_{update:08d}"


def results(run_dir: Path) -> dict[str, bytes]:
    """Weights, moments, selection and probe, byte by byte."""
    folder = stage_folder(run_dir)
    found = [*folder.rglob("*.pt"), folder / "probe.safetensors", folder / "selection.json"]
    assert len(found) >= 3
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


RECORD_WINDOWS = (
    *("log_every=5", "checkpoint_every=3", "validate_every=8", "same_dropout_every=2"),
    *("selection.weights=average", "selection.every=4", "selection.average=2"),
)
INTERRUPTIONS = [  # moment, fault, and the checkpoints there are then: the newest two and candidates
    ("update 2", "kill", []),
    ("record 5", "kill", [3, 4]),
    ("update 5", "stop", [4, 5]),
    ("validation 8", "stop", [4, 6, 8]),
    ("validated 8", "kill", [4, 6, 8]),
    ("record 10", "kill", [4, 8, 9]),
    ("validation 12", "stop", [4, 8, 9, 12]),
]


@pytest.mark.parametrize(
    ("profile", "size", "settings"),
    [
        ("zero0", 1, ()),
        pytest.param("zero3", 2, ("precision=bf16",), marks=pytest.mark.slow),
        pytest.param("zero2", 2, ("precision=fp16", "r3f.lambda=100"), marks=pytest.mark.slow),
    ],
    ids=["fp32", "zero3 bf16", "zero2 fp16 with overflows"],
)
def test_stopped_and_killed_again_and_again_it_is_the_same_training(
    profile: str, size: int, settings: tuple[str, ...], train: Train, tmp_path: Path
) -> None:
    settings, case = (*RECORD_WINDOWS, *settings), {"profile": profile, "size": size}
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finished(train, straight, *settings, **case)
    for moment, fault, there in INTERRUPTIONS:
        ended = train(broken, *settings, moment=moment, fault=fault, **case)
        if fault == "stop":
            assert ended["code"] == EXIT_PREEMPTED, ended["error"]
            assert re.search(rf"stopped by USR2 after update {there[-1]}\b", ended["error"])
        assert checkpoints(broken) == there, moment
    done = finished(train, broken, *settings, **case)
    assert "INFO resumes after update 12" in done["said"]
    assert not any("begins a training" in line for line in done["said"])
    assert records(broken) == records(straight)
    assert results(broken) == results(straight)
    if "precision=fp16" in settings:
        assert (
            records(straight, has="loss_scale")[-1]["loss_scale"] < 65536
        )  # an overflow on the way
    kinds = [(r["update"], "loss" in r, "valid/nll" in r) for r in records(straight)]
    kl, valid = (False, False), (False, True)
    assert [(kind[0], kind[1:]) for kind in kinds if kind[1:] != (True, False)] == [
        *[(2, kl), (4, kl), (4, valid), (6, kl), (8, kl), (8, valid), (10, kl), (12, kl)],
        (12, valid),
    ]
    lines = (broken / "finetune" / "metrics.set_aside.jsonl").read_text("utf-8").splitlines()
    aside = [(r["update"], "valid/nll" in r) for r in map(json.loads, lines)]
    assert aside == [(5, False), (8, True), (10, False)]


def test_a_stop_on_one_rank_stops_all_after_the_same_update(train: Train, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    stopped = train(run_dir, moment="update 3", on_rank=1, size=2, profile="zero2")
    assert stopped["code"] == EXIT_PREEMPTED
    assert "a request to another rank after update 3" in stopped["error"]
    assert checkpoints(run_dir) == [3]


def test_progress_is_what_is_committed_also_between_records(train: Train, tmp_path: Path) -> None:
    settings = ("log_every=100", "checkpoint_every=2", "validate_every=5")
    stopped = train(tmp_path / "run", *settings, moment="update 3")
    assert (stopped["code"], stopped["progress"]) == (EXIT_PREEMPTED, [2, 3])
    stopped = train(tmp_path / "run", *settings, moment="validation 5")
    assert stopped["progress"] == [4, 5]
    # Again before the validation that was left out: nothing new, but it is known how far training is.
    stopped = train(tmp_path / "run", *settings, moment="validation 0")
    assert (stopped["code"], stopped["progress"]) == (EXIT_PREEMPTED, [5])


def test_a_checkpoint_of_another_training_is_not_gone_on_from(train: Train, tmp_path: Path) -> None:
    settings = ("log_every=1", "checkpoint_every=3")
    straight, mixed, other = (tmp_path / name for name in ("straight", "mixed", "other"))
    finished(train, straight, *settings)
    train(mixed, *settings, moment="update 5")
    train(other, *settings, "optimizer.lr=0.5", moment="update 8")
    checkpoint(other, 8).rename(checkpoint(mixed, 8))
    said = "\n".join(finished(train, mixed, *settings)["said"])
    assert "update_00000008: is of other settings, data or updates than this training" in said
    assert results(mixed) == results(straight) and records(mixed) == records(straight)


def test_a_damaged_candidate_is_made_again(train: Train, tmp_path: Path) -> None:
    straight, damaged = tmp_path / "straight", tmp_path / "damaged"
    finished(train, straight, *RECORD_WINDOWS)
    train(damaged, *RECORD_WINDOWS, moment="update 11")
    assert checkpoints(damaged) == [4, 8, 9, 11]
    weights = next(checkpoint(damaged, 8).rglob("*.pt"))
    weights.write_bytes(weights.read_bytes()[:-1])
    said = "\n".join(finished(train, damaged, *RECORD_WINDOWS)["said"])
    assert "update_00000011: finetune.selection counts on" in said and "after update 4" in said
    assert results(damaged) == results(straight) and records(damaged) == records(straight)


def validations(run_dir: Path) -> dict[int, float]:
    return {r["update"]: r["valid/nll"] for r in records(run_dir, has="valid/nll")}


UNSTEADY = (
    *("optimizer.lr=1.0", "optimizer.clip_norm=0", "schedule.warmup_updates=11"),
    *("selection.every=2", "log_every=12"),
)


def test_the_best_candidate_is_handed_on_and_exported(
    train: Train, ranks: RankServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    finished(train, run_dir, *UNSTEADY, "selection.weights=best", "checkpoint_every=5")
    nlls = validations(run_dir)
    assert list(nlls) == [2, 4, 6, 8, 10, 12]
    best = min(nlls, key=nlls.__getitem__)
    assert best != 12, "the case shows nothing if the last one is the best"
    chosen = read_json(run_dir / "finetune" / "selection.json")
    assert chosen == {"weights": "best", "updates": [best]}
    assert checkpoints(run_dir) == [best, 12]
    (metrics,) = ranks.run(1, f"{CASES}:export", run_dir=run_dir)
    assert metrics["updates"] == str(best)
    assert_exported(run_dir, full_state(checkpoint(run_dir, best)))


def assert_exported(run_dir: Path, state: dict[str, torch.Tensor]) -> None:
    exported = load_file(run_dir / "export.partial" / "model" / "model.safetensors")
    assert len(exported) > 20
    for name, tensor in exported.items():
        expected = state[f"bart.{name}"].numpy()
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=2**-23, atol=1e-12, err_msg=name)


def test_the_average_of_the_last_candidates_is_exported(
    train: Train, ranks: RankServer, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = ("selection.weights=average", "selection.average=3", "selection.every=5")
    finished(train, run_dir, *settings, "checkpoint_every=4", "keep_checkpoints=1")
    assert checkpoints(run_dir) == [5, 10, 12]
    (metrics,) = ranks.run(1, f"{CASES}:export", run_dir=run_dir)
    assert metrics["updates"] == "5 10 12"
    parts = [full_state(checkpoint(run_dir, update)) for update in (5, 10, 12)]
    mean = {name: sum(part[name].double() for part in parts) / 3 for name in parts[0]}
    assert not torch.equal(
        mean["bart.model.shared.weight"].float(), parts[-1]["bart.model.shared.weight"]
    )
    assert_exported(run_dir, mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["last", "best"])
def test_training_ends_early_without_a_better_candidate(
    weights: str, train: Train, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = (*UNSTEADY, f"selection.weights={weights}", "selection.patience=2")
    stopped = train(run_dir, *settings, "updates=40", moment="validation 4")
    assert stopped["code"] == EXIT_PREEMPTED  # so that patience outlives a resume
    done = finished(train, run_dir, *settings, "updates=40")["metrics"]
    nlls = validations(run_dir)
    best = min(nlls, key=nlls.__getitem__)
    assert done["stopped_early"] and done["updates"] == best + 4 < 40
    assert list(nlls) == list(range(2, best + 5, 2))
    assert done["valid_nll_nats_per_token"] == nlls[best + 4]
    assert done["device"] == device_name(collectives.device(World()))
    chosen = best if weights == "best" else best + 4
    assert read_json(run_dir / "finetune" / "selection.json")["updates"] == [chosen]
    assert checkpoints(run_dir) == sorted({chosen, best + 4})
    assert done["chosen_nll_nats_per_token"] == nlls[chosen], "of the weights that are handed on"


EACH = "log_every=1"


@pytest.fixture(scope="module")
def plain(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve updates in fp32 on one process at ZeRO-0, a record each."""
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    finished(train, run_dir, EACH)
    return run_dir


def weights_of(run_dir: Path, update: int = 12) -> dict[str, torch.Tensor]:
    return full_state(checkpoint(run_dir, update))


def test_how_it_is_carried_out_changes_no_bit(train: Train, plain: Path, tmp_path: Path) -> None:
    execution = (
        *("activation_checkpointing=true", "same_dropout_every=1", "validate_every=5"),
        *("checkpoint_every=2", "keep_checkpoints=1", "tensorboard=true", "device_tflops=1.0"),
    )
    pytest.importorskip("tensorboard", reason="needs the `track` extra")
    run_dir = tmp_path / "run"
    finished(train, run_dir, EACH, *execution)
    assert records(run_dir, has="loss") == records(plain, has="loss")
    lines = (run_dir / "finetune" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert all(record["mfu"] >= 0 for record in map(json.loads, lines) if "loss" in record)
    assert results(run_dir) == results(plain)
    assert_in_tensorboard(run_dir)


def assert_in_tensorboard(run_dir: Path) -> None:
    """Every number of metrics.jsonl is shown, in float32."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "finetune" / "tensorboard"))
    events.Reload()
    for name in ("loss", "lr", "gradient_norm", "r3f/kl_same_dropout", "valid/nll"):
        expected = [(r["update"], np.float32(r[name])) for r in records(run_dir, has=name)]
        assert len(expected) >= 3
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["zero2", "zero3"])
def test_activation_checkpointing_changes_no_bit_when_sharded(
    profile: str, train: Train, tmp_path: Path
) -> None:
    case = {"profile": profile, "size": 2}
    runs = [tmp_path / "kept", tmp_path / "recomputed"]
    for run_dir, setting in zip(runs, ("false", "true"), strict=True):
        more = (EACH, "precision=bf16", f"activation_checkpointing={setting}")
        finished(train, run_dir, *more, **case)
    assert records(runs[0]) == records(runs[1])
    assert results(runs[0]) == results(runs[1])


def test_records_add_up_over_their_windows(train: Train, plain: Path, tmp_path: Path) -> None:
    """A record over several updates is the mean of theirs, weighted by target tokens."""
    run_dir = tmp_path / "run"
    finished(train, run_dir, "log_every=5")
    singles, found = records(plain, has="loss"), records(run_dir, has="loss")
    assert [record["update"] for record in found] == [5, 10, 12]
    for record, window in zip(found, (singles[:5], singles[5:10], singles[10:]), strict=True):
        tokens = sum(single["target_tokens"] for single in window)
        assert record["target_tokens"] == tokens
        for name in ("loss", "nll", "smoothing", "r3f/kl", "accuracy"):
            mean = sum(single[name] * single["target_tokens"] for single in window) / tokens
            assert record[name] == pytest.approx(mean, rel=1e-12)
        for name in ("lr", "gradient_norm", "row_digest"):  # of the last update
            assert record[name] == window[-1][name]


def test_time_and_tokens_before_a_stop_between_two_records_are_recorded(
    train: Train, plain: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    train(run_dir, "log_every=12", moment="update 5")
    text = (stage_folder(run_dir) / "metrics.jsonl").read_text("utf-8")
    (left,) = map(json.loads, text.splitlines())
    assert (left["update"], left.keys()) == (
        5,
        {"update", "seconds", "tokens_per_second", "devices"},
    )
    finished(train, run_dir, "log_every=12")
    assert [record["update"] for record in records(run_dir, has="loss")] == [12]
    # Seconds are rounded to milliseconds; to lose the updates before the stop would be 0.4 of all.
    assert tokens_timed(run_dir) == pytest.approx(tokens_timed(plain), rel=2e-2)


def tokens_timed(run_dir: Path) -> float:
    lines = (run_dir / "finetune" / "metrics.jsonl").read_text("utf-8").splitlines()
    timed = [record for record in map(json.loads, lines) if "seconds" in record]
    return sum(float(record["seconds"] * record["tokens_per_second"]) for record in timed)


def test_the_digest_is_of_the_rows_that_were_planned(plain: Path) -> None:
    split, curriculum = curriculum_of(plain)
    digest = ""
    for number, record in enumerate(records(plain, has="loss")):
        lanes = [split.ids(rows) for rows in curriculum.update(number).lanes]
        digest = hashlib.sha256(json.dumps([digest, lanes]).encode()).hexdigest()[:16]
        assert record["row_digest"] == digest


def test_zero_3_trains_as_zero_0_does(train: Train, tmp_path: Path) -> None:
    runs = {profile: tmp_path / profile for profile in ("zero0", "zero3")}
    for profile, run_dir in runs.items():
        settings = (EACH, "optimizer.decay=matrices", "optimizer.weight_decay=0.3")
        finished(train, run_dir, *settings, profile=profile, size=2)
    zero0, zero3 = (records(run_dir, has="loss") for run_dir in runs.values())
    assert len(zero0) == len(zero3) == 12
    for one, other in zip(zero0, zero3, strict=True):
        for name in ("loss", "nll", "r3f/kl", "gradient_norm"):
            assert other[name] == pytest.approx(one[name], abs=2e-6, rel=2e-6), name
    states = [weights_of(run_dir) for run_dir in runs.values()]
    for name, tensor in states[0].items():
        # Attention does not depend on a key's bias: its gradient is rounding alone, which Adam makes large.
        if name in states[1] and not name.endswith("k_proj.bias"):
            torch.testing.assert_close(states[1][name], tensor, atol=2e-5, rtol=0)
    assert len(states[1]) > 20


def test_noise_lost_to_rounding_is_told_once(train: Train, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    lossy = ("precision=bf16", "r3f.sigma=1e-5", "same_dropout_every=3", EACH)
    done = finished(train, run_dir, *lossy, "updates=6")
    told = [message for message in done["said"] if "of the noise is left" in message]
    assert len(told) == 1
    assert re.search(r"^WARNING only \d\.\d%.*bf16 \(finetune.r3f.sigma 1e-05\)", told[0])
    enough = float(re.search(r"from sigma (\S+) on half", told[0])[1])  # type: ignore[index]
    assert 1e-4 < enough < 1e-1
    for record in records(run_dir, has="loss"):
        assert record["r3f/noise_survival_compute"] < 0.5
        assert record["r3f/noise_survival_residual"] > 0.9
        assert record["r3f/noise_survival_embedding"] > 0.9
    kls = {record["update"]: record["r3f/kl"] for record in records(run_dir, has="loss")}
    alone = records(run_dir, has="r3f/kl_same_dropout")
    assert [record["update"] for record in alone] == [3, 6]
    assert all(0 <= r["r3f/kl_same_dropout"] < 1e-2 * kls[r["update"]] for r in alone)


def test_noise_that_survives_is_not_warned_of(plain: Path, train: Train, tmp_path: Path) -> None:
    done = finished(train, tmp_path / "run", "precision=bf16", EACH, "updates=3")
    assert done["said"] == ["INFO begins a training of 3 updates"]
    assert all(record["r3f/noise_survival_compute"] > 0.9 for record in records(plain, has="loss"))


@pytest.mark.parametrize("setting", ["r3f.noise=none", "r3f.lambda=0"])
def test_without_noise_nothing_is_said_of_it(setting: str, train: Train, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    finished(train, run_dir, setting, EACH, "same_dropout_every=1", "updates=3")
    names = {name for record in records(run_dir) for name in record}
    assert "loss" in names
    assert not {name for name in names if "survival" in name or "same_dropout" in name}
    kls = [record.get("r3f/kl") for record in records(run_dir, has="loss")]
    if setting == "r3f.noise=none":
        assert all(kl is not None and kl > 0 for kl in kls)  # two dropout masks
    else:
        assert kls == [None] * 3, "what is not measured is not recorded"


def curriculum_of(run_dir: Path) -> tuple[EncodedSplit, Curriculum]:
    """The rows of each update, as planned."""
    changes = [*SMALL, *(f"finetune.{setting}" for setting in BASE)]
    recipe, _ = resolve(SummarizationRecipe, str(TINY), changes)
    assert isinstance(recipe, SummarizationRecipe)
    split = EncodedSplit(run_dir / "encode" / "train")
    costs = Costs.of_model(read_json(run_dir / "fetch" / "model" / "config.json"))
    return split, Curriculum(split, recipe.finetune, recipe.seed, costs, mask_id=0)


def poisoned(encoded: Path, target: Path, length: int) -> Path:
    """A copy whose model turns sources of more than `length` tokens into numbers that are none."""
    run_dir = copy_run(encoded, target)
    file = run_dir / "fetch" / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.encoder.embed_positions.weight"][length + 2] = torch.nan  # BART counts from 2
    save_file(tensors, file, metadata={"format": "pt"})
    return run_dir


def one_long_source(encoded: Path) -> tuple[int, int, int, int]:
    """A length that one row alone exceeds in the first 12 updates: length, update, lane, row."""
    split, curriculum = curriculum_of(encoded)
    places = [
        (int(split.source_lengths[row]), number + 1, lane, int(row))
        for number in range(12)
        for lane, rows in enumerate(curriculum.update(number).lanes)
        for row in rows
    ]
    second, longest = sorted(places)[-2:]
    assert second[0] < longest[0]
    valid = EncodedSplit(encoded / "encode" / "valid")
    assert second[0] >= int(valid.source_lengths.max()), "validation must not meet the poison"
    return second[0], *longest[1:]


@pytest.mark.parametrize(("profile", "size"), [("zero0", 1), ("zero2", 2)])
def test_a_loss_that_is_no_number_ends_training_with_its_batch_on_disk(
    profile: str, size: int, train: Train, encoded: Path, tmp_path: Path
) -> None:
    length, update, lane, row = one_long_source(encoded)
    run_dir = poisoned(encoded, tmp_path / "run", length)
    done = train(run_dir, EACH, "checkpoint_every=2", profile=profile, size=size)
    split, curriculum = curriculum_of(encoded)
    rows = curriculum.update(update - 1).lanes[lane]
    ids = split.ids(rows)
    folder = run_dir / "finetune.partial" / "nonfinite" / f"update_{update:08d}"
    assert done["code"] == EXIT_FAILED
    told = f"DataError: the loss of update {update} is not finite (rows {', '.join(ids)}; batch in {folder})"
    assert done["error"].startswith(told)
    for way_out in ("finetune.optimizer.lr", "--restart-from finetune", "nonfinite.action skip"):
        assert way_out in done["error"]
    assert sorted(path.name for path in folder.iterdir()) == [
        f"lane_{lane:04d}.json",
        f"lane_{lane:04d}.safetensors",
    ]
    facts = read_json(folder / f"lane_{lane:04d}.json")
    assert facts["ids"] == ids and split.ids(np.asarray([row]))[0] in ids
    assert (facts["update"], facts["not_finite"], facts["nll"]) == (update, "loss", "nan")
    tensors = load_file(folder / f"lane_{lane:04d}.safetensors")
    for number, one in enumerate(rows):
        source = tensors["source_ids_BS"][number][tensors["source_mask_BS"][number].bool()]
        target = tensors["target_ids_BT"][number][tensors["target_mask_BT"][number]]
        assert source.tolist() == split.source(int(one)).tolist()
        assert target.tolist() == split.target(int(one)).tolist()
    assert checkpoints(run_dir)[-1] < update
    assert records(run_dir)[-1]["update"] == update - 1
    again = train(run_dir, EACH, "checkpoint_every=2", profile=profile, size=size)
    assert again["error"] == done["error"]


def test_an_update_that_is_skipped_leaves_no_trace_in_weights_and_sums(
    train: Train, encoded: Path, tmp_path: Path
) -> None:
    length, update, _, _ = one_long_source(encoded)
    run_dir = poisoned(encoded, tmp_path / "run", length)
    settings = ("nonfinite.action=skip", "nonfinite.budget=1", "log_every=4")
    stopped = train(run_dir, *settings, moment=f"update {update}")
    assert stopped["code"] == EXIT_PREEMPTED, stopped["error"]
    (told,) = (message for message in stopped["said"] if "not finite" in message)
    assert told.startswith(f"WARNING the loss of update {update}") and told.endswith("1 of 1")
    before = weights_of(run_dir, update)
    done = finished(train, run_dir, *settings)
    assert done["metrics"]["skipped_updates"] == 1  # counted over resumes
    _, curriculum = curriculum_of(encoded)
    tokens = {n + 1: curriculum.update(n).target_tokens for n in range(12) if n + 1 != update}
    found = records(run_dir, has="target_tokens")
    assert [record["target_tokens"] for record in found] == [
        sum(count for n, count in tokens.items() if first < n <= first + 4) for first in (0, 4, 8)
    ]
    assert [record["skipped"] for record in found] == [int(n >= update) for n in (4, 8, 12)]
    assert all(np.isfinite(record["loss"]) for record in found)
    clean = tmp_path / "clean"  # the same updates before it, from the model without the fault
    train(copy_run(encoded, clean), *settings, moment=f"update {update - 1}")
    poison = "bart.model.encoder.embed_positions.weight"
    for name, tensor in weights_of(clean, update - 1).items():
        is_sound = ~before[name].isnan()
        assert bool(is_sound.all()) or name == poison
        assert torch.equal(before[name][is_sound], tensor[is_sound]), name


def test_more_than_the_budget_is_not_skipped(train: Train, encoded: Path, tmp_path: Path) -> None:
    split, curriculum = curriculum_of(encoded)
    length = 160
    bad = [
        number + 1
        for number in range(12)
        if max(split.source_lengths[np.concatenate(curriculum.update(number).lanes)]) > length
    ]
    assert len(bad) >= 2
    run_dir = poisoned(encoded, tmp_path / "run", length)
    done = train(run_dir, EACH, "nonfinite.action=skip", f"nonfinite.budget={len(bad) - 1}")
    assert done["code"] == EXIT_FAILED
    assert f"the loss of update {bad[-1]} is not finite" in done["error"]
    assert f"after {len(bad) - 1} skipped ones (finetune.nonfinite.budget)" in done["error"]
    folders = sorted(path.name for path in (run_dir / "finetune.partial" / "nonfinite").iterdir())
    assert folders == [f"update_{number:08d}" for number in bad]


@pytest.mark.parametrize(("profile", "size"), [("zero0", 1), ("zero2", 2)])
def test_a_gradient_that_overflows_names_the_whole_update(
    profile: str, size: int, train: Train, encoded: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    done = train(run_dir, "r3f.lambda=1e38", profile=profile, size=size)
    split, curriculum = curriculum_of(encoded)
    ids = [name for rows in curriculum.update(0).lanes for name in split.ids(rows)]
    assert done["code"] == EXIT_FAILED
    assert f"the gradient of update 1 is not finite (rows {', '.join(ids)};" in done["error"]
    folder = run_dir / "finetune.partial" / "nonfinite" / "update_00000001"
    assert sorted(
        name for file in folder.glob("*.json") for name in read_json(file)["ids"]
    ) == sorted(ids)


def test_fp16_overflows_lower_the_scale_until_it_fits(train: Train, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = finished(
        train, run_dir, EACH, "precision=fp16", "r3f.lambda=100", "nonfinite.overflows=9"
    )
    dropped = [
        int(re.search(r"update (\d+) overflowed", text)[1])
        for text in done["said"]
        if "overflowed" in text
    ]  # type: ignore[index]
    assert 0 < len(dropped) < 9
    scale = 65536.0
    for record in records(run_dir, has="loss_scale"):
        is_dropped = record["update"] in dropped
        scale /= 2 if is_dropped else 1
        assert record["loss_scale"] == scale
        assert ("loss" not in record) == (record["gradient_norm"] is None) == is_dropped
        assert (record["target_tokens"] == 0) == is_dropped
        assert record["skipped"] == 0  # loss scaling at work is no fault
    assert done["metrics"]["skipped_updates"] == 0
    assert done["metrics"]["overflowed_updates"] == len(dropped)


def test_fp16_overflows_without_an_end_stop_training(train: Train, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = train(run_dir, "precision=fp16", "r3f.lambda=1e6", "nonfinite.overflows=3")
    assert done["code"] == EXIT_FAILED
    assert "the gradient of update 4 is not finite" in done["error"]
    assert "4 updates in a row overflowed (finetune.nonfinite.overflows)" in done["error"]
    assert (run_dir / "finetune.partial" / "nonfinite" / "update_00000004").is_dir()


def test_fp16_follows_fp32(train: Train, plain: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    finished(train, run_dir, EACH, "precision=fp16")
    found, expected = records(run_dir, has="loss"), records(plain, has="loss")
    differences = [abs(a["loss"] - b["loss"]) for a, b in zip(found, expected, strict=True)]
    assert 0 < max(differences) < 5e-2
    assert {record["loss_scale"] for record in found} == {65536.0}
    assert not any("loss_scale" in record for record in expected)


def test_the_command_line_ends_with_the_message_alone(encoded: Path, tmp_path: Path) -> None:
    run_dir = copy_run(encoded, tmp_path / "run")
    changes = (*SMALL, *(f"finetune.{setting}" for setting in (*BASE, "optimizer.lr=1e30")))
    done = sumpipe(
        *("run", TINY, "--run-dir", run_dir, "--only", "finetune", "--processes", 1),
        *(f"--set={change}" for change in changes),
    )
    assert done.returncode == EXIT_FAILED
    assert "of update 2 is not finite (rows " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert list((run_dir / "finetune.partial" / "nonfinite" / "update_00000002").glob("*.json"))


def test_failed_saves_are_survived_while_they_are_few(
    train: Train, plain: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    often = (EACH, "checkpoint_every=2", "max_failed_saves=2")
    done = finished(train, run_dir, *often, bad_saves=[2, 6, 8])
    told = [text for text in done["said"] if text.startswith("WARNING the checkpoint of update")]
    assert [re.findall(r"update (\d+) failed, (\d) of at most (\d)", text)[0] for text in told] == [
        ("2", "1", "2"),
        ("6", "1", "2"),  # counted anew after a save that went well
        ("8", "2", "2"),
    ]
    assert all("Input/output error" in text for text in told)
    assert results(run_dir) == results(plain)


def test_one_failed_save_too_many_ends_training_and_nothing_is_lost(
    train: Train, plain: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    often = (EACH, "checkpoint_every=2", "max_failed_saves=1")
    done = train(run_dir, *often, bad_saves=[4, 6])
    assert done["code"] == EXIT_FAILED
    assert done["error"].startswith("StorageError") and "Input/output error" in done["error"]
    assert checkpoints(run_dir) == [2]
    finished(train, run_dir, *often)
    assert results(run_dir) == results(plain)
    assert records(run_dir, has="loss") == records(plain, has="loss")


@pytest.mark.parametrize("settings", [(), ("selection.weights=best", "selection.every=5")])
def test_a_save_that_is_needed_may_not_fail(
    settings: tuple[str, ...], train: Train, tmp_path: Path
) -> None:
    needed = 5 if settings else 12
    done = train(tmp_path / "run", *settings, "max_failed_saves=9", bad_saves=[needed])
    assert done["error"].startswith("StorageError")
    assert records(tmp_path / "run")[-1]["update"] == needed


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (("keep_checkpoints=3",), 3),
        (("keep_checkpoints=1", "selection.weights=average", "selection.average=4"), 5),
    ],
)
def test_a_disk_too_small_is_told_before_any_update(
    settings: tuple[str, ...], kept: int, train: Train, encoded: Path, tmp_path: Path
) -> None:
    weights = load_file(encoded / "fetch" / "model" / "model.safetensors")
    names = [name for name in weights if name != "final_logits_bias"]
    size = checkpoint_bytes(sum(weights[name].numel() for name in names), 0, 1)
    needed = (kept + 1) * size
    done = train(tmp_path / "run", *settings, free_bytes=needed - 1)
    assert done["code"] == EXIT_FAILED
    for text in (
        "StorageError",
        f"{kept} checkpoints of",
        "--run-dir",
        "finetune.keep_checkpoints",
    ):
        assert text in done["error"]
    assert f"need {needed / 1e9:.3g} GB" in done["error"]
    assert not (tmp_path / "run" / "finetune.partial" / "metrics.jsonl").exists()
    finished(train, tmp_path / "run", *settings, "updates=3", free_bytes=needed)
