"""Which rank this process is, under any launcher; the only reader and writer of the environment."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import ConfigError, LaunchError

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
_RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_CLUSTER_NAMES = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
"""Say which cluster is asked, and as whom; all other variables SLURM_* are of a job."""


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among the ranks of one launch.

    `local_rank` selects the device on this host; `master_addr:master_port` is the rendezvous.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> World:
        """Read the rank variables of `deepspeed`, `torchrun` or `srun`; alone if there are none.

        Raises:
            LaunchError: If only some of them are set, or one is not a sensible number.
        """
        env = os.environ if environ is None else environ
        found = {name: env[name] for name in _RANK_NAMES if env.get(name)}
        if "RANK" not in found and _is_one_of_several_tasks(env):
            slurm = {
                "RANK": env["SLURM_PROCID"],
                "WORLD_SIZE": env["SLURM_NTASKS"],
                "LOCAL_RANK": env.get("SLURM_LOCALID", ""),
            }
            found = {**{name: value for name, value in slurm.items() if value}, **found}
        if not {"RANK", "WORLD_SIZE"} & found.keys():
            return cls(master_port=free_port())
        missing = [name for name in _RANK_NAMES if name not in found]
        if missing:
            raise LaunchError(
                f"{', '.join(sorted(found))} set without {', '.join(missing)}: a rank needs all of "
                f"{', '.join(_RANK_NAMES)} (`deepspeed` and `torchrun` set them)"
            )
        try:
            rank, size, local_rank = (int(found[name]) for name in _RANK_NAMES[:3])
            port = int(found["MASTER_PORT"])
        except ValueError:
            raise LaunchError(f"rank variables must be whole numbers: {found}") from None
        if not (0 <= rank < size and local_rank >= 0 and 0 < port < 65536):
            raise LaunchError(f"rank variables contradict each other: {found}")
        return cls(rank, size, local_rank, found["MASTER_ADDR"], port)

    def export(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Set the rank variables for libraries that read them (DeepSpeed wants LOCAL_RANK)."""
        env = os.environ if environ is None else environ
        values = (self.rank, self.size, self.local_rank, self.master_addr, self.master_port)
        env.update(zip(_RANK_NAMES, map(str, values), strict=True))


def _is_one_of_several_tasks(env: Mapping[str, str]) -> bool:
    """Whether `srun` started this; a batch script has the same variables, as task 0, but no step."""
    names = ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS")
    return all(env.get(name) for name in names) and env["SLURM_NTASKS"] != "1"


def free_port() -> int:
    """Return a TCP port that is free on this host now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def thread_count() -> int:
    """Threads a process computes with: SUMPIPE_THREADS, else 1.

    Never derived from the core count: another number of threads gives other bits.

    Raises:
        LaunchError: If SUMPIPE_THREADS is not a positive whole number.
    """
    return _whole_number("SUMPIPE_THREADS", 1, "threads")


def task_cpus() -> int:
    """CPUs that Slurm gave each task of a job, SLURM_CPUS_PER_TASK; 1 where nobody asked for a number.

    Raises:
        LaunchError: If it is not a positive whole number.
    """
    return _whole_number("SLURM_CPUS_PER_TASK", 1, "CPUs")


def timeout_seconds() -> int:
    """Seconds a rank waits for the others: SUMPIPE_TIMEOUT_SECONDS, else 600.

    Nothing slower than a minute happens inside a group, so the default is for slow file systems.

    Raises:
        LaunchError: If SUMPIPE_TIMEOUT_SECONDS is not a positive whole number.
    """
    return _whole_number("SUMPIPE_TIMEOUT_SECONDS", 600, "seconds")


def _whole_number(name: str, default: int, unit: str) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise LaunchError(f"{name}={text!r}: expected a whole number of {unit}, at least 1")
    return int(text)


def cache_dir() -> Path | None:
    """Return the cache that runs share, SUMPIPE_CACHE_DIR; None without one."""
    found = os.environ.get("SUMPIPE_CACHE_DIR")
    return Path(found).absolute() if found else None


def job_id() -> str | None:
    """Return the scheduler's job id, or None outside a job."""
    return os.environ.get("SLURM_JOB_ID")


def job_restarts() -> int:
    """Return how often the scheduler has started this job again; 0 outside a job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def job_step() -> str | None:
    """Return which of the job's launches by `srun` this process is of, or None."""
    return os.environ.get("SLURM_STEP_ID")


def require_launch_settings() -> None:
    """Raise ConfigError if a job would refuse what the environment says of how its ranks are started."""
    launcher = os.environ.get("SUMPIPE_LAUNCHER") or "srun"
    if launcher not in ("srun", "deepspeed", "torchrun"):
        raise ConfigError(f"SUMPIPE_LAUNCHER={launcher!r}: choose srun, deepspeed or torchrun")
    if "\n" in os.environ.get("SUMPIPE_SRUN_OPTIONS", ""):
        raise ConfigError(
            "SUMPIPE_SRUN_OPTIONS: has more than one line; write all options in one, with blanks between"
        )


def slurm_environment() -> dict[str, str]:
    """Return the environment for Slurm's programs: the user's own, without what a job around has left.

    They take SLURM_* for options, and jobs inherit it: within an allocation its memory or GPUs would become
    those of every job submitted there. Defaults of a user's profile (SBATCH_ACCOUNT, ...) stay.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _CLUSTER_NAMES
        or not (name.startswith(("SLURM_", "SQUEUE_")) or name == "SBATCH_ARRAY_INX")
    }


class Step(NamedTuple):
    """What `srun` tells the tasks of a step of where they are."""

    nodes: str
    """Slurm's list of the step's nodes, such as `node[1-3]`."""
    job: int
    restarts: int
    master_addr: str
    """SUMPIPE_MASTER_ADDR: where ranks are to meet; `%h` in it stands for the first node's name."""


def srun_step() -> Step | None:
    """Return the step that this process is one of several tasks of; None if the rendezvous is named."""
    env = os.environ
    nodes = env.get("SLURM_STEP_NODELIST")
    if env.get("RANK") or (env.get("MASTER_ADDR") and env.get("MASTER_PORT")):
        return None
    if not nodes or not _is_one_of_several_tasks(env):
        return None
    address = env.get("SUMPIPE_MASTER_ADDR") or env.get("MASTER_ADDR") or "%h"
    return Step(nodes, int(env.get("SLURM_JOB_ID", "0")), job_restarts(), address)


def name_rendezvous(host: str, port: int) -> None:
    """Tell this process, and those it starts, where ranks meet; what the launcher said stays."""
    os.environ.setdefault("MASTER_ADDR", host)
    os.environ.setdefault("MASTER_PORT", str(port))


def launcher_holds_port() -> bool:
    """Whether the launcher listens at the master port itself, as `torchrun` does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def child_environment() -> dict[str, str]:
    """Return the environment of a `python -m` that is to import the code that this process has.

    Without it a folder of the working directory comes first, should it have the name of a package of ours.
    """
    path = filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH")))
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}


def rank_environment(world: World, timeout: int) -> dict[str, str]:
    """Return the environment of a process that is to be this rank, and waits for others so long (s)."""
    env = {**child_environment(), "SUMPIPE_TIMEOUT_SECONDS": str(timeout)}
    world.export(env)
    return env


def is_offline() -> bool:
    """Whether the Hugging Face Hub is not to be asked, by the rule of huggingface_hub (2.4, constants.py)."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in {"1", "ON", "YES", "TRUE"}


def visible_gpus() -> list[str]:
    """Name the NVIDIA GPUs that this process may use, without importing torch."""
    present = [node.name[6:] for node in Path("/dev").glob("nvidia[0-9]*")]
    numbers = sorted((name for name in present if name.isdecimal()), key=int)
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not numbers:
        return numbers
    return [name.strip() for name in allowed.split(",") if name.strip() not in {"", "-1"}]


def show_gpus(names: str) -> None:
    """Make just these GPUs visible, by CUDA's names; call before CUDA starts."""
    os.environ["CUDA_VISIBLE_DEVICES"] = names


def use_one_gpu(index: int) -> None:
    """Leave one GPU visible, the `index`-th in turn; call before CUDA starts. Nothing without GPUs."""
    gpus = visible_gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]


def quiet_libraries() -> None:
    """Keep progress bars and fork warnings of libraries out of our logs; call before importing them."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
    if not visible_gpus():
        # Spares every rank a probe of all accelerators and a warning; never set where a GPU is.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def use_large_pages() -> None:
    """Let torch on a CPU ask Linux for large pages; call before torch is imported.

    Otherwise an update spends much of its time in page faults: the blocks above 32 MiB that it frees go
    back to the kernel and are mapped anew, a small page at a time (benchmarks/bench_train.py).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """What is imported in here gets back from torch.compile what it gave, at once."""
    before = os.environ.get("TORCHDYNAMO_DISABLE", "")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        os.environ["TORCHDYNAMO_DISABLE"] = before


def limit_threads(count: int) -> None:
    """Fix the threads of numeric libraries, here and in children; call before they are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
