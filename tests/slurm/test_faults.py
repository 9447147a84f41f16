"""Runs that lose ranks, nodes and space on a real Slurm, and end as if nothing had been.

They start from what a run on this host alone had made before the stage that is disturbed. What is printed is
told in test_preemption.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.files import read_json
from pipeline.slurm import ledger
from tests.launching import losses
from tests.slurm import runs
from tests.slurm.cluster import Cluster, Settings
from tests.slurm.faults import (
    PATIENT,
    Tell,
    Undisturbed,
    as_undisturbed,
    disturb_training,
    has_restarted,
    kill_rank,
    shards,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.distributed,
    pytest.mark.timeout(900),
]

OTHER_RANKS = 2e-5
"""By how much losses may differ with another number of ranks, nats per target token."""


def rows(run_dir: Path) -> list[str]:
    lines = (run_dir / "generate" / "predictions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["id"] for line in lines]


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
    runs.finish(patient, run_dir)
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
