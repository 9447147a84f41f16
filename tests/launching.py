"""Start the project as a user would, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
TINY = CHECKOUT / "tests" / "data" / "tiny.yaml"
BIN = Path(sys.executable).parent


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the virtual environment's programs first on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **(extra or {})}


def sumpipe(
    *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `sumpipe ARGUMENTS` to its end."""
    command = [sys.executable, "-m", "stages", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(env), timeout=timeout, check=False
    )


def rank_arguments(run_dir: Path, profile: str) -> list[str]:
    return ["finetune", "--run-dir", str(run_dir), "--ds-config", profile]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def by_hand(run_dir: Path, profile: str, size: int) -> list[subprocess.CompletedProcess[str]]:
    """Start ranks with plain RANK, WORLD_SIZE, ... variables and wait for all."""
    port = str(free_port())
    ranks = []
    for rank in range(size):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        env = environment({**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        command = [sys.executable, "-m", "stages.rank", *rank_arguments(run_dir, profile)]
        ranks.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
            )
        )
    done = []
    for process in ranks:
        out, err = process.communicate(timeout=240)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def by_torchrun(run_dir: Path, profile: str, size: int) -> subprocess.CompletedProcess[str]:
    """Start ranks with `torchrun`."""
    command = [
        *(str(BIN / "torchrun"), "--nproc-per-node", str(size), "--master-port", str(free_port())),
        *("-m", "stages.rank", *rank_arguments(run_dir, profile)),
    ]
    return _to_end(command)


def by_deepspeed(run_dir: Path, profile: str, size: int) -> subprocess.CompletedProcess[str]:
    """Start ranks with the `deepspeed` launcher, which passes --local_rank unless told not to."""
    command = [
        *(str(BIN / "deepspeed"), "--num_gpus", str(size), "--master_port", str(free_port())),
        *("--module", "stages.rank", *rank_arguments(run_dir, profile)),
    ]
    return _to_end(command)


def _to_end(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=240, check=False
    )


def copy_run(source: Path, target: Path) -> Path:
    """Copy a run directory, as moving it to another place would."""
    shutil.copytree(source, target)
    return target


def losses(run_dir: Path) -> list[float]:
    """Training losses in nats per target token, update by update."""
    lines = (run_dir / "finetune" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start `sumpipe ARGUMENTS` in a session of its own and return at once."""
    command = [sys.executable, "-m", "stages", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], is_reached: Callable[[], bool]) -> None:
    """Wait until a moment is reached while `process` runs; fail if it ends before."""
    deadline = time.monotonic() + 180
    while not is_reached():
        assert process.poll() is None, f"ended before the moment: {process.communicate()[0]}"
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.0005)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and everything it started, as a lost node would."""
    try:
        tree = [psutil.Process(process.pid)]
        tree[0].suspend()  # first of all, so that the moment does not pass
    except psutil.NoSuchProcess:
        return
    tree += tree[0].children(recursive=True)
    for member in tree[1:]:  # stopped before any is killed: nobody starts or cleans up meanwhile
        with contextlib.suppress(psutil.NoSuchProcess):
            member.suspend()
    for member in [*tree, *_children(tree)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()


def _children(tree: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for member in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += member.children(recursive=True)
    return found


def result_bytes(run_dir: Path) -> dict[str, bytes]:
    """What must not depend on interruptions: predictions, scores, weights."""
    names = ("generate/predictions.jsonl", "score/rouge.json", "export/model/model.safetensors")
    return {name: (run_dir / name).read_bytes() for name in names}
