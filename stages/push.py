"""`sumpipe push`: a finished run's model and its card, to a repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.artifact import Artifact, RunDir, require_run_dir
from pipeline.config import load_yaml
from pipeline.errors import ConfigError, CorruptArtifact, StaleArtifact
from pipeline.log import print_table
from stages.report.usage import for_repository

if TYPE_CHECKING:
    from stages.hub_upload import File, Place

CARD = "README.md"
_FOLDER = "model/"


def add_push(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("push")
    def push_command(
        run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run directory.")],
        repository: Annotated[
            str, typer.Argument(metavar="OWNER/NAME", help="Model repository; made if it is new.")
        ],
        private: Annotated[
            bool, typer.Option("--private/--public", help="Who may read the repository.")
        ] = True,
        revision: Annotated[
            str, typer.Option("--revision", metavar="BRANCH", help="Made if it is new.")
        ] = "main",
        message: Annotated[
            str | None, typer.Option("--message", help="First line of the commit.")
        ] = None,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace what others committed to the branch.")
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only say what would be done; needs no network.")
        ] = False,
    ) -> None:
        """Upload the exported model and its card to the Hugging Face Hub, in one commit."""
        run = require_run_dir(run_dir)
        from stages.hub_upload import place_of, token, upload  # huggingface_hub: half a second

        place = place_of(repository, revision, is_private=private)
        if not dry_run:
            token()  # or its absence is told before gigabytes are read
        files = what_is_pushed(run, repository, revision)
        title = message or f"Add {load_yaml(run.recipe)['name']}, trained by sumpipe"
        if dry_run:
            _show(files, place, title)
            return
        size = sum(file.bytes for file in files.values())
        print(f"{len(files)} files, {size / 1e6:,.1f} MB, checksums as committed. Uploading ...")
        print(f"Done: {upload(files, place, title, overwrite=overwrite)}")


def what_is_pushed(run_dir: RunDir, repository: str, branch: str) -> dict[str, File]:
    """Return the files of a repository: the exported model, every checksum compared, and the card.

    Args:
        run_dir: A run whose report is done.
        repository: OWNER/NAME, which the card's code loads the model from.
        branch: The same of the branch.

    Raises:
        ConfigError: If export or report is not done.
        CorruptArtifact: If a file of theirs is not what was committed.
        StaleArtifact: If the report is of other work than there is now.
    """
    from stages.hub_upload import File

    export, report = (_finished(run_dir, stage) for stage in ("export", "report"))
    _require_same_work(run_dir, report)
    files = {
        name.removeprefix(_FOLDER): File(export.path / name, record.bytes, record.sha256)
        for name, record in export.manifest.files.items()
        if name.startswith(_FOLDER)
    }
    text = report.file(CARD).read_text(encoding="utf-8")
    try:
        card = for_repository(text, repository, branch).encode("utf-8")
    except ValueError as error:
        raise StaleArtifact(
            f"{report.path / CARD}: {error}; make it again with --restart-from report"
        ) from error
    # Ours last: a pretrained model's own card must not stand for this one.
    return {**files, CARD: File(card, len(card), hashlib.sha256(card).hexdigest())}


def _finished(run_dir: RunDir, stage: str) -> Artifact:
    artifact = run_dir.artifact(stage)
    if artifact is None:
        raise ConfigError(
            f"{run_dir.root}: its {stage} is not done, so there is nothing to push yet; "
            f"finish it with `sumpipe run {run_dir.recipe} --run-dir {run_dir.root}`"
        )
    if faults := artifact.faults(deep=True):
        raise CorruptArtifact(f"{faults[0]}. Make it again with --restart-from {stage}")
    return artifact


def _require_same_work(run_dir: RunDir, report: Artifact) -> None:
    """Refuse a card that tells of another model, or of other figures, than those in the run directory."""
    for stage, told in report.manifest.payload["inputs"].items():
        artifact = run_dir.artifact(stage)
        if artifact is not None and artifact.manifest.fingerprint != told:
            raise StaleArtifact(
                f"{report.path}: tells of an earlier {stage} than {artifact.path}; "
                "make it again with --restart-from report"
            )


def _show(files: Mapping[str, File], place: Place, title: str) -> None:
    visibility = "private" if place.is_private else "public"
    print(f"{place.repository}: a {visibility} model repository, made if it is not there.")
    print(
        f"Branch {place.branch}, one commit, {title!r}; the branch then holds these files only:\n"
    )
    rows = [(name, f"{file.bytes:,}", file.sha256) for name, file in files.items()]
    print_table(("file", "bytes", "sha256"), rows)
    card = files[CARD].content
    assert isinstance(card, bytes), "the card is written for the repository"
    front_matter = card.decode("utf-8").split("\n---\n", 1)[0]
    print(f"\n{CARD} begins:\n{front_matter}\n---\n\nA dry run: nothing was uploaded.")
