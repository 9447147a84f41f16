"""The tiny recipe on the tests' cluster: submit it, watch it, disturb it, and compare what it made."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.artifact import RunDir
from pipeline.slurm import ledger
from stages.drill import redone
from stages.graph import STAGES
from tests.launching import CHECKOUT, TINY
from tests.slurm.cluster import Cluster

RANKS = 4
TEST_ROWS = 48
RECIPE = (
    TINY,
    *("--set", f"finetune.batch.lanes={RANKS}", "--set", "finetune.updates=40"),
    *("--set", f"fetch.dataset.test_rows={TEST_ROWS}", "--set", "generate.shard_rows=2"),
)
CHECKPOINT_EVERY = 5
"""The tiny recipe's."""
SMALL = ("--gpus-per-node", "0", "--cpus-per-task", "1", "--mem-per-cpu", "1G")
TWO_BY_TWO = (*SMALL, "--nodes", "2", "--tasks-per-node", "2")
ONE_BY_TWO = (*SMALL, "--nodes", "1", "--tasks-per-node", "2")
STAGE_NAMES = tuple(stage.name for stage in STAGES)
_TIMED = ("metrics.jsonl", "metrics.set_aside.jsonl", "index.html", "README.md")
"""Files that say when something was done, or that it was done twice."""
_POLL_SECONDS = 0.02


def before(stage: str, undisturbed: Path, run_dir: Path) -> Path:
    """Make a run in which all stages before this one are done."""
    run_dir.mkdir()
    shutil.copy(undisturbed / "recipe.yaml", run_dir)
    for name in STAGE_NAMES[: STAGE_NAMES.index(stage)]:
        shutil.copytree(undisturbed / name, run_dir / name)
    return run_dir


def sumpipe(
    cluster: Cluster,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> str:
    """Run `sumpipe ARGUMENTS` where a user of the cluster logs in, and return what it prints."""
    command = (sys.executable, "-m", "stages", *arguments)
    return cluster.run(*command, cwd=CHECKOUT, env=env, check=check, timeout=120).stdout


def submit(
    cluster: Cluster, run_dir: Path, *options: str, env: Mapping[str, str] | None = None
) -> str:
    """Submit the recipe, on two nodes with two tasks each unless `options` ask for something else."""
    asked = options or TWO_BY_TWO
    return sumpipe(cluster, "submit", *RECIPE, "--run-dir", run_dir, *asked, env=env)


def jobs(run_dir: Path) -> dict[str, str]:
    """The last job submitted for each stage."""
    return {stage: entry["job"] for stage, entry in ledger.jobs(RunDir(run_dir)).items()}


def finish(cluster: Cluster, run_dir: Path, last: str = "report", timeout: float = 240) -> None:
    """Wait until the job of each stage up to `last` has completed."""
    for stage, job in jobs(run_dir).items():
        ended = cluster.wait(job, timeout=timeout)
        assert ended["JobState"] == "COMPLETED", f"{stage}\n{cluster.report(ended)}"
        if stage == last:
            return


def last_update(run_dir: Path) -> int:
    """The last update that training has recorded; 0 if there is none."""
    path = run_dir / "finetune.partial" / "metrics.jsonl"
    found = re.findall(r'"update": (\d+).*\n', path.read_text("utf-8")) if path.is_file() else []
    return int(found[-1]) if found else 0


def lost_updates(run_dir: Path) -> int:
    """How many updates had to be done once more."""
    return redone(RunDir(run_dir), "finetune") or 0


def resumed_at(run_dir: Path) -> list[int]:
    """The updates after which training was resumed, in order of time."""
    logs = sorted((run_dir / "logs" / "finetune").glob("*/rank0000.log"), key=_age)
    texts = (log.read_text("utf-8", errors="replace") for log in logs)
    return [
        int(found) for text in texts for found in re.findall(r"resumes after update (\d+)", text)
    ]


def _age(path: Path) -> float:
    return path.stat().st_mtime


def wait_for(
    cluster: Cluster,
    job: str,
    is_reached: Callable[[], bool],
    timeout: float = 180,
    *,
    may_end: bool = False,
) -> None:
    """Wait for a moment that files show, which are looked at more often than Slurm may be asked."""
    deadline, next_look = time.monotonic() + timeout, 0.0
    while not is_reached():
        now = time.monotonic()
        if now > next_look:
            next_look = now + 2
            found = cluster.job(job)
            is_over = found["JobState"] in ("FAILED", "CANCELLED", "COMPLETED") and not may_end
            assert not is_over and now < deadline, (
                f"the moment did not come\n{cluster.report(found)}"
            )
        time.sleep(_POLL_SECONDS)


def made(run_dir: Path, *stages: str) -> dict[str, str]:
    """The checksums of what stages committed, by default all; without files that hold times."""
    found: dict[str, str] = {}
    for stage in stages or STAGE_NAMES:
        text = (run_dir / stage / "manifest.json").read_text(encoding="utf-8")
        files = json.loads(text)["files"].items()
        found |= {f"{stage}/{name}": file["sha256"] for name, file in files if name not in _TIMED}
    return found
