"""`sumpipe doctor` as the runbook has it: with the tasks of a job, on a real Slurm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.launching import CHECKOUT
from tests.slurm import runs
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(300)]

TASKS = ("--nodes=2", "--ntasks-per-node=2", "--ntasks=4", "--cpus-per-task=1")


def doctor(cluster: Cluster, run_dir: Path) -> tuple[int, dict[str, list[str]]]:
    """Examine the tasks of a job; returns the exit code and the texts by level, each after its check."""
    command = ("doctor", *runs.RECIPE, "--run-dir", run_dir, "--json")
    srun = ("srun", *TASKS, sys.executable, "-m", "stages")
    done = cluster.run(*srun, *command, cwd=CHECKOUT, check=False, timeout=180)
    assert done.stdout, done.stderr
    texts: dict[str, list[str]] = {"ok": [], "warning": [], "failure": []}
    for item in json.loads(done.stdout)["findings"]:
        texts[item["level"]].append(f"{item['check']}: {item['text']}")
    return done.returncode, texts


def test_healthy_tasks_of_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    code, told = doctor(cluster, tmp_path / "run")
    assert (code, told["failure"]) == (0, []), told
    ok = "\n".join(told["ok"])
    assert "rendezvous: 4 task(s) met at " in ok
    assert "all-reduce: 4 task(s) over " in ok
    assert f"hold over {2 if cluster.isolated else 1} host(s)" in ok
    assert not (tmp_path / "run").exists()


def test_a_disk_that_each_node_has_for_itself_is_named(cluster: Cluster) -> None:
    if not cluster.isolated:
        pytest.skip("without namespaces all nodes have one /dev/shm")
    code, told = doctor(cluster, Path("/dev/shm/run"))
    assert code == 1
    assert [text.partition(": ")[0] for text in told["failure"]] == ["shared files"], told
