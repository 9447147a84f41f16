"""Fine-tune: load, resume, update until done, checkpoint on the way, leave a probe for export."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BartForConditionalGeneration

from pipeline.distributed import checkpoint
from pipeline.distributed.profile import load_profile
from pipeline.distributed.zero import ZeroEngine
from pipeline.errors import Preempted
from pipeline.stage import Metrics, StageContext
from stages.finetune.batch_plan import BatchPlan, idle_share, lane_slots
from stages.finetune.config import FinetuneConfig, check_launch
from stages.finetune.curriculum import Curriculum, plan_of
from stages.finetune.data import EncodedSplit, SummaryTask
from stages.finetune.metrics_log import MetricsLog
from stages.finetune.model import R3FModel
from stages.finetune.schedule import learning_rate
from stages.finetune.training import Ranks, Totals, train_update, validate

PROBE_ROWS = 4
"""Validation rows whose logits export compares with the trainer's."""

_logger = logging.getLogger(__name__)


class Validation(NamedTuple):
    """What validation loss is measured on."""

    task: SummaryTask
    plan: BatchPlan


def run(config: FinetuneConfig, context: StageContext) -> Metrics:
    """Write checkpoints/, metrics.jsonl and probe.safetensors; runs on every rank."""
    _check_lanes(config, context)
    folder = context.inputs["fetch"].directory("model")
    encoded = context.inputs["encode"]
    ranks = _prepare(config, context, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, valid = (EncodedSplit(encoded.directory(split)) for split in ("train", "valid"))
    d_model = _bart(ranks).config.d_model
    curriculum = Curriculum(train, config, context.seed, d_model, tokenizer.mask_token_id)
    valid_task = SummaryTask(valid)
    validation = Validation(valid_task, plan_of(valid_task, config, context.seed, d_model))
    if curriculum.summary_plan.oversized:
        rows, bound = curriculum.summary_plan.oversized, config.batch.lane_tokens
        _logger.warning("%d rows exceed lane_tokens %d: each is a micro-batch alone", rows, bound)
    start = _resume(ranks, context)
    log = MetricsLog(context.work / "metrics.jsonl", start) if context.world.is_first else None
    measured = _train(config, context, ranks, curriculum, validation, log, start)
    if measured is None:  # nothing was left to train: the log has this measurement already
        measured = validate(ranks, validation.task, validation.plan)
    _probe(ranks, valid, context.work / "probe.safetensors")
    if context.world.is_first:
        checkpoint.drop_old(context.work / "checkpoints", keep=1)
    epochs = (
        config.updates - config.warm_start_updates
    ) / curriculum.summary_plan.updates_per_epoch
    return {
        "valid_nll_nats_per_token": measured["nll"],
        "updates": config.updates,
        "warm_start_updates": config.warm_start_updates,
        "epochs": round(epochs, 3),
        "parameters": ranks.engine.parameter_count,
        "rows_over_lane_tokens": curriculum.summary_plan.oversized,
        "idle_share": idle_share(config.batch.lanes, context.world.size),
    }


def _check_lanes(config: FinetuneConfig, context: StageContext) -> None:
    check_launch(config, context.execution)
    lanes, size = config.batch.lanes, context.world.size
    idle = idle_share(lanes, size)
    if idle > 0 and context.world.is_first:
        _logger.warning(
            "%d lanes on %d processes: %.0f %% of the work is idle", lanes, size, 100 * idle
        )


def _prepare(config: FinetuneConfig, context: StageContext, folder: Path) -> Ranks:
    bart = BartForConditionalGeneration.from_pretrained(
        folder,
        dtype=torch.float32,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
    )
    module = R3FModel(bart, config.loss, config.r3f)
    optimizer = config.optimizer
    group = {"params": list(module.parameters()), "weight_decay": optimizer.weight_decay}
    engine = ZeroEngine(
        module,
        [group],
        profile=load_profile(context.execution.ds_profile),
        world=context.world,
        lane_slots=lane_slots(config.batch.lanes, context.world.size),
        precision=config.precision,
        clip_norm=optimizer.clip_norm,
        betas=optimizer.betas,
        eps=optimizer.eps,
    )
    pad_id, start_id = bart.config.pad_token_id, bart.config.decoder_start_token_id
    return Ranks(engine, context.world, context.seed, pad_id, start_id)


def _bart(ranks: Ranks) -> BartForConditionalGeneration:
    return ranks.engine.module.bart


def _resume(ranks: Ranks, context: StageContext) -> int:
    """Load the newest whole checkpoint; returns how many updates are done."""
    found = checkpoint.agree_on_newest(context.work / "checkpoints")
    if found is None:
        return 0
    checkpoint.require_same_launch(found, ranks.engine, context.world)
    ranks.engine.load(found.folder)
    if context.world.is_first:
        _logger.info("resumes after update %d", found.update)
    return found.update


def _train(
    config: FinetuneConfig,
    context: StageContext,
    ranks: Ranks,
    curriculum: Curriculum,
    validation: Validation,
    log: MetricsLog | None,
    start: int,
) -> dict[str, float] | None:
    """Run the updates that are left; returns the last validation losses, None if none was left."""
    measured = None
    totals, clock = Totals(), time.monotonic()
    for number in range(start, config.updates):
        lr = learning_rate(number, config.updates, config.optimizer.lr, config.schedule)
        work = curriculum.update(number)
        must_stop = train_update(ranks, work, number, config.batch.lanes, lr, totals, context.stop)
        done = number + 1
        if done % config.log_every == 0 or done == config.updates:
            _record(context, ranks, log, done, config, totals, lr, time.monotonic() - clock)
            totals, clock = Totals(), time.monotonic()
        is_last = done == config.updates
        if is_last or (config.validate_every and done % config.validate_every == 0):
            measured = _validate(ranks, validation, log, done)
        if is_last or must_stop or done % config.checkpoint_every == 0:
            checkpoint.save(
                ranks.engine,
                context.work / "checkpoints",
                done,
                context.world,
                keep=config.keep_checkpoints,
                guard=context.guard,
            )
        if must_stop and not is_last:
            reason = context.stop.reason or "a request to another rank"
            raise Preempted(f"stopped by {reason} after update {done}, which is committed")
    return measured


def _validate(
    ranks: Ranks, validation: Validation, log: MetricsLog | None, done: int
) -> dict[str, float]:
    losses = validate(ranks, validation.task, validation.plan)
    if log is not None:
        log.add(done, **{f"valid/{name}": value for name, value in losses.items()})
    return losses


def _record(
    context: StageContext,
    ranks: Ranks,
    log: MetricsLog | None,
    done: int,
    config: FinetuneConfig,
    totals: Totals,
    lr: float,
    seconds: float,
) -> None:
    means = totals.per_token(ranks.engine.device)
    loss = means["nll"] + means["smoothing"] + config.r3f.lambda_ * means["kl"]
    context.progress.update(
        done, config.updates, "update", loss=loss, nll=means["nll"], kl=means["kl"], lr=lr
    )
    if log is not None:
        log.add(
            done,
            loss=loss,
            nll=means["nll"],
            smoothing=means["smoothing"],
            **{"r3f/kl": means["kl"]},
            lr=lr,
            gradient_norm=ranks.engine.gradient_norm(),
            target_tokens=totals.target_tokens,
            seconds=round(seconds, 3),
        )


def _probe(ranks: Ranks, valid: EncodedSplit, path: Path) -> None:
    """Store logits of a few validation rows, computed in fp32, for export to compare with."""
    rows = np.arange(min(PROBE_ROWS, len(valid)))
    batch = ranks.batch(SummaryTask(valid), rows, 0)
    ranks.engine.train(False)
    with torch.no_grad():
        logits_BTV = cast(R3FModel, ranks.engine.module).logits(batch)
    if ranks.world.is_first:
        tensors = {"logits_BTV": logits_BTV, **dataclasses.asdict(batch)}
        save_file({name: t.contiguous().cpu() for name, t in tensors.items()}, path)
