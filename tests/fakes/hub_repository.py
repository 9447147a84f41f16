"""A server with one model repository that speaks the Hub's protocol of uploads (huggingface_hub 2.4)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "team/news"
TOKEN = "hf_good"
Files = dict[str, bytes]


@dataclass
class Commit:
    """A commit with all that the branch holds after it."""

    title: str
    message: str
    files: Files

    @property
    def id(self) -> str:
        told = [self.title, *(f"{name}{data!r}" for name, data in sorted(self.files.items()))]
        return hashlib.sha1("\n".join(told).encode()).hexdigest()


@dataclass
class FakeHub:
    """The repository, and what is to go wrong with it."""

    url: str = ""
    private: bool | None = None
    """None while there is no repository."""
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    """Oldest first."""
    stored: Files = field(default_factory=dict)
    """Large files by sha256."""
    fail: list[tuple[str, int]] = field(default_factory=list)
    """Beginnings of a request (`POST /api/...`) with the status that is answered; each once."""
    forget: str = ""
    """Beginning of a request that is carried out and then answered with 502; once."""
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens just before a request is answered; once."""
    ignored: str = ""
    """A file that the repository's rules leave out."""
    asked: list[str] = field(default_factory=list)

    def create(self, *, private: bool) -> None:
        self.private = private
        self.branches["main"] = [Commit("initial commit", "", {".gitattributes": b"*"})]

    def add(self, title: str, files: Files, message: str = "") -> None:
        self.branches["main"].append(Commit(title, message, files))

    def holds(self, branch: str = "main") -> Files:
        return self.branches[branch][-1].files


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sibling(name: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_oid(data)}
    if is_large(name):
        found["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 134}
    return found


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str, code: str = "", **more: str) -> None:
        super().__init__(text)
        self.status, self.text, self.code, self.more = status, text, code, more


def create(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    asked = json.loads(body)
    if hub.private is not None:
        raise Refusal(409, "You already created this model repo", url=f"{hub.url}/{NAME}")
    assert f"{asked['organization']}/{asked['name']}" == NAME
    hub.create(private=asked["visibility"] == "private")
    return {"url": f"{hub.url}/{NAME}"}


def info(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    if hub.private is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    name = match["branch"] or "main"
    if name not in hub.branches:
        raise Refusal(404, "Invalid rev id", "RevisionNotFound")
    last = hub.branches[name][-1]
    siblings = [sibling(name, data) for name, data in last.files.items()]
    return {"id": NAME, "sha": last.id, "private": hub.private, "siblings": siblings}


def branch(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    hub.branches[match["branch"]] = hub.branches["main"][:]
    return {}


def commits(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    return [
        {
            "id": one.id,
            "authors": [{"user": "someone"}],
            "date": "2026-01-02T03:04:05.000Z",
            "title": one.title,
            "message": one.message,
        }
        for one in reversed(hub.branches[match["branch"]])
    ]


def preupload(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    held = hub.holds(match["branch"])

    def told(name: str) -> dict[str, object]:
        oid = None
        if name in held:
            oid = sha256(held[name]) if is_large(name) else git_oid(held[name])
        mode = "lfs" if is_large(name) else "regular"
        return {"path": name, "uploadMode": mode, "shouldIgnore": name == hub.ignored, "oid": oid}

    return {"files": [told(file["path"]) for file in json.loads(body)["files"]]}


def batch(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    objects = []
    for one in json.loads(body)["objects"]:
        actions = {"actions": {"upload": {"href": f"{hub.url}/storage/{one['oid']}"}}}
        objects.append({**one, **({} if one["oid"] in hub.stored else actions)})
    return {"transfer": "basic", "objects": objects}


def store(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    assert sha256(body) == match["oid"]
    hub.stored[match["oid"]] = body
    return {}


def commit(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    history = hub.branches[match["branch"]]
    head, *operations = [json.loads(line) for line in body.splitlines()]
    if head["value"].get("parentCommit") != history[-1].id:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(history[-1].files)
    for operation in operations:
        value = operation["value"]
        match operation["key"]:
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                files[value["path"]] = hub.stored[value["oid"]]
            case "deletedFile":
                del files[value["path"]]
            case other:
                raise AssertionError(other)
    made = Commit(head["value"]["summary"], head["value"]["description"], files)
    history.append(made)
    return {"commitUrl": f"{hub.url}/{NAME}/commit/{made.id}", "commitOid": made.id}


def validate(hub: FakeHub, match: re.Match[str], body: bytes) -> object:
    return {"errors": [], "warnings": []}


Answer = Callable[[FakeHub, re.Match[str], bytes], object]
ROUTES: list[tuple[str, Answer]] = [
    ("POST /api/repos/create", create),
    ("POST /api/validate-yaml", validate),
    (f"GET /api/models/{NAME}(?:/revision/(?P<branch>.*))?", info),
    (f"POST /api/models/{NAME}/branch/(?P<branch>.*)", branch),
    (f"GET /api/models/{NAME}/commits/(?P<branch>.*)", commits),
    (f"POST /api/models/{NAME}/preupload/(?P<branch>.*)", preupload),
    (f"POST /{NAME}.git/info/lfs/objects/batch", batch),
    ("PUT /storage/(?P<oid>.*)", store),
    (f"POST /api/models/{NAME}/commit/(?P<branch>.*)", commit),
]


def answered(hub: FakeHub, request: str, body: bytes) -> object:
    """Return the answer to a request of the right user.

    Raises:
        Refusal: For another status than 200.
    """
    for number, (beginning, status) in enumerate(hub.fail):
        if request.startswith(beginning):
            del hub.fail[number]
            raise Refusal(status, f"answered with {status} as the test asks")
    hub.before.pop(request, lambda: None)()
    for pattern, answer in ROUTES:
        if match := re.fullmatch(pattern, request):
            found = answer(hub, match, body)
            if hub.forget and request.startswith(hub.forget):
                hub.forget = ""
                raise Refusal(502, "the answer was lost")
            return found
    raise AssertionError(f"the fake does not know {request}")


@contextlib.contextmanager
def serve() -> Iterator[FakeHub]:
    """Run the server on the loopback."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            request = f"{self.command} {urllib.parse.unquote(self.path.partition('?')[0])}"
            hub.asked.append(request)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                is_storage = "/storage/" in request
                if not is_storage and self.headers["Authorization"] != f"Bearer {TOKEN}":
                    raise Refusal(401, "Invalid username or password.")
                self.send(200, answered(hub, request, body))
            except Refusal as refusal:
                error = {"X-Error-Message": refusal.text, "X-Error-Code": refusal.code}
                told = {name: value for name, value in error.items() if value}
                self.send(refusal.status, {"error": refusal.text, **refusal.more}, told)

        do_GET = do_POST = do_PUT = answer

        def send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
