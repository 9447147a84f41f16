"""Where the tasks of a plain `srun` meet, and how the batch scripts' rule is the same."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
from pathlib import Path

import pytest

from pipeline.distributed.rendezvous import derived_port, first_host, launch_world
from pipeline.distributed.world import World, is_offline, rank_environment
from pipeline.errors import LaunchError
from tests.launching import CHECKOUT

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_RESTART_COUNT": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_JOB_NODELIST": "cpu1",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "6",
    "SLURM_LOCALID": "1",
}
PORT = 20_000 + (8 * 4711 + 2) % 12_000


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `scontrol` that answers as Slurm 22.05 does: a host a line."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$3" = "gpu[07-09]" ] && printf "gpu07\\ngpu08\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return program


def set_all(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("scontrol")
def test_tasks_of_a_plain_srun_meet_at_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, TASK)
    assert launch_world() == World(3, 6, 1, "gpu07", PORT)


@pytest.mark.usefixtures("scontrol")
@pytest.mark.parametrize(
    ("more", "world"),
    [
        ({"MASTER_ADDR": "a", "MASTER_PORT": "5"}, World(3, 6, 1, "a", 5)),
        ({"MASTER_ADDR": "a"}, World(3, 6, 1, "a", PORT)),
        ({"SUMPIPE_MASTER_ADDR": "10.0.0.1"}, World(3, 6, 1, "10.0.0.1", PORT)),
        ({"SUMPIPE_MASTER_ADDR": "ib.%h.x"}, World(3, 6, 1, "ib.gpu07.x", PORT)),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
            World(0, 2, 0, "a", 5),
        ),
    ],
    ids=["both named", "address named", "another network", "by the first node", "a launcher inside"],
)  # fmt: skip
def test_what_is_named_is_kept(
    more: dict[str, str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, {**TASK, **more})
    assert launch_world() == world


BATCH = {name: value for name, value in TASK.items() if not name.startswith("SLURM_STEP")}
"""A batch script has these as well."""


@pytest.mark.parametrize(
    "env", [{}, {**TASK, "SLURM_NTASKS": "1"}, {"SLURM_JOB_ID": "1"}, BATCH], ids=str
)
def test_one_task_is_alone(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, env)
    assert launch_world().size == 1


def test_slurm_that_does_not_answer_is_told(scontrol: Path) -> None:
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(LaunchError, match="set MASTER_ADDR and MASTER_PORT"):
        first_host("gpu[07-09]")


@pytest.mark.parametrize(("job", "restarts"), [(1, 0), (4711, 2), (4711, 3), (123_456_789, 11)])
def test_the_batch_scripts_begin_at_the_same_port(job: int, restarts: int) -> None:
    script = (CHECKOUT / "slurm" / "stage.sh").read_text(encoding="utf-8")
    (rule,) = [line for line in script.splitlines() if line.startswith("MASTER_PORT=$((20")]
    env = {"SLURM_JOB_ID": str(job), "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(
        ["bash", "-c", f"{rule}; echo $MASTER_PORT"],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=True,
    )
    assert int(done.stdout) == derived_port(job, restarts)
    assert 20_000 <= derived_port(job, restarts) < 32_000


def test_a_child_is_the_same_rank_with_its_own_patience() -> None:
    env = rank_environment(World(1, 2, 0, "a", 5), 7)
    assert World.from_env(env) == World(1, 2, 0, "a", 5)
    assert env["SUMPIPE_TIMEOUT_SECONDS"] == "7"
    assert "RANK" not in os.environ


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "true"}, True),
        ({"HF_HUB_OFFLINE": "On"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"TRANSFORMERS_OFFLINE": "1"}, True),
        ({"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": ""}, True),
        ({"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "0"}, False),
    ],
    ids=str,
)
def test_offline_is_read_as_the_hub_library_does(
    env: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    set_all(monkeypatch, env)
    assert is_offline() is expected
    constants = Path(importlib.util.find_spec("huggingface_hub").origin).with_name("constants.py")  # type: ignore[union-attr,arg-type]
    assert runpy.run_path(str(constants))["HF_HUB_OFFLINE"] is expected
