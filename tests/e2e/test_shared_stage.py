"""generate carried out by several ranks, as a scheduler starts them: no group, shared shards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.distributed.presence import lost_helpers
from tests.launching import TINY, copy_run, environment, result_bytes, sumpipe

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.slow]

RECIPE = (TINY, "--set", "generate.shard_rows=2", "--set", "finetune.updates=8")


def ranks(run_dir: Path, stage: str, size: int) -> list[subprocess.Popen[str]]:
    """Start tasks with the variables that srun and our batch script give them."""
    command = [sys.executable, "-m", "stages.rank", stage, "--run-dir", str(run_dir)]
    place = {"SLURM_NTASKS": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    job = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "2"}
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(
                {**place, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            ),
        )
        for rank in range(size)
    ]


def test_three_ranks_give_the_bytes_of_one_process(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    done = sumpipe("run", *RECIPE, "--run-dir", alone, "--to", "export", "--processes", "2")
    assert done.returncode == 0, done.stderr
    shared = copy_run(alone, tmp_path / "shared")
    assert sumpipe("run", *RECIPE, "--run-dir", alone).returncode == 0

    # Told to stop before they begin: rank 0 alone says so to the launcher, and leaves word of the job.
    stopped = ranks(shared, "generate", 2)
    logs = shared / "logs" / "generate" / "port-29999"
    deadline = time.monotonic() + 60
    while len(list(logs.glob("rank*.pid"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in reversed(stopped):
        process.send_signal(signal.SIGUSR2)
    words = [process.communicate(timeout=60)[0] for process in stopped]
    assert [process.returncode for process in stopped] == [75, 0], words
    assert (logs / "rank0001.helps").is_file()
    assert lost_helpers(logs) == []
    record = json.loads((shared / "preempted.json").read_text(encoding="utf-8"))
    assert (record["stage"], record["job"], record["restart_count"]) == ("generate", "17", 2)

    working = ranks(shared, "generate", 3)
    words = [process.communicate(timeout=120)[0] for process in working]
    assert [process.returncode for process in working] == [0, 0, 0], words
    assert sumpipe("run", *RECIPE, "--run-dir", shared).returncode == 0
    assert result_bytes(shared) == result_bytes(alone)

    refused = ranks(shared, "score", 2)
    words = [process.communicate(timeout=60)[0] for process in refused]
    assert [process.returncode for process in refused] == [2, 2]
    assert all("done by one process" in told for told in words)
