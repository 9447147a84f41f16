"""How a job ended, case by case; and what becomes of one that never gets on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifact import RunDir
from pipeline.distributed.presence import rank_file
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, EXIT_USAGE, LaunchError
from pipeline.launch import write_error
from pipeline.runner import record_preemption
from pipeline.slurm import ledger
from pipeline.slurm.verdict import TOLD_FAILED, Ending, conclude, judge, log_folder, main
from tests.conftest import CommandLine

JOB = "12"


def preempted(done: int | None = 5, **other: Any) -> dict[str, Any]:
    progress = None if done is None else {"done": done, "total": 20, "unit": "update"}
    record = {"stage": "b", "job": JOB, "restart_count": 0, "reason": "stopped by SIGUSR2"}
    return {**record, "progress": progress, **other}


def ending(code: int = 137, **given: Any) -> Ending:
    plain = Ending("b", JOB, 0, code, is_committed=False, preempted=None, before=None)
    return plain._replace(**given)


@pytest.mark.parametrize("code", [0, 1, 75, 137, 143])
def test_a_committed_stage_is_done_whatever_srun_says(code: int) -> None:
    assert judge(ending(code, is_committed=True)).code == EXIT_DONE
    late = ending(code, is_committed=True, preempted=preempted())
    assert judge(late).code == EXIT_DONE


def test_a_committed_stage_that_the_ranks_refused_is_a_failure() -> None:
    verdict = judge(ending(3, is_committed=True))
    assert verdict.code == EXIT_FAILED
    assert "other settings" in verdict.reason


@pytest.mark.parametrize("code", [0, 1, 75, 137, 143])
def test_a_preemption_of_this_job_goes_back_to_the_queue_whatever_srun_says(code: int) -> None:
    verdict = judge(ending(code, preempted=preempted()))
    assert verdict == (EXIT_PREEMPTED, "stopped by SIGUSR2 (update 5/20)", {"update of 20": 5}, 0)


@pytest.mark.parametrize("code", [0, 1, 75, 137])
@pytest.mark.parametrize(
    "left",
    [
        None,
        preempted(job="11"),
        preempted(job=None),
        preempted(restart_count=1),
        preempted(stage="a"),
    ],
)
def test_without_word_of_this_job_it_is_a_failure(left: Any, code: int) -> None:
    verdict = judge(ending(code, preempted=left))
    assert verdict.code == EXIT_FAILED
    assert f"srun ended with code {code}" in verdict.reason
    if left is not None:
        assert f"of job {left['job']}" in verdict.reason


def test_ranks_that_lost_a_node_have_not_failed() -> None:
    progress = {"done": 7, "total": 20, "unit": "update"}
    verdict = judge(ending(1, silent_nodes=["n2", "n5"], progress=progress))
    assert verdict == (EXIT_PREEMPTED, "no answer of n2, n5 (update 7/20)", {"update of 20": 7}, 0)
    before = {"reached": {"update of 20": 7}, "fruitless": 3}
    assert judge(ending(1, silent_nodes=["n2"], progress=progress, before=before)).code == (
        EXIT_FAILED
    )
    assert judge(ending(1, silent_nodes=["n2"], is_committed=True)).code == EXIT_DONE


def test_ranks_that_stopped_because_another_failed_are_no_preemption() -> None:
    cause = "rank 3: out of memory"
    verdict = judge(ending(1, preempted=preempted(), failure=cause))
    assert verdict.code == EXIT_FAILED
    assert verdict.reason.startswith(f"{cause}; srun ended with code 1: the other ranks stopped")
    assert judge(ending(1, is_committed=True, failure=cause)).code == EXIT_DONE
    assert judge(ending(1, preempted=preempted(), hint="rank 1: reset by peer")).code == (
        EXIT_PREEMPTED
    )
    lost = ending(1, preempted=preempted(), failure=cause, silent_nodes=["n2"])
    assert judge(lost).code == EXIT_PREEMPTED


def launch(run_dir: RunDir, *helpers: int, restart: int = 0) -> Path:
    """Make the log folder of a start of the job, with the marks of tasks that help."""
    folder = log_folder(run_dir, "b", JOB, restart)
    folder.mkdir(parents=True)
    for rank in helpers:
        rank_file(folder, rank, "helps").touch()
    return folder


def preempt(run_dir: RunDir, **other: Any) -> None:
    run_dir.preempted.write_text(json.dumps(preempted(**other)), encoding="utf-8")


def test_a_helper_that_failed_is_named_and_its_message_is_told(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    folder = launch(run_dir, 1, 2)
    preempt(run_dir, reason="stopped by SIGTERM")
    rank_file(folder, 1, "left").touch()
    write_error(folder, 1, ConnectionError("Connection closed by peer"))
    write_error(folder, 2, LaunchError("shards made here\nwould differ"))
    verdict = conclude(run_dir, "b", 1, JOB, 0)
    assert verdict.code == EXIT_FAILED
    assert verdict.reason.startswith("rank 2: shards made here would differ; srun ended")
    preempt(run_dir, restart_count=1)  # whose folder has no error
    assert conclude(run_dir, "b", 75, JOB, 1).code == EXIT_PREEMPTED


@pytest.mark.parametrize(
    ("reason", "signalled", "mark", "code"),
    [
        ("stopped by SIGTERM", False, "helps", EXIT_FAILED),
        ("stopped by SIGTERM", False, "left", EXIT_PREEMPTED),
        ("stopped by SIGTERM", False, "stops", EXIT_PREEMPTED),  # a preemption with GraceTime
        ("stopped by SIGTERM", True, "helps", EXIT_PREEMPTED),
        ("stopped by SIGUSR2", False, "helps", EXIT_PREEMPTED),
    ],
)
def test_a_helper_killed_without_a_word_is_a_failure(
    reason: str, signalled: bool, mark: str, code: int, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path)
    folder = launch(run_dir, 1, 2)
    preempt(run_dir, reason=reason)
    rank_file(folder, 1, "left").touch()
    rank_file(folder, 2, mark).touch()
    verdict = conclude(run_dir, "b", 137, JOB, 0, signalled=signalled)
    assert verdict.code == code
    assert ("rank 2: ended without a word" in verdict.reason) == (code == EXIT_FAILED)


def test_the_first_cause_is_told_else_who_lost_a_rank_else_silence(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    folder = launch(run_dir)
    assert "no rank began, and the job's log" in conclude(run_dir, "b", 1, JOB, 0).reason
    rank_file(folder, 0, "pid").touch()
    assert "no rank left word: killed" in conclude(run_dir, "b", 137, JOB, 0).reason
    write_error(folder, 2, RuntimeError("[n2]: Connection reset by peer"))
    told = conclude(run_dir, "b", 137, JOB, 0).reason
    assert told.startswith("rank 2: RuntimeError: [n2]: Connection reset by peer (a rank that left")
    write_error(folder, 3, RuntimeError("CUDA out of memory"))
    write_error(folder, 1, RuntimeError("later"))
    told = conclude(run_dir, "b", 137, JOB, 0).reason
    assert told.startswith("rank 3: RuntimeError: CUDA out of memory; srun ended with code 137")


def test_the_last_start_counts_in_whatever_order_they_were_judged(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    entries = [
        {"job": JOB, "restart_count": restart, "reached": {"update of 20": done}, "fruitless": 0}
        for restart, done in ((1, 5), (0, 2))
    ]
    ledger.note_verdict(run_dir, entries[0])
    ledger.note_verdict(run_dir, entries[1])
    preempt(run_dir, done=4, restart_count=2)
    assert conclude(run_dir, "b", 75, JOB, 2).fruitless == 1


def test_asked_again_with_the_silent_nodes_it_decides_anew(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for restart in range(3):
        assert conclude(run_dir, "b", 1, JOB, restart).code == EXIT_FAILED
        again = conclude(run_dir, "b", 1, JOB, restart, ["n2"])
        assert (again.code, again.fruitless) == (EXIT_PREEMPTED, restart + 1)
    assert [entry["code"] for entry in ledger.verdicts(run_dir)] == [EXIT_PREEMPTED] * 3
    conclude(run_dir, "b", 1, JOB, 3)
    assert conclude(run_dir, "b", 1, JOB, 3, ["n2"]).code == EXIT_FAILED


def outcome(tmp_path: Path, progress: list[int | None]) -> list[int]:
    """Preempt a job again and again at these points; returns the verdicts up to the first failure."""
    run_dir = RunDir(tmp_path)
    codes = []
    for restart, done in enumerate(progress):
        record = preempted(done, restart_count=restart)
        run_dir.preempted.write_text(json.dumps(record), encoding="utf-8")
        codes.append(conclude(run_dir, "b", 75, JOB, restart).code)
        if codes[-1] != EXIT_PREEMPTED:
            break
    return codes


AGAIN, END = EXIT_PREEMPTED, EXIT_FAILED


@pytest.mark.parametrize(
    ("progress", "codes"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [AGAIN] * 7),
        ([0, 0, 0, 0], [AGAIN] * 3 + [END]),
        ([None, None, None, None], [AGAIN] * 3 + [END]),
        ([5, 5, 5, 5, 5], [AGAIN] * 4 + [END]),
        ([5, 5, 5, 5, 6, 6, 6, 6, 6], [AGAIN] * 8 + [END]),
        ([5, 4, 5, 4, 5], [AGAIN] * 4 + [END]),
        ([5, 4, 6, 5, 7], [AGAIN] * 5),
    ],
)
def test_restarts_without_progress_are_bounded(
    tmp_path: Path, progress: list[int | None], codes: list[int]
) -> None:
    assert outcome(tmp_path, progress) == codes


def test_what_slurm_does_by_itself_is_not_counted(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    counted = []
    for restart, taken in enumerate([False, True, False, True, True, False, True, False]):
        preempt(run_dir, restart_count=restart)
        counted.append(conclude(run_dir, "b", 75, JOB, restart, is_taken=taken)[::3])
    assert counted == [*((AGAIN, n) for n in (0, 0, 1, 1, 1, 2, 2, 3))]
    preempt(run_dir, restart_count=8)
    assert conclude(run_dir, "b", 75, JOB, 8).code == END
    again = conclude(run_dir, "b", 75, JOB, 8, is_taken=True)
    assert (again.code, again.fruitless) == (AGAIN, 3)
    conclude(run_dir, "b", 75, JOB, 8)  # given up, and somebody queues it again by hand
    preempt(run_dir, restart_count=9)
    assert conclude(run_dir, "b", 75, JOB, 9, is_taken=True).code == AGAIN


def test_progress_is_compared_with_the_same_count_only(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    codes = []
    for restart, (unit, done) in enumerate(
        [("shard", 9), ("row", 2), *[("shard", 9), ("row", 2)] * 2]
    ):
        told = {"done": done, "total": 10, "unit": unit}
        record = preempted(restart_count=restart, progress=told)
        run_dir.preempted.write_text(json.dumps(record), encoding="utf-8")
        codes.append(conclude(run_dir, "b", 75, JOB, restart).code)
    assert codes == [AGAIN] * 5 + [END]


def test_a_failure_in_between_forgets_nothing(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert outcome(tmp_path, [5, 5, 5]) == [AGAIN] * 3
    assert conclude(run_dir, "b", 1, JOB, 3).code == END  # and somebody queues it again by hand
    record = preempted(5, restart_count=4)
    run_dir.preempted.write_text(json.dumps(record), encoding="utf-8")
    assert conclude(run_dir, "b", 75, JOB, 4).fruitless == 3


def test_the_bound_says_what_to_do(tmp_path: Path) -> None:
    outcome(tmp_path, [0] * 4)
    last = ledger.verdicts(RunDir(tmp_path))[-1]
    assert "queued again 3 times in a row without progress" in last["reason"]
    assert "raise the time limit" in last["reason"]


def test_a_job_submitted_anew_starts_a_new_count(tmp_path: Path) -> None:
    assert outcome(tmp_path, [0] * 4)[-1] == EXIT_FAILED
    run_dir = RunDir(tmp_path)
    run_dir.preempted.write_text(json.dumps(preempted(0, job="13")), encoding="utf-8")
    assert conclude(run_dir, "b", 75, "13", 0).code == EXIT_PREEMPTED


@pytest.fixture
def run_dir(toy: CommandLine, toy_recipe: Path, tmp_path: Path) -> RunDir:
    """A run with stage a done and nothing else."""
    run_dir = RunDir(tmp_path / "run")
    assert toy("run", toy_recipe, "--run-dir", run_dir.root, "--to", "a").code == EXIT_DONE
    return run_dir


def test_what_a_rank_records_is_understood(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    progress = {"done": 3, "total": 4, "unit": "unit", "utc": "", "figures": {}}
    record_preemption(run_dir, "b", "stopped by SIGTERM", progress)
    assert main([str(run_dir.root), "a", "1"]) == EXIT_DONE
    assert main(["--signalled", str(run_dir.root), "b", "137"]) == EXIT_PREEMPTED
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "sumpipe: a, job 12, restart 2: is committed"
    assert said[1] == "sumpipe: b, job 12, restart 2: stopped by SIGTERM (unit 3/4)"
    assert main(["--signalled", "--taken", str(run_dir.root), "b", "137"]) == EXIT_PREEMPTED
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert main([str(run_dir.root), "b", "0"]) == TOLD_FAILED
    assert [entry["code"] for entry in ledger.verdicts(run_dir)] == [EXIT_PREEMPTED, EXIT_FAILED]


def test_damage_is_no_verdict(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    (run_dir.committed("a") / "manifest.json").unlink()
    assert main([str(run_dir.root), "a", "0"]) == EXIT_FAILED
    assert "manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["DIR", "a"], ["--signalled", "DIR", "a"], ["DIR", "a", "-9"], ["/no", "a", "0"]],
)
def test_wrong_usage_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", JOB)
    assert main(arguments) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("sumpipe: ")


def test_outside_a_job_it_is_not_to_be_asked(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run_dir.root), "a", "0"]) == EXIT_USAGE
    assert "SLURM_JOB_ID" in capsys.readouterr().err


def test_it_loads_nothing_heavy(run_dir: RunDir) -> None:
    code = (
        "import sys; from pipeline.slurm.verdict import main\n"
        f"code = main([{str(run_dir.root)!r}, 'a', '0'])\n"
        "print([name for name in ('torch', 'transformers', 'deepspeed', 'typer') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SLURM_JOB_ID": JOB},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("is_taken", "told"), [(True, "Slurm took the job before"), (False, "no rank began")]
)
def test_memory_is_not_blamed_for_what_slurm_took(
    is_taken: bool, told: str, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path)
    launch(run_dir)
    verdict = conclude(run_dir, "b", 143, JOB, 0, is_taken=is_taken)
    assert verdict.code == EXIT_FAILED
    assert verdict.reason.startswith(told)
