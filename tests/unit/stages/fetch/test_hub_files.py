"""Downloads with the real client, from a server that speaks the Hub's protocol and fails as it does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import DataError
from stages import hub_calls
from stages.fetch.catalogue import HubFiles, packaged
from stages.fetch.config import CatalogueDataset, HubModel
from stages.fetch.hub import commit_of, hub_files, hub_model
from stages.fetch.source import source_of
from stages.schema import SPLITS
from tests.fakes.hub_repository import sibling
from tests.unit.stages.fetch.contexts import new_context

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HELP = "Ask the librarian."


@dataclass
class FakeHub:
    """One repository, and what is to go wrong with it."""

    files: dict[str, bytes] = field(default_factory=dict)
    branch: str = COMMIT
    """The commit that main is."""
    refuse: int = 0
    """Requests that are answered with 503 before one is answered."""
    damaged: str = ""
    """A large file of which other bytes are sent."""
    cut_after: int | None = None
    """Bytes after which the first download of a file breaks off."""
    asked: list[str] = field(default_factory=list)
    """Method, path and range of each request."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    state = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = urllib.parse.unquote(self.path.partition("?")[0])
            state.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            if state.refuse:
                state.refuse -= 1
                self.send_error(503)
            elif re.fullmatch(r"/api/(datasets|models)/a/b/revision/(main|[0-9a-f]{40})", path):
                siblings = [sibling(name, data) for name, data in state.files.items()]
                self.send_json({"id": "a/b", "sha": state.branch, "siblings": siblings})
            elif re.match(r"/api/(datasets|models)/a/b/tree/", path):
                self.send_json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                        for name, data in state.files.items()
                    ]
                )
            elif found := re.fullmatch(r"(?:/datasets)?/a/b/resolve/[0-9a-f]{40}/(.*)", path):
                data = state.files[found[1]]
                self.send_bytes(data[::-1] if found[1] == state.damaged else data)
            else:
                self.send_error(404)

        do_GET = do_HEAD = answer

        def send_json(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_bytes(self, data: bytes) -> None:
            start = int(
                (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0]
            )
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.command == "GET":
                end, state.cut_after = state.cut_after, None
                self.wfile.write(data[start:end])
                if end is not None:
                    self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_calls, "WAITS", (0.01, 0.01))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", url)
        monkeypatch.setattr(
            f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE",
            f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        yield state
        server.shutdown()


def wanted(*names: str, **more: object) -> HubFiles:
    return HubFiles.model_validate({"path": "a/b", "revision": COMMIT, "files": names, **more})


def test_a_commit_stays_and_a_branch_is_warned_of(
    fake: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    assert commit_of("dataset", "a/b", COMMIT) == COMMIT
    assert not caplog.text
    assert commit_of("model", "a/b", "main") == COMMIT
    assert "main is not a commit" in caplog.text and COMMIT in caplog.text


def test_a_busy_hub_is_asked_again(fake: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    fake.refuse = 2
    assert commit_of("dataset", "a/b", COMMIT) == COMMIT
    assert "try 1 of 3 failed" in caplog.text and "try 2 of 3 failed" in caplog.text
    fake.refuse = 3
    with pytest.raises(DataError, match=f"503.*{HELP}"):
        commit_of("dataset", "a/b", COMMIT, HELP)


def test_what_is_not_there_is_not_asked_for_again(fake: FakeHub) -> None:
    with pytest.raises(DataError, match=f"dataset a/c at main: .*404.*{HELP}"):
        commit_of("dataset", "a/c", "main", HELP)
    assert len(fake.asked) == 1


def test_what_is_asked_for_is_downloaded_and_no_more(fake: FakeHub, tmp_path: Path) -> None:
    fake.files = {"x/1.csv": b"one", "x/2.csv": b"two", "y.csv": b"three"}
    hub_files(wanted("x/*.csv"), COMMIT, tmp_path, HELP)
    assert (tmp_path / "x" / "1.csv").read_bytes() == b"one"
    assert not (tmp_path / "y.csv").exists()
    with pytest.raises(DataError, match=rf"has no file z\*\. {HELP}"):
        hub_files(wanted("z*"), COMMIT, tmp_path, HELP)


def test_a_download_that_breaks_off_goes_on_where_it_was(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    data = bytes(range(256)) * 4096
    fake.files, fake.cut_after = {"big.bin": data}, 300_000
    hub_files(wanted("big.bin"), COMMIT, tmp_path, HELP)
    assert (tmp_path / "big.bin").read_bytes() == data
    starts = [int(found[1]) for asked in fake.asked if (found := re.search(r"bytes=(\d+)-", asked))]
    assert len(starts) == 1 and 0 < starts[0] <= 300_000, fake.asked


def test_a_file_with_another_checksum_is_refused_and_brought_again(
    fake: FakeHub, tmp_path: Path
) -> None:
    fake.files = {"a.csv": b"altered"}
    good = hashlib.sha256(b"as published").hexdigest()
    hub_entry = wanted("a.csv", sha256={"a.csv": good})
    with pytest.raises(DataError, match=f"sha256 of a.csv is .*{good[:12]} is expected"):
        hub_files(hub_entry, COMMIT, tmp_path, HELP)
    fake.files = {"a.csv": b"as published"}
    hub_files(hub_entry, COMMIT, tmp_path, HELP)
    assert (tmp_path / "a.csv").read_bytes() == b"as published"


def test_bytes_that_changed_on_their_way_are_refused(fake: FakeHub, tmp_path: Path) -> None:
    """Of the right size, which is all that the Hub's client compares."""
    weights = "model.safetensors"
    fake.files, fake.damaged = {"config.json": b"{}", weights: b"weights"}, weights
    model = HubModel(source="hub", path="a/b", revision=COMMIT)
    with pytest.raises(DataError, match=f"model a/b at .* sha256 of {weights} is .* was removed"):
        hub_model(model, COMMIT, tmp_path / "model")
    with pytest.raises(DataError, match=f"dataset a/b at .* sha256 of {weights} is"):
        hub_files(wanted("*.safetensors"), COMMIT, tmp_path / "data", HELP)
    fake.damaged = ""
    hub_model(model, COMMIT, tmp_path / "model")
    assert (tmp_path / "model" / weights).read_bytes() == b"weights"


def gigaword_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("train", "dev", "test"):
            archive.writestr(f"ggw_data/org_data/{name}.src.txt", f"{name} one\n{name} two\n")
            archive.writestr(f"ggw_data/org_data/{name}.tgt.txt", "1\n2\n")
    return packed.getvalue()


def test_gigaword_comes_from_its_archive_on_the_hub(fake: FakeHub, tmp_path: Path) -> None:
    """The packaged entry, from an empty folder to rows; a restart asks for the same commit."""
    fake.files = {"data/ggw_data.zip": gigaword_zip(), "gigaword.py": b"a loading script"}
    text = packaged().read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(
        re.sub("path: Harvard/gigaword\n    revision: .*", "path: a/b\n    revision: main", text)
    )
    chosen = {"name": "gigaword", "catalogue": path}
    dataset = CatalogueDataset.model_validate({"source": "catalogue", **chosen})
    context = new_context(tmp_path / "work")
    source = source_of(dataset, context)
    found = {split: [row.document for row in source.rows(split)] for split in SPLITS}
    assert found["valid"] == ["dev one", "dev two"] and len(found["train"]) == 2
    assert json.loads((context.work / "notes.json").read_text()) == {"dataset_commit": COMMIT}
    fake.branch = "f" * 40  # main moves on, the run does not
    assert len(list(source_of(dataset, context).rows("test"))) == 2
    assert not any("f" * 40 in asked for asked in fake.asked)


def test_reddit_comes_from_its_file_on_the_hub(fake: FakeHub, tmp_path: Path) -> None:
    posts = [
        {"id": f"p{number}", "selftext_without_tldr": f"text {number}", "tldr": "short"}
        for number in range(20)
    ]
    data = gzip.compress("".join(json.dumps(post) + "\n" for post in posts).encode())
    fake.files = {"data/tifu_all_tokenized_and_filtered.json.gz": data}
    text = packaged().read_text(encoding="utf-8")
    text = re.sub(
        r"path: ctr4si/reddit_tifu\n    revision: .*", f"path: a/b\n    revision: {COMMIT}", text
    )
    text = re.sub(
        r"(filtered\.json\.gz: )[0-9a-f]{64}", rf"\g<1>{hashlib.sha256(data).hexdigest()}", text
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    chosen = {"name": "reddit_tifu_long", "split": "hub_order", "catalogue": path}
    dataset = CatalogueDataset.model_validate({"source": "catalogue", **chosen})
    source = source_of(dataset, new_context(tmp_path / "work"))
    assert [row.id for row in source.rows("test")] == ["p18", "p19"]


def test_a_model_is_brought_or_refused(fake: FakeHub, tmp_path: Path) -> None:
    fake.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    model = HubModel(source="hub", path="a/b", revision=COMMIT)
    with pytest.raises(DataError, match="no safetensors weights"):
        hub_model(model, COMMIT, tmp_path / "model")
    fake.files["model.safetensors"] = b"w"
    hub_model(model, COMMIT, tmp_path / "whole")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == b"w"
    assert not (tmp_path / "whole" / "pytorch_model.bin").exists()
