"""The catalogue: what is known of published sets, as data; a file of one's own has the same form."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, StrictBool, StrictInt, ValidationError, model_validator

from pipeline.config import EXECUTION_ONLY, JSON, Config, load_yaml
from pipeline.errors import ConfigError, DataError
from stages.fetch.config import CatalogueDataset, Columns
from stages.fetch.layout import ALL, Files, matching
from stages.schema import SPLITS

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[StrictInt, Field(ge=1)]
Percent = Annotated[StrictInt, Field(ge=1, le=99)]
Globs = dict[Literal["train", "valid", "test", "all"], Text]


class Rows(Config):
    """Rows of each split."""

    train: Count
    valid: Count
    test: Count


class HubFiles(Config):
    """The files on the Hugging Face Hub."""

    path: Text
    """Repository, such as abisee/cnn_dailymail."""
    revision: Text
    """Commit."""
    files: tuple[Text, ...]
    """Globs of what is downloaded."""
    unzip: StrictBool = False
    """Unpack the .zip files among them."""
    sha256: dict[Text, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Checksums by file name, as far as they are known."""


class Layout(Config):
    """How the files lie in their folder."""

    files: Globs
    """Globs of train, valid and test; or of `all`, for a set that is yet to be cut."""
    columns: Columns = Columns()
    rows: Annotated[Rows | None, EXECUTION_ONLY] = None
    """Rows of each split, where they differ from the published."""
    cuts: Annotated[tuple[Text, ...] | None, EXECUTION_ONLY] = None
    """Ways to cut it that these files allow; null for all."""

    @model_validator(mode="after")
    def _splits_or_one_source(self) -> Layout:
        if set(self.files) not in ({ALL}, set(SPLITS)):
            raise ValueError("files: give train, valid and test, or all")
        if nameless := [glob for glob in self.files.values() if not Path(glob).name]:
            raise ValueError(f"files: {nameless[0]!r} is no name or glob of files, such as *.jsonl")
        return self


class Cut(Config):
    """One way to cut a set that has no splits of its own: rows in some order, cut at two places; or ids."""

    by: Literal["tfds_order", "row_order", "random_order", "ids"]
    valid_from: Percent | None = None
    """Percent of the rows that come before validation."""
    test_from: Percent | None = None
    """Percent of the rows that come before the test split."""
    seed: Annotated[StrictInt, Field(ge=0)] = 1
    """For a random order."""
    rows: Rows | None = None
    """Rows of each split, as far as they are known."""
    about: Text
    """Whose it is, for people."""

    @model_validator(mode="after")
    def _places_are_in_order(self) -> Cut:
        if self.by == "ids":
            return self
        if self.valid_from is None or self.test_from is None or self.valid_from >= self.test_from:
            raise ValueError("give valid_from and test_from in percent, the former less")
        return self


class Evaluation(Config):
    """How results on the set are usually made comparable, in words."""

    rouge_l: Literal["rougeLsum", "rougeL"]
    """Which of the two the literature calls ROUGE-L."""
    sentences: Text
    """What ends a sentence for rougeLsum."""
    limits: Text
    """Usual limits of source and target."""


class Entry(Config):
    """One set."""

    title: Text
    homepage: Text
    licence: Text
    citation: Text
    hub: HubFiles | None = None
    get: Text
    """Where the original files are to be had."""
    layouts: tuple[Layout, ...]
    """The first that fits a folder is taken."""
    rows: Rows | None = None
    """Published rows of each split; of a set that is cut they are given with each of its cuts."""
    both_texts: StrictBool = False
    """Rows without a document or without a summary are no part of the set."""
    cuts: dict[Text, Cut] = Field(default_factory=dict)
    """Ways to cut it, by name; one has to be chosen."""
    evaluation: Evaluation
    notes: Text

    @model_validator(mode="after")
    def _one_source_is_cut(self) -> Entry:
        if not self.layouts:
            raise ValueError("layouts: at least one is needed")
        if len({ALL in layout.files for layout in self.layouts}) > 1:
            raise ValueError(
                "layouts: a set is cut or has splits: give `all` in each layout or in none; two entries may "
                "stand for both"
            )
        if bool(self.cuts) != any(ALL in layout.files for layout in self.layouts):
            raise ValueError(
                "cuts: are for sets with a layout of one source, `all`, and needed there"
            )
        if self.both_texts and not self.cuts:
            raise ValueError("both_texts: is for sets that are cut: leave such rows to clean")
        if self.cuts and (self.rows or any(layout.rows for layout in self.layouts)):
            raise ValueError("rows: of a set that is cut are given with each of its cuts")
        for layout in self.layouts:
            if unknown := [name for name in layout.cuts or () if name not in self.cuts]:
                raise ValueError(f"layouts: cuts: {', '.join(unknown)} is not among the set's cuts")
        return self


class Found(NamedTuple):
    """A set's files."""

    files: Files
    columns: Columns
    """How the columns are called."""
    layout: int
    """Which of the set's layouts they have, from 0."""


class Choice(NamedTuple):
    """An entry of the catalogue, and how it is cut."""

    entry: Entry
    cut: Cut | None
    """None for a set with splits of its own."""


def packaged() -> Path:
    """Return the file of the packaged catalogue."""
    return Path(str(resources.files("stages.fetch") / "catalogue.yaml"))


def load(path: Path) -> dict[str, Entry]:
    """Read a catalogue.

    Raises:
        DataError: If there is no such file.
        ConfigError: With every mistake in it.
    """
    if not path.is_file():
        raise DataError(f"fetch.dataset.catalogue: {path} is not a file")
    entries, mistakes = {}, []
    for name, settings in load_yaml(path).items():
        try:
            entries[str(name)] = Entry.model_validate(settings)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                dotted = ".".join(map(str, (name, *details["loc"])))
                message = details["msg"].removeprefix("Value error, ")
                value = details["input"]
                got = "" if isinstance(value, dict) else f" (got {str(value)[:60]!r})"
                mistakes.append(f"{dotted}: {message}{got}")
    if mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise ConfigError("\n  ".join([f"{path}: {count}", *mistakes]))
    return entries


def choose(dataset: CatalogueDataset) -> Choice:
    """Return the entry and the cut that a recipe names.

    Raises:
        ConfigError: If there is no such set or cut, or a cut is missing or has nothing to cut.
    """
    path = dataset.catalogue or packaged()
    entries = load(path)
    if dataset.name not in entries:
        near = difflib.get_close_matches(dataset.name, entries, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(
            f"fetch.dataset.name: {dataset.name!r} is not in the catalogue; {hint}{path.name} has "
            f"{', '.join(entries)}"
        )
    entry = entries[dataset.name]
    ways = "; ".join(f"{name} ({cut.about})" for name, cut in entry.cuts.items())
    if dataset.split is None and entry.cuts:
        raise ConfigError(
            f"fetch.dataset.split: {dataset.name} has no splits of its own, and figures of two ways to cut "
            f"it do not compare: choose one of {ways}"
        )
    if dataset.split is not None and dataset.split not in entry.cuts:
        told = f"choose one of {ways}" if ways else "it has splits of its own: leave it null"
        raise ConfigError(
            f"fetch.dataset.split: {dataset.split!r} is no way to cut {dataset.name}; {told}"
        )
    cut = entry.cuts[dataset.split] if dataset.split else None
    is_by_ids = cut is not None and cut.by == "ids"
    if is_by_ids != (dataset.split_ids is not None):
        told = (
            f"{dataset.split!r} needs it: {cut.about}" if is_by_ids and cut else "is of no use here"
        )
        raise ConfigError(f"fetch.dataset.split_ids: {told}")
    if entry.hub is None and dataset.path is None:
        raise ConfigError(
            f"fetch.dataset.path: {dataset.name} is not on the Hub; {entry.get} Then give the folder with "
            "--set fetch.dataset.path=DIR"
        )
    return Choice(entry, cut)


def files_in(folder: Path, dataset: CatalogueDataset, entry: Entry) -> Found:
    """Return the files of a set in a folder, and what is known of them.

    Raises:
        DataError: If the folder has none of the set's layouts, or these files cannot be cut as is asked for;
            says where the files are to be had.
    """
    globs = [{str(split): glob for split, glob in layout.files.items()} for layout in entry.layouts]
    number, files = matching(folder, globs, entry.get)
    layout = entry.layouts[number]
    if layout.cuts is not None and dataset.split not in layout.cuts:
        where = folder if folder.is_file() else f"{folder}/{globs[number].get(ALL)}"
        raise DataError(
            f"fetch.dataset.split: {dataset.split} cannot be told from {where}, which allows "
            f"{' and '.join(layout.cuts)}: it lacks the ids, or the rows between. For {dataset.split} bring "
            f"the original. {entry.get}"
        )
    return Found(files, dataset.columns or layout.columns, number)


def catalogue_identity(dataset: CatalogueDataset, choice: Choice) -> JSON:
    """Return what shapes the rows of a set besides the contents of local files: no words for people."""
    entry, cut = choice
    hub = entry.hub if dataset.path is None else None
    return {
        **dataset.identity(),
        "catalogue": None,
        "path": hub.path if hub else None,
        "revision": hub.revision if hub else None,
        "files": list(hub.files) if hub else None,
        "unzip": hub.unzip if hub else None,
        "layouts": [layout.identity() for layout in entry.layouts],
        "both_texts": entry.both_texts,
        "cut": {
            name: value for name, value in cut.identity().items() if name not in ("about", "rows")
        }
        if cut
        else None,
    }
