"""`submit` and `cancel` on the toy graph: one chain, nothing twice, nothing behind a hole."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.claim import Claim
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_STALE, EXIT_USAGE
from pipeline.slurm.command import slurm_commands
from tests.conftest import Answer, CommandLine
from tests.fakes.toy_stages import CHECKOUT, STAGES, ToyRecipe, snapshot
from tests.unit.pipeline.slurm.conftest import FakeSlurm

Submit = Callable[..., Answer]


@pytest.fixture
def toy(command_line: Callable[..., CommandLine]) -> CommandLine:
    """The command line of the toy graph a -> b -> c, with the commands for Slurm."""
    return command_line(STAGES, ToyRecipe, (slurm_commands(STAGES, ToyRecipe),))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "it's a run")


@pytest.fixture
def submit(toy: CommandLine, toy_recipe: Path, run_dir: RunDir) -> Submit:
    def call(*options: str) -> Answer:
        return toy("submit", toy_recipe, "--run-dir", run_dir.root, *options)

    return call


def dependencies(slurm: FakeSlurm) -> dict[str, str | None]:
    """The stage of each job and the job it waits for."""
    found = {}
    for job in slurm.jobs.values():
        after = [word for word in job["words"] if word.startswith("--dependency=afterok:")]
        found[job["name"].split(".")[1] + " " + job["id"]] = (
            after[0].rpartition(":")[2] if after else None
        )
        assert ("--kill-on-invalid-dep=yes" in job["words"]) == bool(after)
    return found


def test_what_is_left_becomes_one_chain(
    fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    assert submit().code == EXIT_DONE
    assert dependencies(fake_slurm) == {"a 100": None, "b 101": "100", "c 102": "101"}
    assert run_dir.logs("slurm").is_dir(), "Slurm makes no folder for its logs"
    assert run_dir.recipe.is_file()
    recorded = json.loads((run_dir.root / "slurm" / "jobs.json").read_text(encoding="utf-8"))
    assert {stage: entry["job"] for stage, entry in recorded.items()} == {
        "a": "100",
        "b": "101",
        "c": "102",
    }
    assert recorded["b"]["command"][1:] == fake_slurm.jobs["101"]["words"]


def test_the_recipe_on_disk_is_what_was_asked_for(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir, tmp_path: Path
) -> None:
    assert submit("--set", "b.units=7").code == EXIT_DONE
    recipe = run_dir.recipe.read_text(encoding="utf-8")
    assert "units: 7" in recipe
    other = tmp_path / "other"
    assert toy("run", run_dir.recipe, "--run-dir", other, "--only", "a").code == EXIT_DONE
    assert (other / "recipe.yaml").read_text(encoding="utf-8") == recipe


def test_a_second_submit_submits_nothing(fake_slurm: FakeSlurm, submit: Submit) -> None:
    submit()
    fake_slurm.change("100", "RUNNING")
    again = submit()
    assert again.code == EXIT_DONE
    assert "job 100 is there already: RUNNING" in again.out
    assert len(fake_slurm.jobs) == 3


def test_finished_stages_are_not_submitted(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    assert toy("run", toy_recipe, "--run-dir", run_dir.root, "--to", "a").code == EXIT_DONE
    submit()
    assert dependencies(fake_slurm) == {"b 100": None, "c 101": "100"}
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).code == EXIT_DONE
    assert "Everything is done" in submit().out
    assert len(fake_slurm.jobs) == 2


def test_a_refusal_midway_is_continued_by_the_next_submit(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    fake_slurm.refuse("sbatch", after=1)
    failed = submit()
    assert failed.code == EXIT_FAILED
    assert "sbatch: error: the cluster is asleep" in failed.err
    assert list(dependencies(fake_slurm)) == ["a 100"]
    fake_slurm.refuse("sbatch", after=9)
    submit()
    assert dependencies(fake_slurm) == {"a 100": None, "b 101": "100", "c 102": "101"}


def test_jobs_of_a_submit_that_died_before_it_wrote_them_down_are_found(
    fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    fake_slurm.refuse("sbatch", after=2)
    submit()
    ledger = run_dir.root / "slurm" / "jobs.json"
    content = json.loads(ledger.read_text(encoding="utf-8"))
    del content["b"]  # sbatch had answered, and then the submitting process was killed
    ledger.write_text(json.dumps(content), encoding="utf-8")
    fake_slurm.refuse("sbatch", after=9)
    submit()
    assert dependencies(fake_slurm) == {"a 100": None, "b 101": "100", "c 102": "101"}
    assert json.loads(ledger.read_text(encoding="utf-8"))["b"]["job"] == "101"


def test_jobs_that_ended_without_their_stage_are_submitted_anew(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    submit()
    fake_slurm.change("100", "FAILED", "NonZeroExitCode")
    for number in ("101", "102"):
        fake_slurm.change(number, "CANCELLED", "DependencyNeverSatisfied")
    submit()
    assert list(dependencies(fake_slurm).items())[3:] == [
        ("a 103", None),
        ("b 104", "103"),
        ("c 105", "104"),
    ]


def test_a_job_behind_a_hole_is_not_left_to_start_without_its_input(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    submit()
    fake_slurm.change("101", "CANCELLED")
    refused = submit()
    assert refused.code == EXIT_USAGE
    assert "c waits in the queue (job 102) without b" in refused.err
    assert "sumpipe cancel" in refused.err
    assert len(fake_slurm.jobs) == 3


def test_nothing_is_chained_to_a_job_that_is_just_ending(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    submit()
    fake_slurm.change("100", "COMPLETING")
    refused = submit()
    assert refused.code == EXIT_FAILED
    assert "a: job 100 is just ending; submit again" in refused.err


def test_another_recipe_is_refused_while_jobs_would_read_it(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    before = snapshot(run_dir.root)
    refused = submit("--set", "c.scale=3")
    assert refused.code == EXIT_USAGE
    assert "another recipe" in refused.err
    assert "a (job 100, PENDING)" in refused.err
    assert "sumpipe cancel" in refused.err
    assert snapshot(run_dir.root).keys() == before.keys()
    assert "scale: 2.0" in run_dir.recipe.read_text(encoding="utf-8")
    assert len(fake_slurm.jobs) == 3
    assert toy("cancel", run_dir.root).code == EXIT_DONE
    assert submit("--set", "c.scale=3").code == EXIT_DONE
    assert "scale: 3.0" in run_dir.recipe.read_text(encoding="utf-8")
    assert len(fake_slurm.jobs) == 6


def test_stale_work_is_refused_as_run_does(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    assert toy("run", toy_recipe, "--run-dir", run_dir.root, "--to", "a").code == EXIT_DONE
    refused = submit("--set", "a.value=3")
    assert refused.code == EXIT_STALE
    assert "a.value" in refused.err
    assert fake_slurm.jobs == {}


def test_a_run_that_somebody_works_on_is_refused(
    fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    run_dir.root.mkdir()
    with lease.hold(run_dir, None):
        refused = submit()
    assert refused.code == EXIT_FAILED
    assert "is in use by" in refused.err
    assert fake_slurm.jobs == {}


def test_a_run_that_its_own_job_works_on_is_left_to_it(
    fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    fake_slurm.change("100", "RUNNING")
    fake_slurm.change("101", "CANCELLED")
    fake_slurm.change("102", "CANCELLED")
    with lease.hold(run_dir, "100"):
        assert submit().code == EXIT_DONE
    assert list(dependencies(fake_slurm).items())[3:] == [("b 103", "100"), ("c 104", "103")]


def test_one_submit_at_a_time(fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir) -> None:
    run_dir.root.mkdir()
    other = Claim(run_dir.root / ".submit")
    assert other.take()
    refused = submit()
    other.release()
    assert refused.code == EXIT_FAILED
    assert "another `sumpipe submit`" in refused.err
    assert fake_slurm.jobs == {}
    assert submit().code == EXIT_DONE


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_it_says_so(submit: Submit, run_dir: RunDir) -> None:
    refused = submit()
    assert refused.code == EXIT_FAILED
    assert "squeue: not found; go to a login node" in refused.err
    assert not run_dir.recipe.exists()


def test_a_dry_run_writes_nothing(fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir) -> None:
    answer = submit("--dry-run")
    assert answer.code == EXIT_DONE
    assert [line.partition("=")[0] for line in answer.out.splitlines()] == ["a", "b", "c"]
    assert not run_dir.root.exists()
    assert fake_slurm.jobs == {}


def test_a_launch_that_the_recipe_cannot_do_is_refused(
    sumpipe: CommandLine, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    tiny = CHECKOUT / "tests" / "data" / "tiny.yaml"
    refused = sumpipe("submit", tiny, "--run-dir", tmp_path / "run", "--nodes", "3")
    assert refused.code == EXIT_USAGE
    assert "lanes is 2" in refused.err
    assert fake_slurm.jobs == {}


def test_jobs_run_the_interpreter_of_submit_or_the_one_given(
    fake_slurm: FakeSlurm, submit: Submit, tmp_path: Path
) -> None:
    submit()
    assert {job["words"][-1] for job in fake_slurm.jobs.values()} == {sys.executable}
    assert "--python" in submit("--python", str(tmp_path / "none")).err
    wrapper = tmp_path / "my python"
    wrapper.write_text("#!/bin/sh\n", encoding="utf-8")
    wrapper.chmod(0o755)
    fake_slurm.forget()
    submit("--python", str(wrapper))
    assert {job["words"][-1] for job in fake_slurm.jobs.values()} == {str(wrapper)}


def test_cancel_takes_back_what_waits_or_runs(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    fake_slurm.change("100", "COMPLETED")
    fake_slurm.change("101", "RUNNING")
    answer = toy("cancel", run_dir.root)
    assert answer.code == EXIT_DONE
    assert "b         job 101 cancelled; it was RUNNING" in answer.out
    assert "100" not in answer.out
    states = [job["state"] for job in fake_slurm.jobs.values()]
    assert states == ["COMPLETED", "CANCELLED", "CANCELLED"]
    again = toy("cancel", run_dir.root)
    assert again.code == EXIT_DONE
    assert "nothing was cancelled" in again.out


def test_cancel_spares_other_runs(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, tmp_path: Path
) -> None:
    submit()
    other = tmp_path / "other"
    assert toy("submit", toy_recipe, "--run-dir", other).code == EXIT_DONE
    toy("cancel", other)
    states = [job["state"] for job in fake_slurm.jobs.values()]
    assert states == ["PENDING"] * 3 + ["CANCELLED"] * 3


def test_status_joins_the_queue(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    fake_slurm.change("100", "FAILED", "NonZeroExitCode")
    fake_slurm.change("101", "CANCELLED", "DependencyNeverSatisfied")
    entry = {"job": "100", "stage": "a", "reason": "srun ended with code 137"}
    (run_dir.root / "slurm" / "verdicts.json").write_text(json.dumps([entry]), encoding="utf-8")
    answer = toy("status", run_dir.root)
    assert answer.code == EXIT_DONE
    rows = {line.split()[0]: line for line in answer.out.splitlines() if line.strip()}
    assert "100  FAILED (NonZeroExitCode)" in rows["a"]
    assert "101  CANCELLED (DependencyNeverSatisfied)" in rows["b"]
    assert "102  PENDING (Dependency)" in rows["c"]
    log = run_dir.logs("slurm") / "100-a.out"
    assert f"a: job 100 last ended so: srun ended with code 137; log {log}" in answer.out
    told = json.loads(toy("status", run_dir.root, "--json").out)["queue"]
    assert told["fault"] is None
    assert told["jobs"]["a"] == {
        "job": "100",
        "state": "FAILED",
        "reason": "NonZeroExitCode",
        "verdict": "srun ended with code 137",
        "log": str(log),
    }


def test_status_of_jobs_that_slurm_has_forgotten(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    fake_slurm.forget()
    told = json.loads(toy("status", run_dir.root, "--json").out)["queue"]
    assert {stage: job["state"] for stage, job in told["jobs"].items()} == dict.fromkeys(
        "abc", "ended"
    )


def test_status_says_when_the_queue_cannot_be_asked(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    fake_slurm.refuse("squeue")
    answer = toy("status", run_dir.root)
    assert answer.code == EXIT_DONE
    assert "the queue is not known: squeue: ended with code 1" in answer.out
    assert "100  unknown" in answer.out


def test_status_of_a_run_that_was_never_submitted_asks_nobody(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, run_dir: RunDir
) -> None:
    fake_slurm.refuse("squeue")
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).code == EXIT_DONE
    assert "queue" not in toy("status", run_dir.root).out
    assert json.loads(toy("status", run_dir.root, "--json").out)["queue"] is None
