"""What a training benchmark trains: a folder with a model, encoded rows and one configuration for all sides.

    model/  train/00000.arrow  config.json

Every side reads the same folder, so they cannot differ in what they train on or how they are set. Ours runs
here: the product's own engine, curriculum and updates, in this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import pyarrow as pa
from common import now

from pipeline.distributed import collectives
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import World
from pipeline.preemption import StopFlag
from stages.fetch.config import ScratchModel
from stages.fetch.scratch import new_model
from stages.finetune.build import build_engine
from stages.finetune.config import FinetuneConfig
from stages.finetune.costs import Costs
from stages.finetune.curriculum import Curriculum, plan_of
from stages.finetune.data import EncodedSplit, SummaryTask
from stages.finetune.model import R3FModel
from stages.finetune.schedule import learning_rate
from stages.finetune.training import Ranks, train_update

SEED = 1


class Spent(NamedTuple):
    """What the measured updates of one process took."""

    seconds: float
    """By the clock of `common.now`."""
    tokens: int
    """Source and target tokens of all ranks, padding left out."""
    forward_flops: int
    """Matrix products of one forward pass over the same rows, each at its own length."""


def write_case(
    folder: Path,
    model: ScratchModel,
    vocabulary: int,
    rows: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    config: FinetuneConfig,
) -> None:
    """Write the folder; `rows` are the source and the target ids of each row."""
    new_model(model, vocabulary, SEED).save_pretrained(folder / "model")
    names = [str(number) for number in range(len(rows[0]))]
    columns = {"id": names, "source_ids": rows[0], "target_ids": rows[1]}
    ids = pa.list_(pa.int32())
    schema = pa.schema([("id", pa.string()), ("source_ids", ids), ("target_ids", ids)])
    (folder / "train").mkdir()
    with (
        pa.OSFile(str(folder / "train" / "00000.arrow"), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        writer.write_table(pa.table(columns, schema=schema))
    settings = config.model_dump_json(by_alias=True)
    (folder / "config.json").write_text(settings, encoding="utf-8")


def config_of(folder: Path) -> FinetuneConfig:
    """Return how the folder's model is to be trained."""
    return FinetuneConfig.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))


def costs_of(folder: Path) -> Costs:
    """Return what a row costs the folder's model."""
    text = (folder / "model" / "config.json").read_text(encoding="utf-8")
    return Costs.of_model(json.loads(text))


def rows_per_micro_batch(folder: Path) -> int:
    """Return how many rows a micro-batch of ours has on average."""
    config, task = config_of(folder), SummaryTask(EncodedSplit(folder / "train"))
    plan = plan_of(task, config, SEED, costs_of(folder))
    return round(len(task.source_lengths) / (plan.updates_per_epoch * config.batch.lanes))


def train_ours(folder: Path, profile: str, world: World, warm: int) -> Spent:
    """Train on this rank, all updates of the configuration; the first `warm` are not in what is returned."""
    config, stop = config_of(folder), StopFlag()
    with collectives.joined(world, 1):
        engine = build_engine(config, folder / "model", find_profile(profile), world)
        bart = cast(R3FModel, engine.module).bart.config
        ranks = Ranks(engine, world, SEED, bart.pad_token_id, bart.decoder_start_token_id)
        split, costs = EncodedSplit(folder / "train"), costs_of(folder)
        curriculum = Curriculum(split, config, SEED, costs, bart.vocab_size - 1)
        start, tokens, flops = now(), 0, 0
        for number in range(config.updates):
            if number == warm:
                start, tokens, flops = now(), 0, 0
            lr = learning_rate(number, config.updates, config.optimizer.lr, config.schedule)
            work = curriculum.update(number)
            outcome = train_update(ranks, work, number, config.batch.lanes, lr, stop)
            if not outcome.is_applied:
                raise RuntimeError(f"update {number + 1} was not finite: its time means nothing")
            tokens, flops = tokens + work.tokens, flops + work.forward_flops
        spent = Spent(now() - start, tokens, flops)
        engine.close()
    return spent
