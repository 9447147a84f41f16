"""Settings of fetch: which rows, which pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, model_validator

from pipeline.config import EXECUTION_ONLY, Config, Number

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

    @model_validator(mode="after")
    def _differ(self) -> Columns:
        names = (self.document, self.summary, self.id)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"document, summary and id are three columns; {twice!r} is given for two of them"
            )
        return self


OnBadRow = Literal["fail", "record"]
Share = Annotated[Number, Field(gt=0, lt=1)]


class Reading(Config):
    """How rows are read, whatever they come from."""

    on_bad_row: OnBadRow = "fail"
    """About a row that cannot be read: end with its place, or keep it without texts and with its fault."""


class FileReading(Reading):
    """How rows of files are read."""

    max_line_bytes: Annotated[StrictInt, Field(ge=1, lt=1 << 31)] = 1 << 23
    """Longest line of a text file in bytes, its end included, below 2 GiB; a longer one cannot be read. A
    text of 8 MiB takes encode about 1.5 GiB of memory, and one of 50 MB 8 GiB. Texts of Parquet files may be
    of any length."""
    quoting: Literal["csv", "none"] | None = None
    """Whether double quotes in CSV and TSV may enclose delimiters and line ends (`csv`), or are characters
    like others (`none`); null is `csv`, but a TSV record that looks like several rows cannot be read."""


class SplitFiles(Config):
    """Where each split is: a file, a folder or a glob."""

    train: Annotated[str, Field(min_length=1)]
    valid: Annotated[str, Field(min_length=1)]
    test: Annotated[str, Field(min_length=1)]


class Derive(Config):
    """Cuts splits out of one source: a document that comes twice is in one of them."""

    valid: Share
    """Share of documents for validation, about: the counts are told."""
    test: Share
    """Share of documents for testing, about."""
    seed: Annotated[StrictInt, Field(ge=0)] = 1
    """Another seed draws other documents; not the run's, so that runs with several seeds share splits."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Derive:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} and test {self.test} leave nothing to train on")
        return self


class DemoDataset(Config):
    """The built-in synthetic corpus: facts to be read from shuffled sentences."""

    source: Literal["demo"]
    train_rows: PositiveInt = 5000
    """Training pairs, 1 or more."""
    valid_rows: PositiveInt = 200
    """Validation pairs, 1 or more."""
    test_rows: PositiveInt = 200
    """Test pairs, 1 or more."""


class LocalDataset(FileReading):
    """Files of one's own: JSON Lines, CSV, TSV, Parquet or pairs of line files, compressed or not."""

    source: Literal["local"]
    path: AbsolutePath
    """A folder with train, valid and test; with `derive` a file, a folder or a glob."""
    files: SplitFiles | None = None
    """Where the splits are, relative to `path`; null to find them by their names."""
    derive: Derive | None = None
    """Cut all rows into splits; null where they are cut already."""
    columns: Columns = Columns()

    @model_validator(mode="after")
    def _splits_are_given_or_derived(self) -> LocalDataset:
        if self.files is not None and self.derive is not None:
            raise ValueError("files and derive exclude one another: take one out")
        return self


class CatalogueDataset(FileReading):
    """A set that is described in the catalogue, from the Hub or from its original files."""

    source: Literal["catalogue"]
    name: str
    """Its name there, such as cnn_dailymail."""
    path: AbsolutePath | None = None
    """The original files, a folder or the one file; null to fetch them."""
    split: str | None = None
    """How it is cut, by name; only for sets without splits of their own, and then required."""
    split_ids: AbsolutePath | None = None
    """JSON file with lists of ids by split, for a `split` that is given by ids."""
    catalogue: AbsolutePath | None = None
    """A catalogue of one's own; null for the packaged one."""
    check_rows: Annotated[StrictBool, EXECUTION_ONLY] = True
    """End if a split has another number of rows than the catalogue says; false only warns."""
    columns: Columns | None = None
    """Names of the columns where they differ from the catalogue's."""


class SplitNames(Config):
    """Names of the splits on the Hub."""

    train: str = "train"
    valid: str = "validation"
    test: str = "test"


class HubDataset(Reading):
    """A dataset of the Hugging Face Hub, at one revision."""

    source: Literal["hub"]
    path: str
    """Repository, such as abisee/cnn_dailymail."""
    name: str | None = None
    """Configuration of the dataset, such as 3.0.0; None for its only one."""
    revision: Annotated[str, Field(min_length=1)]
    """Commit to read, so that the rows cannot change under the run; a branch or tag is warned of."""
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
    """Commit to load; a branch or tag is warned of."""


Dataset = Annotated[
    DemoDataset | LocalDataset | HubDataset | CatalogueDataset, Field(discriminator="source")
]
Model = Annotated[ScratchModel | LocalModel | HubModel, Field(discriminator="source")]


class FetchConfig(Config):
    """What to bring in."""

    dataset: Dataset
    model: Model
