"""What jobs ask for: who wins, who gets one task, and which mistakes are told how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError
from pipeline.slurm.options import Options, SlurmSite, need_of, read_site
from pipeline.stage import Launch, Stage

LONE = Stage("lone", 1, (), "nowhere:run")
GROUP = Stage("group", 1, (), "nowhere:run", Launch.GROUP)
SHARED = Stage("shared", 1, (), "nowhere:run", shards="nowhere:shards")
NOTHING = SlurmSite()


def flags(**given: Any) -> Options:
    return validate(Options, given, "command line")


@pytest.mark.parametrize(
    ("stage", "given", "expected"),
    [
        (LONE, {}, ("cpu", 1, 1, 0)),
        (LONE, {"nodes": 4, "gpus_per_node": 8}, ("cpu", 1, 1, 0)),
        (LONE, {"nodes": 4, "tasks_per_node": 3}, ("cpu", 1, 1, 0)),
        (GROUP, {}, ("gpu", 1, 1, 1)),
        (GROUP, {"nodes": 2, "gpus_per_node": 8}, ("gpu", 2, 8, 8)),
        (SHARED, {"nodes": 2, "gpus_per_node": 8, "tasks_per_node": 8}, ("gpu", 2, 8, 8)),
        (GROUP, {"gpus_per_node": 0}, ("cpu", 1, 1, 0)),
        (SHARED, {"nodes": 3, "gpus_per_node": 0, "tasks_per_node": 2}, ("cpu", 3, 2, 0)),
    ],
)
def test_shape_of_a_job(
    stage: Stage, given: dict[str, int], expected: tuple[str, int, int, int]
) -> None:
    need = need_of(stage, NOTHING, flags(**given))
    assert need[:4] == expected
    assert need.tasks == expected[1] * expected[2]


def test_cpus_of_the_command_line_are_for_tasks_that_share() -> None:
    given = flags(cpus_per_task=12)
    assert need_of(GROUP, NOTHING, given).asked.cpus_per_task == 12
    assert need_of(LONE, NOTHING, given).asked.cpus_per_task == 2


def test_tasks_that_are_not_the_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks per node: 4, with 8 GPUs.*--gpus-per-node 0"):
        need_of(GROUP, NOTHING, flags(gpus_per_node=8, tasks_per_node=4))


SITE = """
slurm:
  account: common
  partition: common
  time: "1:00:00"
  sbatch: ["--exclusive"]
  cpu: {partition: slow, mem_per_cpu: null}
  gpu: {partition: fast, gpus_per_node: 4, cpus_per_task: 12, sbatch: ["--network='a b'"]}
"""


def test_the_command_line_wins_over_the_class_and_the_class_over_the_site(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(SITE, encoding="utf-8")
    site = read_site(path)
    given = flags(account="mine", sbatch=["--nice=5"])
    cpu, gpu = need_of(LONE, site, given), need_of(GROUP, site, given)
    assert (cpu.asked.account, cpu.asked.partition, cpu.asked.time) == ("mine", "slow", "1:00:00")
    assert (gpu.asked.account, gpu.asked.partition, gpu.gpus_per_node) == ("mine", "fast", 4)
    assert (cpu.asked.mem_per_cpu, gpu.asked.mem_per_cpu) == (None, "4G")
    assert (cpu.asked.cpus_per_task, gpu.asked.cpus_per_task) == (2, 12)
    assert cpu.asked.sbatch == ("--exclusive", "--nice=5")
    assert gpu.asked.sbatch == ("--exclusive", "--network='a b'", "--nice=5")
    over = need_of(GROUP, site, flags(partition="other", gpus_per_node=2))
    assert (over.asked.partition, over.gpus_per_node) == ("other", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slurm: {time: 4:00:00}", ["slurm.time", '"4:00:00"', "14400"]),
        ("slurm: {gpu: {partion: x}}", ["slurm.gpu.partion", "slurm.gpu.partition?"]),
        ("slurm: {cpu: {nodes: 0}}", ["slurm.cpu.nodes", "greater than or equal to 1"]),
        ("slurm: {mem_per_cpu: 4 GB}", ["slurm.mem_per_cpu", "4 GB"]),
        ("slurm: {sbatch: ['--job-name=x']}", ["slurm.sbatch", "--job-name is set by submit"]),
        ("slrum: {}", ["slrum", "slurm"]),
        ("partition: x", ["partition", "slurm"]),
    ],
)
def test_mistakes_in_a_site_file_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_site(path)
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "text",
    [
        "-J x",
        "--job-name x",
        "--dep=afterok:1",
        "-N4",
        "-n 4",
        "--wrap=ls",
        "-a 0-3",
        "--no-requeue",
    ],
)
def test_options_that_would_break_the_chain_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="set by submit itself, or would break its chain"):
        flags(sbatch=[text])


@pytest.mark.parametrize("text", ["", "exclusive", "x --exclusive"])
def test_text_that_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected an option of sbatch"):
        flags(sbatch=[text])


@pytest.mark.parametrize(
    "text", ["--nodelist=n1", "--nice=-5", "--signal=USR2@60", "-x n7", "--mem=0", "--exclusive"]
)
def test_other_options_are_taken(text: str) -> None:
    assert flags(sbatch=[text]).sbatch == (text,)


@pytest.mark.parametrize("time", ["90", "1:00", "4:00:00", "2-0", "1-12:30:00"])
def test_times_that_slurm_takes(time: str) -> None:
    assert flags(time=time).time == time


@pytest.mark.parametrize("time", ["", "4h", "1:2:3:4", "soon"])
def test_times_that_slurm_does_not_take(time: str) -> None:
    with pytest.raises(ConfigError, match="time"):
        flags(time=time)
