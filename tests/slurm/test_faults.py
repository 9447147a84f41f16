"""Runs that lose time, ranks, nodes and space on a real Slurm, and end as if nothing had been.

All but the first start from what a run on this host alone had made before the stage that is disturbed. For
every fault the updates done twice and the seconds from it to the first new update or shard are printed,
where pytest runs without workers (-n 0).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.files import read_json
from pipeline.slurm import ledger
from tests.launching import losses
from tests.slurm import runs
from tests.slurm.cluster import Cluster, Job, Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.distributed,
    pytest.mark.timeout(900),
]

PATIENT = Settings(
    kill_wait=20,
    slurmd_timeout=5,
    extra="PartitionName=cancel Nodes=ALL DefaultTime=60 PriorityTier=1 PreemptMode=CANCEL",
)
"""Time to save after TERM, as clusters give it; a lost node is noticed soon.

What is preempted in partition `cancel` gets TERM, and KILL after KillWait, and is not queued again by Slurm.
"""
OTHER_RANKS = 2e-5
"""By how much losses may differ with another number of ranks, nats per target token."""
LATE = """#!/bin/bash
# Rank 3 takes its time to leave.
[ "${SLURM_PROCID:-0}" = 3 ] || exec PYTHON "$@"
trap '' USR2 TERM
PYTHON "$@"
code=$?
sleep 3
exit $code
"""
SLOW_TO_START = """#!/bin/bash
# As where a container has to be unpacked first.
case $2 in stages.rank) >>'BEGUN'; sleep 5;; esac
exec 'PYTHON' "$@"
"""
Undisturbed = Callable[[], Path]


@pytest.fixture(scope="module")
def patient(slurm_installed: None) -> Iterator[Cluster]:
    with Cluster.started(PATIENT) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test has left, and give its lost nodes back."""
    used = request.getfixturevalue("patient") if "patient" in request.fixturenames else None
    yield
    if used is not None:
        used.cancel_all()
        for name in used.troubled_nodes():
            used.start_node(used.nodes.index(name))


Tell = Callable[..., None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    def show(fault: str, seconds: float, lost: int | None = None) -> None:
        updates = "" if lost is None else f", {lost} updates lost"
        with capsys.disabled():
            print(f"\n  {fault}: back after {seconds:.1f} s{updates}", flush=True)

    return show


def disturb_training(
    cluster: Cluster,
    run_dir: Path,
    at: int,
    fault: Callable[[str], object],
    returns: Callable[[], object] = lambda: None,
) -> tuple[float, int]:
    """Let a fault happen to the job of finetune after an update, and wait until there is a new one.

    Args:
        cluster: Where it runs.
        run_dir: The run.
        at: The update.
        fault: Given the job.
        returns: What somebody has to do for it to go on.

    Returns:
        Seconds from the fault to the first new update, and the updates that were done again.
    """
    job = runs.jobs(run_dir)["finetune"]
    runs.wait_for(cluster, job, lambda: runs.last_update(run_dir) >= at)
    lost, resumed = runs.lost_updates(run_dir), runs.resumed_at(run_dir)
    started = time.monotonic()
    fault(job)
    returns()
    job = runs.jobs(run_dir)["finetune"]
    runs.wait_for(cluster, job, lambda: len(runs.resumed_at(run_dir)) > len(resumed))
    first = runs.resumed_at(run_dir)[-1] + 1
    committed = run_dir / "finetune"
    runs.wait_for(
        cluster,
        job,
        lambda: runs.last_update(run_dir) >= first or committed.is_dir(),
        may_end=True,
    )
    return time.monotonic() - started, runs.lost_updates(run_dir) - lost


def as_undisturbed(cluster: Cluster, run_dir: Path, undisturbed: Undisturbed) -> None:
    """Wait for the trained weights and compare; what follows depends on their bytes alone."""
    runs.finish(cluster, run_dir, "finetune")
    assert runs.made(run_dir, "finetune") == runs.made(undisturbed(), "finetune")
    assert losses(run_dir) == losses(undisturbed())


def has_restarted(times: int) -> Callable[[Job], bool]:
    return lambda job: job["Restarts"] == str(times)


def rows(run_dir: Path) -> list[str]:
    lines = (run_dir / "generate" / "predictions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["id"] for line in lines]


def kill_rank(
    cluster: Cluster, run_dir: Path, job: str, rank: int, stage: str = "finetune"
) -> None:
    """SIGKILL one rank of a stage."""
    (pid_file,) = (run_dir / "logs" / stage).glob(f"*/rank{rank:04d}.pid")
    pid = pid_file.read_text(encoding="ascii")
    if not cluster.isolated:
        os.kill(int(pid), signal.SIGKILL)
        return
    node = read_json(pid_file.with_suffix(".where"))["host"]
    step = ("srun", "--jobid", job, "--overlap", "--mem=0", "--nodelist", node, "-N1", "-n1")
    cluster.run(*step, "kill", "-KILL", pid)


def wrapper(path: Path, text: str) -> Path:
    """Write an interpreter; no blank in its path, or Slurm's proctrack/linuxproc loses sight of it."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def take_all_nodes(cluster: Cluster) -> None:
    """Preempt what runs in partitions where that is allowed."""
    cluster.sbatch("--partition=urgent", "--nodes=3", "--exclusive", "--wrap", "sleep 1")


def shards(run_dir: Path) -> int:
    return len(list(run_dir.glob("generate.partial/shards-*/?????.jsonl")))


def disturb_generation(cluster: Cluster, run_dir: Path, tell: Tell) -> None:
    """Signal the job of generate, and later take one of its nodes away; it is queued again each time."""
    job = runs.jobs(run_dir)["generate"]

    def is_further(than: int) -> Callable[[], bool]:
        return lambda: shards(run_dir) > than or (run_dir / "generate").is_dir()

    faults: dict[str, Callable[[], object]] = {
        "signal before the time limit in generation": lambda: cluster.signal(job, "USR2"),
        "a node is lost in generation": lambda: cluster.kill_node(cluster.nodes_of(job)[-1]),
    }
    done = 0
    for count, (name, fault) in enumerate(faults.items(), start=1):
        runs.wait_for(cluster, job, is_further(done))
        started = time.monotonic()
        fault()
        cluster.wait_until(job, has_restarted(count), timeout=120)
        assert not (run_dir / "generate").is_dir(), "the moment was missed"
        done = shards(run_dir)
        runs.wait_for(cluster, job, is_further(done), may_end=True)
        tell(name, time.monotonic() - started)


def test_a_whole_run_loses_time_in_training_and_time_and_a_node_in_generation(
    patient: Cluster, reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    """Where there is time to save, no update is lost; nor does it matter how late a rank leaves."""
    run_dir = tmp_path / "run"
    late = wrapper(tmp_path / "late", LATE.replace("PYTHON", f"'{sys.executable}'"))
    options = ("--partition", "preempt", "--python", str(late))
    runs.submit(patient, run_dir, *runs.TWO_BY_TWO, *options)
    faults: dict[str, tuple[int, Callable[[str], object]]] = {
        "signal before the time limit, a rank leaves late": (
            6,
            lambda j: patient.signal(j, "USR2"),
        ),
        "scontrol requeue": (14, lambda job: patient.run("scontrol", "requeue", job)),
        "preemption by a higher partition": (22, lambda _: take_all_nodes(patient)),
    }
    for count, (name, (at, fault)) in enumerate(faults.items(), start=1):
        seconds, lost = disturb_training(patient, run_dir, at, fault)
        tell(name, seconds, lost)
        assert lost == 0
        job = runs.jobs(run_dir)["finetune"]
        assert has_restarted(count)(patient.job(job)), patient.output(job)
    codes = [verdict["code"] for verdict in ledger.verdicts(RunDir(run_dir))]
    assert codes == [75, 75, 75]
    as_undisturbed(patient, run_dir, reference)
    disturb_generation(patient, run_dir, tell)
    runs.finish(patient, run_dir)
    assert runs.made(run_dir) == runs.made(reference())


def test_a_job_that_slurm_preempts_by_cancelling_it_is_queued_again(
    patient: Cluster, reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    run_dir = runs.before("finetune", reference(), tmp_path / "run")
    runs.submit(patient, run_dir, *runs.TWO_BY_TWO, "--partition", "cancel")
    seconds, lost = disturb_training(patient, run_dir, 6, lambda _: take_all_nodes(patient))
    tell("preemption by cancelling", seconds, lost)
    assert lost == 0
    job = runs.jobs(run_dir)["finetune"]
    assert has_restarted(1)(patient.job(job)), patient.output(job)
    runs.sumpipe(patient, "cancel", run_dir)  # after a preemption this is not taken for another one
    ended = patient.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "1"), patient.report(ended)


def test_a_task_that_is_signalled_before_python_listens_has_not_failed(
    patient: Cluster, reference: Undisturbed, tmp_path: Path
) -> None:
    run_dir = runs.before("report", reference(), tmp_path / "run")
    begun = tmp_path / "begun"
    slow = SLOW_TO_START.replace("PYTHON", sys.executable).replace("BEGUN", str(begun))
    runs.submit(patient, run_dir, "--python", str(wrapper(tmp_path / "slow", slow)))
    job = runs.jobs(run_dir)["report"]
    runs.wait_for(patient, job, begun.exists)
    patient.signal(job, "USR2")
    patient.signal(job, "TERM")
    ended = patient.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), patient.report(ended)


def test_one_launcher_per_node_gives_the_same_bytes(
    patient: Cluster, reference: Undisturbed, tmp_path: Path
) -> None:
    run_dir = runs.before("finetune", reference(), tmp_path / "run")
    runs.submit(patient, run_dir, env={"SUMPIPE_LAUNCHER": "deepspeed"})
    as_undisturbed(patient, run_dir, reference)
    runs.finish(patient, run_dir)
    assert runs.made(run_dir) == runs.made(reference())
    log = (run_dir / "logs" / "slurm").glob("*.hosts")
    nodes = patient.nodes
    assert f"{nodes[0]} slots=2\n{nodes[1]} slots=2\n" in [file.read_text() for file in log]


def test_a_killed_rank_is_a_failure_and_submit_goes_on(
    patient: Cluster, reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    run_dir = runs.before("finetune", reference(), tmp_path / "run")
    runs.submit(patient, run_dir)
    first = runs.jobs(run_dir)

    def returns() -> None:
        ended = patient.wait(first["finetune"], timeout=120)
        assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), patient.report(ended)
        assert patient.wait(first["report"])["JobState"] == "CANCELLED"
        told = runs.sumpipe(patient, "status", run_dir)
        assert "no preemption recorded" in told
        runs.submit(patient, run_dir)

    seconds, lost = disturb_training(
        patient, run_dir, 13, lambda job: kill_rank(patient, run_dir, job, 3), returns
    )
    tell("SIGKILL of a rank, submitted again", seconds, lost)
    assert lost <= runs.CHECKPOINT_EVERY
    (resumed,) = runs.resumed_at(run_dir)
    assert resumed >= 10
    as_undisturbed(patient, run_dir, reference)


def test_a_killed_helper_is_a_failure_and_submit_goes_on(
    patient: Cluster, reference: Undisturbed, tmp_path: Path
) -> None:
    """Rank 0, which Slurm ends for it, saves its work and leaves word like one that was preempted."""
    run_dir = runs.before("generate", reference(), tmp_path / "run")
    runs.submit(patient, run_dir)
    job = runs.jobs(run_dir)["generate"]
    runs.wait_for(patient, job, lambda: shards(run_dir) > 0)
    kill_rank(patient, run_dir, job, 3, "generate")
    ended = patient.wait(job, timeout=120)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), patient.report(ended)
    assert "rank 3: ended without a word" in runs.sumpipe(patient, "status", run_dir)
    patient.wait(runs.jobs(run_dir)["report"], "CANCELLED")
    runs.submit(patient, run_dir)
    runs.finish(patient, run_dir)
    assert runs.made(run_dir) == runs.made(reference())


def test_a_lost_node_in_training_is_done_without(
    patient: Cluster, reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    run_dir = runs.before("finetune", reference(), tmp_path / "run")
    runs.submit(patient, run_dir)

    def returns() -> None:
        job = runs.jobs(run_dir)["finetune"]
        patient.wait_until(job, has_restarted(1), timeout=120)
        runs.sumpipe(patient, "cancel", run_dir)
        patient.wait(job, timeout=120)
        runs.submit(patient, run_dir, *runs.ONE_BY_TWO)

    seconds, lost = disturb_training(
        patient, run_dir, 13, lambda job: patient.kill_node(patient.nodes_of(job)[-1]), returns
    )
    tell("a node is lost in training, submitted again with half the ranks", seconds, lost)
    assert lost <= runs.CHECKPOINT_EVERY
    runs.finish(patient, run_dir, "generate")
    assert rows(run_dir) == rows(reference())
    pairs = zip(losses(run_dir), losses(reference()), strict=True)
    assert max(abs(mine - other) for mine, other in pairs) <= OTHER_RANKS
    launch = read_json(run_dir / "finetune" / "manifest.json")["provenance"]["launch"]
    assert launch["world_size"] == 2


@pytest.mark.usefixtures("slurm_installed")
def test_ranks_that_lose_their_peers_before_slurm_misses_the_node_are_no_failure(
    reference: Undisturbed, tmp_path: Path, tell: Tell
) -> None:
    """Here a lost node's connections are closed, so that the other ranks end at once."""
    run_dir = runs.before("finetune", reference(), tmp_path / "run")
    slow = Settings(kill_wait=20, slurmd_timeout=12, isolated=False)
    with Cluster.started(slow) as cluster:
        runs.submit(cluster, run_dir)
        seconds, lost = disturb_training(
            cluster, run_dir, 13, lambda job: cluster.kill_node(cluster.nodes_of(job)[-1])
        )
        tell("a node is lost, and its connections are closed", seconds, lost)
        assert lost <= runs.CHECKPOINT_EVERY
        (verdict,) = ledger.verdicts(RunDir(run_dir))
        assert verdict["code"] == 75
        assert f"no answer of {cluster.nodes[1]}" in verdict["reason"]
        as_undisturbed(cluster, run_dir, reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A place with little space, which a cluster that starts from now on sees."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", place)
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is refused here (needs CAP_SYS_ADMIN)")
    yield place
    subprocess.run(("umount", "--lazy", place), check=True)


@pytest.mark.usefixtures("slurm_installed")
def test_a_full_disk_is_a_failure_and_with_space_submit_goes_on(
    reference: Undisturbed, small_disk: Path, tell: Tell
) -> None:
    run_dir, filler = (
        runs.before("finetune", reference(), small_disk / "run"),
        small_disk / "filler",
    )
    with Cluster.started(PATIENT) as cluster:
        runs.submit(cluster, run_dir)
        first = runs.jobs(run_dir)
        saved: list[int] = []

        def fill(_: str) -> None:
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - 4096)
            folders = (run_dir / "finetune.partial" / "checkpoints").glob("update_????????")
            saved.append(max(int(folder.name.removeprefix("update_")) for folder in folders))

        def returns() -> None:
            ended = cluster.wait(first["finetune"], timeout=120)
            assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), cluster.report(ended)
            cluster.wait(first["report"], "CANCELLED")
            filler.unlink()
            runs.submit(cluster, run_dir)

        seconds, lost = disturb_training(cluster, run_dir, 13, fill, returns)
        tell("a full disk, then space, submitted again", seconds, lost)
        assert runs.resumed_at(run_dir) == saved
        as_undisturbed(cluster, run_dir, reference)
