"""A real sbatch takes every command of the golden files, and the scripts as they are used by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.provenance import CHECKOUT
from pipeline.slurm.sbatch import submit_command
from tests.slurm.cluster import Cluster, Settings
from tests.unit.pipeline.slurm.test_golden import CASES, order

PARTITIONS = "\n".join(f"PartitionName={name} Nodes=ALL" for name in ("h100", "gpu", "cpu"))
FEATURES = "nvlink,ib"
PATHS = ("/data/runs/mine", '/data/it\'s my run/50% $HOME "q", x')


@pytest.fixture(scope="module")
def large_cluster(slurm_installed: None) -> Iterator[Cluster]:
    """What the golden files ask for; it is only asked whether it would take jobs."""
    with Cluster.started(Settings(nodes=4, gpus=8, extra=PARTITIONS)) as cluster:
        features = (f"AvailableFeatures={FEATURES}", f"ActiveFeatures={FEATURES}")
        cluster.run("scontrol", "update", f"NodeName={','.join(cluster.nodes)}", *features)
        yield cluster


@pytest.fixture(scope="module")
def queued(large_cluster: Cluster) -> str:
    """A job that others can be told to wait for."""
    return large_cluster.sbatch("--hold", "--wrap", "true")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a place with a name that shells stumble over."""
    shutil.copytree(CHECKOUT / "slurm", tmp_path / "my sum'pipe $x" / "slurm")
    return tmp_path / "my sum'pipe $x"


@pytest.mark.parametrize("name", CASES)
def test_sbatch_takes_what_submit_gives_it(
    name: str, large_cluster: Cluster, queued: str, checkout: Path
) -> None:
    case = CASES[name]
    if "cpus_per_task" in case.flags:  # a node of the tests has 64
        case = case._replace(flags={**case.flags, "cpus_per_task": 8})
    asked = order(case)
    place = asked.place._replace(checkout=checkout)
    for stage in asked.stages:
        sbatch, *words = submit_command(stage, asked.needs[stage], place, queued)
        told = large_cluster.run(sbatch, "--test-only", *words).stderr
        assert "to start at" in told, told


@pytest.mark.parametrize("run_dir", PATHS)
@pytest.mark.parametrize(
    "words",
    [
        ("slurm/cpu.sbatch", "fetch"),
        ("--nodes=2", "--ntasks-per-node=16", "slurm/cpu.sbatch", "generate"),
        ("--nodes=2", "--gpus-per-node=8", "--ntasks-per-node=8", "slurm/gpu.sbatch", "finetune"),
    ],
)
def test_sbatch_takes_the_scripts_by_hand(
    words: tuple[str, ...], run_dir: str, large_cluster: Cluster
) -> None:
    told = large_cluster.run("sbatch", "--test-only", *words, run_dir, "zero2", cwd=CHECKOUT).stderr
    assert "to start at" in told, told


def test_a_wrong_option_is_refused(large_cluster: Cluster, checkout: Path) -> None:
    """So that the answers above mean something."""
    script = checkout / "slurm" / "gpu.sbatch"
    for wrong in (
        "--gpus-per-node=9",
        "--gpus-per-node=h100:1",
        "--partition=no",
        "--constraint=no",
        "--dependency=after:x",
    ):
        refused = large_cluster.run("sbatch", "--test-only", wrong, script, "fetch", check=False)
        assert refused.returncode != 0, wrong
