"""Settings of fine-tuning."""

from __future__ import annotations

from importlib.util import find_spec
from shutil import which
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from pipeline.config import EXECUTION_ONLY, Config, Number
from pipeline.errors import ConfigError
from pipeline.stage import Execution

Count = Annotated[StrictInt, Field(ge=0)]
PositiveInt = Annotated[StrictInt, Field(ge=1)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Positive = Annotated[Number, Field(gt=0, le=1e38)]
NotNegative = Annotated[Number, Field(ge=0, le=1e38)]


class BatchConfig(Config):
    """How rows are grouped; the same on any number of processes."""

    lanes: PositiveInt = 8
    """Micro-batches of an update; at least the number of processes."""
    lane_tokens: PositiveInt = 4096
    """Most padded tokens, source plus target, of a micro-batch; a longer row gets one of its own."""
    source_bucket: PositiveInt = 16
    """Width in tokens of the length classes of sources."""
    target_bucket: PositiveInt = 8
    """Width in tokens of the length classes of targets."""


class OptimizerConfig(Config):
    """AdamW with decoupled weight decay."""

    lr: Positive = 3e-5
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the first and second moment, 0 to below 1."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NotNegative = 0.01
    """Decoupled decay, 0 or more."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: `all` parameters (fairseq optim/adam.py), or all but biases and LayerNorm."""
    clip_norm: NotNegative = 0.1
    """Largest gradient norm; 0 for no clipping."""


class ScheduleConfig(Config):
    """Linear warm-up, then decay to zero."""

    decay: Literal["polynomial", "cosine"] = "polynomial"
    """Form of the decay after warm-up."""
    warmup_updates: Count = 500
    """Updates of linear warm-up."""
    power: Positive = 1.0
    """Exponent of the polynomial decay; 1 is linear."""


class LossConfig(Config):
    """Label-smoothed cross-entropy."""

    label_smoothing: Share = 0.1
    """Mass taken from the target, 0 to below 1."""
    smoothing: Literal["torch", "fairseq"] = "torch"
    """`torch`: eps/V to each token (fairseq until 2021-02); `fairseq`: eps/(V-1) to each other token."""


class R3FConfig(Config):
    """Robust representations through regularised fine-tuning (arXiv 2008.03156, section 3)."""

    noise: Literal["normal", "uniform", "none"] = "normal"
    """Distribution of the noise on encoder token embeddings; with `none` the two passes differ in their
    dropout alone."""
    sigma: Positive = 1e-5
    """Standard deviation (normal) or half width (uniform) of the noise."""
    lambda_: Annotated[NotNegative, Field(alias="lambda")] = 1.0
    """Weight of the symmetric KL; what it weighs depends on `reduction`. 0 turns the second pass off."""
    reduction: Literal["token", "fairseq"] = "token"
    """`token`: KL per target token, pads masked; `fairseq`: as released, summed over all positions
    and divided by sentences, for the paper's lambda."""

    @property
    def is_on(self) -> bool:
        """Whether training runs the second pass."""
        return self.lambda_ > 0

    @property
    def passes(self) -> int:
        """Passes over each row of a micro-batch, concatenated: clean and noised, or the clean one alone."""
        return 2 if self.is_on else 1


class WarmStartConfig(Config):
    """First updates on rebuilding a masked document's head, for models from scratch."""

    share: Share = 0.0
    """Share of the updates spent on it, from 0 to below 1; 0 for none."""
    source_tokens: Annotated[StrictInt, Field(ge=4)] = 64
    """Length in tokens to which documents are cut for it, <s> and </s> included: copying is learned
    sooner from short ones."""
    mask: Share = 0.1
    """Share of source tokens replaced by <mask>."""
    target_tokens: Annotated[StrictInt, Field(ge=4)] = 16
    """Length in tokens of the head to rebuild, <s> and </s> included."""


class SelectionConfig(Config):
    """Which weights training hands on, and whether it may end early.

    A candidate is a checkpoint with a validation loss of its own, made every `every` updates and at the end.
    """

    weights: Literal["last", "best", "average"] = "last"
    """`last` update's; `best` candidate's by validation nll; `average` of the last `average` candidates."""
    every: PositiveInt = 1000
    """Updates between two candidates; used by `best`, `average` and early stopping."""
    average: PositiveInt = 5
    """Candidates that `average` takes the mean of; all there are, if fewer."""
    patience: Count = 0
    """Candidates in a row without a better validation nll after which training ends; 0 for never."""

    @property
    def is_on(self) -> bool:
        """Whether training makes candidates."""
        return self.weights != "last" or self.patience > 0


class NonfiniteConfig(Config):
    """What happens at an update whose loss or gradient is infinite or not a number."""

    action: Literal["stop", "skip"] = "stop"
    """`stop`: write the batch to disk and end; `skip`: leave the update out, within the budget."""
    budget: PositiveInt = 10
    """Updates that `skip` may leave out over the whole training."""
    overflows: PositiveInt = 20
    """fp16 only: updates in a row that loss scaling may drop before training stops."""


class FinetuneConfig(Config):
    """How the model is fine-tuned."""

    updates: PositiveInt = 20_000
    """Optimizer updates, the warm start included."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """16 bits are for matrix products alone; parameters, LayerNorm and residual stream stay fp32.
    `fp16` scales the loss dynamically."""
    dropout: Share = 0.1
    """Dropout of hidden states."""
    attention_dropout: Share = 0.1
    """Dropout of attention weights."""
    activation_dropout: Share = 0.0
    """Dropout after the feed-forward activation."""
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    r3f: R3FConfig = R3FConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    selection: SelectionConfig = SelectionConfig()
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    compile: StrictBool = False
    """torch.compile the model's layers; other last digits than without, and after a resume: what is
    compiled depends on the shapes that a process has seen."""
    activation_checkpointing: Annotated[StrictBool, EXECUTION_ONLY] = False
    """Recompute activations in the backward pass: a third more compute for a fraction of the memory,
    and the same bits."""
    validate_every: Annotated[Count, EXECUTION_ONLY] = 1000
    """Updates between two measurements of validation loss; 0 for the end only."""
    checkpoint_every: Annotated[PositiveInt, EXECUTION_ONLY] = 1000
    """Updates between two checkpoints."""
    keep_checkpoints: Annotated[PositiveInt, EXECUTION_ONLY] = 2
    """Newest checkpoints kept while training, besides those that `selection` needs."""
    max_failed_saves: Annotated[Count, EXECUTION_ONLY] = 3
    """Periodic saves in a row that may fail, each with a warning, before training stops."""
    log_every: Annotated[PositiveInt, EXECUTION_ONLY] = 10
    """Updates between two records of metrics.jsonl."""
    same_dropout_every: Annotated[Count, EXECUTION_ONLY] = 0
    """Updates between two measurements of r3f/kl_same_dropout, what the noise alone does; 0 for none."""
    tensorboard: Annotated[StrictBool, EXECUTION_ONLY] = False
    """Write the metrics for TensorBoard too (needs the `track` extra)."""
    device_tflops: Annotated[Positive | None, EXECUTION_ONLY] = None
    """Peak 10^12 FLOP/s of one device, for MFU; None looks the GPU up by its name."""

    @property
    def warm_start_updates(self) -> int:
        """First updates, spent on the warm start."""
        return round(self.warm_start.share * self.updates)

    @model_validator(mode="after")
    def _warmup_fits(self) -> FinetuneConfig:
        warmup = self.schedule.warmup_updates
        if warmup >= self.updates:
            raise ValueError(
                f"schedule.warmup_updates {warmup} must be less than updates {self.updates}"
            )
        dropouts = (self.dropout, self.attention_dropout, self.activation_dropout)
        if self.r3f.is_on and self.r3f.noise == "none" and not any(dropouts):
            raise ValueError(
                "r3f.noise none with dropout 0 makes both passes the same: set r3f.lambda 0 or a dropout"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _no_r4f(cls, values: object) -> object:
        if isinstance(values, dict) and "r4f" in values:
            raise ValueError(
                "r4f: not offered; R4F bounds the Lipschitz constant of a classification head "
                "(arXiv 2008.03156, section 3.2), and a generator has no such head. Use r3f"
            )
        return values


_COMPILERS = ("g++", "c++", "clang++")


def check_launch(config: FinetuneConfig, execution: Execution) -> None:
    """Raise ConfigError if there are more processes than lanes, or something asked for is not installed."""
    lanes, size = config.batch.lanes, execution.processes
    if size > lanes:
        raise ConfigError(
            f"{size} processes, but finetune.batch.lanes is {lanes}: use {lanes} or fewer, or "
            "raise lanes (which changes the recipe's updates)"
        )
    if config.compile and not any(map(which, _COMPILERS)):
        raise ConfigError(
            f"finetune.compile needs a C++ compiler, and none of {', '.join(_COMPILERS)} is on PATH: install "
            "one, or --set finetune.compile=false"
        )
    if config.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "finetune.tensorboard is on, but tensorboard is not installed: `pip install -e '.[track]'`, or "
            "--set finetune.tensorboard=false"
        )
