"""Runs on a Slurm cluster: a job a stage, as `sumpipe submit` queues them."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.artifact import RunDir
from pipeline.distributed.presence import rank_file
from pipeline.distributed.world import slurm_environment
from pipeline.drill.rehearsal import Act
from pipeline.drill.watch import Watch
from pipeline.errors import LaunchError
from pipeline.files import read_json
from pipeline.provenance import CHECKOUT
from pipeline.slurm import ledger
from pipeline.slurm.options import Need
from pipeline.slurm.queue import Job, call, cancel_jobs, parse_queue, queue_job
from pipeline.slurm.sbatch import Place, queue_command, submit_command

QUEUE_SECONDS = 2.0
"""Between two looks into the queue, which many users share."""


class Cluster:
    """Starts, disturbs and ends runs on a cluster; see launcher.py."""

    poll_s = 0.05
    at_once = 16

    def __init__(
        self,
        python: str,
        profile: Path,
        needs: Mapping[str, Need],
        fewer_needs: Mapping[str, Need] | None,
        shared: str,
    ) -> None:
        """Queue nothing yet.

        Args:
            python: The interpreter, on all nodes.
            profile: The sharding profile.
            needs: What the job of each stage asks for, in the order of stages.
            fewer_needs: The same with fewer ranks; None if there cannot be fewer.
            shared: A stage that several ranks share.
        """
        self.ranks = needs[shared].tasks
        self.fewer = None if fewer_needs is None else fewer_needs[shared].tasks
        self._python, self._profile = python, profile
        self._needs, self._fewer_needs = needs, fewer_needs
        self._has_fewer: dict[Path, bool] = {}
        self._ambushes: dict[Path, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._queue, self._asked = "", -math.inf

    def start(self, run_dir: RunDir, stages: Sequence[str], *, fewer: bool = False) -> None:
        """Queue these stages, each after the one before it."""
        needs = self._fewer_needs if fewer and self._fewer_needs else self._needs
        place = Place(CHECKOUT, self._python, run_dir.root, self._profile)
        run_dir.logs("slurm").mkdir(parents=True, exist_ok=True)
        self._has_fewer[run_dir.root] = fewer
        after = None
        for stage in stages:
            command = submit_command(stage, needs[stage], place, after)
            after = queue_job(command)
            ledger.note_job(run_dir, stage, after, command)
        with self._lock:
            self._asked = -math.inf  # the jobs are not in the answer that is remembered

    def begun(self, stage: str) -> str:
        """A task writes this once it listens."""
        return f"logs/{stage}/*/rank0000.pid"

    def prepare(self, run_dir: RunDir, stage: str, act: Act, moment: str, watch: Watch) -> None:
        """Start what is to kill all ranks, in a step of its own beside them; see ambush.py."""
        if act is not Act.KILL_ALL:
            return
        job = self._job(run_dir, stage)
        is_waiting = ("PENDING", "CONFIGURING")
        word = f"the start of job {job} ({stage})"
        watch.until(word, lambda: self._state(run_dir, stage) not in is_waiting)
        nodes = self._needs[stage].nodes
        step = ["srun", f"--jobid={job}", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}"]
        ambush = [self._python, "-m", "pipeline.drill.ambush", str(run_dir.root), stage, moment]
        with (run_dir.logs("slurm") / f"{job}-ambush.out").open("wb") as output:
            self._ambushes[run_dir.root] = subprocess.Popen(
                [*step, "--ntasks-per-node=1", f"--chdir={CHECKOUT}", *ambush, str(watch.limit_s)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=slurm_environment(),
            )

    def disturb(self, run_dir: RunDir, stage: str, act: Act) -> None:
        """Signal the tasks of the job, or kill its last rank; all of them are being killed already.

        A job that ended meanwhile is no fault: what follows tells how it ended.

        Raises:
            LaunchError: If Slurm refuses.
        """
        job = self._job(run_dir, stage)
        try:
            if act is Act.STOP:
                call(["scancel", "--signal=USR2", job])
            elif act is Act.KILL_RANK:
                host, pid = _last_rank(run_dir.logs(stage))
                step = ["srun", f"--jobid={job}", "--overlap", f"--nodelist={host}"]
                call([*step, "--nodes=1", "--ntasks=1", "kill", "-KILL", str(pid)])
        except LaunchError:
            if self._is_running(run_dir, stage):
                raise

    def is_over(self, run_dir: RunDir) -> bool:
        """Whether no job of the run waits or runs."""
        return not any(job.is_active for job in self._jobs_of(run_dir).values())

    def leave(self, run_dir: RunDir, stage: str, act: Act, watch: Watch) -> str:
        """Wait until the job has left its nodes; a stop brings it back to the queue, a kill must not.

        Raises:
            LaunchError: If the ranks could not be killed.
        """
        job = self._job(run_dir, stage)
        if act is Act.KILL_ALL:
            ambush = self._ambushes[run_dir.root]
            watch.until("the end of the step that kills ranks", lambda: ambush.poll() is not None)
            if ambush.returncode and self._is_running(run_dir, stage):
                log = run_dir.logs("slurm") / f"{job}-ambush.out"
                raise LaunchError(f"job {job}: srun could not kill its ranks (log {log})")
        watch.until(
            f"job {job} ({stage}) to leave its nodes",
            lambda: self._state(run_dir, stage) not in ("RUNNING", "COMPLETING"),
        )
        is_back = not self.is_over(run_dir)
        if act is Act.STOP and not is_back and not run_dir.committed(stage).is_dir():
            return f"was not queued again: {self.last_words(run_dir)}"
        if act is not Act.STOP and is_back:
            return f"job {job} was queued again although it failed"
        return ""

    def resume(self, run_dir: RunDir, stage: str, watch: Watch, *, fewer: bool) -> None:
        """Submit again what is not in the queue, or is there with another number of ranks."""
        if self.is_over(run_dir):
            self.start(run_dir, [stage], fewer=fewer)
        elif fewer != self._has_fewer[run_dir.root]:
            self._cancel(run_dir)
            watch.until(f"the end of the cancelled job of {stage}", lambda: self.is_over(run_dir))
            self.start(run_dir, [stage], fewer=fewer)

    def last_words(self, run_dir: RunDir) -> str:
        """Return how the job of the first stage that is not committed ended, as far as that is known."""
        jobs = ledger.jobs(run_dir)
        left = [stage for stage in jobs if not run_dir.committed(stage).is_dir()]
        stage = (left or list(jobs))[0]
        entry = jobs[stage]
        job = self._jobs_of(run_dir).get(stage)
        reasons = [
            item["reason"] for item in ledger.verdicts(run_dir) if item["job"] == entry["job"]
        ]
        told = [f"job {entry['job']} ended", *([str(job)] if job else []), *reasons[-1:]]
        return f"{', '.join(told)} (log {run_dir.logs('slurm')}/{entry['job']}-{stage}.out)"

    def end(self, run_dir: RunDir) -> None:
        """Cancel what is left."""
        with self._lock:
            self._asked = -math.inf
        if run_dir.root in self._ambushes:
            self._ambushes[run_dir.root].kill()
            self._ambushes[run_dir.root].wait()
        self._cancel(run_dir)

    def _cancel(self, run_dir: RunDir) -> None:
        active = [job.id for job in self._jobs_of(run_dir).values() if job.is_active]
        if active:
            cancel_jobs(active)
            with self._lock:
                self._asked = -math.inf

    def _is_running(self, run_dir: RunDir, stage: str) -> bool:
        """Whether a stage's job goes on, by a new look into the queue."""
        with self._lock:
            self._asked = -math.inf
        return self._state(run_dir, stage) == "RUNNING"

    def _job(self, run_dir: RunDir, stage: str) -> str:
        job: str = ledger.jobs(run_dir)[stage]["job"]
        return job

    def _state(self, run_dir: RunDir, stage: str) -> str:
        """Return the state of a stage's job; empty if Slurm knows none."""
        job = self._jobs_of(run_dir).get(stage)
        return "" if job is None else job.state

    def _jobs_of(self, run_dir: RunDir) -> dict[str, Job]:
        """Return the run's jobs by stage, as one look into the queue for all runs shows them."""
        stages = list(self._needs)
        with self._lock:
            if time.monotonic() - self._asked > QUEUE_SECONDS:
                self._queue = call(queue_command(list(self._has_fewer), stages))
                self._asked = time.monotonic()
            text = self._queue
        return parse_queue(text, [run_dir.root], stages)


def _last_rank(logs: Path) -> tuple[str, int]:
    """Return host and pid of the highest rank of the last launch.

    Raises:
        LaunchError: If there is none.
    """
    launches = sorted(logs.glob("*/rank0000.pid"), key=lambda file: file.stat().st_mtime_ns)
    for file in launches[-1:]:
        ranks = sorted(file.parent.glob("rank*.pid"))
        rank = int(ranks[-1].stem.removeprefix("rank"))
        host: str = read_json(rank_file(file.parent, rank, "where"))["host"]
        return host.partition(".")[0], int(ranks[-1].read_text(encoding="ascii"))
    raise LaunchError(f"{logs}: no rank has left its pid here")
