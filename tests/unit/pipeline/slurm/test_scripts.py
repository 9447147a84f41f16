"""The batch scripts: what they ask Slurm for, and what they do with the end of srun and with signals."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.toy_stages import CHECKOUT, wait_until

SLURM = CHECKOUT / "slurm"
SCRIPTS = ("cpu.sbatch", "gpu.sbatch")
JOB = {
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_CPUS_PER_TASK": "3",
}


def directives(script: str) -> dict[str, str]:
    lines = (SLURM / script).read_text(encoding="utf-8").splitlines()
    found = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH ")]
    return dict(line.partition("=")[::2] for line in found)


@pytest.mark.parametrize("script", [*SCRIPTS, "stage.sh"])
def test_shellcheck_finds_nothing(script: str) -> None:
    if shutil.which("shellcheck") is None:
        assert os.environ.get("CI") != "true", "shellcheck is missing"
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "-x", f"slurm/{script}"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_every_job_asks_for(script: str) -> None:
    asked = directives(script)
    assert "requeue" in asked
    assert asked["open-mode"] == "append"
    assert asked["signal"] == "USR2@300"  # no B: for the tasks
    assert asked["ntasks-per-node"] == asked.get("gpus-per-node", "1")
    assert not re.search(r"[$`]", "".join(asked.values())), "sbatch expands nothing"


Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def programs(no_slurm: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Put stand-ins in PATH: srun and the interpreter end with given codes, all note how they were called."""

    def make(
        srun: str = "exit 0", verdict: int = 0, job: str = "JobState=RUNNING"
    ) -> dict[str, str]:
        log = shlex.quote(str(tmp_path / "calls"))
        note = f'echo "${{0##*/}} $*" >>{log}'
        bodies = {
            "srun": srun,
            "python": f"exit {verdict}",
            "scancel": "exit 0",
            "scontrol": "case $2 in hostnames) echo n1; echo n2;; "
            f"job) echo 'JobId=1 {job} Reason=x NumNodes=2';; esac",
        }
        for name, body in bodies.items():
            program = no_slurm / name
            program.write_text(f"#!{no_slurm}/bash\n{note}\n{body}\n", encoding="utf-8")
            program.chmod(0o755)
        return {**JOB, "PATH": str(no_slurm), "SUMPIPE_MASTER_ADDR": "127.0.0.1"}

    return make


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "calls").read_text(encoding="utf-8").splitlines()


def batch(tmp_path: Path) -> list[str]:
    run_dir = str(tmp_path / "it's my $run")
    return ["bash", str(SLURM / "gpu.sbatch"), "finetune", run_dir, "zero3", "python"]


def run(environ: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        batch(tmp_path),
        env=environ,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


Programs = Callable[..., dict[str, str]]
Calls = Callable[[], list[str]]


def test_one_rank_is_one_task(programs: Programs, calls: Calls, tmp_path: Path) -> None:
    assert run(programs(), tmp_path).returncode == 0
    run_dir = tmp_path / "it's my $run"
    rank = f"python -m stages.rank finetune --run-dir {run_dir} --ds-config zero3"
    assert f"srun --kill-on-bad-exit=1 --cpus-per-task=3 {rank}" in calls()
    assert f"python -m pipeline.slurm.verdict {run_dir} finetune 0" in calls()


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ("deepspeed", "deepspeed.launcher.runner --hostfile RUN/logs/slurm/1234.hosts --no_ssh"),
        ("torchrun", "torch.distributed.run --nnodes 2 --nproc-per-node 2"),
    ],
)
def test_one_launcher_is_one_node(
    launcher: str, words: str, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    environ = {**programs(), "SUMPIPE_LAUNCHER": launcher}
    assert run(environ, tmp_path).returncode == 0
    (srun,) = [call for call in calls() if call.startswith("srun")]
    assert "--ntasks=2 --ntasks-per-node=1 --cpus-per-task=6" in srun
    run_dir = tmp_path / "it's my $run"
    assert words.replace("RUN", str(run_dir)) in srun
    if launcher == "deepspeed":
        hosts = run_dir / "logs" / "slurm" / "1234.hosts"
        assert hosts.read_text(encoding="utf-8") == "n1 slots=2\nn2 slots=2\n"


def test_srun_takes_more_options(programs: Programs, calls: Calls, tmp_path: Path) -> None:
    run({**programs(), "SUMPIPE_SRUN_OPTIONS": "--mpi=none --cpu-bind=cores"}, tmp_path)
    (srun,) = [call for call in calls() if call.startswith("srun")]
    assert "--cpus-per-task=3 --mpi=none --cpu-bind=cores python" in srun


def test_an_unknown_launcher_is_refused(programs: Programs, tmp_path: Path) -> None:
    done = run({**programs(), "SUMPIPE_LAUNCHER": "mpirun"}, tmp_path)
    assert done.returncode == 2
    assert "choose srun, deepspeed or torchrun" in done.stderr


def test_elsewhere_than_in_the_checkout_it_says_so(programs: Programs, tmp_path: Path) -> None:
    done = subprocess.run(
        batch(tmp_path), env=programs(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "submit from the checkout" in done.stderr


@pytest.mark.parametrize(
    ("verdict", "job", "is_queued"),
    [
        (0, "JobState=RUNNING", False),
        (1, "JobState=RUNNING", False),
        (2, "JobState=RUNNING", False),
        (75, "JobState=RUNNING", True),
        (75, "JobState=COMPLETING Reason=TimeLimit", True),
        (75, "JobState=COMPLETING Reason=None", False),
        (75, "JobState=CANCELLED Reason=None", False),
        (75, "JobState=PENDING Reason=BeginTime", False),
    ],
)
def test_only_a_preempted_job_that_nobody_ended_is_queued_again(
    verdict: int, job: str, is_queued: bool, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    done = run(programs("exit 137", verdict, job), tmp_path)
    assert done.returncode == verdict
    assert ("scontrol requeue 1234" in calls()) == is_queued
    assert [call for call in calls() if call.endswith(" 137")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_goes_to_the_tasks_through_slurm_and_the_script_waits(
    number: signal.Signals, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    begun, end = tmp_path / "begun", tmp_path / "end"
    waiting = (
        f"trap 'exit 99' TERM USR2; >'{begun}'; until [ -e '{end}' ]; do sleep 0.02; done; exit 75"
    )
    with subprocess.Popen(batch(tmp_path), env=programs(waiting), cwd=CHECKOUT) as process:
        wait_until(begun)
        for _ in range(2):
            process.send_signal(number)
        while not any(call.startswith("scancel") for call in calls()):
            assert process.poll() is None
        end.touch()
        assert process.wait(timeout=20) == 0
    assert "scancel --signal=USR2 1234" in calls()
    (verdict,) = [call for call in calls() if "verdict" in call]
    assert verdict.endswith(" 75"), "srun was not killed, and its code was kept"


def test_the_port_depends_on_the_job_and_is_free(programs: Programs, tmp_path: Path) -> None:
    environ = programs(f"echo $MASTER_ADDR $MASTER_PORT >>'{tmp_path}/ports'")
    run(environ, tmp_path)
    run({**environ, "SLURM_RESTART_COUNT": "1"}, tmp_path)
    run({**environ, "SLURM_JOB_ID": "1235"}, tmp_path)
    first, again, other = (
        int(line.removeprefix("127.0.0.1 "))
        for line in (tmp_path / "ports").read_text(encoding="utf-8").splitlines()
    )
    assert len({first, again, other}) == 3
    assert all(20000 <= port < 32768 for port in (first, again, other))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        run(environ, tmp_path)
    last = (tmp_path / "ports").read_text(encoding="utf-8").splitlines()[-1]
    assert int(last.split()[1]) != first


@pytest.mark.parametrize(
    ("answer", "asks", "is_queued"),
    [
        ("echo n1; echo n2", 1, False),  # all nodes are well: a rank has failed
        ("echo n1", 2, True),
        ("", 1, False),  # srun is at fault
    ],
)
def test_a_failure_with_a_silent_node_is_put_to_the_verdict_again(
    answer: str, asks: int, is_queued: bool, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    environ = programs(f"case $* in *printenv*) {answer or ':'};; *) exit 1;; esac", verdict=1)
    python = Path(environ["PATH"]) / "python"
    # n2 has come back when the verdict is given: nothing is left to wait for.
    srun = f"sed -i 's/echo n1;;/echo n1; echo n2;;/' '{python.with_name('srun')}'"
    code = f"case ${{6:-}} in n2) {srun}; exit 75;; *) exit 1;; esac"
    text = python.read_text(encoding="utf-8").replace("exit 1", code)
    python.write_text(text, encoding="utf-8")
    done = run(environ, tmp_path)
    asked = [call for call in calls() if "verdict" in call]
    assert len(asked) == asks, done.stderr
    assert done.returncode == (75 if is_queued else 1)
    assert ("scontrol requeue 1234" in calls()) == is_queued
    if is_queued:
        assert asked[-1].endswith(" finetune 1 n2")
