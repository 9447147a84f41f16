"""The tiny recipe on a real Slurm of two nodes with two tasks each; test_preemption.py compares its bytes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.artifact import RunDir
from pipeline.files import read_json
from tests.launching import sumpipe as at_home
from tests.slurm import runs
from tests.slurm.cluster import Cluster

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.distributed,
    pytest.mark.timeout(600),
]


def in_slurm(cluster: Cluster, run_dir: Path) -> dict[str, str]:
    """What `sumpipe status` knows of the queue: stage -> state."""
    state = json.loads(runs.sumpipe(cluster, "status", run_dir, "--json"))
    assert state["queue"]["fault"] is None
    return {stage: job["state"] for stage, job in state["queue"]["jobs"].items()}


def test_a_submitted_run_is_preempted_returns_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "it's 50% of $HOME"
    told = runs.submit(cluster, run_dir)
    jobs = runs.jobs(run_dir)
    assert list(jobs) == list(runs.STAGE_NAMES)
    assert all(f"{stage:9} job {job}" in told for stage, job in jobs.items())

    job = jobs["finetune"]
    runs.wait_for(cluster, job, lambda: runs.last_update(run_dir) >= 8)
    cluster.signal(job, "USR2")  # as Slurm does before the time limit
    cluster.wait_until(job, lambda found: found["Restarts"] == "1")
    left = read_json(RunDir(run_dir).preempted)
    assert (left["stage"], left["job"], left["restart_count"]) == ("finetune", job, 0)
    assert left["progress"]["done"] >= 8
    states = in_slurm(cluster, run_dir)
    assert states["encode"] == "COMPLETED"
    assert states["finetune"] in ("COMPLETING", "PENDING", "RUNNING")
    assert states["report"] == "PENDING"
    assert runs.submit(cluster, run_dir).count("is there already") == 5
    assert runs.jobs(run_dir) == jobs

    runs.finish(cluster, run_dir)
    assert set(in_slurm(cluster, run_dir).values()) == {"COMPLETED"}
    assert runs.resumed_at(run_dir) == [left["progress"]["done"]]
    assert runs.lost_updates(run_dir) == 0
    assert "nothing was submitted" in runs.submit(cluster, run_dir)
    assert runs.jobs(run_dir) == jobs
    launches = {
        stage: read_json(run_dir / stage / "manifest.json")["provenance"]["launch"]["processes"]
        for stage in ("clean", "score")
    }
    assert launches == {"clean": 1, "score": 2}  # what was asked for, and what is by default
    predictions = (run_dir / "generate" / "predictions.jsonl").read_text(encoding="utf-8")
    assert predictions.count("\n") == runs.TEST_ROWS
    wheres = map(read_json, (run_dir / "logs" / "finetune").glob("*/rank*.where"))
    hosts = Counter(where["host"] for where in wheres)
    assert not cluster.isolated or hosts == {"node0": 4, "node1": 4}  # two launches
    launch = read_json(run_dir / "finetune" / "manifest.json")["provenance"]["launch"]
    assert (launch["world_size"], launch["ds_profile"]) == (runs.RANKS, "zero2.json")
    assert at_home("status", run_dir, "--deep").returncode == 0


def test_a_stage_that_fails_for_good_leaves_nothing_waiting(
    cluster: Cluster, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    done = at_home("run", *runs.RECIPE, "--run-dir", run_dir, "--to", "clean")
    assert done.returncode == 0, done.stderr
    rows = run_dir / "clean" / "train" / "00000.jsonl"
    rows.write_bytes(rows.read_bytes()[:-1])  # damaged after its commit
    runs.submit(cluster, run_dir)
    jobs = runs.jobs(run_dir)
    states = {stage: cluster.wait(job) for stage, job in jobs.items()}
    assert states.pop("encode")["JobState"] == "FAILED"
    assert {job["JobState"] for job in states.values()} == {"CANCELLED"}
    assert cluster.run("squeue", "--noheader").stdout == ""
    assert cluster.job(jobs["encode"])["Restarts"] == "0"
    told = runs.sumpipe(cluster, "status", run_dir, check=False)
    (why,) = re.findall(f"encode: job {jobs['encode']} last ended so: (.*)", told)
    assert str(rows) in why and "srun ended with code 1" in why
    assert "damaged" in cluster.output(jobs["encode"])
