"""Which rank a process is, by the variables of each launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.distributed.world import World, child_environment, limit_threads, thread_count
from pipeline.errors import LaunchError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
    "OMP_NUM_THREADS": "1",
}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
}
HERE = World(3, 4, 1, "10.0.0.7", 29500)


def without(name: str, env: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key != name}


def test_no_variables_means_alone() -> None:
    world = World.from_env({})
    assert (world.rank, world.size, world.local_rank, world.is_first) == (0, 1, 0, True)
    assert 0 < world.master_port < 65536


@pytest.mark.parametrize("env", [TORCHRUN, SRUN], ids=["torchrun or deepspeed", "srun"])
def test_each_launcher_gives_the_same_place(env: dict[str, str]) -> None:
    assert World.from_env(env) == HERE
    assert not HERE.is_first


def test_a_launcher_inside_a_slurm_job_wins_over_the_job() -> None:
    job = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert World.from_env({**job, **TORCHRUN}) == HERE


@pytest.mark.parametrize(
    "env",
    [
        {**SRUN, "SLURM_NTASKS": "1"},
        without("SLURM_STEP_ID", SRUN),
        {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "17"},
        {"MASTER_ADDR": "host", "MASTER_PORT": "29500"},
        {"LOCAL_RANK": "0"},
    ],
    ids=[
        "one task",
        "batch script without srun",
        "shell of an allocation",
        "left rendezvous",
        "left local rank",
    ],
)
def test_a_process_that_nobody_ranked_is_alone(env: dict[str, str]) -> None:
    assert World.from_env(env).size == 1


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"])
def test_half_set_variables_are_refused_by_name(missing: str) -> None:
    with pytest.raises(LaunchError) as failure:
        World.from_env(without(missing, TORCHRUN))
    found, _, wanted = str(failure.value).partition(" set without ")
    assert missing not in found.split(", ")
    assert wanted.split(":")[0] == missing


@pytest.mark.parametrize("missing", ["SLURM_LOCALID", "MASTER_ADDR", "MASTER_PORT"])
def test_half_set_srun_variables_are_refused(missing: str) -> None:
    with pytest.raises(LaunchError, match=r"LOCAL_RANK|MASTER_ADDR|MASTER_PORT"):
        World.from_env(without(missing, SRUN))


def test_an_empty_variable_counts_as_missing() -> None:
    with pytest.raises(LaunchError, match="MASTER_PORT"):
        World.from_env({**TORCHRUN, "MASTER_PORT": ""})


@pytest.mark.parametrize(
    "bad",
    [
        {"RANK": "4"},
        {"RANK": "-1"},
        {"RANK": "one"},
        {"RANK": "1.0"},
        {"WORLD_SIZE": "0"},
        {"LOCAL_RANK": "-1"},
        {"MASTER_PORT": "0"},
        {"MASTER_PORT": "65536"},
        {"MASTER_PORT": "http"},
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused(bad: dict[str, str]) -> None:
    with pytest.raises(LaunchError):
        World.from_env({**TORCHRUN, **bad})


@pytest.mark.parametrize("bad", [{"SLURM_PROCID": "x"}, {"SLURM_NTASKS": "many"}], ids=str)
def test_bad_slurm_numbers_are_refused(bad: dict[str, str]) -> None:
    with pytest.raises(LaunchError):
        World.from_env({**SRUN, **bad})


def test_exported_variables_read_back_as_the_same_world() -> None:
    env: dict[str, str] = {"UNRELATED": "stays"}
    HERE.export(env)
    assert World.from_env(env) == HERE
    assert env["UNRELATED"] == "stays"


@pytest.mark.parametrize("package", ["pipeline", "stages"])
def test_children_do_not_import_from_the_working_directory(package: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    (tmp_path / "word").write_text("mine", encoding="utf-8")
    look = f"import {package}; print(open('word').read())"  # what is relative stays right
    codes = {}
    for env in (None, child_environment()):
        done = subprocess.run(
            [sys.executable, "-c", look], cwd=tmp_path, env=env, capture_output=True, check=False
        )
        codes[done.returncode] = done.stdout
    assert codes == {9: b"", 0: b"mine\n"}


def test_what_the_user_put_on_the_path_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert child_environment()["PYTHONPATH"].split(os.pathsep)[1:] == ["mine"]


def test_export_reaches_the_environment_of_this_process() -> None:
    HERE.export()
    assert World.from_env() == HERE


def test_threads_are_one_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count() == 1
    monkeypatch.setenv("SUMPIPE_THREADS", "6")
    assert thread_count() == 6


def test_threads_do_not_follow_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "32")
    assert thread_count() == 1


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "", " "])
def test_a_thread_count_that_cannot_be_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUMPIPE_THREADS", text)
    with pytest.raises(LaunchError, match="SUMPIPE_THREADS"):
        thread_count()


def test_limit_threads_sets_what_numeric_libraries_read(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"OMP_NUM_THREADS": "32"}
    monkeypatch.setattr("os.environ", environ)
    limit_threads(2)
    assert set(environ.values()) == {"2"}
    assert {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} <= environ.keys()
