"""The cluster that the other Slurm tests run on is one, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launching import CHECKOUT, environment
from tests.slurm.cluster import Cluster, Settings, can_isolate

KINDS = [pytest.param(True, id="isolated"), pytest.param(False, id="loopback")]
FOREVER = "sleep 600"


@contextlib.contextmanager
def started(settings: Settings) -> Iterator[Cluster]:
    if settings.isolated and not can_isolate():
        pytest.skip("namespaces are refused here (needs unshare, ip and CAP_SYS_ADMIN)")
    with Cluster.started(settings) as cluster:
        yield cluster


def processes_of(base: Path) -> list[str]:
    """Living processes that carry the cluster's directory in their environment, in whatever namespace."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            variables = process.environ()
            if str(base) in (
                variables.get("BASE"),
                str(Path(variables.get("SLURM_CONF", "")).parent),
            ):
                found.append(f"{process.pid} {process.cmdline()}")
    return found


@pytest.mark.usefixtures("slurm_installed")
@pytest.mark.parametrize("isolated", KINDS)
def test_tasks_on_two_nodes_share_the_files_and_reach_each_other(
    isolated: bool, tmp_path: Path
) -> None:
    program = """
import os, pathlib, socket, sys
import pipeline
node = os.environ["SLURMD_NODENAME"]
address = socket.gethostbyname(sys.argv[2])
file = pathlib.Path(sys.argv[1], f"{node}-{os.environ['SLURM_LOCALID']}")
file.write_text(f"{socket.gethostname()} {address}")
"""
    with started(Settings(nodes=2, isolated=isolated)) as cluster:
        shape = ("-N", "2", "-n", "4", "--ntasks-per-node", "2")
        arguments = (sys.executable, "-c", program, tmp_path, cluster.nodes[0])
        cluster.run("srun", *shape, *arguments, cwd=CHECKOUT)
    written = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert sorted(written) == [f"{node}-{task}" for node in cluster.nodes for task in (0, 1)]
    assert {address for _, address in written.values()} == {
        "10.77.0.10" if isolated else "127.0.0.2"
    }
    hosts = {host for host, _ in written.values()}
    assert (hosts == set(cluster.nodes)) if isolated else (len(hosts) == 1)


@pytest.mark.usefixtures("slurm_installed")
@pytest.mark.parametrize("isolated", KINDS)
def test_nothing_is_left(isolated: bool) -> None:
    with started(Settings(nodes=2, isolated=isolated)) as cluster:
        cluster.sbatch("-N2", "--wrap", f'srun bash -c "setsid -f sleep 601; {FOREVER}"')
        cluster.sbatch("--export=NONE", "--wrap", "sleep 601")
        escaped = "['sleep', '601']"
        _await(lambda: "".join(processes_of(cluster.base)).count(escaped) == 3)
        assert any("slurmctld" in line for line in processes_of(cluster.base))
    assert processes_of(cluster.base) == []
    assert not cluster.base.exists()


@pytest.mark.usefixtures("slurm_installed")
@pytest.mark.parametrize("isolated", KINDS)
def test_nothing_is_left_of_a_start_that_fails(isolated: bool) -> None:
    wrong = Settings(isolated=isolated, extra="PartitionName=wrong Nodes=nowhere")
    with (
        pytest.raises(AssertionError, match=r"(/tmp/\S+) died(.|\n)*nowhere") as failure,
        started(wrong),
    ):
        pass
    base = Path(str(failure.value).split(" died")[0].split()[-1])
    assert base.parent == Path("/tmp")
    assert processes_of(base) == []
    assert not base.exists()


@pytest.mark.usefixtures("slurm_installed")
@pytest.mark.parametrize("isolated", KINDS)
def test_the_cluster_ends_with_a_killed_test_run(isolated: bool) -> None:
    program = f"""
import time
from tests.slurm.cluster import Cluster, Settings
with Cluster.started(Settings(nodes=1, isolated={isolated})) as cluster:
    print(cluster.base, flush=True)
    time.sleep(600)
"""
    if isolated and not can_isolate():
        pytest.skip("namespaces are refused here (needs unshare, ip and CAP_SYS_ADMIN)")
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT, env=environment()
    ) as tests:
        assert tests.stdout is not None
        base = Path(tests.stdout.readline().strip())
        assert processes_of(base)
        tests.kill()
    _await(lambda: not processes_of(base))
    shutil.rmtree(base)


def test_a_failed_dependency_is_cancelled(cluster: Cluster) -> None:
    first = cluster.sbatch("--wrap", "exit 3")
    chained = ("--kill-on-invalid-dep=yes", f"--dependency=afterok:{first}")
    second = cluster.sbatch(*chained, "--job-name", "two words", "--wrap", "true")
    assert cluster.wait(first)["ExitCode"] == "3:0"
    cancelled = cluster.wait(second)
    assert cancelled["JobState"] == "CANCELLED"
    assert cancelled["Reason"] == "DependencyNeverSatisfied"
    assert cancelled["JobName"] == "two words"


def test_a_requeued_job_keeps_its_id_and_counts(cluster: Cluster) -> None:
    script = """
echo "start ${SLURM_RESTART_COUNT:-0} of $SLURM_JOB_ID"
[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0
scontrol requeue "$SLURM_JOB_ID"
sleep 600
"""
    job = cluster.sbatch("--requeue", "--open-mode=append", "--wrap", script)
    ended = cluster.wait(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert cluster.output(job).splitlines()[0] == f"start 0 of {job}"
    assert cluster.output(job).splitlines()[-1] == f"start 1 of {job}"


def test_signals_reach_whom_they_are_for(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("""#!/bin/bash
[ "$1" = task ] || srun "$0" task &
who=${1:-batch}
trap 'echo $who; exit 0' USR2
echo "$who waits"
for _ in {1..6000}; do sleep 0.1; done
""")
    script.chmod(0o755)
    job = cluster.sbatch(script)
    cluster.wait_until(job, lambda _: cluster.output(job).count("waits") == 2)
    cluster.signal(job, "USR2")
    cluster.wait_until(job, lambda _: "task\n" in cluster.output(job))
    assert "batch\n" not in cluster.output(job)
    cluster.signal(job, "USR2", to="batch")
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert "batch\n" in cluster.output(job)


def test_a_wait_in_vain_shows_the_job(cluster: Cluster) -> None:
    job = cluster.sbatch("--wrap", f"echo what it said; {FOREVER}")
    cluster.wait_until(job, lambda _: bool(cluster.output(job)))
    with pytest.raises(
        AssertionError, match=r"JobState=RUNNING(.|\n)*what it said(.|\n)*slurmctld"
    ):
        cluster.wait(job, timeout=0.2)


@pytest.mark.usefixtures("slurm_installed")
def test_each_task_sees_the_gpu_it_asked_for() -> None:
    with started(Settings(nodes=1, gpus=2)) as cluster:
        show = ("--gpus-per-task=1", "-n2", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES")
        assert sorted(cluster.run("srun", *show).stdout.split()) == ["0", "1"]


def _await(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_reached():
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.05)
