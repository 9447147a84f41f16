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
GROUP = Stage("group", 1, (), "nowhere:run", Launch.GROUP, "gpu")
SHARED = Stage("shared", 1, (), "nowhere:run", resource="gpu", shards="nowhere:shards")
ROWS = Stage("rows", 1, (), "nowhere:run", shards="nowhere:shards")
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
        (ROWS, {"nodes": 3, "gpus_per_node": 0, "tasks_per_node": 2}, ("cpu", 3, 2, 0)),
        (ROWS, {"nodes": 3, "gpus_per_node": 8}, ("cpu", 1, 1, 0)),
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


def test_rows_are_shared_by_what_the_site_says_of_cpus() -> None:
    site = validate(
        SlurmSite, {"cpu": {"nodes": 2, "tasks_per_node": 16}, "gpu": {"nodes": 4}}, "site"
    )
    assert need_of(ROWS, site, flags(gpus_per_node=8))[:4] == ("cpu", 2, 16, 0)
    assert need_of(LONE, site, flags(gpus_per_node=8))[:4] == ("cpu", 1, 1, 0)
    assert need_of(GROUP, site, flags(gpus_per_node=8))[:4] == ("gpu", 4, 8, 8)


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
        ("slurm: {mem_per_cpu: 4 GB}", ["slurm.mem_per_cpu", "4 GB", "K, M, G or T"]),
        ("slurm: {time: 4h}", ["slurm.time", "4h", "expected minutes, H:MM:SS or D-HH:MM:SS"]),
        ("slurm: {gpu: {gpu_type: 'a:8'}}", ["slurm.gpu.gpu_type", "a:8", "such as a100"]),
        (
            "slurm: {cpu: {gpus_per_node: 2}}",
            ["slurm.cpu", "gpus_per_node is not for jobs without"],
        ),
        ("slurm: {cpu: {gpu_type: a100}}", ["slurm.cpu", "gpu_type is not for jobs without"]),
        ("slurm: {sbatch: ['--job-name=x']}", ["slurm.sbatch", "--job-name is set by submit"]),
        ("slurm: {cpu: fast}", ["slurm.cpu", "expected a section of settings", "fast"]),
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
        *("--time=00:05:00", "--tim=5", "-t5", "--time-min=1"),
        *("--help", "-h", "--usage", "-u", "--version", "-V", "-Mother", "--cluster=other"),
    ],
)
def test_options_that_would_break_the_chain_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="set by submit itself, or would break its chain"):
        flags(sbatch=[text])


@pytest.mark.parametrize(
    "text", ["", "exclusive", "x --exclusive", "-x n7", "--nice 5", "--comment 'x y'", "-", "--"]
)
def test_text_that_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected options of sbatch, a value as --name=value"):
        flags(sbatch=[text])


@pytest.mark.parametrize(
    "signal",
    ["--signal=USR1@60", "--signal=B:USR2@60", "--sig=TERM", "--signal=USR2", "--signal=USR2@0"],
)
def test_signals_that_tasks_do_not_save_on_are_refused(signal: str) -> None:
    with pytest.raises(ConfigError, match=r"give --signal=USR2@SECONDS"):
        flags(sbatch=[signal])


@pytest.mark.parametrize(
    "text",
    [
        *("--nodelist=n1", "--nice=-5", "--signal=USR2@60", "-xn7", "--mem=0", "--exclusive"),
        *("--comment='-n x'", "--verbose"),
    ],
)
def test_other_options_are_taken(text: str) -> None:
    assert flags(sbatch=[text]).sbatch == (text,)


def test_sections_may_be_empty_and_one_option_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("slurm:\n", encoding="utf-8")
    assert read_site(path) == NOTHING
    path.write_text("slurm: {cpu: , gpu: , sbatch: --exclusive --nice=5}", encoding="utf-8")
    site = read_site(path)
    assert (site.cpu, site.gpu) == (Options(), Options())
    assert site.words == ["--exclusive", "--nice=5"]


def test_jobs_without_gpus_are_of_the_cpu_class(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        "slurm:\n  cpu: {partition: slow, nodes: 3, tasks_per_node: 16}\n"
        "  gpu: {partition: fast, gpus_per_node: 4}\n",
        encoding="utf-8",
    )
    site = read_site(path)
    need = need_of(SHARED, site, flags(gpus_per_node=0))
    assert (need[:4], need.asked.partition) == (("cpu", 3, 16, 0), "slow")
    need = need_of(LONE, site, flags())
    assert (need[:4], need.asked.partition) == (("cpu", 1, 1, 0), "slow")
    need = need_of(SHARED, site, flags())
    assert (need[:4], need.asked.partition) == (("gpu", 1, 4, 4), "fast")


def test_a_type_without_gpus_is_refused() -> None:
    assert need_of(GROUP, NOTHING, flags(gpu_type="a100")).asked.gpu_type == "a100"
    assert need_of(LONE, NOTHING, flags(gpu_type="a100")).asked.gpu_type is None
    with pytest.raises(ConfigError, match=r"--gpu-type a100: with no GPUs"):
        need_of(GROUP, NOTHING, flags(gpu_type="a100", gpus_per_node=0))


@pytest.mark.parametrize(
    ("time", "signal", "is_enough"),
    [
        ("5", None, False),
        ("5:30", None, False),
        ("0:05:30", None, False),
        ("5:31", None, True),
        ("6", None, True),
        ("0", None, True),
        ("0-1", None, True),
        ("1-0:01", None, True),
        ("5", "--signal=USR2@120", True),
        ("2", "--signal=USR2@120", False),
        ("10", "--exclusive --sig=USR2@570", False),
        ("10", "--signal=USR2@570 --signal=USR2@60", True),
    ],
)
def test_a_limit_that_leaves_no_time_to_save_is_refused(
    time: str, signal: str | None, is_enough: bool
) -> None:
    given = flags(time=time, sbatch=[signal] if signal else [])
    for stage in (LONE, SHARED):
        if is_enough:
            assert need_of(stage, NOTHING, given).asked.time == time
        else:
            with pytest.raises(
                ConfigError, match=rf"time {time}: is \d+ s.*more than \d+ s.*USR2@"
            ):
                need_of(stage, NOTHING, given)


@pytest.mark.parametrize("time", ["90", "1:00", "4:00:00", "2-0", "1-12:30:00"])
def test_times_that_slurm_takes(time: str) -> None:
    assert flags(time=time).time == time


@pytest.mark.parametrize("time", ["", "4h", "1:2:3:4", "soon"])
def test_times_that_slurm_does_not_take(time: str) -> None:
    with pytest.raises(ConfigError, match="time"):
        flags(time=time)
