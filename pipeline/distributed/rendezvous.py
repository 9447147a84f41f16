"""Where the ranks of a Slurm step meet, if nobody says: the rule that slurm/stage.sh follows too."""

from __future__ import annotations

import subprocess

from pipeline.distributed.world import World, name_rendezvous, srun_step
from pipeline.errors import LaunchError

_FIRST_PORT, _PORTS = 20_000, 12_000
"""Below the range that Linux takes outgoing connections from."""
_ANSWER_SECONDS = 30


def launch_world() -> World:
    """Return this process's place as `World.from_env` does, under a plain `srun` as well.

    Raises:
        LaunchError: If the launcher's variables contradict each other, or Slurm does not answer.
    """
    step = srun_step()
    if step is not None:
        host = step.master_addr
        if "%h" in host:
            host = host.replace("%h", first_host(step.nodes))
        name_rendezvous(host, derived_port(step.job, step.restarts))
    return World.from_env()


def derived_port(job: int, restarts: int) -> int:
    """Return the port at which the tasks of a job meet, if it is free there."""
    return _FIRST_PORT + (8 * job + restarts) % _PORTS


def first_host(nodes: str) -> str:
    """Return the first host of Slurm's list of nodes, which is where rank 0 runs.

    Raises:
        LaunchError: If `scontrol` cannot tell.
    """
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True
        )
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise LaunchError(
            f"`{' '.join(command)}` does not tell the first host ({error}): set MASTER_ADDR and MASTER_PORT"
        ) from error
