"""Settings of fetch: which rows, which pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, model_validator

from pipeline.config import Config, Number

PositiveInt = Annotated[StrictInt, Field(ge=1)]
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""Relative to where the command runs; kept absolute, since ranks may start elsewhere."""


class Columns(Config):
    """Names of the columns in the dataset's files."""

    document: str = "document"
    """Column of the text to summarise."""
    summary: str = "summary"
    """Column of the reference summary."""
    id: str = "id"
    """Column of a unique id; ids are made from split and row number where no file has it."""


class DemoDataset(Config):
    """The built-in synthetic corpus: facts to be read from shuffled sentences."""

    source: Literal["demo"]
    train_rows: PositiveInt = 5000
    """Training pairs, 1 or more."""
    valid_rows: PositiveInt = 200
    """Validation pairs, 1 or more."""
    test_rows: PositiveInt = 200
    """Test pairs, 1 or more."""


class LocalDataset(Config):
    """A folder with one file a split: train, valid and test as .jsonl, .csv or .parquet."""

    source: Literal["local"]
    path: AbsolutePath
    """The folder."""
    columns: Columns = Columns()


class SplitNames(Config):
    """Names of the splits on the Hub."""

    train: str = "train"
    valid: str = "validation"
    test: str = "test"


class HubDataset(Config):
    """A dataset of the Hugging Face Hub, at one revision."""

    source: Literal["hub"]
    path: str
    """Repository, such as abisee/cnn_dailymail."""
    name: str | None = None
    """Configuration of the dataset, such as 3.0.0; None for its only one."""
    revision: Annotated[str, Field(min_length=1)]
    """Commit to read, so that the rows cannot change under the run."""
    columns: Columns = Columns()
    splits: SplitNames = SplitNames()


class ScratchModel(Config):
    """A new BART, its byte-level BPE trained on the training split."""

    source: Literal["scratch"]
    vocab_size: Annotated[StrictInt, Field(ge=300)] = 8000
    """Size of the BPE vocabulary with special tokens, 300 or more; not used with `bpe`."""
    bpe: AbsolutePath | None = None
    """Folder with GPT-2 BPE files (encoder.json, vocab.bpe) to use instead of training one."""
    d_model: PositiveInt = 256
    """Width; a multiple of `heads`."""
    layers: PositiveInt = 3
    """Encoder layers, and as many decoder layers."""
    heads: PositiveInt = 4
    """Attention heads."""
    ffn: PositiveInt = 1024
    """Width of the feed-forward layers."""
    max_positions: PositiveInt = 1024
    """Longest source or target in tokens."""
    init_std: Annotated[Number, Field(gt=0)] | None = None
    """Spread of the initial weights; None for 1/sqrt(d_model), without which small models fail."""
    sinusoid_positions: StrictBool = True
    """Start the learned position tables from sinusoids."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ScratchModel:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        return self


class LocalModel(Config):
    """A Hugging Face directory of a BART-type model with its tokenizer."""

    source: Literal["local"]
    path: AbsolutePath
    """The directory."""


class HubModel(Config):
    """A BART-type model of the Hugging Face Hub, at one revision."""

    source: Literal["hub"]
    path: str
    """Repository, such as facebook/bart-large."""
    revision: Annotated[str, Field(min_length=1)]
    """Commit to load."""


Dataset = Annotated[DemoDataset | LocalDataset | HubDataset, Field(discriminator="source")]
Model = Annotated[ScratchModel | LocalModel | HubModel, Field(discriminator="source")]


class FetchConfig(Config):
    """What to bring in."""

    dataset: Dataset
    model: Model
