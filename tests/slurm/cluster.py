"""A real Slurm on this machine for the tests: a controller and some nodes, gone without a trace afterwards.

Where namespaces are allowed every node has its own network, host name, process table and /dev/shm, and
shares the rest of the file system; nothing of it shows on the host, so clusters can run side by side.
Elsewhere several slurmd share the host's; they are named by their loopback addresses, which resolve as
the names of real nodes do. The processes are cluster.sh's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import psutil

from tests.launching import environment, free_port

SCRIPT = Path(__file__).with_name("cluster.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ISOLATE = (
    *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
)
ISOLATION_PROGRAMS = ("unshare", "nsenter", "ip", "hostname")
POLL_SECONDS = 0.1
LOG_LINES = 60

ENDED = (
    *("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED"),
    *("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"),
)
IN_TROUBLE = re.compile(r"[*]|down|unk|fail|drain", re.IGNORECASE)  # "idle*" does not answer
Job = dict[str, str]


@dataclass(frozen=True)
class Settings:
    """What a test may ask of its cluster; times in seconds, as short as is safe on a busy machine."""

    nodes: int = 3
    gpus: int = 0
    """Believed per node, of type a100, like the 64 CPUs and 256 GB; tasks see CUDA_VISIBLE_DEVICES."""
    kill_wait: int = 3
    """From TERM to KILL."""
    slurmd_timeout: int = 10
    """Without an answer of a node until its jobs are requeued; it takes up to three times as long."""
    extra: str = ""
    """More lines of slurm.conf."""
    isolated: bool | None = None
    """Whether nodes live in namespaces; None: where that is allowed."""


@dataclass(frozen=True)
class Address:
    """Where a daemon listens."""

    name: str
    host: str
    """What the host it runs on is called."""
    ip: str
    port: int


def missing() -> str:
    """Why no cluster can start here; empty when one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} on PATH: install munge slurmctld slurmd slurm-client"
    return "" if os.geteuid() == 0 else "a Slurm of one's own needs root"


def can_isolate() -> bool:
    """Whether this machine allows namespaces."""
    if any(shutil.which(name) is None for name in ISOLATION_PROGRAMS):
        return False
    return subprocess.run([*ISOLATE, "true"], capture_output=True, check=False).returncode == 0


def _addresses(count: int, isolated: bool) -> list[Address]:
    """The controller's, then the nodes'."""
    if isolated:
        nodes = [Address(f"node{i}", f"node{i}", f"10.77.0.{10 + i}", 6818) for i in range(count)]
        return [Address("controller", "controller", "10.77.0.1", 6817), *nodes]
    host = socket.gethostname().split(".")[0]
    loopback = [f"127.0.0.{2 + i}" for i in range(count)]
    return [
        Address(host, host, "127.0.0.1", free_port()),
        *(Address(ip, host, ip, free_port()) for ip in loopback),
    ]


def slurm_conf(base: Path, settings: Settings, controller: Address, nodes: list[Address]) -> str:
    """Give slurm.conf: fake hardware, no cgroups, no database, quick reactions."""
    gres = f" Gres=gpu:a100:{settings.gpus}" if settings.gpus else ""
    node_lines = "\n".join(
        f"NodeName={node.name} NodeHostname={node.host} NodeAddr={node.ip} Port={node.port}"
        f" CPUs=64 RealMemory=256000{gres}"
        for node in nodes
    )
    return f"""\
ClusterName=tests
SlurmctldHost={controller.name}({controller.ip})
SlurmctldPort={controller.port}
SlurmUser=root
AuthType=auth/munge
# The new start of a requeued job waits for as long as its old credential lives, by default 120 s.
AuthInfo=socket={base}/munge/socket,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without a default a job that asks for no memory takes all of a node's.
DefMemPerCPU=1000
ReturnToService=2
SlurmdTimeout={settings.slurmd_timeout}
KillWait={settings.kill_wait}
# A node answers a request to kill a step only after KillWait. One that seems to have gone unanswered is sent
# again a minute later, and would then hit the new start of a requeued job, which has the same step's name.
MessageTimeout={max(settings.slurmd_timeout, settings.kill_wait + 5)}
# Ended jobs stay visible.
MinJobAge=7200
BatchStartTimeout=30
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{node_lines}
PartitionName=normal Nodes=ALL Default=YES DefaultTime=60 PriorityTier=10 PreemptMode=OFF
PartitionName=preempt Nodes=ALL DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=urgent Nodes=ALL DefaultTime=60 PriorityTier=100 PreemptMode=OFF
{settings.extra}
"""


def _tail(path: Path, lines: int = LOG_LINES) -> str:
    if not path.is_file():
        return f"({path.name}: none)"
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"--- the end of {path.name} ---", *text[-lines:]])


def parse_job(line: str) -> Job:
    """Read one line of `scontrol show job -o`. Values may hold blanks, names begin with a capital."""
    fields = re.split(r" (?=[A-Z][A-Za-z/:]*=)", line.strip())
    return dict(field.partition("=")[::2] for field in fields)


@dataclass(frozen=True)
class Cluster:
    """A running cluster. A job is named by the string that Slurm prints: "12", in an array "12_3".

    Partitions: normal (the default), preempt (its jobs are requeued when others need the nodes), urgent
    (takes nodes from preempt).
    """

    base: Path
    """Holds configuration, logs and, in `jobs/`, the outputs of jobs submitted without a directory."""
    nodes: tuple[str, ...]
    isolated: bool
    process: subprocess.Popen[str]
    running: ClassVar[list[Cluster]] = []
    """Clusters of this process; what fails beside them tells what their daemons wrote."""

    @classmethod
    @contextlib.contextmanager
    def started(cls, settings: Settings | None = None) -> Iterator[Self]:
        """Start a cluster, wait until all nodes are idle, and take it down at the end.

        Raises:
            AssertionError: A daemon refused to start; with its log.
        """
        settings = settings or Settings()
        isolated = can_isolate() if settings.isolated is None else settings.isolated
        # Sockets need a short path, which pytest's tmp_path is not.
        base = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
        try:
            base.chmod(0o755)  # munge wants the way to its socket open to all
            controller, *nodes = _addresses(settings.nodes, isolated)
            _write_files(base, settings, controller, nodes)
            names = tuple(node.name for node in nodes)
            kind = "isolated" if isolated else "loopback"
            process = subprocess.Popen(
                [*(ISOLATE if isolated else ()), "bash", str(SCRIPT), kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment({"BASE": str(base), "NODES": " ".join(names)}),
                start_new_session=True,  # Ctrl-C at the tests is not for the daemons
            )
            cluster = cls(base, names, isolated, process)
            try:
                cluster._await_answer()
                cluster._poll(lambda: not cluster.troubled_nodes(), 30, "not all nodes came up")
                cls.running.append(cluster)
                yield cluster
            finally:
                if cluster in cls.running:
                    cls.running.remove(cluster)
                cluster._stop()
        finally:
            shutil.rmtree(base)

    def _stop(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def _await_answer(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ok\n", f"{self.base} died\n{self.logs()}"

    def _command(self, verb: Literal["start", "kill"], node: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{verb} {node}\n")
        self.process.stdin.flush()
        self._await_answer()

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command where a user of the cluster logs in: beside the controller.

        `cwd` is by default a directory for the outputs of jobs.
        """
        directory = cwd or self.base / "jobs"
        enter: list[str] = []
        if self.isolated:  # through the namespaces' first process, the only child of unshare
            first = psutil.Process(self.process.pid).children()[0].pid
            spaces = ("--net", "--mount", "--uts", "--ipc", "--pid", f"--wdns={directory}")
            enter = ["nsenter", "--target", str(first), *spaces]
        done = subprocess.run(
            [*enter, *map(str, command)],
            capture_output=True,
            text=True,
            cwd=directory,
            env=_environment({"SLURM_CONF": str(self.base / "slurm.conf"), **(env or {})}),
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr}"
        return done

    def sbatch(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Submit a job and return its id."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=env).stdout.strip()

    def job(self, job: str) -> Job:
        """Give all that Slurm knows of a job (of an array's first task), by Slurm's own names."""
        return parse_job(self.run("scontrol", "show", "job", "-o", job).stdout.splitlines()[0])

    def wait(self, job: str, *states: str, timeout: float = 60) -> Job:
        """Wait for one of the states, by default for the job's end, and give the job."""
        wanted = states or ENDED
        return self.wait_until(job, lambda found: found["JobState"] in wanted, timeout)

    def wait_until(self, job: str, is_reached: Callable[[Job], bool], timeout: float = 60) -> Job:
        """Wait for a moment in a job's life and give the job as it was then.

        Raises:
            AssertionError: Not within `timeout` seconds; with the job, its output and the controller's log.
        """
        found = self.job(job)

        def look() -> bool:
            nonlocal found
            found = self.job(job)
            return is_reached(found)

        self._poll(look, timeout, lambda: f"job {job} is not there\n{self.report(found)}")
        return found

    def nodes_of(self, job: str) -> list[int]:
        """Which nodes a job has, or had last."""
        listed = self.run("scontrol", "show", "hostnames", self.job(job)["NodeList"])
        return [self.nodes.index(name) for name in listed.stdout.split()]

    def output(self, job: str) -> str:
        """What a job has written so far; empty before it has started."""
        path = Path(self.job(job)["StdOut"])
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def signal(self, job: str, name: str, to: Literal["tasks", "batch", "all"] = "tasks") -> None:
        """Send a signal now: to the tasks, as sbatch's --signal=NAME does, or to the script, as B:NAME."""
        option = {"tasks": (), "batch": ("--batch",), "all": ("--full",)}[to]
        self.run("scancel", *option, "--signal", name, job)

    def kill_node(self, node: int) -> None:
        """Lose a node: its link and all of its processes at once. Slurm notices after a while."""
        self._command("kill", node)

    def start_node(self, node: int) -> None:
        """Give a killed node back and wait until it answers."""
        self._command("start", node)
        name = self.nodes[node]
        self._poll(lambda: name not in self.troubled_nodes(), 30, f"{name} did not come back")

    def troubled_nodes(self) -> set[str]:
        """Names of nodes that Slurm does not give jobs to because they fail or do not answer."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %t").stdout.splitlines()
        states = dict(line.split() for line in lines)
        return {name for name, state in states.items() if IN_TROUBLE.search(state)}

    def cancel_all(self) -> None:
        """End all jobs now, without the time they may take to stop, and wait until they are gone."""
        self.run("scancel", "--full", "--signal", "KILL", "--user", "root", check=False)
        self.run("scancel", "--user", "root", check=False)
        self._poll(lambda: not self.run("squeue", "-h").stdout, 60, "jobs do not end")

    def report(self, job: Job) -> str:
        """What a failed test must show of a job."""
        fields = ("JobId", "JobState", "Reason", "ExitCode", "Restarts", "Dependency", "NodeList")
        line = " ".join(f"{name}={job[name]}" for name in fields if name in job)
        output = _tail(Path(job["StdOut"])) if "StdOut" in job else ""
        return "\n".join((line, output, _tail(self.base / "log" / "slurmctld.log")))

    def logs(self) -> str:
        """The ends of what all daemons wrote."""
        logs = sorted((self.base / "log").iterdir())
        return "\n".join(_tail(path) for path in logs if path.stat().st_size)

    def _poll(
        self, is_reached: Callable[[], bool], timeout: float, message: str | Callable[[], str]
    ) -> None:
        deadline = time.monotonic() + timeout
        while not is_reached():
            if time.monotonic() > deadline:
                told = message if isinstance(message, str) else message()
                raise AssertionError(f"after {timeout} s: {told}\n{self.run('squeue').stdout}")
            time.sleep(POLL_SECONDS)


def _write_files(base: Path, settings: Settings, controller: Address, nodes: list[Address]) -> None:
    for name in ("state", "spool", "log", "munge", "dev", "jobs"):
        (base / name).mkdir()
    (base / "munge" / "key").touch(mode=0o600)
    (base / "munge" / "key").write_bytes(os.urandom(128))
    (base / "slurm.conf").write_text(slurm_conf(base, settings, controller, nodes), "utf-8")
    hosts = [f"{address.ip} {address.name}\n" for address in (controller, *nodes)]
    (base / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts), "utf-8")
    devices = [base / "dev" / f"nvidia{index}" for index in range(settings.gpus)]
    for device in devices:
        device.symlink_to("/dev/null")  # slurmd insists on a device
    lines = [f"Name=gpu Type=a100 File={device}\n" for device in devices]
    (base / "gres.conf").write_text("".join(lines), "utf-8")


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without traces of a Slurm job that it may itself run in."""
    outer = {name: value for name, value in environment().items() if not name.startswith("SLURM")}
    return {**outer, **extra}
