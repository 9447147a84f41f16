"""`submit` and `cancel` on the toy graph: one chain, nothing twice, nothing behind a hole."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import lease
from pipeline.artifact import RunDir
from pipeline.claim import Claim
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_STALE, EXIT_USAGE
from pipeline.slurm.command import slurm_commands
from pipeline.slurm.sbatch import job_name, queue_command
from pipeline.slurm.verdict import log_folder
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
    toy("cancel", run_dir.root)
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).code == EXIT_DONE
    assert "Everything is done" in submit().out
    assert len(fake_slurm.jobs) == 2


def test_a_refusal_midway_is_continued_by_the_next_submit(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    fake_slurm.refuse("sbatch", after=1)
    failed = submit()
    assert failed.code == EXIT_FAILED
    assert (
        "sumpipe: b: sbatch: ended with code 1 (sbatch: error: the cluster is asleep" in failed.err
    )
    assert "the jobs before it stay: submit again" in failed.err
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


def test_within_an_allocation_its_options_are_not_inherited(
    fake_slurm: FakeSlurm, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JWT": "secret",
        "SLURM_CLUSTERS": "here",
        "SBATCH_ACCOUNT": "nlp",
        "SUMPIPE_THREADS": "2",
    }
    dropped = {
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_NODE": "1024",
        "SLURM_GPUS_PER_NODE": "1",
        "SBATCH_ARRAY_INX": "1",
        "SQUEUE_FORMAT": "%i",
    }
    for name, value in {**kept, **dropped}.items():
        monkeypatch.setenv(name, value)
    assert submit().code == EXIT_DONE
    seen = fake_slurm.jobs["100"]["environ"]
    assert {name: seen.get(name) for name in kept} == kept
    assert seen.keys() & dropped.keys() == set()


def test_defaults_of_a_site_do_not_undo_what_the_scripts_ask_for(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    submit("--sbatch", "--signal=USR2@600 --export=NONE")
    for job in fake_slurm.jobs.values():
        words = job["words"]
        assert "--requeue" in words
        assert "--open-mode=append" in words
        # of options given twice sbatch takes the last
        assert words.index("--signal=USR2@300") < words.index("--signal=USR2@600")
        assert words.index("--export=ALL") < words.index("--export=NONE")


def test_a_memory_limit_among_the_options_is_the_only_one(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    for number, (option, is_kept) in enumerate(
        [("--mem-bind=local", True), ("--mem=0", False), ("--mem-per-gpu=8G", False)]
    ):
        fake_slurm.forget()
        submit("--sbatch", option)
        assert ("--mem-per-cpu=4G" in fake_slurm.jobs["100"]["words"]) == is_kept, number


@pytest.mark.parametrize("said", ["", "Submitted batch job 12", "12 34", "12;here\nbye"])
def test_what_is_no_number_is_not_taken_for_a_job(
    said: str, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    fake_slurm.say("sbatch", said)
    refused = submit()
    assert refused.code == EXIT_FAILED
    assert f"printed no job number ({' '.join(said.split()) or 'nothing'})" in refused.err
    assert not (run_dir.root / "slurm" / "jobs.json").exists()


@pytest.mark.parametrize("said", ["12", "12;here", "sbatch: your quota is fine\n\n12;here\n"])
def test_a_number_is_found_behind_other_words(
    said: str, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    fake_slurm.say("sbatch", said)
    assert submit().code == EXIT_DONE
    recorded = json.loads((run_dir.root / "slurm" / "jobs.json").read_text(encoding="utf-8"))
    assert {entry["job"] for entry in recorded.values()} == {"12"}


def test_rows_of_arrays_are_read_and_others_are_refused(
    fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    name = job_name(run_dir.root, "a")
    fake_slurm.say("squeue", f"7_[0-1]|PENDING|{name}|JobHeldUser\n6_1|RUNNING|{name}|None\n")
    assert "a         job 7 is there already: PENDING (JobHeldUser)" in submit().out
    for row in ("what is this", f"|PENDING|{name}|", "8|PENDING"):
        fake_slurm.say("squeue", row)
        refused = submit()
        assert refused.code == EXIT_FAILED
        assert f"squeue: printed {row!r}" in refused.err


def test_the_queue_is_asked_for_hidden_partitions_too(run_dir: RunDir) -> None:
    assert "--all" in queue_command([run_dir.root], "abc")


def test_other_options_for_a_job_that_is_there_are_not_passed_over_in_silence(
    fake_slurm: FakeSlurm, submit: Submit
) -> None:
    submit("--mem-per-cpu", "8G")
    fake_slurm.change("100", "COMPLETED")
    fake_slurm.change("101", "CANCELLED")
    fake_slurm.change("102", "CANCELLED")
    submit("--mem-per-cpu", "8G")  # b waits for a no more
    assert "other options" not in submit("--mem-per-cpu", "8G").out
    again = submit("--mem-per-cpu", "9G")
    assert again.code == EXIT_DONE
    assert again.out.count("submitted with other options: `sumpipe cancel` first to change") == 3
    assert "other options" in submit("--mem-per-cpu", "8G", "--ds-config", "zero3").out


def test_a_path_that_leads_elsewhere_is_told(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    """Where the link is another one on compute nodes, the jobs would end without a log."""
    assert "leads to" not in submit().err
    link = run_dir.root.with_name("link")
    link.symlink_to(run_dir.root)
    told = toy("submit", toy_recipe, "--run-dir", link).err
    assert f"{link} leads to {run_dir.root}: jobs get that name" in told


def test_jobs_are_found_by_another_path_of_the_run(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    ledger = run_dir.root / "slurm" / "jobs.json"
    content = ledger.read_text(encoding="utf-8")
    mount = f"/no/such/mount/{run_dir.root.name}"  # where other hosts see it
    ledger.write_text(content.replace(str(run_dir.root), mount), encoding="utf-8")
    jobs = json.loads(fake_slurm.file.read_text(encoding="utf-8"))
    for job in jobs["jobs"]:
        job["name"] = job_name(Path(mount), job["name"].split(".")[1])
    fake_slurm.file.write_text(json.dumps(jobs), encoding="utf-8")
    answer = submit()
    assert answer.out.count("is there already") == 3
    assert "other options" not in answer.out
    assert "100  PENDING" in toy("status", run_dir.root).out
    assert toy("cancel", run_dir.root).out.count("cancelled; it was") == 3


def test_a_copy_of_a_run_leaves_the_jobs_of_the_first_alone(
    toy: CommandLine, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir, tmp_path: Path
) -> None:
    submit()
    copy = shutil.copytree(run_dir.root, tmp_path / "copy")
    assert "nothing was cancelled" in toy("cancel", copy).out
    assert {job["state"] for job in fake_slurm.jobs.values()} == {"PENDING"}


def test_run_leaves_the_recipe_of_waiting_jobs_alone(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    before = snapshot(run_dir.root)
    again = ("run", toy_recipe, "--run-dir", run_dir.root, "--set", "c.scale=3")
    refused = toy(*again)
    assert refused.code == EXIT_USAGE
    assert "a (job 100, PENDING), b (job 101, PENDING)" in refused.err
    assert "sumpipe cancel" in refused.err
    assert snapshot(run_dir.root) == before
    beside = toy(*again[:4], "--only", "a")  # with theirs it would be in their way
    assert beside.code == EXIT_USAGE
    assert "which would find it in use and fail: a (job 100, PENDING)" in beside.err
    assert snapshot(run_dir.root) == before
    toy("cancel", run_dir.root)
    assert toy(*again).code == EXIT_DONE
    assert "scale: 3.0" in run_dir.recipe.read_text(encoding="utf-8")


def test_run_without_an_answer_of_slurm_warns_and_goes_on(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    submit()
    fake_slurm.refuse("squeue")
    done = toy("run", toy_recipe, "--run-dir", run_dir.root, "--set", "c.scale=3")
    assert done.code == EXIT_DONE
    (warning,) = [line for line in done.err.splitlines() if "the cluster is asleep" in line]
    assert "would read the changed recipe.yaml" in warning


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


def test_a_stage_is_redone_when_asked_and_no_job_works_on_it(
    toy: CommandLine, toy_recipe: Path, fake_slurm: FakeSlurm, submit: Submit, run_dir: RunDir
) -> None:
    assert toy("run", toy_recipe, "--run-dir", run_dir.root).code == EXIT_DONE
    again = ("--set", "b.units=7", "--restart-from", "b")
    before = snapshot(run_dir.root)
    assert [line[:2] for line in submit(*again, "--dry-run").out.splitlines()[1:]] == ["b=", "c="]
    assert "unknown stage 'x'" in submit("--restart-from", "x").err
    assert snapshot(run_dir.root) == before
    assert submit(*again).code == EXIT_DONE
    assert dependencies(fake_slurm) == {"b 100": None, "c 101": "100"}
    assert run_dir.committed("a").is_dir()
    assert not run_dir.committed("b").exists()
    assert not run_dir.committed("c").exists()
    refused = submit(*again)
    assert refused.code == EXIT_USAGE
    assert "which may work on what --restart-from deletes: b (job 100, PENDING)" in refused.err


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SUMPIPE_LAUNCHER", "mpirun", "SUMPIPE_LAUNCHER='mpirun': choose srun, deepspeed or"),
        ("SUMPIPE_SRUN_OPTIONS", "--mpi=none\n--quiet", "SUMPIPE_SRUN_OPTIONS: has more than one"),
    ],
)
def test_what_the_job_would_refuse_is_refused_before_it_waits(
    name: str,
    value: str,
    told: str,
    fake_slurm: FakeSlurm,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    refused = submit()
    assert refused.code == EXIT_USAGE
    assert told in refused.err
    assert fake_slurm.jobs == {}


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
    first, *lines = answer.out.splitlines()
    assert first.startswith(f"# First, submit makes {shlex.quote(str(run_dir.recipe))} and ")
    assert [line.partition("=")[0] for line in lines] == ["a", "b", "c"]
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
    entry = {"job": "100", "stage": "a", "code": 1, "reason": "srun ended with code 137"}
    (run_dir.root / "slurm" / "verdicts.json").write_text(json.dumps([entry]), encoding="utf-8")
    answer = toy("status", run_dir.root)
    assert answer.code == EXIT_DONE
    rows = {line.split()[0]: line for line in answer.out.splitlines() if line.strip()}
    assert "100  FAILED (NonZeroExitCode)" in rows["a"]
    assert "101  CANCELLED (DependencyNeverSatisfied)" in rows["b"]
    assert "102  PENDING (Dependency)" in rows["c"]
    log = run_dir.logs("slurm") / "100-a.out"
    assert "log of job" not in answer.out
    other = run_dir.logs("slurm") / "101-b.out"
    other.touch()
    assert f"b: log of job 101: {other}" in toy("status", run_dir.root).out
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


@pytest.mark.parametrize(
    ("codes", "starts", "told"),
    [
        ([], 1, "ran into its time limit before it had saved: warn earlier"),
        ([75], 2, "ran into its time limit before it had saved: warn earlier"),
        ([75], 1, "reason 75; it was not queued again before its time was up: submit again"),
        ([75, 1], 2, "reason 1"),
        ([75, 75], 2, "reason 75; it was not queued again"),
    ],
)
def test_status_says_why_a_job_came_to_its_limit(
    codes: list[int],
    starts: int,
    told: str,
    toy: CommandLine,
    fake_slurm: FakeSlurm,
    submit: Submit,
    run_dir: RunDir,
) -> None:
    submit()
    fake_slurm.change("100", "TIMEOUT", "TimeLimit")
    for restart in range(starts):
        log_folder(run_dir, "a", "100", restart).mkdir(parents=True)
    plain = {"job": "100", "stage": "a"}
    entries = [
        {**plain, "restart_count": restart, "code": code, "reason": f"reason {code}"}
        for restart, code in enumerate(codes)
    ]
    path = run_dir.root / "slurm" / "verdicts.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    assert f"a: job 100 last ended so: {told}" in toy("status", run_dir.root).out


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
