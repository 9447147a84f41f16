"""Stand-ins for Slurm's programs, which keep a queue in a file and do nothing with it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """#!{python} -S
import json, os, pathlib, sys
queue = pathlib.Path({queue!r})
state = json.loads(queue.read_text())
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
given = dict(word.lstrip("-").partition("=")[::2] for word in words if word.startswith("--"))
if state["refuse"].get(name, -1) == 0:
    sys.exit("{{}}: error: the cluster is asleep".format(name))
if name in state["refuse"]:
    state["refuse"][name] -= 1
if name in state["says"]:
    print(state["says"][name])
    sys.exit()
if name == "sbatch":
    number = str(100 + len(state["jobs"]))
    reason = "Dependency" if "dependency" in given else "Priority"
    job = dict(id=number, state="PENDING", name=given["job-name"], reason=reason, words=words)
    job["environ"] = dict(os.environ)
    state["jobs"].append(job)
    print(number)
if name == "squeue":
    for job in state["jobs"]:
        if job["name"] in given["name"].split(","):
            print("|".join(job[key] for key in ("id", "state", "name", "reason")))
if name == "scancel":
    for job in state["jobs"]:
        if job["id"] in words:
            job["state"], job["reason"] = "CANCELLED", "None"
queue.write_text(json.dumps(state))
"""


@dataclass(frozen=True)
class FakeSlurm:
    """A queue that tests may look into and change."""

    file: Path

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """All jobs ever, by id."""
        return {job["id"]: job for job in json.loads(self.file.read_text())["jobs"]}

    def change(self, number: str, state: str, reason: str = "None") -> None:
        """Let a job have come to another state."""
        content = json.loads(self.file.read_text())
        for job in content["jobs"]:
            if job["id"] == number:
                job.update(state=state, reason=reason)
        self.file.write_text(json.dumps(content))

    def refuse(self, program: str, after: int = 0) -> None:
        """Let a program fail once it has served so many calls."""
        content = json.loads(self.file.read_text())
        content["refuse"][program] = after
        self.file.write_text(json.dumps(content))

    def say(self, program: str, text: str) -> None:
        """Let a program print this and do nothing."""
        content = json.loads(self.file.read_text())
        content["says"][program] = text
        self.file.write_text(json.dumps(content))

    def forget(self) -> None:
        """Let the jobs have ended long ago."""
        self.file.write_text(json.dumps({"jobs": [], "refuse": {}, "says": {}}))


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Slurm: PATH is a folder with the few programs that scripts need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "head", "sed", "date", "mkdir", "sleep", "timeout", "grep"):
        found = shutil.which(name)
        assert found is not None, f"{name} is missing"
        (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def fake_slurm(no_slurm: Path, tmp_path: Path) -> FakeSlurm:
    """A machine with the stand-ins."""
    slurm = FakeSlurm(tmp_path / "queue.json")
    slurm.forget()
    for name in ("sbatch", "squeue", "scancel"):
        program = no_slurm / name
        program.write_text(PROGRAM.format(python=sys.executable, queue=str(slurm.file)))
        program.chmod(0o755)
    return slurm
