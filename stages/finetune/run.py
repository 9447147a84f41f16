"""Fine-tune: load, resume, update until done, checkpoint on the way, leave a probe for export."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from pipeline.config import fingerprint
from pipeline.distributed import checkpoint, collectives
from pipeline.distributed.elastic import resume
from pipeline.distributed.storage import checkpoint_bytes, require_space
from pipeline.distributed.voting import voted
from pipeline.distributed.zero import ZeroEngine
from pipeline.errors import CheckpointError
from pipeline.files import write_json
from pipeline.preemption import spared_children
from pipeline.stage import Metrics, StageContext
from stages.finetune.batch_plan import idle_share
from stages.finetune.build import build_engine
from stages.finetune.config import FinetuneConfig, check_launch
from stages.finetune.costs import Costs
from stages.finetune.curriculum import Curriculum, plan_of
from stages.finetune.data import EncodedSplit, SummaryTask
from stages.finetune.loop import Loop, State, Validation
from stages.finetune.metrics_log import MetricsLog
from stages.finetune.model import R3FModel
from stages.finetune.peak_memory import peak_memory
from stages.finetune.selection import kept_beside_newest
from stages.finetune.throughput import device_name
from stages.finetune.training import Ranks

PROBE_ROWS = 4
"""Validation rows whose logits export compares with the trainer's."""

_logger = logging.getLogger(__name__)


@spared_children()  # what torch.compile and DeepSpeed start to compile
def run(config: FinetuneConfig, context: StageContext) -> Metrics:
    """Write checkpoints/, selection.json, metrics.jsonl and probe.safetensors; runs on every rank."""
    check_launch(config, context.execution)
    loop, valid = _prepare(config, context)
    loop.run()
    _probe(loop.ranks, valid, context.work / "probe.safetensors")
    state, plan = loop.state, loop.curriculum.summary_plan
    assert state.measured is not None, "the last update is always validated"
    _require_chosen(config, context, state)
    chosen = state.selection.chosen(config.selection, state.update)
    if context.world.is_first:
        choice = {"weights": config.selection.weights, "updates": chosen}
        write_json(context.work / "selection.json", choice)
        checkpoint.drop_old(context.work / "checkpoints", keep=1, also_keep={*chosen, state.update})
    device = loop.ranks.engine.device
    return {
        "valid_nll_nats_per_token": state.measured["nll"],
        "valid_accuracy": state.measured["accuracy"],
        "updates": state.update,
        "stopped_early": state.update < config.updates,
        "skipped_updates": state.skipped,
        "overflowed_updates": state.dropped,
        "chosen_nll_nats_per_token": state.selection.chosen_nll(
            config.selection, state.measured["nll"]
        ),
        "warm_start_updates": config.warm_start_updates,
        "epochs": round((state.update - config.warm_start_updates) / plan.updates_per_epoch, 3),
        "parameters": loop.ranks.engine.parameter_count,
        "rows_over_lane_tokens": plan.oversized,
        "idle_share": idle_share(config.batch.lanes, context.world.size),
        # Of the busiest rank since its last start.
        "peak_memory_bytes": collectives.all_max(peak_memory(device), device),
        "device": device_name(device),  # rank 0's
    }


def _prepare(config: FinetuneConfig, context: StageContext) -> tuple[Loop, EncodedSplit]:
    """Return the loop, where an earlier launch left it, and the validation split."""
    world, folder = context.world, context.inputs["fetch"].directory("model")
    engine = build_engine(config, folder, context.execution.ds_profile, world)
    _require_space(config, context, engine)
    bart = cast(R3FModel, engine.module).bart.config
    ranks = Ranks(engine, world, context.seed, bart.pad_token_id, bart.decoder_start_token_id)
    train, valid = (
        EncodedSplit(context.inputs["encode"].directory(split)) for split in ("train", "valid")
    )
    costs = Costs.of_model(bart.to_dict())
    mask_id = AutoTokenizer.from_pretrained(folder).mask_token_id
    curriculum = Curriculum(train, config, context.seed, costs, mask_id)
    valid_task = SummaryTask(valid)
    validation = Validation(valid_task, plan_of(valid_task, config, context.seed, costs))
    identity = _identity(config, context)
    found = resume(
        engine,
        _checkpoints(context),
        world,
        context.stop,
        unusable=lambda found: _unusable(found, config, identity),
    )
    state = State(identity) if found is None else State.of_json(found.notes or {})
    log = None
    if world.is_first:
        _say_what_is_odd(config, context, curriculum, state)
        tensorboard = context.work / "tensorboard" if config.tensorboard else None
        log = MetricsLog(
            context.work / "metrics.jsonl",
            state.update,
            undone=state.undone_records(),
            tensorboard=tensorboard,
        )
    return Loop(config, context, ranks, curriculum, validation, log, state), valid


def _checkpoints(context: StageContext) -> Path:
    return context.work / "checkpoints"


def _identity(config: FinetuneConfig, context: StageContext) -> str:
    inputs = {name: artifact.manifest.fingerprint for name, artifact in context.inputs.items()}
    return fingerprint({"config": config.identity(), "seed": context.seed, "inputs": inputs})


def _unusable(found: checkpoint.Checkpoint, config: FinetuneConfig, identity: str) -> str:
    """Say why training cannot go on from a whole checkpoint; empty if it can.

    It must be of this training, and the earlier checkpoints that its selection counts on must be whole: an
    older one is resumed from otherwise, and they are made again.
    """
    try:
        state = State.of_json(found.notes or {})
    except (KeyError, TypeError) as error:
        return f"{found.folder}: says nothing usable of how far training was ({error!r})"
    if (state.update, state.identity) != (found.update, identity):
        return f"{found.folder}: is of other settings, data or updates than this training"
    chosen = state.selection.chosen(config.selection, state.update)
    folders = [found.folder.with_name(checkpoint.folder_name(update)) for update in chosen]
    faults = [checkpoint.inspect(folder)[0] for folder in folders if folder != found.folder]
    fault = next(filter(None, faults), "")
    return f"{found.folder}: finetune.selection counts on {fault}" if fault else ""


def _require_chosen(config: FinetuneConfig, context: StageContext, state: State) -> None:
    """Check, before the stage is committed, that the checkpoints that make up the weights are whole."""

    def check() -> None:
        for update in state.selection.chosen(config.selection, state.update):
            fault, _ = checkpoint.inspect(_checkpoints(context) / checkpoint.folder_name(update))
            if fault:
                raise CheckpointError(f"{fault}: run the same command again to make it anew")

    voted(check, context.world, only_first=True)


def _require_space(config: FinetuneConfig, context: StageContext, engine: ZeroEngine) -> None:
    """Check on rank 0, before anything is trained, that the checkpoints will fit on the disk."""
    size = checkpoint_bytes(engine.parameter_count, engine.zero_stage, context.world.size)
    count = config.keep_checkpoints + kept_beside_newest(config.selection)
    voted(lambda: require_space(_checkpoints(context), size, count), context.world, only_first=True)


def _say_what_is_odd(
    config: FinetuneConfig, context: StageContext, curriculum: Curriculum, state: State
) -> None:
    lanes, size = config.batch.lanes, context.world.size
    idle, oversized = idle_share(lanes, size), curriculum.summary_plan.oversized
    if idle > 0:
        _logger.warning(
            "%d lanes on %d processes: %.0f %% of the work is idle", lanes, size, 100 * idle
        )
    if oversized:
        bound = config.batch.lane_tokens
        _logger.warning(
            "%d rows exceed lane_tokens %d: each is a micro-batch alone", oversized, bound
        )
    if state.update:
        _logger.info("resumes after update %d", state.update)
    else:  # the report tells by it that earlier launches were of another training
        _logger.info("begins a training of %d updates", config.updates)


def _probe(ranks: Ranks, valid: EncodedSplit, path: Path) -> None:
    """Store logits of a few validation rows, computed in fp32, for export to compare with."""
    rows = np.arange(min(PROBE_ROWS, len(valid)))
    batch = ranks.batch(SummaryTask(valid), rows, 0)
    ranks.engine.train(False)
    with torch.no_grad():
        logits_BTV = cast(R3FModel, ranks.engine.module).logits(batch)
    if ranks.world.is_first:
        tensors = {"logits_BTV": logits_BTV, **batch.tensors()}
        save_file({name: t.contiguous().cpu() for name, t in tensors.items()}, path)
