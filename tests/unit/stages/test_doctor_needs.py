"""What doctor says of a recipe's own needs: rows, a model, what scoring needs, room."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import cast

import pytest

from pipeline.artifact import RunDir
from pipeline.config import JSON, validate
from pipeline.distributed.profile import find_profile
from pipeline.distributed.world import free_port
from pipeline.doctor import command as doctor_command
from pipeline.doctor import examination
from pipeline.doctor.examination import Subject
from pipeline.doctor.finding import Finding, Level
from pipeline.planner import plan
from pipeline.recipe import resolve
from pipeline.runner import HashCache
from pipeline.stage import Execution, Recipe
from stages import doctor
from stages.doctor import ask_hub, checks_of_run, judge_material, scoring_data
from stages.fetch.config import FetchConfig
from stages.fetch.needs import hub_needs
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe
from tests.conftest import Answer, CommandLine
from tests.launching import TINY

HUB: JSON = {
    "dataset": {"source": "hub", "path": "abisee/cnn_dailymail", "revision": "96df5e6"},
    "model": {"source": "hub", "path": "facebook/bart-large", "revision": "cb48c13"},
}
MADE: JSON = {"dataset": {"source": "demo"}, "model": {"source": "scratch"}}
TRIAL: JSON = {
    "torch": {"version": "2.13.0", "cuda": None, "gpus": [], "gpu": None},
    "deepspeed": {"error": ""},
    "group": {"backend": "gloo", "size": 1},
    "all_reduce": {"sum": 1.0, "bytes": 2**24, "seconds": 1e-5, "seconds_small": 1e-5},
    "ended": "",
}


def fetch(settings: JSON) -> FetchConfig:
    return validate(FetchConfig, settings, "test")


def silent(kind: str, name: str, revision: str) -> None:
    raise AssertionError("the Hub was asked")


def of(recipe: str | Path, run_dir: Path | None, *overrides: str) -> Subject:
    found, _ = resolve(SummarizationRecipe, str(recipe), overrides)
    return Subject(found, run_dir, Execution(1, 1, find_profile("zero2")))


# --- rows and model ---


def test_what_is_made_here_needs_nobody() -> None:
    (found,) = judge_material(fetch(MADE), [], False, True, silent)
    assert (found.level, "no network is needed" in found.text) == (Level.OK, True)


def test_what_is_fetched_needs_nobody_unless_it_is_damaged() -> None:
    (fine,) = judge_material(fetch(HUB), [], True, True, silent)
    assert (fine.level, "fetch is done" in fine.text) == (Level.OK, True)
    (found,) = judge_material(fetch(HUB), ["raw/test.jsonl: is missing"], True, True, silent)
    assert (found.level, found.text) == (Level.FAILURE, "raw/test.jsonl: is missing")
    assert "--restart-from fetch" in found.fix


def test_offline_without_a_snapshot_names_each_repository() -> None:
    found = list(judge_material(fetch(HUB), [], False, True, silent))
    assert [finding.level for finding in found] == [Level.FAILURE] * 2
    assert found[0].text.startswith("dataset abisee/cnn_dailymail at 96df5e6")
    assert found[1].text.startswith("model facebook/bart-large at cb48c13")
    assert all("--only fetch" in finding.fix for finding in found)


def test_the_hub_is_asked_for_each_repository() -> None:
    asked = []

    def ask(kind: str, name: str, revision: str) -> None:
        asked.append((kind, name, revision))
        if kind == "model":
            raise ConnectionError("no route\nto host")

    rows, model = judge_material(fetch(HUB), [], False, False, ask)
    assert asked == hub_needs(fetch(HUB))
    assert rows.level is Level.OK
    assert model.level is Level.FAILURE
    assert "ConnectionError: no route" in model.text
    assert "\n" not in str(model)


def test_a_local_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    settings = {**HUB, "dataset": {"source": "local", "path": str(tmp_path / "rows")}}
    rows, model = judge_material(fetch(settings), [], False, True, silent)
    assert (rows.level, str(tmp_path / "rows") in rows.text) == (Level.FAILURE, True)
    assert model.level is Level.FAILURE


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that knows one model, asked in place of the Hub."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.path.startswith("/api/models/facebook/bart-large/revision/cb48c13")
            self.send_response(200 if is_known else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"id": "facebook/bart-large"}).encode())

        def log_message(self, *_: object) -> None: ...

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        yield url
        server.shutdown()


@pytest.mark.usefixtures("hub")
def test_the_real_client_asks_for_the_revision() -> None:
    ask_hub("model", "facebook/bart-large", "cb48c13")
    found = list(judge_material(fetch(HUB), [], False, False, ask_hub))
    assert [finding.level for finding in found] == [Level.FAILURE, Level.OK]
    assert "404 Not Found" in found[0].text
    assert "\n" not in found[0].text


# --- what scoring needs ---


def test_punkt_needs_data_and_the_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    # nltk keeps a tokenizer that an earlier test has loaded.
    monkeypatch.setattr(nltk.tokenize, "_get_punkt_tokenizer", nltk.tokenize.PunktTokenizer)
    (fine,) = scoring_data(of(TINY, None))
    assert (fine.level, fine.text) == (Level.OK, "there is what score.profiles need: rouge-score")
    (found,) = scoring_data(of(TINY, None, "score.sentences=punkt"))
    assert (found.level, found.text) == (Level.FAILURE, "punkt needs nltk data")
    assert "nltk.downloader punkt_tab" in found.fix


def test_punkt_with_its_data_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    data = os.environ.get("SUMPIPE_TEST_DATA")
    if not data:
        pytest.skip("SUMPIPE_TEST_DATA is not set: no punkt_tab")
    monkeypatch.setattr(nltk.data, "path", [str(Path(data) / "nltk_data")])
    (found,) = scoring_data(of(TINY, None, "score.sentences=punkt"))
    assert (found.level, found.text) == (
        Level.OK,
        "there is what score.profiles need: rouge-score",
    )


# --- the run, its room, and the command ---


def found_by(check: str, subject: Subject) -> list[Finding]:
    return list(checks_of_run(subject)[check](subject))


def test_a_run_with_other_settings_is_a_failure(tmp_path: Path) -> None:
    made = of(TINY, tmp_path)
    (fine,) = found_by("run", made)
    assert (fine.level, fine.text) == (
        Level.OK,
        "8 stage(s) to do; 1 process(es) can share the work",
    )
    hash_file = HashCache(tmp_path / "hashes.json")
    payload = plan(STAGES, cast(Recipe, made.recipe), RunDir(tmp_path), hash_file)[0].payload
    RunDir(tmp_path).open_partial("fetch", payload)
    (found,) = found_by("run", of(TINY, tmp_path, "fetch.dataset.test_rows=1"))
    assert found.level is Level.FAILURE
    assert found.text.startswith("fetch is STALE: partial work from other settings")


@pytest.mark.parametrize("has_run_dir", [True, False])
def test_more_tasks_than_a_stage_can_use_are_a_failure(has_run_dir: bool, tmp_path: Path) -> None:
    subject = of(TINY, tmp_path if has_run_dir else None)
    many = subject._replace(execution=dataclasses.replace(subject.execution, processes=99))
    (found,) = found_by("run", many)
    assert found.level is Level.FAILURE
    assert found.text.startswith("finetune: 99 processes, but finetune.batch.lanes is")
    assert "or fewer" in found.fix


def test_a_check_of_the_run_that_breaks_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise KeyError("forecast")

    monkeypatch.setattr(doctor, "bytes_to_come", broken)
    subject = of(TINY, tmp_path)
    found = examination._checked(checks_of_run(subject), subject)
    assert [(item.check, str(item.level)) for item in found] == [
        ("run", "ok"),
        ("material", "ok"),
        ("room", "failure"),
    ]


def test_the_state_of_the_run_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(doctor, "plan", lambda *given: looks.append(1) or plan(*given))
    subject = of(TINY, tmp_path)
    examination._checked(checks_of_run(subject), subject)
    assert looks == [1]


def test_room_is_compared_with_the_forecast_of_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**6))
    (found,) = found_by("room", of(TINY, tmp_path / "run"))
    assert found.level is Level.FAILURE
    # 0.2 million parameters of 16 bytes, 3 checkpoints and one being written (see test_storage.py).
    assert "1 MB free" in found.text
    assert "checkpoints need 1" in found.text
    assert "finetune.keep_checkpoints" in found.fix


def test_checkpoints_that_are_there_count_as_written(tmp_path: Path) -> None:
    subject = of(TINY, tmp_path)
    total = doctor.bytes_to_come(subject, [])
    assert total is not None
    partial = RunDir(tmp_path).partial("finetune")
    partial.mkdir()
    (partial / "state").write_bytes(bytes(1000))
    assert doctor.bytes_to_come(subject, []) == total - 1000


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch and the group are tried in processes of their own, which other tests do."""
    monkeypatch.setattr(examination, "try_out", lambda *_, **__: TRIAL)


def faults(answer: Answer) -> list[tuple[str, str]]:
    findings = json.loads(answer.out)["findings"]
    return [(item["check"], item["text"]) for item in findings if item["level"] == "failure"]


@pytest.fixture
def command(command_line) -> CommandLine:  # type: ignore[no-untyped-def]
    return command_line([], SummarizationRecipe, [doctor.add_doctor])


@pytest.mark.usefixtures("healthy")
def test_a_healthy_machine_passes(command: CommandLine, tmp_path: Path) -> None:
    answer = command("doctor", TINY, "--run-dir", tmp_path / "run")
    assert answer.code == 0, answer.out
    lines = answer.out.splitlines()
    checks = {line[8:].split("  ")[0].strip() for line in lines[:-1]}
    expected = {
        "python",
        "packages",
        "torch",
        "cuda",
        "deepspeed",
        "scoring data",
        "limits",
        "binding",
    }
    ours = {"run", "material", "room"}
    assert checks == {*expected, *ours, "all-reduce", "shared files", "temp files"}
    assert lines[-1].endswith("0 failure")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("healthy")
def test_what_was_not_checked_is_said(command: CommandLine) -> None:
    answer = command("doctor")
    assert answer.code == 0
    assert answer.out.endswith(
        "Not checked: shared files and room (give --run-dir); what a recipe needs (give RECIPE).\n"
    )
    told = json.loads(command("doctor", "--json").out)
    assert told["passed"] is True
    assert told["not_checked"] == [
        "shared files and room (give --run-dir)",
        "what a recipe needs (give RECIPE)",
    ]


@pytest.mark.usefixtures("healthy")
def test_an_offline_cluster_without_a_snapshot(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answer = command("doctor", "cnn_dm_bart_large", "--run-dir", tmp_path, "--json")
    assert answer.code == 1
    assert [check for check, _ in faults(answer)] == ["material", "material"]
    assert "HF_HUB_OFFLINE" in answer.out
    assert json.loads(answer.out)["passed"] is False


@pytest.mark.usefixtures("healthy")
def test_the_recipe_of_the_run_is_taken_if_none_is_given(
    command: CommandLine, tmp_path: Path
) -> None:
    _, text = resolve(SummarizationRecipe, str(TINY), [])
    RunDir(tmp_path).recipe.write_text(text, encoding="utf-8")
    answer = command("doctor", "--run-dir", tmp_path)
    assert answer.code == 0
    assert "checkpoints need" in answer.out
    assert "Not checked" not in answer.out


@pytest.mark.usefixtures("healthy")
def test_a_recipe_that_does_not_exist_is_a_usage_error(command: CommandLine) -> None:
    answer = command("doctor", "no-such-recipe")
    assert answer.code == 2
    assert "packaged are" in answer.err


@pytest.fixture
def second_task(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "SUMPIPE_TIMEOUT_SECONDS": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in {**place, **meeting}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second_task")
@pytest.mark.parametrize(
    ("recipe", "told"), [((), "cannot be reached"), (("no-such-recipe",), "packaged are")]
)
def test_a_task_that_cannot_take_part_says_so_and_is_no_reason_to_end_the_first(
    recipe: tuple[str, ...], told: str, command: CommandLine
) -> None:
    answer = command("doctor", *recipe)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err.startswith(f"sumpipe: rank 1 on {socket.gethostname()}: ")
    assert answer.err.count("rank 1") == 1
    assert told in answer.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_undoes_what_was_begun(
    number: signal.Signals, command: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone = []

    def examine(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(20)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # Slurm sends it twice
            time.sleep(0.01)
            undone.append(True)

    monkeypatch.setattr(doctor_command, "examine", examine)
    before = signal.getsignal(signal.SIGHUP)
    assert command("doctor").code == 128 + number
    assert undone == [True]
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.usefixtures("healthy")
def test_a_run_directory_that_does_not_answer_holds_nobody_up(
    command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file, never = Path.is_file, threading.Event()

    def look(path: Path) -> bool:
        return never.wait(20) if path.name == "recipe.yaml" else is_file(path)

    monkeypatch.setattr(Path, "is_file", look)
    monkeypatch.setattr(doctor_command, "_ANSWER_SECONDS", 0.1)
    started = time.monotonic()
    answer = command("doctor", "--run-dir", tmp_path)
    assert time.monotonic() - started < 10
    assert "what a recipe needs" in answer.out
    never.set()
