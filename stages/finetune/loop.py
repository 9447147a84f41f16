"""From one update to the last: records, validation, checkpoints, and what to do when something goes wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.config import JSON
from pipeline.distributed import checkpoint, presence
from pipeline.distributed.voting import voted
from pipeline.errors import DataError, Preempted, StorageError
from pipeline.stage import StageContext
from stages.finetune.batch_plan import BatchPlan
from stages.finetune.config import FinetuneConfig
from stages.finetune.curriculum import Curriculum, UpdateWork
from stages.finetune.data import SummaryTask
from stages.finetune.metrics_log import TRAINING, VALIDATION, MetricsLog
from stages.finetune.noise_survival import ENOUGH, NoiseProbe
from stages.finetune.nonfinite import write_bundle
from stages.finetune.schedule import learning_rate
from stages.finetune.selection import Selection
from stages.finetune.throughput import Stopwatch, peak_tflops
from stages.finetune.training import (
    Outcome,
    Ranks,
    Sums,
    kl_at_equal_dropout,
    train_update,
    validate,
)

_NAMED = 8
"""Row ids in a message; all are in the files."""

_DIGEST = 16
"""Hexadecimal digits."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class State:
    """Where training stands, besides weights and moments; plain values, kept in each checkpoint."""

    identity: str = ""
    """Fingerprint of what shapes this training: settings, seed and inputs."""
    update: int = 0
    """Updates done."""
    window: Sums = field(default_factory=Sums)
    """Loss sums since the last record, so that records do not depend on where training was resumed."""
    window_target_tokens: int = 0
    row_digest: str = ""
    """Of the ids of all rows trained on so far, lane by lane: equal digests, equal samples in equal order."""
    selection: Selection = field(default_factory=Selection)
    skipped: int = 0
    """Updates left out because their loss or gradient was not finite."""
    overflows: int = 0
    """fp16: updates in a row that loss scaling has dropped."""
    dropped: int = 0
    """fp16: all updates that loss scaling has dropped."""
    measured: dict[str, float] | None = None
    """The last validation's results."""
    is_validated: bool = True
    """False if training was stopped before a validation that was due at `update`."""

    def to_json(self) -> JSON:
        """Return the state as JSON."""
        return dataclasses.asdict(self)

    def undone_records(self) -> list[str]:
        """Return what records at `update` have that are only written after this state."""
        validation = [] if self.is_validated else [VALIDATION]
        return [*validation, TRAINING] if self.window_target_tokens else validation

    @classmethod
    def of_json(cls, notes: JSON) -> State:
        """Return the state that `to_json` was called on."""
        parts = {"window": Sums(*notes["window"]), "selection": Selection(**notes["selection"])}
        return cls(**{**notes, **parts})


class Validation(NamedTuple):
    """What validation loss is measured on."""

    task: SummaryTask
    plan: BatchPlan


@dataclass(slots=True)
class Loop:
    """Everything that training uses from update to update; every rank has one."""

    config: FinetuneConfig
    context: StageContext
    ranks: Ranks
    curriculum: Curriculum
    validation: Validation
    log: MetricsLog | None
    """On rank 0 only."""
    state: State
    _stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _failed_saves: int = 0
    _has_warned_of_noise: bool = False

    def is_finished(self) -> bool:
        """Whether no update is left to do."""
        is_over = self.state.selection.is_over(self.config.selection)
        return self.state.update == self.config.updates or is_over

    def run(self) -> None:
        """Do the updates that are left.

        Raises:
            Preempted: If a rank was asked to stop, once a checkpoint is committed.
            DataError: If a loss or gradient was not finite, and the recipe does not let it pass.
            StorageError: If checkpoints cannot be written.
        """
        if not self.state.is_validated:
            if not self._validate():
                raise self._preempted()
            self._close_window()
        while not self.is_finished():
            must_stop = self._update()
            if self._is_validation_due():
                must_stop = must_stop or not self._validate()
                self.state.is_validated = not must_stop
            self._close_window()
            if must_stop:
                self._record_time()
            self._checkpoint(must_stop=must_stop)
            if must_stop:
                raise self._preempted()
        voted(self._flush_log, self.ranks.world, only_first=True)

    def _close_window(self) -> None:
        """Record the last updates of a training that ended early, between two records."""
        if self.is_finished() and self.state.is_validated and self.state.window_target_tokens:
            self._record(self._learning_rate(self.state.update - 1), None)

    def _preempted(self) -> Preempted:
        self._tell_committed()
        reason = self.context.stop.reason or "a request to another rank"
        return Preempted(
            f"stopped by {reason} after update {self.state.update}, which is committed"
        )

    def _tell_committed(self) -> None:
        """Let the progress be the update that is committed, between records too; it bounds restarts."""
        progress, update = self.context.progress, self.state.update
        if progress.latest is None or progress.latest["done"] != update:
            progress.update(update, self.config.updates, "update")

    def _update(self) -> bool:
        """Do the next update; returns whether to stop after it."""
        config, state = self.config, self.state
        number, done = state.update, state.update + 1
        lr = self._learning_rate(number)
        work = self.curriculum.update(number)
        is_record_due = done % config.log_every == 0 or done == config.updates
        is_noised = config.r3f.is_on and config.r3f.noise != "none"
        probe = None
        if is_record_due and is_noised and self.log is not None:  # only rank 0's lane 0 is logged
            probe = NoiseProbe(keeps_difference=not self._has_warned_of_noise)
        outcome = train_update(
            self.ranks, work, number, config.batch.lanes, lr, self.context.stop, probe
        )
        if outcome.is_applied:
            state.window = state.window.plus(outcome.sums)
            state.window_target_tokens += work.target_tokens
            state.overflows = 0
        else:
            self._not_applied(done, outcome)
        state.update = done
        state.row_digest = _next_digest(state.row_digest, work)
        self._stopwatch.tokens += work.tokens
        self._stopwatch.forward_flops += work.forward_flops
        if is_record_due:
            self._record(lr, probe)
        if is_noised and config.same_dropout_every and done % config.same_dropout_every == 0:
            with self._stopwatch.stopped():
                kl = kl_at_equal_dropout(self.ranks, work, number)
            self._add(**{"r3f/kl_same_dropout": kl})
        return outcome.must_stop

    def _learning_rate(self, number: int) -> float:
        config = self.config
        return learning_rate(number, config.updates, config.optimizer.lr, config.schedule)

    def _not_applied(self, update: int, outcome: Outcome) -> None:
        """Count an update whose loss or gradient was not finite, and stop if the recipe says so."""
        settings, state, engine = self.config.nonfinite, self.state, self.ranks.engine
        what = "gradient" if outcome.is_loss_finite else "loss"
        if self.config.precision == "fp16" and outcome.is_loss_finite:
            state.overflows += 1
            if state.overflows <= settings.overflows:
                state.dropped += 1
                self._say(
                    logging.INFO,
                    f"update {update} overflowed fp16 and was dropped; loss scale {engine.loss_scale:g} now",
                )
                return
            verdict = (
                f"{state.overflows} updates in a row overflowed (finetune.nonfinite.overflows)"
            )
        else:
            state.skipped += 1
            is_allowed = settings.action == "skip" and state.skipped <= settings.budget
            verdict = "" if is_allowed else "training stopped before applying it"
            if settings.action == "skip" and not is_allowed:
                verdict += f", after {settings.budget} skipped ones (finetune.nonfinite.budget)"
        culprits = [
            lane for lane in outcome.lanes if outcome.is_loss_finite or not lane[0].is_finite
        ]
        folder = self.context.work / "nonfinite" / checkpoint.folder_name(update)
        facts = {"update": update, "loss_scale": engine.loss_scale, "not_finite": what}
        named = voted(lambda: write_bundle(folder, culprits, facts), self.ranks.world)
        ids = [row for rank in named for row in rank]
        shown = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if ids[_NAMED:] else "")
        found = f"the {what} of update {update} is not finite (rows {shown}; batch in {folder})"
        if not verdict:
            self._say(logging.WARNING, f"{found}: skipped, {state.skipped} of {settings.budget}")
            return
        raise DataError(
            f"{found}; {verdict}. {self._advice()}; nonfinite.action skip leaves such out"
        )

    def _advice(self) -> str:
        """Say what to do about numbers that are not finite."""
        is_short = self.config.precision != "fp32"
        return (
            "If the rows are sound, the settings have likely ruined the weights: lower "
            f"finetune.optimizer.lr{' or use finetune.precision fp32' if is_short else ''}, and start again "
            "with --restart-from finetune"
        )

    def _record(self, lr: float, probe: NoiseProbe | None) -> None:
        config, state, engine = self.config, self.state, self.ranks.engine
        values: dict[str, float | str | None] = {}
        if state.window_target_tokens:
            sums = (part / state.window_target_tokens for part in state.window)
            nll, smoothing, kl, accuracy = sums
            loss = nll + smoothing + config.r3f.lambda_ * kl
            values = {"loss": loss, "nll": nll, "smoothing": smoothing}
            shown = {"loss": loss, "nll": nll}
            if config.r3f.is_on:  # else one pass runs, and there is nothing to measure
                values["r3f/kl"] = shown["kl"] = kl
            values["accuracy"] = accuracy
            self.context.progress.update(state.update, config.updates, "update", **shown, lr=lr)
        values |= {
            "lr": lr,
            "gradient_norm": engine.gradient_norm(),
            "target_tokens": state.window_target_tokens,
            "skipped": state.skipped,
            "row_digest": state.row_digest,
        }
        if config.precision == "fp16":
            values["loss_scale"] = engine.loss_scale
        if probe is not None:
            values |= self._survival(probe)
        self._add(**values, **self._speed())
        state.window, state.window_target_tokens = Sums(), 0
        self._stopwatch = Stopwatch()

    def _record_time(self) -> None:
        """Record what the updates since the last record took, as the next start has a clock of its own."""
        if self._stopwatch.tokens:
            self._add(**self._speed())

    def _speed(self) -> dict[str, float]:
        config, ranks = self.config, self.ranks
        peak = None  # the table's are of 16-bit products
        if config.precision != "fp32" or config.device_tflops is not None:
            peak = peak_tflops(config.device_tflops, ranks.engine.device)
        return self._stopwatch.read(config.r3f.passes, ranks.world.size, peak)

    def _survival(self, probe: NoiseProbe) -> dict[str, float]:
        """Return the shares of lane 0; warn once if the noise is mostly lost."""
        found, r3f = probe.survival(), self.config.r3f
        if found.compute < ENOUGH and not self._has_warned_of_noise:
            self._has_warned_of_noise = True
            factor = probe.sufficient_factor()
            self._say(
                logging.WARNING,
                f"only {found.compute:.1%} of the noise is left once the first matrix product rounds it to "
                f"{self.config.precision} (finetune.r3f.sigma {r3f.sigma:g}): the KL is mostly that of two "
                f"dropout masks; from sigma {r3f.sigma * factor:.2g} on half of it would be left",
            )
        return {
            "r3f/noise_survival_embedding": found.embedding,
            "r3f/noise_survival_residual": found.residual,
            "r3f/noise_survival_compute": found.compute,
        }

    def _is_validation_due(self) -> bool:
        config, update = self.config, self.state.update
        is_periodic = config.validate_every > 0 and update % config.validate_every == 0
        is_candidate = config.selection.is_on and update % config.selection.every == 0
        return update == config.updates or is_periodic or is_candidate

    def _validate(self) -> bool:
        """Measure the validation split; returns False if a rank was asked to stop meanwhile.

        Raises:
            DataError: If the loss is not finite.
        """
        config, state = self.config, self.state
        with self._stopwatch.stopped():
            measured = validate(
                self.ranks, self.validation.task, self.validation.plan, self.context.stop
            )
        if measured is None:
            return False
        if not math.isfinite(measured["nll"]):
            raise DataError(
                f"the validation loss after update {state.update} is not finite. {self._advice()}"
            )
        state.measured = measured
        self._add(**{f"valid/{name}": value for name, value in measured.items()})
        if state.selection.is_due(config.selection, state.update, config.updates):
            state.selection.add(config.selection, state.update, measured["nll"])
        state.is_validated = True
        return True

    def _checkpoint(self, *, must_stop: bool) -> None:
        """Save if it is time to; a periodic save may fail a few times in a row."""
        config, state = self.config, self.state
        is_candidate = config.selection.weights != "last" and state.selection.is_due(
            config.selection, state.update, config.updates
        )
        is_needed = must_stop or self.is_finished() or is_candidate
        if not is_needed and state.update % config.checkpoint_every:
            return
        presence.mark(f"the checkpoint of update {state.update}")
        try:
            with self._stopwatch.stopped():
                voted(self._flush_log, self.ranks.world, only_first=True)
                checkpoint.save(
                    self.ranks.engine,
                    self.context.work / "checkpoints",
                    state.update,
                    self.ranks.world,
                    keep=config.keep_checkpoints,
                    also_keep=state.selection.chosen(config.selection, state.update),
                    notes=state.to_json(),
                    guard=self.context.guard,
                )
            self._failed_saves = 0
            self._tell_committed()
        except StorageError as error:
            self._failed_saves += 1
            if is_needed or self._failed_saves > config.max_failed_saves:
                raise
            self._say(
                logging.WARNING,
                f"the checkpoint of update {state.update} failed, {self._failed_saves} of at most "
                f"{config.max_failed_saves} in a row: {error}",
            )

    def _flush_log(self) -> None:
        if self.log is not None:
            self.log.flush()

    def _add(self, **values: float | str | None) -> None:
        """Append a record; a number that is not finite is null, which JSON has."""
        if self.log is not None:
            told = {
                k: v if v is None or isinstance(v, str) or math.isfinite(v) else None
                for k, v in values.items()
            }
            self.log.add(self.state.update, **told)

    def _say(self, level: int, message: str) -> None:
        if self.ranks.world.is_first:
            _logger.log(level, "%s", message)


def _next_digest(digest: str, work: UpdateWork) -> str:
    """Return the digest of all rows so far, after one more update."""
    ids = [work.task.ids(lane) for lane in work.lanes]
    return hashlib.sha256(json.dumps([digest, ids]).encode()).hexdigest()[:_DIGEST]
