"""What ranks do in the tests of checkpoints: train with saves, resume, and meet faults on the way."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from pipeline.distributed import checkpoint, elastic, storage, voting
from pipeline.distributed.profile import find_profile, load_profile
from pipeline.distributed.world import World
from pipeline.distributed.zero import ZeroEngine
from pipeline.errors import PipelineError
from pipeline.preemption import StopFlag
from tests.distributed.engine_cases import opened, run_update, weights


def session(
    world: World,
    root: str,
    profile: str,
    precision: str = "fp32",
    until: int = 3,
    keep: int = 2,
    also_keep: Sequence[int] = (),
    overflow: int = -1,
) -> dict[str, Any]:
    """Resume what is there, train to update `until` with a save after each, and tell what happened."""
    folder = Path(root)
    losses = []
    with opened(world, profile, precision) as ranks:
        found = elastic.resume(ranks, folder, world, StopFlag())
        start = found.update if found else 0
        for update in range(start, until):
            factor = float("inf") if update == overflow else 1.0
            losses.append(run_update(ranks, world, update, factor=factor)[0])
            save(ranks, folder, update + 1, world, keep=keep, also_keep=also_keep)
        return {
            "start": start,
            "notes": found.notes if found else None,
            "losses": losses,
            "scale": ranks.loss_scale,
            "weights": weights(ranks),
        }


def save(ranks: ZeroEngine, root: Path, update: int, world: World, **settings: Any) -> None:
    given = {"keep": 2, "guard": lambda: None, "notes": {"seen": update * 10}, **settings}
    checkpoint.save(ranks, root, update, world, **given)


PHASES: dict[str, tuple[Any, str]] = {
    "enter": (checkpoint, "require_entry"),
    "write": (torch, "save"),
    "hash": (checkpoint, "sha256_file"),
    "record": (checkpoint, "seal"),
    "rename": (Path, "rename"),
    "pointer": (checkpoint, "write_atomic"),
    "rotate": (checkpoint, "drop_old"),
}
"""The functions at whose start a rank is killed, phase by phase of a save."""


def killed(world: World, phase: str, victim: int, at: int, **settings: Any) -> Any:
    """`session`, in which one rank is killed in the save of update `at`."""
    voting.ENTRY_LIMIT = datetime.timedelta(seconds=2)  # no supervisor here to end the survivors
    module, name = PHASES[phase]
    real, real_save = getattr(module, name), checkpoint.save
    armed = False

    def watched(*arguments: Any, **named: Any) -> Any:
        if armed and world.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    def counted(engine: ZeroEngine, root: Path, update: int, *arguments: Any, **named: Any) -> None:
        nonlocal armed
        armed = update == at
        real_save(engine, root, update, *arguments, **named)

    setattr(module, name, watched)
    checkpoint.save = counted
    return session(world, **settings)


def _outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except PipelineError as error:
        return f"{type(error).__name__}: {error}"
    return "saved"


def failing_writes(
    world: World, root: str, profile: str, victim: int, failures: int
) -> dict[str, Any]:
    """Save update 1, then 2 while one rank's writes fail so many times, then 3."""
    storage.FIRST_PAUSE = 0.01
    real, left = torch.save, 0

    def sick(state: object, path: str, **settings: Any) -> None:
        nonlocal left
        if world.rank == victim and left > 0:
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(state, path, **settings)

    torch.save = sick  # type: ignore[assignment]
    told = []
    with opened(world, profile, "fp32") as ranks:
        for update in range(3):
            run_update(ranks, world, update)
            left = failures if update == 1 else 0
            number = update + 1
            told.append(_outcome(lambda number=number: save(ranks, Path(root), number, world)))  # type: ignore[misc]
            told.append(",".join(sorted(path.name for path in Path(root).iterdir())))
            voting.gathered(None)  # nobody saves again before all have looked
    return {"told": told}


def bad_storage(world: World, root: str, profile: str, fault: str) -> str:
    """A first save on storage that keeps other bytes than were written, or is given no archive."""
    real_save, real_hash, seen = torch.save, checkpoint.sha256_file, set()

    def forgetful(path: Path) -> str:
        digest = real_hash(path)
        if world.rank == 1 and path not in seen:
            seen.add(path)
            flip_bit(path)
        return digest

    def garbage(state: object, path: str, **settings: Any) -> None:
        if world.rank == 1:
            Path(path).write_bytes(b"no archive")
        else:
            real_save(state, path, **settings)

    if fault == "flipped":
        checkpoint.sha256_file = forgetful
    else:
        torch.save = garbage  # type: ignore[assignment]
    with opened(world, profile, "fp32") as ranks:
        run_update(ranks, world, 0)
        return _outcome(lambda: save(ranks, Path(root), 1, world))


def flip_bit(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def absent(world: World, root: str, profile: str) -> str:
    """A save that rank 1 never enters."""
    voting.ENTRY_LIMIT = datetime.timedelta(seconds=2)
    with opened(world, profile, "fp32") as ranks:
        run_update(ranks, world, 0)
        if world.rank == 1:
            time.sleep(4)
            return "was elsewhere"
        return _outcome(lambda: save(ranks, Path(root), 1, world))


def taken_over(world: World, root: str, profile: str) -> dict[str, Any]:
    """A save whose guard refuses: the run is another process's now."""
    from pipeline.errors import RunDirInUse

    def guard() -> None:
        raise RunDirInUse("another process holds it")

    with opened(world, profile, "fp32") as ranks:
        run_update(ranks, world, 0)
        told = _outcome(lambda: save(ranks, Path(root), 1, world, guard=guard))
        return {"told": told, "whole": [path.name for path in Path(root).glob("update_????????")]}


def sizes(world: World, root: str, profile: str, precision: str) -> dict[str, int]:
    """Bytes of a checkpoint of a model with about a million parameters, foretold and found."""

    class Wide(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*[nn.Linear(289, 289) for _ in range(12)])

    module = Wide()
    ranks = ZeroEngine(
        module,
        [{"params": list(module.parameters()), "weight_decay": 0.0}],
        profile=load_profile(find_profile(profile)),
        world=world,
        lane_slots=1,
        precision=precision,  # type: ignore[arg-type]
        clip_norm=0.1,
        betas=(0.9, 0.999),
        eps=1e-8,
    )
    ranks.backward(ranks(torch.ones(2, 289)).float().mean())
    ranks.step(1e-3)
    save(ranks, Path(root), 1, world)
    foretold = storage.checkpoint_bytes(ranks.parameter_count, ranks.zero_stage, world.size)
    ranks.close()
    files = [path for path in Path(root, "update_00000001").rglob("*") if path.is_file()]
    return {
        "parameters": ranks.parameter_count,
        "foretold": foretold,
        "conversion": storage.conversion_bytes(foretold, max(ranks.zero_stage, 1), world.size),
        "found": sum(path.stat().st_size for path in files),
        "free": shutil.disk_usage(root).free,
    }


def stopped_converting(
    world: World, root: str, profile: str, converter: str, asked: int, is_for_all: bool
) -> dict[str, Any]:
    """Resume with this program in the converter's place, and let one rank be asked to stop once it runs.

    The converter gets the signal too, and first, if `is_for_all`.
    """
    stop, pid_file = StopFlag(), Path(f"{converter}.pid")
    stop.listen()
    elastic.sys = SimpleNamespace(executable=converter)  # type: ignore[assignment]

    def ask() -> None:
        while not pid_file.exists() or not pid_file.read_text(encoding="ascii"):
            time.sleep(0.01)
        if is_for_all:
            os.kill(int(pid_file.read_text(encoding="ascii")), signal.SIGTERM)
            time.sleep(1.0)  # longer than between two looks at the converter
        os.kill(os.getpid(), signal.SIGTERM)

    with opened(world, profile, "fp32") as ranks:
        if world.rank == asked:
            threading.Thread(target=ask, daemon=True).start()
        told = _outcome(lambda: elastic.resume(ranks, Path(root), world, stop))
        voting.gathered(None)
        return {"told": told, "left": sorted(path.name for path in Path(root).iterdir())}


def short_of_room(world: World, root: str, profile: str) -> str:
    """Resume on another number of ranks where a disk has no room for the conversion."""
    storage.shutil.disk_usage = lambda _: SimpleNamespace(free=1000)  # type: ignore[assignment, return-value]
    with opened(world, profile, "fp32") as ranks:
        return _outcome(lambda: elastic.resume(ranks, Path(root), world, StopFlag()))


def restored(
    world: World, root: str, profile: str, precision: str, is_universal: bool
) -> dict[str, Any]:
    """Load the newest checkpoint as it is, or through its universal form, and train two more updates."""
    found = checkpoint.agree_on_newest(Path(root))
    assert found is not None
    with opened(world, profile, precision) as ranks:
        folder = elastic._universal(found, world, StopFlag()) if is_universal else found.folder
        ranks.load(folder, is_universal=is_universal)
        losses = [run_update(ranks, world, found.update + step)[0] for step in range(2)]
        groups = ranks._optimizer.param_groups
        return {
            "weights": weights(ranks),
            "losses": losses,
            "scale": ranks.loss_scale,
            "decay": sorted({group["weight_decay"] for group in groups}),
        }
