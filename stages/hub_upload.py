"""Put files on a branch of a model repository of the Hugging Face Hub, in one commit that is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # __all__ is computed

from pipeline.errors import ConfigError, CorruptArtifact
from stages.hub_calls import tried

_ATTRIBUTES = ".gitattributes"
"""The Hub's own, which says what is a large file."""
_OURS = "Pushed by sumpipe"
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}")

Result = TypeVar("Result")


class File(NamedTuple):
    """What a file in the repository is to be."""

    content: Path | bytes
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Place:
    """A branch of a repository."""

    repository: str
    """OWNER/NAME."""
    branch: str
    is_private: bool


class _Found(NamedTuple):
    """A branch as it is."""

    commit: str
    is_private: bool
    files: dict[str, tuple[int | None, str | None]]
    """Bytes and sha256 by name, as far as the Hub tells them: a sha256 for large files only."""


def place_of(repository: str, branch: str, *, is_private: bool) -> Place:
    """Return the branch of these names.

    Raises:
        ConfigError: If they cannot be names.
    """
    if repository.count("/") != 1:
        raise ConfigError(f"{repository!r} is no model repository: expected OWNER/NAME")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"{repository!r} is no model repository: {error}") from error
    if not _BRANCH.fullmatch(branch):
        raise ConfigError(
            f"--revision {branch!r} is no branch: expected letters, digits, . _ - or /"
        )
    return Place(repository, branch, is_private)


def token() -> str:
    """Return the user's token.

    Raises:
        ConfigError: If there is none.
    """
    found = get_token()
    if not found:
        raise ConfigError(
            "push: there is no Hugging Face token here; log in with `hf auth login`, or set HF_TOKEN, with a "
            "token that may write (https://huggingface.co/settings/tokens)"
        )
    return found


def upload(files: Mapping[str, File], place: Place, message: str, *, overwrite: bool) -> str:
    """Make the branch hold these files and nothing else, and return the commit's address.

    The repository and the branch are made if they are not there. Large files are stored first, those that an
    interrupted upload has stored are not sent again, and one commit publishes all: `upload_folder` of
    huggingface_hub 2.4 makes several, between which the branch has half a model.

    Args:
        files: By name in the repository.
        place: Where; a repository that is there has to be as private as this says.
        message: First line of the commit.
        overwrite: Replace what another than this function has committed last.

    Raises:
        ConfigError: Without a token; if the repository is of the other visibility; if the last commit of the
            branch is another's and `overwrite` is not set.
        DataError: If the Hub refuses or cannot be reached.
        CorruptArtifact: If the branch holds something else afterwards.
    """
    api = HfApi(token=token())
    where, help_ = place.repository, _help(place)
    main = replace(place, branch="main")

    def ask(call: Callable[[], Result]) -> Result:
        return tried(f"model {where}", call, help_)

    found, is_new = _opened(api, place, ask)
    _require_visibility(found, place, api.endpoint)
    others = found.files.keys() - {_ATTRIBUTES}
    if others and not is_new and not overwrite:
        last = ask(lambda: api.list_repo_commits(where, revision=place.branch))[0]
        # A branch that is main's copy is one that an interrupted push has made: nothing is lost by it.
        is_copy = place != main and found.commit == ask(lambda: _look(api, main)).commit
        if _OURS not in last.message and not is_copy:
            raise ConfigError(
                f"{where}: the last commit of {place.branch} ({last.commit_id[:8]}, {last.title!r}) was not "
                "pushed by sumpipe; choose another repository or --revision, or replace its "
                f"{len(others)} files with --overwrite (its history keeps them)"
            )

    def commit() -> str:
        added = [CommitOperationAdd(name, file.content) for name, file in files.items()]
        gone = [CommitOperationDelete(name) for name in sorted(others - files.keys())]
        done = api.create_commit(
            where,
            [*added, *gone],
            commit_message=message,
            commit_description=_OURS,
            revision=place.branch,
            parent_commit=found.commit,
        )
        return done.commit_url

    address = ask(commit)
    now = ask(lambda: _look(api, place))
    if fault := _fault(files, now):
        raise CorruptArtifact(f"{address}: {fault}; run the same command again")
    return address


def _help(place: Place) -> str:
    owner = place.repository.partition("/")[0]
    return (
        f"Check the network, and that the token may write to {owner} (`hf auth whoami`). What was stored "
        "stays stored: run the same command again."
    )


def _opened(
    api: HfApi, place: Place, ask: Callable[[Callable[[], _Found | None]], _Found | None]
) -> tuple[_Found, bool]:
    """Return the branch, made if it is not there, and whether it was made."""

    def look() -> _Found | None:
        try:
            return _look(api, place)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    def make() -> _Found | None:
        api.create_repo(place.repository, private=place.is_private, exist_ok=True)
        if place.branch != "main":
            main = _look(api, replace(place, branch="main"))
            _require_visibility(main, place, api.endpoint)  # a refused push leaves no branch behind
            api.create_branch(place.repository, branch=place.branch, exist_ok=True)
        return _look(api, place)

    found = ask(look)
    if found is not None:
        return found, False
    made = ask(make)
    assert made is not None, "make() looks without catching"
    return made, True


def _require_visibility(found: _Found, place: Place, endpoint: str) -> None:
    """Raise ConfigError if a repository is private where it should be public, or the reverse."""
    if found.is_private != place.is_private:
        has, wanted = ("private", "--private") if found.is_private else ("public", "--public")
        raise ConfigError(
            f"{place.repository}: is {has} already, and pushing does not change that: push with {wanted}, "
            f"choose another name, or change it at {endpoint}/{place.repository}/settings"
        )


def _look(api: HfApi, place: Place) -> _Found:
    info = api.model_info(place.repository, revision=place.branch, files_metadata=True)
    files = {
        file.rfilename: (file.size, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }
    return _Found(info.sha or "", bool(info.private), files)


def _fault(files: Mapping[str, File], found: _Found | None) -> str:
    """Say how a branch differs from what it is to hold; empty if it does not."""
    if found is None or found.files.keys() - {_ATTRIBUTES} != files.keys():
        return "the branch does not hold the files that were sent"
    for name, file in files.items():
        size, digest = found.files[name]
        if size not in (None, file.bytes) or digest not in (None, file.sha256):
            return f"{name} is not what was sent"
    return ""
