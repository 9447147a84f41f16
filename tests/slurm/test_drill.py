"""The drill on a cluster of two nodes: jobs come back by themselves, or are submitted again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stages.drill import CHECKPOINT_EVERY
from tests.launching import CHECKOUT
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.slow]

SHAPE = (
    *("--slurm", "--nodes", "2", "--tasks-per-node", "1", "--gpus-per-node", "0"),
    *("--cpus-per-task", "1", "--mem-per-cpu", "1G"),
)


@pytest.mark.timeout(700)
def test_the_drill_passes_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    drill = (sys.executable, "-m", "stages", "drill", "--dir", tmp_path / "drill", "--json")
    done = cluster.run(*drill, *SHAPE, cwd=CHECKOUT, check=False, timeout=690)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["ranks"], report["fewer_ranks"]) == (2, 1)
    found = {item["disturbance"]: item for item in report["disturbances"]}
    statuses = {name: item["status"] for name, item in found.items()}
    training = [name for name in found if "training" in name or "SIGKILL" in name]
    assert {statuses[name] for name in (*training, "stop in generate")} == {"passed"}, statuses
    assert {found[name]["updates_lost"] for name in training if "stop" in name} == {0}
    assert found["SIGKILL inside a checkpoint"]["updates_lost"] == CHECKPOINT_EVERY
    assert cluster.run("squeue", "--noheader").stdout == ""
