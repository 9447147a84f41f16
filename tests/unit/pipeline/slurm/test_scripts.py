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

from pipeline.artifact import RunDir
from pipeline.slurm.options import WARNING_SECONDS
from pipeline.slurm.verdict import log_folder
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
    assert asked["signal"] == f"USR2@{WARNING_SECONDS}"  # no B: for the tasks
    assert asked["ntasks-per-node"] == asked.get("gpus-per-node", "1")
    assert not re.search(r"[$`]", "".join(asked.values())), "sbatch expands nothing"


Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def programs(no_slurm: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Put stand-ins in PATH: srun and the interpreter end with given codes, all note how they were called."""

    def make(
        srun: str = "exit 0", verdict: int = 0, job: str = "RUNNING|N/A|None|0"
    ) -> dict[str, str]:
        log = shlex.quote(str(tmp_path / "calls"))
        note = f'echo "${{0##*/}} $*" >>{log}'
        bodies = {
            "srun": srun,
            "python": f"exit {verdict}",
            "scancel": "exit 0",
            "scontrol": "case $2 in hostnames) echo n1; echo n2;; esac",
            "squeue": f"echo '{job}|'",
            "sleep": "exit 0",
        }
        for name, body in bodies.items():
            program = no_slurm / name
            program.unlink(missing_ok=True)
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
    (srun,) = [call for call in calls() if call.startswith("srun")]
    assert srun.startswith("srun --kill-on-bad-exit=1 --ntasks=4 --cpus-per-task=3 bash -c ")
    assert srun.endswith(f"--log-dir {log_folder(RunDir(run_dir), 'finetune', '1234', 0)}")
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


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
@pytest.mark.parametrize(
    ("on_the_node", "told"),
    [("CUDA_VISIBLE_DEVICES=5,MIG-7f", " --gpus 5,MIG-7f"), ("unset CUDA_VISIBLE_DEVICES", "")],
)
def test_ranks_are_told_the_gpus_that_slurm_gave_to_their_node(
    launcher: str, on_the_node: str, told: str, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    environ = programs(f'{on_the_node}; while [[ $1 == -* ]]; do shift; done; "$@"')
    job = {"SUMPIPE_LAUNCHER": launcher, "SLURM_NODEID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    run({**environ, **job}, tmp_path)
    (rank,) = [call for call in calls() if "stages.rank finetune" in call and "srun" not in call]
    log_dir = log_folder(RunDir(tmp_path / "it's my $run"), "finetune", "1234", 0)
    assert rank.endswith(f" --log-dir {log_dir}{told}"), "not the first node's"


@pytest.mark.parametrize("launcher", ["srun", "deepspeed", "torchrun"])
def test_ranks_are_told_their_cpus_not_those_of_their_node(
    launcher: str, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    """In the steps of a job, srun sets the variable to the CPUs of what it starts."""
    own = "[[ $1 != --cpus-per-task=* ]] || export SLURM_CPUS_PER_TASK=${1#*=}"
    environ = programs(f'while [[ $1 == -* ]]; do {own}; shift; done; "$@"')
    python = Path(environ["PATH"]) / "python"
    noted = f'echo "$SLURM_CPUS_PER_TASK CPUs" >>{shlex.quote(str(tmp_path / "calls"))}; exit 0'
    python.write_text(python.read_text("utf-8").replace("exit 0", noted), "utf-8")
    done = run({**environ, "SUMPIPE_LAUNCHER": launcher, "SLURM_NODEID": "0"}, tmp_path)
    began, told = [call for call in calls() if "stages.rank" in call or "CPUs" in call][1:3]
    assert began.startswith("python -m "), done.stderr
    assert told == "3 CPUs"


def test_srun_takes_more_options(programs: Programs, calls: Calls, tmp_path: Path) -> None:
    run({**programs(), "SUMPIPE_SRUN_OPTIONS": "--mpi=none --cpu-bind=cores"}, tmp_path)
    (srun,) = [call for call in calls() if call.startswith("srun")]
    assert "--cpus-per-task=3 --mpi=none --cpu-bind=cores bash" in srun


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_a_signal_before_python_listens_does_not_end_a_rank(
    launcher: str, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    environ = programs('while [[ $1 == -* ]]; do shift; done; "$@"')
    python = Path(environ["PATH"]) / "python"
    signals = "kill -TERM $$; kill -USR2 $$"
    python.write_text(python.read_text("utf-8").replace("exit 0", signals), "utf-8")
    run({**environ, "SUMPIPE_LAUNCHER": launcher, "SLURM_NODEID": "0"}, tmp_path)
    program = "stages.rank finetune" if launcher == "srun" else "torch.distributed.run"
    assert any(call.startswith(f"python -m {program}") for call in calls())
    assert f"python -m pipeline.slurm.verdict {tmp_path}/it's my $run finetune 0" in calls()


def test_options_of_srun_on_two_lines_are_refused(programs: Programs, tmp_path: Path) -> None:
    done = run({**programs(), "SUMPIPE_SRUN_OPTIONS": "--mpi=none\n--quiet"}, tmp_path)
    assert done.returncode == 2
    assert "more than one line" in done.stderr


def test_where_slurm_does_not_count_the_tasks_they_are_counted_here(
    programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    environ = programs()
    del environ["SLURM_NTASKS"]
    done = run(environ, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finetune on 4 task(s) of n[1-2], restart 0; logs of the ranks: " in done.stdout
    assert any(call.startswith("srun --kill-on-bad-exit=1 --ntasks=4 ") for call in calls())


def test_tasks_get_the_environment_and_squeue_no_options_of_the_user(
    programs: Programs, tmp_path: Path
) -> None:
    environ = programs(f"echo $SLURM_EXPORT_ENV >'{tmp_path}/seen'", verdict=75)
    squeue = Path(environ["PATH"]) / "squeue"
    squeue.write_text(
        f"#!{environ['PATH']}/bash\necho ${{!SQUEUE_@}} >>'{tmp_path}/seen'\necho 'CANCELLED|'\n",
        "utf-8",
    )
    settings = {"SLURM_EXPORT_ENV": "NONE", "SQUEUE_FORMAT": "%i", "SQUEUE_STATES": "PENDING"}
    run({**environ, **settings}, tmp_path)
    assert set((tmp_path / "seen").read_text(encoding="utf-8").split("\n")) == {"ALL", ""}


def test_a_refused_requeue_says_what_to_do(programs: Programs, tmp_path: Path) -> None:
    environ = programs("exit 137", verdict=75)
    scontrol = Path(environ["PATH"]) / "scontrol"
    text = scontrol.read_text("utf-8").replace("esac", "esac; [ $1 != requeue ]")
    scontrol.write_text(text, "utf-8")
    done = run(environ, tmp_path)
    assert done.returncode == 75
    assert "did not queue job 1234 again; what it has saved stays: submit again" in done.stderr
    assert "scontrol did not queue job 1234 again (refused 30 of 30 times" in done.stdout


@pytest.mark.parametrize("program", ["squeue", "scontrol requeue"])
def test_slurm_is_asked_again_when_it_does_not_answer(
    program: str, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    environ = programs("exit 75", verdict=75)
    name, *arguments = program.split()
    file = Path(environ["PATH"]) / name
    # It hangs: what `timeout` says then. Far more often than Slurm may refuse.
    busy = f"if [[ $* == *{''.join(arguments)}* && $(<'{tmp_path}/n') -lt 60 ]]; then"
    text = f"{busy} n=$(<'{tmp_path}/n'); echo $((n + 1)) >'{tmp_path}/n'; exit 124; fi\n"
    (tmp_path / "n").write_text("0", encoding="utf-8")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*lines[:2], text, *lines[2:]]), encoding="utf-8")
    done = run(environ, tmp_path)
    assert done.returncode == 75
    assert sum(call.startswith(program) for call in calls()) == 61
    assert calls()[-1] == "scontrol requeue 1234", "and no more once it was taken"
    assert "did not queue job 1234 again; what" not in done.stderr


@pytest.mark.parametrize(("code", "ended"), [(75, 75), (4, 1), (0, 0), (127, 1)])
def test_without_a_verdict_it_is_asked_for_again(
    code: int, ended: int, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    """Python could not begin, then the run directory was not there; 127 is how it goes on."""
    environ = programs("exit 75", verdict=-1)
    python = Path(environ["PATH"]) / "python"
    (tmp_path / "codes").write_text(f"1 2 {code} {code}", encoding="utf-8")
    answer = f"read -r code rest <'{tmp_path}/codes'; echo $rest >'{tmp_path}/codes'; exit $code"
    python.write_text(python.read_text(encoding="utf-8").replace("exit -1", answer), "utf-8")
    done = run({**environ, "SLURM_NNODES": "1"}, tmp_path)
    assert done.returncode == ended
    asked = [call for call in calls() if "slurm.verdict " in call]
    assert len(asked) == (4 if code == 127 else 3)
    assert len(set(asked)) == 1
    assert ("scontrol requeue 1234" in calls()) == (code == 75)
    assert ("counts as failed; submit again" in done.stderr) == (code == 127)


@pytest.mark.parametrize(
    ("job", "is_taken"),
    [
        ("RUNNING|N/A|None|0", False),
        ("COMPLETING|N/A|TimeLimit|0", False),
        ("RUNNING|2026-11-22T07:50:16|None|0", True),  # within GraceTime
        ("COMPLETING|2026-11-21T17:03:54|None|1", True),  # PreemptMode=REQUEUE
        ("PENDING|N/A|BeginTime|1", True),  # a node was lost, or scontrol requeue
        ("", False),
    ],
)
def test_the_verdict_is_told_what_slurm_does_by_itself(
    job: str, is_taken: bool, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    run(programs("exit 75", 4, job), tmp_path)
    asked = [call for call in calls() if "slurm.verdict " in call]
    assert asked, "also where squeue does not answer"
    assert all((" --taken " in call) == is_taken for call in asked)


@pytest.mark.parametrize(
    ("given", "address"),
    [("127.0.0.%h", "127.0.0.7"), ("127.%h.%h.1", "127.7.7.1"), ("127.0.0.9", "127.0.0.9")],
)
def test_the_ranks_may_meet_in_another_network(
    given: str, address: str, programs: Programs, tmp_path: Path
) -> None:
    environ = programs(f"echo $MASTER_ADDR >'{tmp_path}/address'")
    scontrol = Path(environ["PATH"]) / "scontrol"  # with names that need no look-up
    scontrol.write_text(scontrol.read_text("utf-8").replace("echo n1", "echo 7"), "utf-8")
    run({**environ, "SUMPIPE_MASTER_ADDR": given}, tmp_path)
    assert (tmp_path / "address").read_text(encoding="utf-8") == f"{address}\n"


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
        (0, "RUNNING|N/A|None|0", False),
        (4, "RUNNING|N/A|None|0", False),
        (75, "RUNNING|N/A|None|0", True),
        (75, "RUNNING|N/A|None|1", False),  # its next start, after this node was taken to be lost
        (75, "SIGNALING|N/A|None|0", True),
        (75, "COMPLETING|N/A|TimeLimit|0", True),
        (75, "COMPLETING|2026-11-21T17:03:54|None|0", True),  # PreemptMode=CANCEL
        (75, "COMPLETING|2026-11-21T17:03:54|None|1", False),  # PreemptMode=REQUEUE
        (75, "COMPLETING|N/A|None|0", False),
        (75, "COMPLETING|N/A|said RUNNING|0", False),
        (75, "CANCELLED|N/A|None|0", False),
        (75, "PENDING|N/A|BeginTime|1", False),
    ],
)
def test_only_a_preempted_job_that_nobody_ended_is_queued_again(
    verdict: int, job: str, is_queued: bool, programs: Programs, calls: Calls, tmp_path: Path
) -> None:
    done = run(programs("exit 137", verdict, job), tmp_path)
    assert done.returncode == (1 if verdict == 4 else verdict)
    assert ("scontrol requeue 1234" in calls()) == is_queued
    assert [call for call in calls() if call.endswith(" 137")]
    assert ("sumpipe: " in done.stdout + done.stderr) == (verdict == 75), "nothing is left unsaid"


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
    (verdict,) = [call for call in calls() if "slurm.verdict " in call]
    assert verdict.endswith(" 75"), "srun was not killed, and its code was kept"
    assert "verdict --signalled " in verdict


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
    environ = programs(f"case $* in *printenv*) {answer or ':'};; *) exit 1;; esac", verdict=4)
    python = Path(environ["PATH"]) / "python"
    # n2 has come back when the verdict is given: nothing is left to wait for.
    srun = f"sed -i 's/echo n1;;/echo n1; echo n2;;/' '{python.with_name('srun')}'"
    code = f"case ${{6:-}} in n2) {srun}; exit 75;; *) exit 4;; esac"
    text = python.read_text(encoding="utf-8").replace("exit 4", code)
    python.write_text(text, encoding="utf-8")
    done = run(environ, tmp_path)
    asked = [call for call in calls() if "slurm.verdict " in call]
    assert len(asked) == asks, done.stderr
    assert done.returncode == (75 if is_queued else 1)
    assert ("scontrol requeue 1234" in calls()) == is_queued
    if is_queued:
        assert asked[-1].endswith(" finetune 1 n2")
