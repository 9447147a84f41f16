"""A graph a -> b -> c for tests of the engine; b works in units and can be stopped, killed, held up.

SHARING is another one, of one stage that several processes may share.

Also a command line (`python -m tests.fakes.toy_stages run ...`) and work for shard tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import StrictInt

from pipeline.cli import main
from pipeline.config import EXECUTION_ONLY, JSON, Config
from pipeline.errors import DataError
from pipeline.files import write_atomic
from pipeline.shards import Shards
from pipeline.stage import HashFile, Metrics, Recipe, Stage, StageContext

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class AConfig(Config):
    value: float = 1.0
    data: str | None = None
    """An outside file, identified by its contents."""
    comment: Annotated[str, EXECUTION_ONLY] = ""
    kib: Annotated[StrictInt, EXECUTION_ONLY] = 0
    """Ballast to write."""


class BConfig(Config):
    units: StrictInt = 4
    stop_after: Annotated[StrictInt | None, EXECUTION_ONLY] = None
    """Send TERM to this process after so many units."""
    die_after: Annotated[StrictInt | None, EXECUTION_ONLY] = None
    """Send KILL to this process after so many units."""
    wait_for: Annotated[str | None, EXECUTION_ONLY] = None
    """Wait after the first unit until this file exists."""


class CConfig(Config):
    scale: float = 2.0
    complaint: Annotated[str | None, EXECUTION_ONLY] = None
    """Fail with this message."""


class SConfig(Config):
    count: StrictInt = 12
    steps: StrictInt = 1
    """How often all shards are done, one time after the other."""
    seconds: Annotated[float, EXECUTION_ONLY] = 0.2
    """Time that a shard takes."""


class SharingRecipe(Recipe):
    s: SConfig = SConfig()


class ToyRecipe(Recipe):
    a: AConfig = AConfig()
    b: BConfig = BConfig()
    c: CConfig = CConfig()


def run_a(config: AConfig, context: StageContext) -> Metrics:
    (context.work / "value.txt").write_text(f"{config.value}\n", encoding="utf-8")
    if config.data is not None:
        (context.work / "data.bin").write_bytes(Path(config.data).read_bytes())
    with (context.work / "ballast.bin").open("wb") as file:
        for _ in range(config.kib):
            file.write(bytes(1024))
            file.flush()
    return {"value": config.value}


def run_b(config: BConfig, context: StageContext) -> Metrics:
    value = float(context.inputs["a"].file("value.txt").read_text(encoding="utf-8"))
    for unit in range(config.units):
        path = context.work / f"unit{unit}.txt"
        if not path.exists():
            context.stop.check()
            write_atomic(path, f"{value * unit}\n")
            context.progress.update(unit + 1, config.units, "unit")
        if unit + 1 == config.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        if unit + 1 == config.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        while config.wait_for is not None and not Path(config.wait_for).exists():
            context.stop.check()
            time.sleep(0.02)
    return {"units": config.units}


def run_c(config: CConfig, context: StageContext) -> Metrics:
    if config.complaint is not None:
        raise DataError(config.complaint)
    units = context.inputs["b"].path.glob("unit*.txt")
    total = config.scale * sum(float(path.read_text(encoding="utf-8")) for path in units)
    (context.work / "console.txt").write_text(f"total {total}\n", encoding="utf-8")
    return {"total": total}


def identity_a(config: AConfig, _seed: int, hash_file: HashFile) -> JSON:
    data = None if config.data is None else hash_file(Path(config.data))
    return {**config.identity(), "data": data}


STAGES = (
    Stage("a", 1, (), "tests.fakes.toy_stages:run_a", seeded=True, identity=identity_a),
    Stage("b", 1, ("a",), "tests.fakes.toy_stages:run_b"),
    Stage("c", 1, ("a", "b"), "tests.fakes.toy_stages:run_c"),
)


def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """Start the toy command line in a process of its own."""
    command = [sys.executable, "-m", "tests.fakes.toy_stages", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, **variables},
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Identify every file below a folder: inode, time of change, contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, _bytes(path))
        for path in sorted(folder.rglob("*"))
    }


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def wait_until(path: Path, seconds: float = 20.0) -> None:
    """Wait for a file that another process makes."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@dataclass(frozen=True)
class Squares:
    """Writes the square of each shard's number; notes who began and who did what."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, shard: int) -> None:
        write_atomic(self.folder / f"{shard:03d}.begun.{os.getpid()}", "")
        time.sleep(self.seconds)
        write_atomic(self.folder / f"{shard:03d}.txt", f"{shard * shard}\n")

    def is_done(self, shard: int) -> bool:
        return (self.folder / f"{shard:03d}.txt").exists()


def run_s(config: SConfig, context: StageContext) -> Metrics:
    for step in shards_s(config, context):
        context.share(step)
    folder = context.work / f"shards-{context.fingerprint}"
    squares = [int(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.txt"))]
    (context.work / "squares.txt").write_text(f"{squares}\n", encoding="utf-8")
    for done in context.work.glob("shards-*"):
        shutil.rmtree(done)
    return {"squares": len(squares)}


def shards_s(config: SConfig, context: StageContext) -> Iterator[Shards]:
    for step in range(config.steps):
        name = f"shards-{context.fingerprint}" + (f"-step{step}" if step else "")
        folder = context.work / name
        yield Shards(
            Squares(folder, config.seconds), config.count, folder, context.claims / str(step)
        )


SHARING = (
    Stage(
        "s",
        1,
        (),
        "tests.fakes.toy_stages:run_s",
        shards="tests.fakes.toy_stages:shards_s",
    ),
)


class Deadly(Squares):
    """Dies in shard 1 without a word."""

    def __call__(self, shard: int) -> None:
        if shard == 1:
            os._exit(9)
        super().__call__(shard)


class Unpicklable(Exception):
    """Neither short nor to be sent."""

    def __init__(self, text: str, other: int) -> None:
        super().__init__(text)
        self.open = lambda: other


class Unspeakable(Squares):
    """Fails in a way that no pipe carries."""

    def __call__(self, shard: int) -> None:
        raise Unpicklable("x" * 5000, shard)


class Complaining(Squares):
    """Finds fault with every shard."""

    def __call__(self, shard: int) -> None:
        raise DataError(f"shard {shard} has a bad row")


if __name__ == "__main__":
    graph: tuple[Sequence[Stage], type[Recipe]] = (STAGES, ToyRecipe)
    if sys.argv[1] == "sharing":
        graph = (SHARING, SharingRecipe)
        del sys.argv[1]
    if sys.argv[1] == "rank":  # as a launcher's task
        from pipeline.preemption import StopFlag
        from pipeline.rank import main as run_rank

        stop = StopFlag()
        stop.listen()
        sys.exit(run_rank(*graph, sys.argv[2:], stop))
    sys.exit(main(*graph, rank_module="tests.fakes.toy_stages", about="Toys"))
