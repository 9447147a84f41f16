"""The generate stage: the same bytes from any number of workers, interrupted or not."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import torch

from pipeline.artifact import RunDir
from pipeline.distributed.world import World
from pipeline.errors import CorruptArtifact, Preempted
from pipeline.files import record_tree
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, StageContext
from stages.fetch.config import ScratchModel
from stages.fetch.scratch import new_model, train_bpe
from stages.generate.config import GenerateConfig
from stages.generate.run import run
from stages.schema import Prediction, read_jsonl

torch.set_num_threads(1)

ROWS = 8
CONFIG = GenerateConfig(num_beams=2, max_length=8, shard_rows=3, batch_size=2)


class StopAfter(Progress):
    """Asks for a stop once so many shards are done."""

    def __init__(self, shards: int, stop: StopFlag) -> None:
        super().__init__("generate", None, console=False)
        self._shards, self._stop = shards, stop

    def update(self, done: int, total: int, unit: str, **figures: float) -> None:
        if done >= self._shards:
            self._stop.request("SIGTERM")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run whose encode and export are committed."""
    run_dir, payload = RunDir(tmp_path_factory.mktemp("run")), {"stage": "any"}
    folder = run_dir.open_partial("encode", payload) / "test"
    folder.mkdir()
    ids = [[0, *range(10, 11 + row), 2] for row in range(ROWS)]
    table = pa.table(
        {
            "id": [f"row-{row}" for row in range(ROWS)],
            "source_ids": pa.array(ids, pa.list_(pa.int32())),
            "source_tokens_lost": pa.array([0] * ROWS, pa.int32()),
        }
    )
    for shard, rows in enumerate((table[:5], table[5:])):  # not generate's shards
        path = str(folder / f"{shard:05d}.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(rows)
    model = run_dir.open_partial("export", payload) / "model"
    model.mkdir()
    tokenizer = train_bpe(["a few words to train on"] * 3, 300, model)
    settings = ScratchModel(
        source="scratch", d_model=16, layers=1, heads=2, ffn=16, max_positions=32, init_std=0.5
    )
    new_model(settings, len(tokenizer), seed=1).save_pretrained(model)
    for stage in ("encode", "export"):
        run_dir.commit(stage, payload, {}, {})
    return run_dir


def new_context(
    finished: RunDir, work: Path, *, processes: int = 1, stop_after: int | None = None
) -> StageContext:
    work.mkdir(exist_ok=True)
    inputs = {}
    for stage in ("encode", "export"):
        artifact = finished.artifact(stage)
        assert artifact is not None
        inputs[stage] = artifact
    stop = StopFlag()
    progress = (
        Progress("generate", None, console=False)
        if stop_after is None
        else StopAfter(stop_after, stop)
    )
    execution = Execution(processes=processes, threads=1, ds_profile=Path("zero0.json"))
    return StageContext(inputs, work, 1, World(), execution, stop, progress, guard=lambda: None)


@pytest.fixture(scope="module")
def expected(finished: RunDir, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    work = tmp_path_factory.mktemp("expected")
    run(CONFIG, new_context(finished, work))
    return (work / "predictions.jsonl").read_bytes()


def test_every_source_has_one_prediction_in_order(
    finished: RunDir, expected: bytes, tmp_path: Path
) -> None:
    metrics = run(CONFIG, new_context(finished, tmp_path))
    assert (tmp_path / "predictions.jsonl").read_bytes() == expected
    predictions = list(read_jsonl(tmp_path / "predictions.jsonl", Prediction))
    assert [one.id for one in predictions] == [f"row-{row}" for row in range(ROWS)]
    assert metrics["predictions"] == ROWS
    assert metrics["mean_tokens"] == sum(one.tokens for one in predictions) / ROWS
    stopped = sum(one.stop == "length" for one in predictions)
    assert metrics["share_stopped_by_length"] == stopped / ROWS
    assert list(record_tree(tmp_path)) == ["failed.jsonl", "predictions.jsonl"]


def test_two_workers_give_the_bytes_of_one(
    finished: RunDir, expected: bytes, tmp_path: Path
) -> None:
    run(CONFIG, new_context(finished, tmp_path, processes=2))
    assert (tmp_path / "predictions.jsonl").read_bytes() == expected


@pytest.mark.slow
def test_three_workers_and_five_kills_give_the_bytes_of_one(
    finished: RunDir, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"shard_rows": 1, "num_beams": 8, "max_length": 32})
    run(config, new_context(finished, tmp_path / "alone"))
    killed: set[int] = set()

    def kill_five() -> None:
        """Kill workers at random times: at their start, and with a shard in hand."""
        rng = random.Random(3)
        while len(killed) < 5:
            time.sleep(rng.uniform(0.5, 3))
            with contextlib.suppress(psutil.NoSuchProcess):
                workers = [
                    one
                    for one in psutil.Process().children()
                    if one.pid not in killed and "spawn_main" in " ".join(one.cmdline())
                ]
                for worker in rng.sample(workers, min(1, len(workers))):
                    worker.kill()
                    killed.add(worker.pid)

    threading.Thread(target=kill_five, daemon=True).start()
    run(config, new_context(finished, tmp_path / "killed", processes=3))
    assert len(killed) >= 3  # before all was done
    predictions = [tmp_path / name / "predictions.jsonl" for name in ("alone", "killed")]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()


def test_interrupted_and_one_shard_lost_it_gives_the_same_bytes(
    finished: RunDir, expected: bytes, tmp_path: Path
) -> None:
    with pytest.raises(Preempted, match="SIGTERM"):
        run(CONFIG, new_context(finished, tmp_path, stop_after=2))
    assert not (tmp_path / "predictions.jsonl").exists()
    shards = sorted(tmp_path.glob("shards-*/*.jsonl"))
    assert [shard.name for shard in shards] == ["00000.jsonl", "00001.jsonl"]
    shards[0].unlink()
    kept = shards[1].stat().st_mtime_ns
    with pytest.raises(Preempted):
        run(CONFIG, new_context(finished, tmp_path, stop_after=2))
    assert shards[0].exists() and shards[1].stat().st_mtime_ns == kept  # done once only
    run(CONFIG, new_context(finished, tmp_path))
    assert (tmp_path / "predictions.jsonl").read_bytes() == expected


def test_finished_predictions_are_not_made_again(
    finished: RunDir, expected: bytes, tmp_path: Path
) -> None:
    (tmp_path / "predictions.jsonl").write_bytes(expected)
    metrics = run(CONFIG, new_context(finished, tmp_path, stop_after=0))
    assert metrics["predictions"] == ROWS
    assert (tmp_path / "predictions.jsonl").read_bytes() == expected


@pytest.mark.parametrize("lines", [2, 4])
def test_a_shard_that_does_not_fit_is_refused(
    finished: RunDir, expected: bytes, tmp_path: Path, lines: int
) -> None:
    (tmp_path / "shards-").mkdir()
    content = b"".join(expected.splitlines(keepends=True)[:lines])
    (tmp_path / "shards-" / "00000.jsonl").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"00001\.jsonl: found row-3 where row-"):
        run(CONFIG, new_context(finished, tmp_path))
    assert not (tmp_path / "predictions.jsonl").exists()
