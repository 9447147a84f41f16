"""The exact commands of some submits, as files; a shell gets from them the words that submit gives sbatch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError
from pipeline.planner import Action, Decision
from pipeline.slurm.options import Options, SlurmSite, need_of
from pipeline.slurm.sbatch import Place, job_name, submit_command
from pipeline.slurm.submit import Order, dry_run
from stages.graph import STAGES
from tests.unit.pipeline.slurm.conftest import FakeSlurm

GOLDEN = Path(__file__).parent / "golden"
CHECKOUT = Path("/opt/sumpipe")
PYTHON = "/opt/sumpipe/.venv/bin/python"


class Case(NamedTuple):
    flags: dict[str, Any]
    site: dict[str, Any] = {}  # noqa: RUF012 - never changed
    run_dir: str = "/data/runs/mine"
    done: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    profile: str = "/opt/sumpipe/ds_configs/zero2.json"
    checkout: Path = CHECKOUT


CASES = {
    "cpu_only": Case({"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 2}),
    "gpu_flags": Case(
        {
            "nodes": 2,
            "gpus_per_node": 8,
            "cpus_per_task": 12,
            "time": "1-12:00:00",
            "partition": "h100",
            "account": "nlp",
            "qos": "high",
            "constraint": "nvlink&ib",
            "sbatch": ["--exclusive --mem=0", "--comment='two words'"],
        }
    ),
    "hostile_paths": Case(
        {"gpus_per_node": 4, "gpu_type": "a100"},
        run_dir='/data/it\'s my run/50%; $HOME `ls` "q"/ü, x',
        profile="/data/my profiles/zero 3.json",
        checkout=Path("/opt/my sum'pipe"),
    ),
    "partly_done": Case(
        {"gpus_per_node": 8},
        done=("fetch", "clean", "encode"),
        queued=("finetune", "export"),
    ),
    "site_file": Case(
        {"nodes": 4},
        site={
            "account": "nlp",
            "mem_per_cpu": None,
            "cpu": {"partition": "cpu", "time": "2:00:00"},
            "gpu": {"partition": "gpu", "gpus_per_node": 4, "sbatch": ["--switches=1"]},
        },
    ),
}


def decisions(case: Case) -> list[Decision]:
    return [
        Decision(stage, Action.SKIP if stage.name in case.done else Action.RUN, "", {})
        for stage in STAGES
    ]


def order(case: Case) -> Order:
    site = validate(SlurmSite, case.site, "site")
    flags = validate(Options, case.flags, "command line")
    place = Place(case.checkout, PYTHON, Path(case.run_dir), Path(case.profile))
    needs = {stage.name: need_of(stage, site, flags) for stage in STAGES}
    return Order("", place, needs, [stage.name for stage in STAGES])


def printed(case: Case, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> str:
    jobs = [
        {"id": str(41 + i), "state": "PENDING", "name": job_name(Path(case.run_dir), stage),
         "reason": "Priority"}
        for i, stage in enumerate(case.queued)
    ]  # fmt: skip
    slurm.file.write_text(json.dumps({"jobs": jobs, "refuse": {}, "says": {}}))
    dry_run(decisions(case), order(case))
    return capsys.readouterr().out


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_prints_the_commands_of_the_golden_file(
    name: str, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")
    assert printed(CASES[name], fake_slurm, capsys) == expected


@pytest.mark.parametrize("name", CASES)
def test_a_shell_reads_from_them_what_submit_would_call(
    name: str, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    lines = printed(case, fake_slurm, capsys)
    subprocess.run(["bash", "-euc", lines], check=True)
    queued = [job for job in fake_slurm.jobs.values() if "words" in job]
    after = str(40 + len(case.queued)) if case.queued else None
    todo = [stage for stage in order(case).stages if stage not in case.done + case.queued]
    for stage, job in zip(todo, queued, strict=True):
        command = submit_command(stage, order(case).needs[stage], order(case).place, after)
        assert ["sbatch", *job["words"]] == command
        after = job["id"]


def test_jobs_have_names_that_no_other_run_gives() -> None:
    names = {job_name(Path(root), stage) for root in ("/data/a", "/data/b", "/a") for stage in "xy"}
    assert len(names) == 6
    assert all(name.isascii() and "," not in name and "|" not in name for name in names)


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize("root", ["/data/back\\slash", "/data/new\nline"])
def test_a_run_whose_log_slurm_cannot_name_is_refused(root: str) -> None:
    case = CASES["cpu_only"]._replace(run_dir=root)
    with pytest.raises(ConfigError, match=r"--run-dir .*no backslash"):
        dry_run(decisions(case), order(case))


@pytest.mark.usefixtures("no_slurm")
def test_a_dry_run_needs_no_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    dry_run(decisions(CASES["cpu_only"]), order(CASES["cpu_only"]))
    found = capsys.readouterr()
    assert found.out == (GOLDEN / "cpu_only.sh").read_text(encoding="utf-8")
    assert "squeue: not found" in found.err
