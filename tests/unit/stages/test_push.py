"""`sumpipe push` with the Hub's own client, against a server that fails as the Hub does."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, ModelCard

from pipeline.artifact import RunDir
from pipeline.config import fingerprint
from pipeline.errors import DataError
from stages import hub_calls
from stages.graph import STAGES
from stages.push import add_push
from stages.recipe import SummarizationRecipe
from stages.report.usage import usage_code
from tests.conftest import CommandLine
from tests.fakes.hub_repository import NAME, TOKEN, FakeHub, serve, sha256

# huggingface_hub 2.4 sends files to httpx2 by an argument of an older name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

WEIGHTS = bytes(range(256)) * 20
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer.json": b"[]"}
FRONT = "---\nlibrary_name: transformers\n---\n"
CARD = f"{FRONT}\n# tiny\n\n```python\n{usage_code(64)}```\n"
CREATE, COMMIT = "POST /api/repos/create", f"POST /api/models/{NAME}/commit/main"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_calls, "WAITS", (0.01, 0.01))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    # hf_xet speaks to another server, and with more than HTTP; the older way has the same place in a push.
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    bars = sys.modules["huggingface_hub.utils.tqdm"].progress_bar_states
    monkeypatch.setitem(
        bars, "_global", False
    )  # as the command's own process has it by TQDM_DISABLE
    with serve() as state:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
        yield state


@pytest.fixture
def push(command_line: Callable[..., CommandLine]) -> CommandLine:
    return command_line(STAGES, SummarizationRecipe, (add_push,))


def finish(run_dir: RunDir, stage: str, files: dict[str, bytes], inputs: dict[str, str]) -> str:
    """Commit a stage, and return its fingerprint."""
    payload = {"stage": stage, "inputs": inputs}
    work = run_dir.open_partial(stage, payload)
    for name, data in files.items():
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(data)
    run_dir.commit(stage, payload, {}, {})
    return fingerprint(payload)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run as far as a push looks at it."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    run_dir.recipe.write_text("name: tiny\n", encoding="utf-8")
    inputs = {"finetune": finish(run_dir, "finetune", {"selection.json": b"{}"}, {})}
    model = {f"model/{name}": data for name, data in MODEL.items()}
    inputs["export"] = finish(run_dir, "export", model, inputs)
    finish(run_dir, "report", {"README.md": CARD.encode(), "index.html": b"<html>"}, inputs)
    return run_dir.root


def expected(branch: str = "main") -> dict[str, bytes]:
    card = CARD.replace('"export/model"  # in the run directory', f'"{NAME}"')
    if branch != "main":
        card = card.replace("from_pretrained(name", f'from_pretrained(name, revision="{branch}"')
        assert card.count(branch) == 2, "the tokenizer and the model"
    return {".gitattributes": b"*", "README.md": card.encode(), **MODEL}


def is_one_line(err: str) -> bool:
    return err.startswith("sumpipe: ") and err.count("\n") == 1


def test_a_dry_run_says_all_and_asks_nobody(
    hub: FakeHub, push: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    found = push("push", run, NAME, "--dry-run", "--revision", "v2", "--message", "Mine")
    assert found.code == 0, found.err
    for name, data in expected("v2").items():
        is_sent = name != ".gitattributes"
        assert (sha256(data) in found.out) == is_sent
        assert not is_sent or f"{name}  " in found.out
    assert "5,120" in found.out and "index.html" not in found.out
    assert f"{NAME}: a private model repository" in found.out
    assert "Branch v2, one commit, 'Mine'" in found.out
    assert f"README.md begins:\n{FRONT}" in found.out
    assert hub.asked == []


def test_a_new_repository_is_private_and_has_the_model_and_the_card(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    found = push("push", run, NAME)
    assert found.code == 0, found.err
    assert hub.private is True
    assert hub.holds() == expected()
    _, last = hub.branches["main"]
    assert (last.title, last.message) == ("Add tiny, trained by sumpipe", "Pushed by sumpipe")
    assert f"{hub.url}/{NAME}/commit/{last.id}" in found.out
    card = ModelCard(hub.holds()["README.md"].decode())
    assert card.data.library_name == "transformers" and f'name = "{NAME}"' in card.text


def test_pushing_the_same_again_makes_no_commit(hub: FakeHub, push: CommandLine, run: Path) -> None:
    push("push", run, NAME, "--public")
    assert hub.private is False
    found = push("push", run, NAME, "--public")
    assert found.code == 0, found.err
    assert len(hub.branches["main"]) == 2 and hub.holds() == expected()


def test_what_an_earlier_push_left_goes(hub: FakeHub, push: CommandLine, run: Path) -> None:
    hub.create(private=True)
    hub.add("Add another", {".gitattributes": b"*", "old.bin": b"x"}, "Pushed by sumpipe")
    found = push("push", run, NAME)
    assert found.code == 0, found.err
    assert hub.holds() == expected()


def test_the_work_of_others_is_replaced_only_if_asked_for(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    push("push", run, NAME)
    edited = {**hub.holds(), "README.md": b"edited by hand"}
    hub.add("Update README.md", edited)
    refused = push("push", run, NAME)
    assert refused.code == 2 and is_one_line(refused.err), refused.err
    assert "'Update README.md') was not pushed by sumpipe" in refused.err
    assert "--overwrite" in refused.err and hub.holds() == edited
    assert push("push", run, NAME, "--overwrite").code == 0
    assert hub.holds() == expected()


def test_another_branch_starts_from_main_and_holds_the_model_only(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.create(private=True)
    hub.add("By hand", {".gitattributes": b"*", "theirs.txt": b"x"})
    found = push("push", run, NAME, "--revision", "r3f/seed-2")
    assert found.code == 0, found.err
    assert hub.holds("r3f/seed-2") == expected("r3f/seed-2")
    assert "theirs.txt" in hub.holds("main")


def test_a_push_to_a_new_branch_that_was_interrupted_is_made_again(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.create(private=True)
    hub.add("By hand", {".gitattributes": b"*", "theirs.txt": b"x"})
    hub.fail = [(COMMIT.replace("main", "v2"), 403)]
    assert push("push", run, NAME, "--revision", "v2").code == 1
    found = push("push", run, NAME, "--revision", "v2")
    assert found.code == 0, found.err
    assert hub.holds("v2") == expected("v2") and "theirs.txt" in hub.holds("main")


@pytest.mark.parametrize(
    ("is_private", "option", "told"),
    [(False, "--private", "is public already"), (True, "--public", "is private already")],
)
def test_what_is_public_or_private_stays_so_and_is_never_mistaken(
    is_private: bool, option: str, told: str, hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.create(private=is_private)
    hub.add("By hand", {".gitattributes": b"*", "theirs.txt": b"x"})
    for branch in ("main", "v2"):
        found = push("push", run, NAME, option, "--revision", branch)
        assert found.code == 2 and is_one_line(found.err), found.err
        assert told in found.err and "/settings" in found.err
    assert hub.private is is_private
    assert hub.branches.keys() == {"main"} and len(hub.branches["main"]) == 2
    advised = re.search(r"push with (--\w+),", found.err)
    assert advised and push("push", run, NAME, advised[1], "--revision", "v2").code == 0


@pytest.mark.parametrize("request_", [CREATE, COMMIT, f"GET /api/models/{NAME}/revision/main"])
def test_a_fault_of_the_hub_is_waited_for(
    request_: str, hub: FakeHub, push: CommandLine, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail = [(request_, 500), (request_, 503)]
    found = push("push", run, NAME)
    assert found.code == 0, found.err
    assert "try 1 of 3 failed" in caplog.text and "try 2 of 3 failed" in caplog.text
    assert hub.holds() == expected() and len(hub.branches["main"]) == 2


@pytest.mark.parametrize("request_", [CREATE, COMMIT])
def test_an_answer_that_is_lost_makes_nothing_twice(
    request_: str, hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.forget = request_
    found = push("push", run, NAME)
    assert found.code == 0, found.err
    assert hub.holds() == expected() and len(hub.branches["main"]) == 2


@pytest.mark.parametrize("status", [401, 402, 403, 409, 412])
def test_a_refusal_is_one_line_and_not_asked_again(
    status: int, hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.create(private=True)
    hub.fail = [(COMMIT, status)]
    found = push("push", run, NAME)
    assert found.code == 1 and is_one_line(found.err), found.err
    assert f"model {NAME}: " in found.err and str(status) in found.err
    assert "token may write to team" in found.err
    assert hub.asked.count(COMMIT) == 1


def test_a_large_file_that_is_refused_says_why(hub: FakeHub, push: CommandLine, run: Path) -> None:
    hub.fail = [("PUT /storage/", 403)]
    found = push("push", run, NAME)
    assert found.code == 1 and is_one_line(found.err), found.err
    assert "403" in found.err and hub.holds().keys() == {".gitattributes"}


def test_a_place_where_nobody_may_write_is_one_line(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.fail = [(CREATE, 403)]
    found = push("push", run, NAME)
    assert found.code == 1 and is_one_line(found.err), found.err
    assert "403" in found.err and hub.private is None


def test_a_token_that_is_not_known_is_one_line(
    hub: FakeHub, push: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    found = push("push", run, NAME)
    assert found.code == 1 and is_one_line(found.err), found.err
    assert "401" in found.err and "hf_bad" not in found.err + found.out


def test_a_commit_of_another_in_between_is_refused(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.create(private=True)
    theirs = {".gitattributes": b"*", "theirs.txt": b"x"}
    hub.before[COMMIT] = lambda: hub.add("In between", theirs)
    found = push("push", run, NAME)
    assert found.code == 1 and is_one_line(found.err), found.err
    assert "412" in found.err and hub.holds() == theirs


def test_an_interrupted_push_sends_no_large_file_twice(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.fail = [(COMMIT, 403)]
    assert push("push", run, NAME).code == 1
    assert hub.holds().keys() == {".gitattributes"}, "half a push is not to be seen"
    assert push("push", run, NAME).code == 0
    assert hub.holds() == expected()
    assert len([request for request in hub.asked if request.startswith("PUT")]) == 1


def test_a_file_that_the_repository_leaves_out_is_missed(
    hub: FakeHub, push: CommandLine, run: Path
) -> None:
    hub.ignored = "tokenizer.json"
    found = push("push", run, NAME)
    assert found.code == 1 and is_one_line(found.err), found.err
    assert "does not hold the files that were sent" in found.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny", "expected OWNER/NAME"),
        ("a/b/c", "expected OWNER/NAME"),
        ("team/my model", "alphanumeric"),
        ("team/-x", "alphanumeric"),
        ("team/a--b", "--"),
        ("datasets/a.git", ".git"),
    ],
)
def test_what_is_no_name_is_refused_before_anything_else(
    name: str, told: str, hub: FakeHub, push: CommandLine, run: Path
) -> None:
    found = push("push", run, name)
    assert found.code == 2 and is_one_line(found.err), found.err
    assert repr(name) in found.err and told in found.err and hub.asked == []


def test_what_is_no_branch_is_refused(hub: FakeHub, push: CommandLine, run: Path) -> None:
    for name in ("", "a b", "-x"):
        found = push("push", run, NAME, f"--revision={name}")
        assert found.code == 2 and "is no branch" in found.err
    assert hub.asked == []


def test_without_a_token_it_says_how_to_log_in(
    hub: FakeHub, push: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    found = push("push", run, NAME)
    assert found.code == 2 and is_one_line(found.err), found.err
    assert "hf auth login" in found.err and hub.asked == []


def test_offline_it_says_so(
    hub: FakeHub, push: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import close_session

    close_session()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = push("push", run, NAME)
    monkeypatch.undo()
    close_session()
    assert found.code == 1 and is_one_line(found.err), found.err
    assert "OfflineModeIsEnabled" in found.err and hub.asked == []


def test_a_mistake_of_ours_is_not_told_as_the_hub_s(
    hub: FakeHub, push: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug() -> None:
        raise ValueError("a bug of ours")

    with pytest.raises(ValueError, match="a bug of ours"):
        hub_calls.tried("model x", bug, "help")

    def of_the_client() -> None:
        CommitOperationAdd("a/../../b", b"")  # it refuses such a name with a plain ValueError

    with pytest.raises(DataError, match=r"model x: ValueError: .*help"):
        hub_calls.tried("model x", of_the_client, "help")


def missing_report(run: Path) -> None:
    (run / "report").rename(run / "elsewhere")


def missing_export(run: Path) -> None:
    (run / "export").rename(run / "elsewhere")


def flipped(run: Path) -> None:
    file = run / "export" / "model" / "model.safetensors"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def edited(run: Path) -> None:
    (run / "report" / "README.md").write_text("my own words", encoding="utf-8")


def trained_again(run: Path) -> None:
    (run / "finetune").rename(run / "elsewhere")
    finish(RunDir(run), "finetune", {"selection.json": b"[]"}, {"encode": "another"})


def of_an_earlier_version(run: Path) -> None:
    (run / "report").rename(run / "elsewhere")
    exported = RunDir(run).artifact("export")
    assert exported is not None
    inputs = {"export": exported.manifest.fingerprint}
    finish(RunDir(run), "report", {"README.md": b"---\na: b\n---\nNo code.\n"}, inputs)


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (missing_report, 2, "its report is not done"),
        (missing_export, 2, "its export is not done"),
        (flipped, 1, "model.safetensors: sha256"),
        (edited, 1, "README.md: has 12 bytes"),
        (trained_again, 3, "tells of an earlier finetune"),
        (of_an_earlier_version, 3, "--restart-from report"),
    ],
)
def test_what_is_not_the_finished_run_is_not_pushed(
    change: Callable[[Path], None],
    code: int,
    told: str,
    hub: FakeHub,
    push: CommandLine,
    run: Path,
) -> None:
    change(run)
    for arguments in (("--dry-run",), ()):
        found = push("push", run, NAME, *arguments)
        assert found.code == code and is_one_line(found.err), found.err
        assert told in found.err
    assert hub.asked == []


def test_a_folder_that_is_no_run_is_refused(
    hub: FakeHub, push: CommandLine, tmp_path: Path
) -> None:
    found = push("push", tmp_path, NAME)
    assert found.code == 2 and "is not a run directory" in found.err
